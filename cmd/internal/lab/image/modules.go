package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/ulikunitz/xz"
)

// Modules is the index of a kernel package's modules folder
// (".../lib/modules/<release>"). Packages come without modules.dep, which
// depmod makes at installation; dependencies are read from the modules
// themselves (their .modinfo section, include/linux/module.h).
type Modules struct {
	Release string
	dir     string
	paths   map[string]string // module name → path below dir
	builtin map[string]bool
	cache   map[string]Module
}

// Module is one kernel module, uncompressed.
type Module struct {
	Name    string
	Path    string // below the modules folder, without a compression suffix
	Data    []byte
	Depends []string
	Aliases []string
}

// OpenModules indexes the modules folder dir.
func OpenModules(dir string) (*Modules, error) {
	m := &Modules{
		Release: filepath.Base(dir), dir: dir,
		paths: map[string]string{}, builtin: map[string]bool{}, cache: map[string]Module{},
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if name, ok := moduleName(rel); ok {
			m.paths[name] = rel
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the kernel modules: %w", err)
	}
	if len(m.paths) == 0 {
		return nil, fmt.Errorf("%s holds no kernel module", dir)
	}
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			m.builtin[name] = true
		}
	}
	return m, nil
}

// moduleName turns a path into the kernel's name of the module, in which "-"
// is "_".
func moduleName(p string) (string, bool) {
	base := filepath.Base(p)
	for _, suffix := range []string{".ko", ".ko.xz"} {
		if n, ok := strings.CutSuffix(base, suffix); ok {
			return strings.ReplaceAll(n, "-", "_"), true
		}
	}
	return "", false
}

// Has reports whether the kernel has the module, built in or loadable.
func (m *Modules) Has(name string) bool {
	name = strings.ReplaceAll(name, "-", "_")
	_, ok := m.paths[name]
	return ok || m.builtin[name]
}

// Closure returns the named modules and all that they depend on, each after
// its dependencies. Names built into the kernel are left out.
func (m *Modules) Closure(names ...string) ([]Module, error) {
	var out []Module
	done := map[string]bool{}
	var visit func(name string, depth int) error
	visit = func(name string, depth int) error {
		name = strings.ReplaceAll(name, "-", "_")
		if done[name] || m.builtin[name] {
			return nil
		}
		if depth > maxModuleDepth {
			return fmt.Errorf("kernel module %s depends on itself", name)
		}
		mod, err := m.load(name)
		if err != nil {
			return err
		}
		for _, d := range mod.Depends {
			if err := visit(d, depth+1); err != nil {
				return err
			}
		}
		if !done[name] {
			done[name] = true
			out = append(out, mod)
		}
		return nil
	}
	for _, n := range names {
		if err := visit(n, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// maxModuleDepth bounds a chain of dependencies; real ones have under ten.
const maxModuleDepth = 64

func (m *Modules) load(name string) (Module, error) {
	if mod, ok := m.cache[name]; ok {
		return mod, nil
	}
	rel, ok := m.paths[name]
	if !ok {
		return Module{}, fmt.Errorf("kernel %s has no module %s", m.Release, name)
	}
	data, err := os.ReadFile(filepath.Join(m.dir, rel))
	if err != nil {
		return Module{}, err
	}
	if strings.HasSuffix(rel, ".xz") {
		if data, err = unxz(data); err != nil {
			return Module{}, fmt.Errorf("uncompressing module %s: %w", name, err)
		}
	}
	info, err := modinfo(data)
	if err != nil {
		return Module{}, fmt.Errorf("reading module %s: %w", name, err)
	}
	mod := Module{Name: name, Path: strings.TrimSuffix(rel, ".xz"), Data: data, Aliases: info["alias"]}
	for _, d := range info["depends"] {
		mod.Depends = append(mod.Depends, strings.FieldsFunc(d, func(r rune) bool { return r == ',' })...)
	}
	m.cache[name] = mod
	return mod, nil
}

// maxModuleBytes bounds an uncompressed module; the largest of Debian's cloud
// kernel is under 3 MB.
const maxModuleBytes = 64 << 20

func unxz(b []byte) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModuleBytes+1))
	if err == nil && len(out) > maxModuleBytes {
		err = fmt.Errorf("over %d bytes", maxModuleBytes)
	}
	return out, err
}

// modinfo reads a module's "key=value" strings.
func modinfo(ko []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo section: not a kernel module")
	}
	b, err := s.Data()
	if err != nil {
		return nil, err
	}
	info := map[string][]string{}
	for _, kv := range bytes.Split(b, []byte{0}) {
		if k, v, ok := strings.Cut(string(kv), "="); ok {
			info[k] = append(info[k], v)
		}
	}
	return info, nil
}

// AddModules puts modules at their place below /lib/modules with the
// modules.dep and modules.alias that modprobe reads (modules.dep(5)).
func (im *Initramfs) AddModules(release string, mods []Module) {
	root := "lib/modules/" + release + "/"
	byName := map[string]Module{}
	for _, mod := range mods {
		byName[mod.Name] = mod
	}
	var dep, alias strings.Builder
	sorted := slices.Clone(mods)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Path < sorted[j].Path })
	for _, mod := range sorted {
		im.AddFile(root+mod.Path, 0o644, mod.Data)
		dep.WriteString(mod.Path + ":")
		for _, d := range allDepends(mod, byName) {
			dep.WriteString(" " + d)
		}
		dep.WriteByte('\n')
		for _, a := range mod.Aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, mod.Name)
		}
	}
	im.AddFile(root+"modules.dep", 0o644, []byte(dep.String()))
	im.AddFile(root+"modules.alias", 0o644, []byte(alias.String()))
}

// allDepends lists the paths of a module's dependencies at every depth, those
// to be loaded first last, as modules.dep has it.
func allDepends(mod Module, byName map[string]Module) []string {
	var out []string
	seen := map[string]bool{mod.Name: true}
	var visit func(Module)
	visit = func(m Module) {
		for _, d := range m.Depends {
			dep, ok := byName[strings.ReplaceAll(d, "-", "_")]
			if !ok || seen[dep.Name] {
				continue
			}
			seen[dep.Name] = true
			visit(dep)
			out = append([]string{dep.Path}, out...)
		}
	}
	visit(mod)
	return out
}
