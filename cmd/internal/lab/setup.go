package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tandem/cmd/internal/lab/debian"
	"tandem/cmd/internal/lab/image"
)

// CacheEnv names the environment variable that overrides where downloads and
// builds are kept.
const CacheEnv = "TANDEM_CACHE"

// CacheDir is where downloads and builds are kept: $TANDEM_CACHE, or "tandem"
// in the user's cache folder.
func CacheDir() (string, error) {
	if d := os.Getenv(CacheEnv); d != "" {
		return filepath.Abs(d)
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; name one in %s", err, CacheEnv)
	}
	return filepath.Join(d, "tandem"), nil
}

// Artifacts are the files that a lab is made from. The kernel, its modules and
// busybox serve as well for guests inside a lab's hosts.
type Artifacts struct {
	QEMU       QEMU   `json:"qemu"`
	Kernel     string `json:"kernel"`      // Debian's cloud kernel, a bzImage
	Release    string `json:"release"`     // its name, "6.1.0-50-cloud-amd64"
	ModulesDir string `json:"modules_dir"` // .../lib/modules/<release>
	Busybox    string `json:"busybox"`     // static
}

// QEMU is how the emulator is run.
type QEMU struct {
	Version string   `json:"version"`
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"` // before all others
}

// Modules opens the kernel's modules.
func (a *Artifacts) Modules() (*image.Modules, error) { return image.OpenModules(a.ModulesDir) }

// MinQEMUMajor is the first QEMU whose emulated SVM passes hardware breakpoints
// and single steps on as silicon does.
const MinQEMUMajor = 10

// manifestVersion is raised when a finished set-up of old is no longer one.
const manifestVersion = 1

type manifest struct {
	Version   int       `json:"version"`
	Artifacts Artifacts `json:"artifacts"`
}

// SetupOptions steer Setup.
type SetupOptions struct {
	Log io.Writer // progress lines; nil discards
	// Refresh looks for newer packages even if a set-up is complete.
	Refresh bool
}

// Setup makes sure that everything a lab needs is in the cache, downloading
// what is missing, and returns where it is. It needs apt's sources but no root,
// and changes nothing outside the cache. A complete set-up is found again
// without any access to the network. Concurrent calls, of other processes too,
// wait for each other.
func Setup(ctx context.Context, opt SetupOptions) (*Artifacts, error) {
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "lab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, lockName), func() {
		fmt.Fprintln(opt.Log, "lab: waiting for another set-up to end")
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	manifestPath := filepath.Join(dir, "setup.json")
	if !opt.Refresh {
		if a, err := readManifest(manifestPath); err == nil {
			return a, nil
		}
	}
	s := &setup{dir: dir, log: opt.Log}
	a, err := s.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("setting up the lab: %w", err)
	}
	return a, writeManifest(manifestPath, a)
}

// lockFile takes an exclusive lock that the kernel gives back if this process
// dies. If another has it, busy is called before waiting.
func lockFile(path string, busy func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	how := unix.LOCK_EX | unix.LOCK_NB
	for {
		err = unix.Flock(int(f.Fd()), how)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			busy()
			how = unix.LOCK_EX
		case !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
}

// readManifest returns a finished set-up whose files are all there.
func readManifest(path string) (*Artifacts, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("set-up of version %d", m.Version)
	}
	a := &m.Artifacts
	for _, p := range []string{a.QEMU.Path, a.Kernel, a.ModulesDir, a.Busybox} {
		if _, err := os.Stat(p); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func writeManifest(path string, a *Artifacts) error {
	b, err := json.MarshalIndent(manifest{manifestVersion, *a}, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// setup is one run of Setup, under the lock.
type setup struct {
	dir string
	log io.Writer
	apt *debian.Apt
	// backports is the release to take QEMU from, empty for the default.
	backports string
}

func (s *setup) say(format string, args ...any) {
	fmt.Fprintf(s.log, "lab: "+format+"\n", args...)
}

func (s *setup) run(ctx context.Context) (*Artifacts, error) {
	if err := s.openApt(ctx); err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Join(s.dir, "apt"))
	a := &Artifacts{}
	var err error
	if a.QEMU, err = systemQEMU(ctx); err == nil {
		s.say("QEMU %s is installed already", a.QEMU.Version)
	} else if a.QEMU, err = s.fetchQEMU(ctx); err != nil {
		return nil, err
	}
	if err := s.fetchKernel(ctx, a); err != nil {
		return nil, err
	}
	if a.Busybox, err = s.fetchBusybox(ctx); err != nil {
		return nil, err
	}
	s.say("set up in %s", s.dir)
	return a, nil
}

func (s *setup) openApt(ctx context.Context) error {
	codename, err := debian.Codename("/etc/os-release")
	if err != nil {
		return err
	}
	sources, err := debian.SystemSources("/etc/apt")
	if err != nil {
		return err
	}
	// Debian 12's own QEMU is too old; from 13 on it isn't.
	backports := codename == "bookworm"
	if backports {
		s.backports = codename + "-backports"
	}
	if sources, err = debian.Select(sources, codename, backports); err != nil {
		return err
	}
	aptDir := filepath.Join(s.dir, "apt")
	if err := os.RemoveAll(aptDir); err != nil { // a half-finished run's
		return err
	}
	if s.apt, err = debian.NewApt(aptDir, sources); err != nil {
		return err
	}
	s.say("reading the package lists of %s", strings.TrimSpace(codename+" "+s.backports))
	return s.apt.Update(ctx)
}

// install makes the folder name below the cache by fill, all of it or not at
// all.
func (s *setup) install(name string, fill func(tmp string) error) (string, error) {
	final := filepath.Join(s.dir, name)
	tmp, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(final); err != nil {
		return "", err
	}
	return final, os.Rename(tmp, final)
}

func (s *setup) fetchQEMU(ctx context.Context) (QEMU, error) {
	version, err := s.apt.Version(ctx, "qemu-system-x86", s.backports)
	if err != nil {
		return QEMU{}, err
	}
	s.say("downloading QEMU %s with its libraries", version)
	debs, err := s.apt.FetchClosure(ctx, s.backports, "qemu-system-x86")
	if err != nil {
		return QEMU{}, err
	}
	s.say("unpacking %d packages", len(debs))
	dir, err := s.install("qemu", func(tmp string) error { return debian.Extract(ctx, tmp, debs) })
	if err != nil {
		return QEMU{}, err
	}
	return unpackedQEMU(ctx, dir)
}

// unpackedQEMU finds how to run the QEMU unpacked in dir: by its own C
// library's program loader, so that nothing of the system's is mixed in.
func unpackedQEMU(ctx context.Context, dir string) (QEMU, error) {
	loader, err := firstOf(dir, "lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2",
		"lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
	if err != nil {
		return QEMU{}, err
	}
	binary, err := firstOf(dir, "usr/bin/qemu-system-x86_64")
	if err != nil {
		return QEMU{}, err
	}
	libs := filepath.Join(dir, "lib/x86_64-linux-gnu") + ":" + filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
	q := QEMU{Path: loader, Args: []string{"--library-path", libs, binary}}
	if q.Version, err = qemuVersion(ctx, q); err != nil {
		return QEMU{}, err
	}
	for _, data := range []string{"usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"} {
		q.Args = append(q.Args, "-L", filepath.Join(dir, data))
	}
	return q, nil
}

// firstOf returns the first of the files below dir that exists. Links may
// point to absolute paths meant for a root folder, hence Lstat.
func firstOf(dir string, names ...string) (string, error) {
	for _, n := range names {
		p := filepath.Join(dir, n)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("the packages have no %s", names[0])
}

// systemQEMU returns the machine's own QEMU if it is new enough.
func systemQEMU(ctx context.Context) (QEMU, error) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return QEMU{}, err
	}
	q := QEMU{Path: path}
	q.Version, err = qemuVersion(ctx, q)
	return q, err
}

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)[.\d]*`)

// qemuVersion runs QEMU and fails if it is too old.
func qemuVersion(ctx context.Context, q QEMU) (string, error) {
	out, err := exec.CommandContext(ctx, q.Path, append(append([]string{}, q.Args...), "--version")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running QEMU: %w: %s", err, strings.TrimSpace(string(out)))
	}
	m := versionPattern.FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("QEMU doesn't tell its version: %q", out)
	}
	version := strings.TrimPrefix(m[0], "version ")
	if major, _ := strconv.Atoi(m[1]); major < MinQEMUMajor {
		return "", fmt.Errorf("QEMU %s is too old: the lab needs %d or newer", version, MinQEMUMajor)
	}
	return version, nil
}

var kernelPackage = regexp.MustCompile(`^linux-image-\d.*cloud-amd64$`)

func (s *setup) fetchKernel(ctx context.Context, a *Artifacts) error {
	names, err := s.apt.Depends(ctx, "linux-image-cloud-amd64", kernelPackage)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return errors.New("linux-image-cloud-amd64 depends on no kernel package")
	}
	a.Release = strings.TrimPrefix(names[0], "linux-image-")
	s.say("downloading the kernel %s", a.Release)
	dir, err := s.fetchInto(ctx, "kernel", names[0])
	if err != nil {
		return err
	}
	if a.Kernel, err = firstOf(dir, "boot/vmlinuz-"+a.Release); err != nil {
		return err
	}
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		p := filepath.Join(dir, lib, a.Release)
		if _, err := os.Stat(p); err == nil {
			a.ModulesDir = p
			return nil
		}
	}
	return fmt.Errorf("package %s holds no modules", names[0])
}

func (s *setup) fetchBusybox(ctx context.Context) (string, error) {
	s.say("downloading busybox")
	dir, err := s.fetchInto(ctx, "busybox", "busybox-static")
	if err != nil {
		return "", err
	}
	return firstOf(dir, "bin/busybox", "usr/bin/busybox")
}

// fetchInto unpacks one package into a folder of the cache.
func (s *setup) fetchInto(ctx context.Context, name, pkg string) (string, error) {
	debs, err := s.apt.Fetch(ctx, pkg)
	if err != nil {
		return "", err
	}
	return s.install(name, func(tmp string) error { return debian.Extract(ctx, tmp, debs) })
}
