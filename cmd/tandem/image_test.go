package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestImageFlags(t *testing.T) {
	t.Setenv("TANDEM_CACHE", "/cache")
	out := filepath.Join(t.TempDir(), "x")
	f := imageFlags{size: "512M", packages: []string{"redis-server", " ", " fio "}, add: []string{"/etc/passwd:/opt/a:b"}}
	f.options.Image, f.options.Hostname = out, "guest"
	o, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	if o.SizeBytes != 512<<20 || !slices.Equal(o.Packages, []string{"redis-server", "fio"}) || o.CacheDir != "/cache/image" ||
		len(o.Add) != 1 || o.Add[0].Target != "/opt/a:b" {
		t.Errorf("read as %+v", o)
	}
	for want, change := range map[string]func(*imageFlags){
		"not a size":       func(f *imageFlags) { f.size = "big" },
		"has no target":    func(f *imageFlags) { f.add = []string{"/etc/passwd"} },
		"nothing to build": func(f *imageFlags) { f.options.Image = "" },
		"multiple of 4096": func(f *imageFlags) { f.size = "5" },
	} {
		g := f
		change(&g)
		if _, err := g.read(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// TestProgressWithoutTerminal expects a line for each part, and nothing that a terminal alone understands.
func TestProgressWithoutTerminal(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b)
	p.Phase("one", 0)
	p.Phase("two", 2)
	p.Step()
	p.end()
	if b.String() != "one\ntwo\n" {
		t.Errorf("printed %q", b.String())
	}
}
