package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"tandem/testdata/guests"
)

// TestSharedDisk runs a guest whose disk both hosts reach, by different names, and kills the first. Nobody else gets the disk
// meanwhile, and a backup with another one is refused.
func TestSharedDisk(t *testing.T) {
	nativeKVM(t)
	folder := t.TempDir()
	disk := filepath.Join(folder, "mail")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	mounted := filepath.Join(t.TempDir(), "mounted")
	if err := os.Symlink(folder, mounted); err != nil {
		t.Fatal(err)
	}
	keys, place := filepath.Dir(testKeysOf(t, "a", "b", "c")), testArbiter(t)
	join := func(name string, args ...string) *pairProgram {
		return startHost(t, append(args, "--keys", filepath.Join(keys, name), "--arbiter", "file:"+place)...)
	}
	kernel, addressB := writeFile(t, "disk-journal", guests.Image("disk-journal")), deadPort(t)
	b := join("b", "backup", "--listen", addressB, "--disk", filepath.Join(mounted, "mail")+",shared")
	a := join("a", "run", "-m", "16M", "-k", kernel, "--virtio-mmio", "--disk", disk+",shared", "--backup", addressB)
	awaitOutput(t, a.stdout, "ready")
	a.awaitStatus(t, "mail: primary, protected")
	a.echo(t, "abc")
	finish(t, program(t, "run", "-m", "16M", "-k", kernel, "--virtio-mmio", "--disk", disk+",shared")).
		wantOneLine(t, statusUsage, "another guest has it in use")
	if err := a.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.Wait()
	b.awaitStatus(t, "mail: primary, alone")
	b.echo(t, "def")

	other := writeFile(t, "other", make([]byte, 1<<20))
	c := join("c", "backup", "--peer", addressB, "--disk", other+",shared", "--log-format", "json")
	awaitOutput(t, c.stderr, "it is not the file that the primary has")
	if _, err := io.WriteString(b.keys, "\x04"); err != nil {
		t.Fatal(err)
	}
	b.wantEnd(t, statusOK)
	image, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for i, letter := range []byte("abcdef") {
		if n := i + 1; image[n*8*512] != letter || image[n*8*512+1] != byte(n) {
			t.Errorf("letter %d is % x on the disk, want %q", n, image[n*8*512:][:2], letter)
		}
	}
}
