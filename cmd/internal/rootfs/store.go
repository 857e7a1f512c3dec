package rootfs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/cmd/internal/lab/debian"
)

// store keeps downloaded packages: one directory for each set that was asked for, with all that the set depends on. A set
// is there whole or not at all, and is found again without the network.
type store struct {
	dir      string
	codename string
	sources  []debian.Source
	refresh  bool // download again what is there
	report   func(string)

	apt *debian.Apt // nil until something is missing
}

// openStore locks the cache in dir; close gives it back.
func openStore(dir string, refresh bool, report func(string)) (s *store, unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("the cache: %w", err)
	}
	codename, err := debian.Codename("/etc/os-release")
	if err != nil {
		return nil, nil, err
	}
	sources, err := debian.SystemSources("/etc/apt")
	if err == nil {
		sources, err = debian.Select(sources, codename, false)
	}
	if err != nil {
		return nil, nil, err
	}
	unlock, err = lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, nil, err
	}
	return &store{dir: dir, codename: codename, sources: sources, refresh: refresh, report: report}, unlock, nil
}

// lock takes a lock that the kernel gives back if the process dies.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the cache: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("the cache: %w", err)
	}
	return func() { f.Close() }, nil
}

// ready makes a private apt state with current package lists, once.
func (s *store) ready(ctx context.Context) error {
	if s.apt != nil {
		return nil
	}
	dir := filepath.Join(s.dir, "apt")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	apt, err := debian.NewApt(dir, s.sources)
	if err != nil {
		return err
	}
	s.report("reading the package lists of " + s.codename)
	if err := apt.Update(ctx); err != nil {
		return err
	}
	s.apt = apt
	return nil
}

// release drops the private apt state.
func (s *store) release() error { return os.RemoveAll(filepath.Join(s.dir, "apt")) }

// get returns the archives of the set called name, calling download for it if it is not there.
func (s *store) get(ctx context.Context, name string, download func() ([]string, error)) ([]string, error) {
	final := filepath.Join(s.dir, s.codename, name)
	if debs, err := filepath.Glob(filepath.Join(final, "*.deb")); err == nil && len(debs) > 0 && !s.refresh {
		return debs, nil
	}
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	debs, err := download()
	if err != nil {
		return nil, unknownPackage(err)
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(final), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	for _, deb := range debs {
		if err := os.Rename(deb, filepath.Join(tmp, filepath.Base(deb))); err != nil {
			return nil, err
		}
	}
	if err := os.RemoveAll(final); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, final); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(final, "*.deb"))
}

// closure returns the packages with all that they depend on.
func (s *store) closure(ctx context.Context, pkgs []string) ([]string, error) {
	pkgs = slices.Compact(slices.Sorted(slices.Values(pkgs)))
	sum := sha256.Sum256([]byte(strings.Join(pkgs, "\n")))
	return s.get(ctx, fmt.Sprintf("set-%x", sum[:8]), func() ([]string, error) {
		s.report("downloading " + strings.Join(pkgs, ", ") + " with what they depend on")
		return s.apt.FetchClosure(ctx, "", pkgs...)
	})
}

const kernelMeta = "linux-image-cloud-amd64"

var kernelPackage = regexp.MustCompile(`^linux-image-\d.*cloud-amd64$`)

// kernel returns the archive of the newest cloud kernel.
func (s *store) kernel(ctx context.Context) (string, error) {
	debs, err := s.get(ctx, "kernel", func() ([]string, error) {
		names, err := s.apt.Depends(ctx, kernelMeta, kernelPackage)
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s depends on no kernel package", kernelMeta)
		}
		s.report("downloading " + names[0])
		return s.apt.Fetch(ctx, names[0])
	})
	if err != nil {
		return "", err
	}
	return debs[0], nil
}

var unknown = regexp.MustCompile(`(?:Unable to locate package |Package '?)([a-z0-9][a-z0-9+.-]*)`)

// unknownPackage says in our words what apt says of a name that it doesn't know.
func unknownPackage(err error) error {
	text := err.Error()
	if !strings.Contains(text, "Unable to locate package") && !strings.Contains(text, "no installation candidate") {
		return err
	}
	m := unknown.FindStringSubmatch(text)
	if m == nil {
		return err
	}
	return fmt.Errorf("package %s is not in this machine's apt sources: check its name (apt-cache search)", m[1])
}
