package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/u-root/u-root/pkg/cpio"
)

var entries = []Entry{
	{Path: "/init", Kind: File, Perm: 0o755, Data: []byte("#!/bin/sh\n")},
	{Path: "bin/busybox", Kind: File, Perm: 0o4755, Data: bytes.Repeat([]byte("x"), 4097)},
	{Path: "bin/sh", Kind: Symlink, Target: "busybox"},
	{Path: "dev/console", Kind: CharDevice, Perm: 0o600, Major: 5, Minor: 1},
	{Path: "dev/vda", Kind: BlockDevice, Perm: 0o660, Major: 254, Minor: 16},
	{Path: "tmp/", Kind: Directory, Perm: 0o1777},
	{Path: "etc/empty", Kind: File, Perm: 0o644},
}

func build(t *testing.T, entries []Entry, opt Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, entries, opt); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Read the archive back with the library's reader.
func TestWrite(t *testing.T) {
	archive := build(t, entries, Options{})
	want := []struct {
		name         string
		mode, nlink  uint64
		major, minor uint64
		data         string
	}{
		{"bin", 0o40755, 2, 0, 0, ""},
		{"bin/busybox", 0o104755, 1, 0, 0, strings.Repeat("x", 4097)},
		{"bin/sh", 0o120777, 1, 0, 0, "busybox"},
		{"dev", 0o40755, 2, 0, 0, ""},
		{"dev/console", 0o20600, 1, 5, 1, ""},
		{"dev/vda", 0o60660, 1, 254, 16, ""},
		{"etc", 0o40755, 2, 0, 0, ""},
		{"etc/empty", 0o100644, 1, 0, 0, ""},
		{"init", 0o100755, 1, 0, 0, "#!/bin/sh\n"},
		{"tmp", 0o41777, 2, 0, 0, ""},
	}
	r := cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(archive))}
	for i, w := range want {
		got, err := r.ReadRecord()
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, got.FileSize)
		if n, err := got.ReadAt(data, 0); n != len(data) {
			t.Fatal(err)
		}
		if got.Name != w.name || got.Mode != w.mode || got.NLink != w.nlink || got.Rmajor != w.major || got.Rminor != w.minor ||
			string(data) != w.data || got.MTime != 0 || got.UID != 0 || got.GID != 0 || got.Ino != uint64(i+1) {
			t.Errorf("record %d is %+v with %q, want %+v", i, got.Info, data, w)
		}
	}
	if _, err := r.ReadRecord(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last record: %v, want EOF", err)
	}
	if len(archive)%4 != 0 {
		t.Errorf("archive of %d bytes can't be followed by another", len(archive))
	}
}

// Another implementation must read it too.
func TestWriteGNUCpio(t *testing.T) {
	program, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("the cpio program is not installed")
	}
	list := exec.Command(program, "-t", "--quiet")
	list.Stdin = bytes.NewReader(build(t, entries, Options{}))
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := "bin\nbin/busybox\nbin/sh\ndev\ndev/console\ndev/vda\netc\netc/empty\ninit\ntmp\n"
	if string(out) != want {
		t.Errorf("cpio lists\n%s\nwant\n%s", out, want)
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	for _, opt := range []Options{{}, {Gzip: true}} {
		reversed := slices.Clone(entries)
		slices.Reverse(reversed)
		if !bytes.Equal(build(t, entries, opt), build(t, reversed, opt)) {
			t.Errorf("%+v: the order of the entries changes the archive", opt)
		}
	}
}

func TestWriteGzip(t *testing.T) {
	z, err := gzip.NewReader(bytes.NewReader(build(t, entries, Options{Gzip: true})))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, build(t, entries, Options{})) {
		t.Error("the packed archive differs from the plain one")
	}
}

func TestWriteRefuses(t *testing.T) {
	tests := []struct {
		name    string
		entries []Entry
		says    string
	}{
		{"empty path", []Entry{{Kind: File}}, "empty"},
		{"root", []Entry{{Path: "a/..", Kind: Directory}}, "empty"},
		{"twice", []Entry{{Path: "a", Kind: File}, {Path: "/a", Kind: File}}, "twice"},
		{"end mark", []Entry{{Path: "TRAILER!!!", Kind: File}}, "end mark"},
		{"NUL", []Entry{{Path: "a\x00b", Kind: File}}, "NUL"},
		{"long", []Entry{{Path: strings.Repeat("a", 5000), Kind: File}}, "longer"},
		{"permissions", []Entry{{Path: "a", Kind: File, Perm: 0o100644}}, "permission"},
		{"directory with data", []Entry{{Path: "a", Kind: Directory, Data: []byte("x")}}, "only a file"},
		{"link to nothing", []Entry{{Path: "a", Kind: Symlink}}, "no target"},
		{"unknown kind", []Entry{{Path: "a"}}, "unknown kind"},
		{"file as directory", []Entry{{Path: "a", Kind: File}, {Path: "a/b", Kind: File}}, "not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Write(io.Discard, tt.entries, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one containing %q", err, tt.says)
			}
		})
	}
}

func TestWriteFails(t *testing.T) {
	full := errors.New("no space left on device")
	for _, opt := range []Options{{}, {Gzip: true}} {
		if err := Write(failingWriter{full}, entries, opt); !errors.Is(err, full) {
			t.Errorf("%+v: error %v, want %v", opt, err, full)
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
