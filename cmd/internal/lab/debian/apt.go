// Package debian gets files out of Debian packages without installing them.
//
// It drives the machine's own apt-get and dpkg-deb with a private state folder
// (lists, archives, an empty package database), so that nothing of the system
// is changed and no root is needed. Where packages come from is read from the
// machine's apt sources; no mirror is named here. Because the private package
// database is empty, "install --download-only" yields a package with all that
// it depends on, down to the C library: the extracted tree runs whatever the
// machine has installed or upgrades later.
//
// An Apt belongs to one goroutine; two processes that share its folder must
// hold a lock of the caller's.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Apt is a private apt configuration in a folder of its own.
type Apt struct {
	dir  string // absolute
	conf string
}

// NewApt writes a private apt configuration for sources into dir.
func NewApt(dir string, sources []Source) (*Apt, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"lists/partial", "archives/partial", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("preparing a private apt folder: %w", err)
		}
	}
	var list bytes.Buffer
	if err := Write(&list, sources); err != nil {
		return nil, err
	}
	a := &Apt{dir: dir, conf: filepath.Join(dir, "etc", "apt.conf")}
	files := map[string]string{
		filepath.Join(dir, "etc", "lab.sources"): list.String(),
		filepath.Join(dir, "status"):             "",
		a.conf:                                   a.configuration(),
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("preparing a private apt folder: %w", err)
		}
	}
	return a, nil
}

// configuration is read after the system's own (apt-get -c), which is kept for
// its proxy settings; what would act on the system is cleared.
func (a *Apt) configuration() string {
	return fmt.Sprintf(`#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
#clear Acquire::IndexTargets::deb::CNF;
Dir::Etc::sourcelist "%[1]s/etc/lab.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "%[1]s/lists";
Dir::State::status "%[1]s/status";
Dir::State::extended_states "%[1]s/extended_states";
Dir::Cache "%[1]s";
Dir::Cache::archives "%[1]s/archives";
Dir::Log "%[1]s";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Default-Release "";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Update::Error-Mode "any";
Dpkg::Use-Pty "false";
`, a.dir)
}

// Update downloads the package lists.
func (a *Apt) Update(ctx context.Context) error {
	_, err := a.run(ctx, a.dir, "apt-get", "-q", "update")
	return err
}

// Version reports the version that would be installed of pkg, from release if
// that isn't empty ("bookworm-backports"). An empty version means that no
// source has the package.
func (a *Apt) Version(ctx context.Context, pkg, release string) (string, error) {
	args := []string{"policy", pkg}
	if release != "" {
		args = append([]string{"-t", release}, args...)
	}
	out, err := a.run(ctx, a.dir, "apt-cache", args...)
	if err != nil {
		return "", err
	}
	return candidate(out), nil
}

func candidate(policy []byte) string {
	sc := bufio.NewScanner(bytes.NewReader(policy))
	for sc.Scan() {
		v, ok := strings.CutPrefix(strings.TrimSpace(sc.Text()), "Candidate:")
		if !ok {
			continue
		}
		if v = strings.TrimSpace(v); v != "(none)" {
			return v
		}
	}
	return ""
}

// Depends lists the direct dependencies of pkg whose names match re.
func (a *Apt) Depends(ctx context.Context, pkg string, re *regexp.Regexp) ([]string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", "depends", pkg)
	if err != nil {
		return nil, err
	}
	var names []string
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		dep, ok := strings.CutPrefix(strings.TrimLeft(sc.Text(), " |"), "Depends: ")
		if ok && re.MatchString(dep) {
			names = append(names, dep)
		}
	}
	return names, nil
}

// Fetch downloads the named packages into a new folder below the private one,
// without what they depend on, and returns the paths of the archives.
func (a *Apt) Fetch(ctx context.Context, pkgs ...string) ([]string, error) {
	dir, err := os.MkdirTemp(a.dir, "fetch-")
	if err != nil {
		return nil, err
	}
	if _, err := a.run(ctx, dir, "apt-get", append([]string{"-q", "download"}, pkgs...)...); err != nil {
		return nil, err
	}
	return archives(dir)
}

// FetchClosure downloads the packages with everything that they depend on and
// returns the paths of the archives.
func (a *Apt) FetchClosure(ctx context.Context, release string, pkgs ...string) ([]string, error) {
	dir, err := os.MkdirTemp(a.dir, "closure-")
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	args := []string{"-q", "-o", "Dir::Cache::archives=" + dir, "--download-only", "--no-install-recommends"}
	if release != "" {
		args = append(args, "-t", release)
	}
	args = append(append(args, "install"), pkgs...)
	if _, err := a.run(ctx, a.dir, "apt-get", args...); err != nil {
		return nil, err
	}
	return archives(dir)
}

func archives(dir string) ([]string, error) {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(debs) == 0 {
		return nil, fmt.Errorf("apt-get reported success but left no package in %s", dir)
	}
	sort.Strings(debs)
	return debs, nil
}

// Extract unpacks the archives into dir, one over the other.
func Extract(ctx context.Context, dir string, debs []string) error {
	for _, d := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", d, dir).CombinedOutput(); err != nil {
			return commandError("dpkg-deb -x "+filepath.Base(d), out, err)
		}
	}
	return nil
}

// run executes an apt tool with the private configuration. The C locale keeps
// the output parseable.
func (a *Apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	full := append([]string{"-c", a.conf}, args...)
	cmd := exec.CommandContext(ctx, name, full...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%s isn't on this machine: the lab is built from Debian packages and needs Debian's apt and dpkg", name)
		}
		return nil, commandError(name+" "+strings.Join(args, " "), append(stderr.Bytes(), stdout.Bytes()...), err)
	}
	return stdout.Bytes(), nil
}

// commandError puts the lines by which apt and dpkg name the cause into one
// line.
func commandError(what string, output []byte, err error) error {
	var causes []string
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "dpkg-deb: error:") {
			causes = append(causes, line)
		}
	}
	if len(causes) > 3 {
		causes = causes[:3]
	}
	if len(causes) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %s", what, err, strings.Join(causes, "; "))
}

// Codename reads a release's name ("bookworm") from an os-release file.
func Codename(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("finding out which Debian this is: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME=")
		if v = strings.Trim(v, `"'`); ok && v != "" {
			return v, nil
		}
	}
	return "", fmt.Errorf("%s names no VERSION_CODENAME: the lab is set up on Debian 12 or newer", path)
}
