package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script makes an executable that stands for QEMU.
func script(t *testing.T, text string) QEMU {
	t.Helper()
	p := filepath.Join(t.TempDir(), "qemu-system-x86_64")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return QEMU{Path: p}
}

func TestQEMUVersion(t *testing.T) {
	tests := []struct{ text, want, err string }{
		{"echo 'QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)'", "10.0.2", ""},
		{"echo 'QEMU emulator version 11.1'", "11.1", ""},
		{"echo 'QEMU emulator version 7.2.19 (Debian)'", "", "7.2.19 is too old"},
		{"echo hello", "", "doesn't tell its version"},
		{"echo broken >&2; exit 1", "", "broken"},
	}
	for _, tt := range tests {
		got, err := qemuVersion(t.Context(), script(t, tt.text))
		if got != tt.want || (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %v", tt.text, got, err)
		}
	}
}

func TestSystemQEMU(t *testing.T) {
	good := script(t, "echo QEMU emulator version 10.1.0")
	t.Setenv("PATH", filepath.Dir(good.Path)+":/bin:/usr/bin")
	if q, err := systemQEMU(t.Context()); err != nil || q.Path != good.Path || q.Version != "10.1.0" {
		t.Errorf("got %+v, %v", q, err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := systemQEMU(t.Context()); err == nil {
		t.Error("found a QEMU where there is none")
	}
}

func TestManifest(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := &Artifacts{QEMU: QEMU{Path: file("q"), Version: "10", Args: []string{"x"}}, Kernel: file("k"), Release: "6",
		ModulesDir: file("m"), Busybox: file("b")}
	path := filepath.Join(dir, "setup.json")
	if _, err := readManifest(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a set-up that never was: %v", err)
	}
	if err := writeManifest(path, a); err != nil {
		t.Fatal(err)
	}
	got, err := readManifest(path)
	if err != nil || got.Kernel != a.Kernel || got.QEMU.Args[0] != "x" {
		t.Fatalf("read back %+v, %v", got, err)
	}
	if err := os.Remove(a.Busybox); err != nil {
		t.Fatal(err)
	}
	if _, err := readManifest(path); err == nil {
		t.Error("a set-up that lost a file passes for complete")
	}
	for _, text := range []string{"", "{", `{"version": 999}`} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readManifest(path); err == nil {
			t.Errorf("%q passes for a set-up", text)
		}
	}
}

func TestInstallIsAllOrNothing(t *testing.T) {
	s := &setup{dir: t.TempDir(), log: os.Stderr}
	fill := func(text string, err error) func(string) error {
		return func(tmp string) error {
			return errors.Join(os.WriteFile(filepath.Join(tmp, "f"), []byte(text), 0o644), err)
		}
	}
	if _, err := s.install("x", fill("half", context.Canceled)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("a failed installation left %v, %v", left, err)
	}
	for _, text := range []string{"one", "two"} {
		dir, err := s.install("x", fill(text, nil))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != text {
			t.Errorf("installed %q, %v", b, err)
		}
	}
	if _, err := s.install("x", fill("broken", context.Canceled)); err == nil {
		t.Fatal("no error")
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, "x", "f")); err != nil || string(b) != "two" {
		t.Errorf("a failed installation harmed the one before: %q, %v", b, err)
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv(CacheEnv, "/some/where")
	if d, err := CacheDir(); err != nil || d != "/some/where" {
		t.Errorf("got %q, %v", d, err)
	}
	t.Setenv(CacheEnv, "")
	t.Setenv("XDG_CACHE_HOME", "/c")
	if d, err := CacheDir(); err != nil || d != "/c/tandem" {
		t.Errorf("got %q, %v", d, err)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := CacheDir(); err == nil || !strings.Contains(err.Error(), CacheEnv) {
		t.Errorf("without a home: %v", err)
	}
}
