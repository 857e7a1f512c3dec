package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// readBack lists an archive as "name mode content", links as their target.
func readBack(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	r := cpio.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name+" "+h.Mode.String()+" "+string(data)+h.Linkname)
	}
}

func TestInitramfs(t *testing.T) {
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("from a file"), 0o640); err != nil {
		t.Fatal(err)
	}
	im := &Initramfs{}
	im.AddFile("/a/b/c", 0o4755, []byte("hello"))
	im.AddFile("a/../d", 0o644, nil)
	im.AddDir("/tmp", 0o1777)
	im.AddDir("/", 0o700)
	im.AddSymlink("a/link", "/a/b/c")
	if err := im.AddSource("e", src); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n, err := im.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) || n%segmentAlign != 0 {
		t.Errorf("wrote %d bytes, says %d", b.Len(), n)
	}
	want := []string{
		"a 040755 ", "a/b 040755 ", "a/b/c 0104755 hello", "a/link 0120777 /a/b/c",
		"d 0100644 ", "e 0100640 from a file", "tmp 041777 ",
	}
	if got := readBack(t, b.Bytes()); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var again bytes.Buffer
	if _, err := im.WriteTo(&again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same content gave different bytes")
	}
}

func TestInitramfsRefuses(t *testing.T) {
	im := &Initramfs{}
	if err := im.AddSource("x", t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder as a file: %v", err)
	}
	if err := im.AddSource("x", filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("long enough"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := im.AddSource("x", src); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(src, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := im.WriteTo(io.Discard); err == nil || !strings.Contains(err.Error(), "shrank") {
		t.Errorf("a file that shrank: %v", err)
	}
	ok := &Initramfs{}
	ok.AddFile("x", 0o644, bytes.Repeat([]byte("x"), 5000))
	if _, err := ok.WriteTo(&failingWriter{room: 1000}); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{ room int }

func (f *failingWriter) Write(b []byte) (int, error) {
	if len(b) > f.room {
		return f.room, errFull
	}
	f.room -= len(b)
	return len(b), nil
}
