package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// sourceFile is a Go file of the tree: its path from the root and what it imports.
type sourceFile struct {
	path    string
	imports []string
}

func (f sourceFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// within tells whether the file belongs to a folder or one below it.
func (f sourceFile) within(folder string) bool { return strings.HasPrefix(f.path, folder+"/") }

func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	root := filepath.Join("..", "..", "..")
	var files []sourceFile
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f := sourceFile{path: filepath.ToSlash(name)}
		for _, spec := range parsed.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d Go files only: the rules would hold of nothing", len(files))
	}
	return files
}

// layers says which of the project's own packages a folder's packages may import, beside their own. Data runs one way,
// from the guest's exit to the log, and so do the imports.
var layers = map[string][]string{
	"kvm":      {},
	"boot":     {"kvm"},
	"lockstep": {},
	"devices":  {"lockstep", "kvm"},
	"vmm":      {"kvm", "boot", "devices", "lockstep", "testdata"},
	"testdata": {"boot"},
}

func TestImportDirections(t *testing.T) {
	for _, f := range sourceFiles(t) {
		layer, _, _ := strings.Cut(f.path, "/")
		allowed, bound := layers[layer]
		if !bound {
			continue
		}
		for _, imported := range f.imports {
			own, isOwn := strings.CutPrefix(imported, "tandem/")
			if !isOwn {
				continue
			}
			target, _, _ := strings.Cut(own, "/")
			if target != layer && !contains(allowed, target) && !(f.test() && target == "testdata") {
				t.Errorf("%s imports %s: %s may import %v alone", f.path, imported, layer, allowed)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// kvm stands on the system call package alone.
func TestKVMImportsSysAlone(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if !f.within("kvm") || f.test() {
			continue
		}
		for _, imported := range f.imports {
			if strings.Contains(imported, ".") && !strings.HasPrefix(imported, "golang.org/x/sys/") {
				t.Errorf("%s imports %s", f.path, imported)
			}
		}
	}
}

func TestUnsafeStandsInItsFiles(t *testing.T) {
	seen := 0
	for _, f := range sourceFiles(t) {
		if !contains(f.imports, "unsafe") {
			continue
		}
		seen++
		if !f.within("kvm") || !strings.HasSuffix(f.path, "_unsafe.go") {
			t.Errorf("%s imports unsafe, which stands in kvm/**/*_unsafe.go alone", f.path)
		}
	}
	if seen == 0 {
		t.Error("no file imports unsafe: the rule would hold of nothing")
	}
}

// hostPackages are ways to the host. A device that used one would give the guest something that the log does not have.
var hostPackages = []string{
	"os", "net", "time", "math/rand", "crypto/rand", "syscall", "sync", "runtime", "golang.org/x/sys", "log", "context", "io/fs",
	"maps", // its iterators come in random order
}

func TestDevicesNeverLookAtTheHost(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if !f.within("devices") || f.test() {
			continue
		}
		for _, imported := range f.imports {
			for _, banned := range hostPackages {
				if imported == banned || strings.HasPrefix(imported, banned+"/") && banned != "io/fs" {
					t.Errorf("%s imports %s: a device never looks at the host", f.path, imported)
				}
			}
		}
	}
}

func TestNoFileIsNamedForNothing(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, part := range strings.Split(strings.TrimSuffix(f.path, ".go"), "/") {
			switch strings.TrimSuffix(part, "_test") {
			case "util", "utils", "common", "helpers", "helper", "misc":
				t.Errorf("%s: name it for what it holds", f.path)
			}
		}
	}
}
