package rootfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"tandem/boot/initramfs"
	"tandem/cmd/internal/lab/image"
)

// Options say what to build. An output whose path is empty is not built.
type Options struct {
	Image  string // the ext4 root image
	Initrd string // the initramfs
	Kernel string // a copy of the kernel's bzImage

	SizeBytes int64    // of the image; a multiple of 4096
	Packages  []string // Debian packages to put in beside the base
	Hostname  string
	Add       []Addition

	CacheDir string // where downloads are kept
	Refresh  bool   // look for newer packages, even if all are in the cache

	Progress Progress
}

// Addition is a file of this machine that goes into the image, with its permissions; root will own it.
type Addition struct {
	Source, Target string
}

// Progress is told how a build goes, by one goroutine.
type Progress interface {
	// Phase begins a part of the work that has total steps, or an unknown number if 0.
	Phase(name string, total int)
	// Step says that one step is done.
	Step()
}

// Result says what was built.
type Result struct {
	Packages      []string // in the image, "name version"
	Services      []string // that the image runs, "name on port n"
	KernelRelease string   // "" if neither kernel nor initramfs was asked for
}

var (
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy §5.6.1
	hostName    = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
)

// Validate finds what is wrong with the options before any work is done.
func (o *Options) Validate() error {
	switch {
	case o.Image == "" && o.Initrd == "" && o.Kernel == "":
		return errors.New("nothing to build: name an image, an initramfs or a kernel to write (--out, --initrd-out, --kernel-out)")
	case o.Image != "" && (o.SizeBytes < minImageBytes || o.SizeBytes%4096 != 0):
		return fmt.Errorf("an image of %d bytes is not possible: give a multiple of 4096 from %d MiB on", o.SizeBytes, minImageBytes>>20)
	case !hostName.MatchString(o.Hostname):
		return fmt.Errorf("%q is not a host name: use letters, digits and hyphens", o.Hostname)
	}
	for _, p := range o.Packages {
		if !packageName.MatchString(p) {
			return fmt.Errorf("%q is not the name of a Debian package", p)
		}
	}
	for _, out := range []string{o.Image, o.Initrd, o.Kernel} {
		dir := filepath.Dir(out)
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return fmt.Errorf("can't write %s: there is no directory %s", out, dir)
		}
	}
	for _, a := range o.Add {
		st, err := os.Stat(a.Source)
		if err != nil {
			return fmt.Errorf("can't add %s: %w", a.Source, errors.Unwrap(err))
		}
		if !st.Mode().IsRegular() || !strings.HasPrefix(a.Target, "/") {
			return fmt.Errorf("can't add %s at %s: only a regular file can be added, at an absolute path", a.Source, a.Target)
		}
	}
	return nil
}

// Build builds what the options ask for.
func Build(ctx context.Context, o Options) (*Result, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := checkTools(o.Image != ""); err != nil {
		return nil, err
	}
	s, unlock, err := openStore(o.CacheDir, o.Refresh, func(what string) { o.Progress.Phase(what, 0) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	work, err := os.MkdirTemp(o.CacheDir, "build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	b := &build{Options: o, store: s, work: work}
	err = b.run(ctx)
	if releaseErr := s.release(); err == nil {
		err = releaseErr
	}
	if err != nil {
		return nil, err
	}
	return &b.result, nil
}

// checkTools finds a missing program before anything is downloaded.
func checkTools(image bool) error {
	for _, name := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%s is not on this machine: images are built from Debian packages, on Debian 12 or newer", name)
		}
	}
	if !image {
		return nil
	}
	for _, name := range []string{"mke2fs", "debugfs"} {
		if _, err := e2fsTool(name); err != nil {
			return err
		}
	}
	return nil
}

// build is one run of Build, under the store's lock.
type build struct {
	Options
	store  *store
	work   string
	result Result
}

func (b *build) run(ctx context.Context) error {
	pkgs := append(slices.Clone(basePackages), b.Packages...)
	if b.Image == "" {
		pkgs = basePackages
	}
	debs, err := b.store.closure(ctx, pkgs)
	if err != nil {
		return err
	}
	t, err := b.unpackAll(ctx, debs)
	if err != nil {
		return err
	}
	defer t.stage.Close()
	busybox, err := t.stage.ReadFile("usr/bin/busybox")
	if err != nil {
		return fmt.Errorf("package busybox-static has no program: %w", err)
	}
	if b.Initrd != "" || b.Kernel != "" {
		if err := b.writeKernel(ctx, busybox); err != nil {
			return err
		}
	}
	if b.Image == "" {
		return nil
	}
	if err := b.configure(ctx, t); err != nil {
		return err
	}
	b.Progress.Phase("writing "+b.Image, 0)
	return atomically(b.Image, func(tmp string) error { return t.writeExt4(ctx, tmp, b.SizeBytes) })
}

// unpackAll stages the packages.
func (b *build) unpackAll(ctx context.Context, debs []string) (*tree, error) {
	dir := filepath.Join(b.work, "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	stage, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t, err := newTree(stage)
	if err != nil {
		stage.Close()
		return nil, err
	}
	b.Progress.Phase(fmt.Sprintf("unpacking %d packages", len(debs)), len(debs))
	for _, deb := range debs {
		if err := t.unpack(ctx, deb); err != nil {
			stage.Close()
			return nil, err
		}
		name, version := debVersion(deb)
		t.versions[name] = version
		b.result.Packages = append(b.result.Packages, name+" "+version)
		b.Progress.Step()
	}
	return t, nil
}

// debVersion takes name and version from an archive's file name, in which apt writes a colon as %3a.
func debVersion(deb string) (name, version string) {
	name, rest, _ := strings.Cut(filepath.Base(deb), "_")
	version, _, _ = strings.Cut(rest, "_")
	return name, strings.ReplaceAll(version, "%3a", ":")
}

// configure does what the packages' maintainer scripts would.
func (b *build) configure(ctx context.Context, t *tree) error {
	applets, err := busyboxApplets(ctx, filepath.Join(t.stage.Name(), "usr/bin/busybox"))
	if err != nil {
		return err
	}
	chosen := recipesFor(t)
	if err := t.configureBase(b.Hostname, applets, chosen); err != nil {
		return err
	}
	for _, r := range chosen {
		if err := r.apply(t); err != nil {
			return fmt.Errorf("configuring %s: %w", r.pkg, err)
		}
		b.result.Services = append(b.result.Services, fmt.Sprintf("%s on port %d", r.service.name, r.service.port))
	}
	for _, a := range b.Add {
		if err := t.addFile(a); err != nil {
			return fmt.Errorf("adding %s: %w", a.Source, err)
		}
	}
	return nil
}

func (t *tree) addFile(a Addition) error {
	f, err := os.Open(a.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return t.file(a.Target, st.Mode().Perm(), 0, 0, f)
}

// busyboxApplets asks a busybox where it expects links to itself.
func busyboxApplets(ctx context.Context, busybox string) ([]string, error) {
	if err := os.Chmod(busybox, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, busybox, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("asking busybox for its applets: %w", err)
	}
	return append(strings.Fields(string(out)), "bin/sh"), nil
}

// writeKernel makes the initramfs and the copy of the kernel.
func (b *build) writeKernel(ctx context.Context, busybox []byte) error {
	deb, err := b.store.kernel(ctx)
	if err != nil {
		return err
	}
	b.Progress.Phase("unpacking the kernel", 0)
	dir := filepath.Join(b.work, "kernel")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	k, err := unpackKernel(ctx, deb, dir)
	if err != nil {
		return err
	}
	b.result.KernelRelease = k.release
	if b.Kernel != "" {
		if err := atomically(b.Kernel, func(tmp string) error { return copyFile(tmp, k.image) }); err != nil {
			return err
		}
	}
	if b.Initrd == "" {
		return nil
	}
	index, err := image.OpenModules(k.modules)
	if err != nil {
		return err
	}
	mods, err := modulesFor(index)
	if err != nil {
		return err
	}
	entries, err := initrdEntries(busybox, mods)
	if err != nil {
		return err
	}
	return atomically(b.Initrd, func(tmp string) error { return writeInitrd(tmp, entries) })
}

func writeInitrd(path string, entries []initramfs.Entry) error {
	return create(path, func(w io.Writer) error {
		// Uncompressed: copying costs the guest less than inflating.
		return initramfs.Write(w, entries, initramfs.Options{})
	})
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return create(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}

// create writes a new file to stable storage.
func create(path string, fill func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	if err = fill(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// atomically lets write make a file beside path and gives it the name only when it is complete.
func atomically(path string, write func(tmp string) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("can't write %s: %w", path, errors.Unwrap(err))
	}
	defer os.Remove(tmp.Name())
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := write(tmp.Name()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
