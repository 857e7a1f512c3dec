package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/vmm/blk"
)

// TestDeviceFlags gives flags that can't be, each of which must end in one line.
func TestDeviceFlags(t *testing.T) {
	one := writeFile(t, "image", nil)
	other := one + "2"
	if err := os.Link(one, other); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		flags deviceFlags
		says  string
	}{
		{"no file", deviceFlags{disks: []string{",ro"}}, "name a file first"},
		{"option twice", deviceFlags{disks: []string{"a,ro,ro"}}, "ro is given twice"},
		{"unknown option", deviceFlags{disks: []string{"a,fast"}}, `"fast" is not known`},
		{"empty option", deviceFlags{disks: []string{"a,serial="}}, "serial= has no value"},
		{"discard from read-only", deviceFlags{disks: []string{"a,ro,discard"}}, "nothing can be discarded"},
		{"read-only and shared", deviceFlags{disks: []string{"a,ro,shared"}}, "nobody writes to a read-only disk"},
		{"overlay and shared", deviceFlags{disks: []string{"a,overlay=o,shared"}}, "an overlay is its host's own"},
		{"a fence of a disk that is not shared", deviceFlags{disks: []string{"a,fence=f"}}, "fence=f is for a shared disk"},
		{"shared with a value", deviceFlags{disks: []string{"a,shared=yes"}}, `"shared=yes" is not known`},
		{"same fence twice", deviceFlags{disks: []string{"a,shared,fence=f", "b,shared,fence=./f"}}, "f is given twice"},
		{"same image twice", deviceFlags{disks: []string{"a.img", "./a.img"}}, "a.img is given twice"},
		{"same image read and written", deviceFlags{disks: []string{"a.img,ro", "a.img"}}, "a.img is given twice"},
		{"same overlay twice", deviceFlags{disks: []string{"a.img,overlay=o", "b.img,overlay=o"}}, "o is given twice"},
		{"a base that is written", deviceFlags{disks: []string{"a.img,overlay=o", "a.img"}}, "a.img is given twice"},
		{"same file by two names", deviceFlags{disks: []string{one, other}}, other + " is given twice"},
		{"unknown network", deviceFlags{nets: []string{"wifi"}}, "no kind of network"},
		{"same MAC twice", deviceFlags{nets: []string{"none,mac=52:54:00:00:00:01", "none,mac=52:54:00:00:00:01"}}, "same MAC address"},
		{"port forwarded twice", deviceFlags{forwards: []string{"2222:22", "2222:23"}}, "forwarded twice"},
		{"forward without a user network", deviceFlags{nets: []string{"none"}, forwards: []string{"2222:22"}}, "needs a user-mode network"},
		{"forward of nothing", deviceFlags{forwards: []string{"22"}}, "not understood"},
	} {
		_, err := c.flags.read()
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want a line with %q", c.name, err, c.says)
		}
	}
}

// TestOneImageForSeveralDisks gives an image that nobody writes to more than one disk.
func TestOneImageForSeveralDisks(t *testing.T) {
	for _, disks := range [][]string{{"a.img,ro", "a.img,ro"}, {"a.img,overlay=o", "a.img,overlay=p", "a.img,ro"}} {
		if _, err := (&deviceFlags{disks: disks}).read(); err != nil {
			t.Errorf("%q: %v", disks, err)
		}
	}
}

// TestDevicesThatCannotBeOpened asks for what this host can't give.
func TestDevicesThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, bytes int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, bytes), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, odd, taken, other := file("good", 8192), file("odd", 8191), file("taken", 8192), file("other", 4096)
	held, err := blk.Open(blk.Options{Path: taken})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	overlay := filepath.Join(dir, "overlay")
	made, err := blk.Open(blk.Options{Path: good, Overlay: overlay})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	for _, c := range []struct {
		name  string
		flags deviceFlags
		says  string
	}{
		{"missing image", deviceFlags{disks: []string{filepath.Join(dir, "none")}}, "there is no such file"},
		{"odd size", deviceFlags{disks: []string{odd}}, "not a multiple of 512"},
		{"locked by another", deviceFlags{disks: []string{taken}}, "another guest has it in use"},
		{"shared and locked by another", deviceFlags{disks: []string{taken + ",shared"}}, "another guest has it in use"},
		{"shared, with a fence that is a file", deviceFlags{disks: []string{good + ",shared,fence=" + odd}}, "its fence"},
		{"overlay of another base", deviceFlags{disks: []string{other + ",overlay=" + overlay}}, "it was made over"},
		{"port taken", deviceFlags{forwards: []string{port.Addr().String() + ":22"}}, "is taken by another program"},
		{"no hub", deviceFlags{nets: []string{"hub,path=" + filepath.Join(dir, "hub")}}, "no hub answers"},
	} {
		spec, err := c.flags.read()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		opened, err := spec.open(slog.New(slog.DiscardHandler))
		if err == nil {
			t.Errorf("%s: it is taken", c.name)
			_ = opened.abandon()
		} else if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, want a line with %q", c.name, err, c.says)
		}
	}
	// Failures have left nothing open.
	again, err := (&deviceSpec{disks: []diskSpec{{Options: blk.Options{Path: good}}}}).open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.abandon(); err != nil {
		t.Error(err)
	}
}
