package debian

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestCandidate(t *testing.T) {
	tests := []struct{ policy, want string }{
		{"qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:10.0.2+ds-2\n  Version table:\n", "1:10.0.2+ds-2"},
		{"x:\n  Installed: (none)\n  Candidate: (none)\n", ""},
		{"", ""},
	}
	for _, tt := range tests {
		if got := candidate([]byte(tt.policy)); got != tt.want {
			t.Errorf("candidate(%q) = %q, want %q", tt.policy, got, tt.want)
		}
	}
}

func TestCommandErrorNamesTheCause(t *testing.T) {
	base := errors.New("exit status 100")
	got := commandError("apt-get update", []byte("Err:1 x\nE: no network\nW: y\nE: stale\n"), base)
	if !errors.Is(got, base) || got.Error() != "apt-get update: exit status 100: E: no network; E: stale" {
		t.Errorf("got %v", got)
	}
	if got := commandError("dpkg-deb", nil, base); got.Error() != "dpkg-deb: exit status 100" {
		t.Errorf("got %v", got)
	}
}

func TestCodename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	tests := []struct{ text, want, err string }{
		{"NAME=x\nVERSION_CODENAME=bookworm\n", "bookworm", ""},
		{"VERSION_CODENAME=\"trixie\"\n", "trixie", ""},
		{"NAME=x\n", "", "VERSION_CODENAME"},
	}
	for _, tt := range tests {
		if err := os.WriteFile(path, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Codename(path)
		if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Codename(%q) = %q, %v", tt.text, got, err)
		}
	}
	if _, err := Codename(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
}

// TestPrivateApt drives the machine's apt with a repository in a folder: the
// private configuration must see that one and nothing else.
func TestPrivateApt(t *testing.T) {
	repo := t.TempDir()
	pkg := "Package: tandem-probe\nVersion: 1.5\nArchitecture: all\nMaintainer: x\nFilename: ./p.deb\nSize: 1\n" +
		"Depends: tandem-probe-1.5-real, other\nDescription: x\n\n" +
		"Package: tandem-probe-1.5-real\nVersion: 1\nArchitecture: all\nMaintainer: x\nFilename: ./r.deb\nSize: 1\nDescription: x\n"
	if err := os.WriteFile(filepath.Join(repo, "Packages"), []byte(pkg), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := NewApt(t.TempDir(), []Source{{Types: []string{"deb"}, URIs: []string{"file:" + repo}, Suites: []string{"./"},
		Options: map[string]string{"trusted": "yes"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := a.Update(ctx); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Version(ctx, "tandem-probe", ""); err != nil || v != "1.5" {
		t.Errorf("version %q, %v", v, err)
	}
	if v, err := a.Version(ctx, "bash", ""); err != nil || v != "" {
		t.Errorf("a package of the system's sources is seen: %q, %v", v, err)
	}
	deps, err := a.Depends(ctx, "tandem-probe", regexp.MustCompile(`^tandem-probe-\d`))
	if err != nil || len(deps) != 1 || deps[0] != "tandem-probe-1.5-real" {
		t.Errorf("dependencies %q, %v", deps, err)
	}
	if _, err := a.Fetch(ctx, "tandem-probe"); err == nil || !strings.Contains(err.Error(), "E: ") {
		t.Errorf("a package that isn't there is fetched: %v", err)
	}
}

func TestUpdateFailsWithoutTheMirror(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	a, err := NewApt(t.TempDir(), []Source{{Types: []string{"deb"}, URIs: []string{"file:" + missing}, Suites: []string{"./"},
		Options: map[string]string{"trusted": "yes"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Update(t.Context()); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v", err)
	}
}
