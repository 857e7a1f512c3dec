package blk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// imageFile writes an image of size bytes of which each sector has its own content.
func imageFile(t testing.TB, name string, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i/512) + byte(i)
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, o Options) Image {
	t.Helper()
	image, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { image.Close() })
	return image
}

func read(t testing.TB, image Image, off int64, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if got, err := image.ReadAt(p, off); err != nil || got != n {
		t.Fatalf("read %d bytes at %d: %d, %v", n, off, got, err)
	}
	return p
}

func write(t testing.TB, image Image, off int64, p []byte) {
	t.Helper()
	if got, err := image.WriteAt(p, off); err != nil || got != len(p) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(p), off, got, err)
	}
}

func TestRawImage(t *testing.T) {
	path := imageFile(t, "disk", 64<<10)
	image := open(t, Options{Path: path})
	if image.Size() != 64<<10 || image.ReadOnly() {
		t.Fatalf("size %d, read-only %v", image.Size(), image.ReadOnly())
	}
	write(t, image, 1000, []byte("some bytes"))
	for _, punch := range []bool{false, true} {
		if err := image.Zero(4096, 8192, punch); err != nil {
			t.Fatal(err)
		}
	}
	if err := image.Sync(); err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(onDisk) != 64<<10 || string(onDisk[1000:1010]) != "some bytes" ||
		!bytes.Equal(onDisk[4096:12288], make([]byte, 8192)) || onDisk[12288] == 0 {
		t.Error("the file has not what was written")
	}
}

func TestOpenErrors(t *testing.T) {
	good := imageFile(t, "good", 8192)
	busy := imageFile(t, "busy", 8192)
	open(t, Options{Path: busy})
	shared := imageFile(t, "shared", 8192)
	open(t, Options{Path: shared, ReadOnly: true})
	overlay := filepath.Join(t.TempDir(), "overlay")
	open(t, Options{Path: good, Overlay: overlay})
	otherBase := imageFile(t, "other", 16384)
	otherOverlay := filepath.Join(t.TempDir(), "overlay")
	if image, err := Open(Options{Path: otherBase, Overlay: otherOverlay}); err != nil {
		t.Fatal(err)
	} else if err := image.Close(); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"missing", Options{Path: good + "x"}, "there is no such file"},
		{"directory", Options{Path: filepath.Dir(good)}, "it is a directory"},
		{"directory, read-only", Options{Path: filepath.Dir(good), ReadOnly: true}, "neither a file nor a block device"},
		{"device", Options{Path: "/dev/null"}, "neither a file nor a block device"},
		{"empty", Options{Path: imageFile(t, "empty", 0)}, "it is empty"},
		{"odd size", Options{Path: imageFile(t, "odd", 1000)}, "not a multiple of 512"},
		{"in use", Options{Path: busy}, "another guest has it in use"},
		{"in use, to be read", Options{Path: busy, ReadOnly: true}, "another guest has it in use"},
		{"in use by a reader", Options{Path: shared}, "another guest has it in use"},
		{"overlay in use", Options{Path: good, Overlay: overlay}, "another guest has it in use"},
		{"base in use", Options{Path: busy, Overlay: overlay + "2"}, "another guest has it in use"},
		{"read-only overlay", Options{Path: good, Overlay: overlay, ReadOnly: true}, "has no use for overlay"},
		{"its own base", Options{Path: good, Overlay: good}, "own base"},
		{"not an overlay", Options{Path: good, Overlay: imageFile(t, "x", 8192)}, "not an overlay"},
		{"no room for an overlay", Options{Path: good, Overlay: "/nowhere/overlay"}, "cannot create it"},
		{"another base", Options{Path: good, Overlay: otherOverlay}, "of 16384 bytes; the base given has 8192"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			image, err := Open(test.o)
			if err == nil {
				image.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line about %q", err, test.want)
			}
		})
	}
	// Two readers share.
	open(t, Options{Path: shared, ReadOnly: true})
	open(t, Options{Path: shared, Overlay: filepath.Join(t.TempDir(), "overlay")})
}

// loopDevice returns a block device of size bytes, or skips the test where there can be none.
func loopDevice(t testing.TB, size int) string {
	t.Helper()
	file := imageFile(t, "disk", size)
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no block device for this test: losetup: %v %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v %s", device, err, out)
		}
	})
	return device
}

func TestBlockDevice(t *testing.T) {
	device := loopDevice(t, 1<<20)
	image := open(t, Options{Path: device})
	if image.Size() != 1<<20 {
		t.Fatalf("size %d", image.Size())
	}
	write(t, image, 512, []byte("sector"))
	for _, punch := range []bool{false, true} {
		write(t, image, 4096, []byte("to be cleared"))
		if err := image.Zero(4096, 8192, punch); err != nil {
			t.Fatal(err)
		}
		if got := read(t, image, 4096, 8192); !bytes.Equal(got, make([]byte, 8192)) {
			t.Errorf("zeros with punch %v: the device has %x", punch, got[:16])
		}
	}
	if err := image.Sync(); err != nil {
		t.Error(err)
	}
	if got := read(t, image, 512, 6); string(got) != "sector" {
		t.Errorf("read %q", got)
	}
	if _, err := Open(Options{Path: device}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
}
