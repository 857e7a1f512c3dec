package vmm

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tandem/testdata/guests"
)

// TestGuestsAreTheirSource builds the guests again and compares what would be loaded. The files may differ otherwise, by
// the version of the linker.
func TestGuestsAreTheirSource(t *testing.T) {
	for _, tool := range []string{"as", "ld", "strip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: the guests can't be built", tool)
		}
	}
	const folder = "../testdata/guests"
	fresh := t.TempDir()
	if out, err := exec.Command("sh", filepath.Join(folder, "build.sh"), fresh).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range append(guests.Names(), "random") {
		built, err := os.ReadFile(filepath.Join(fresh, name+".elf"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Equal(loaded(t, built), loaded(t, guests.Image(name))) {
			t.Errorf("%s.elf is not what %s.S makes: run testdata/guests/build.sh", name, name)
		}
	}
}

// loaded returns an ELF file's entry, and its segments' addresses and contents, as bytes.
func loaded(t *testing.T, image []byte) []byte {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	write := func(v uint64) { out.Write([]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}) }
	write(file.Entry)
	for _, p := range file.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		write(p.Paddr)
		write(p.Memsz)
		if _, err := io.Copy(&out, p.Open()); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// TestRandomIsReproducible: the same seed must give the same program for ever, another seed another.
func TestRandomIsReproducible(t *testing.T) {
	first := guests.Random(1, 500)
	if !bytes.Equal(first, guests.Random(1, 500)) {
		t.Error("one seed gave two programs")
	}
	if bytes.Equal(first, guests.Random(2, 500)) {
		t.Error("two seeds gave one program")
	}
	const longest = guests.MaxRandomInstructions
	for _, n := range []int{1, 500, longest} {
		file, err := elf.NewFile(bytes.NewReader(guests.Random(3, n)))
		if err != nil {
			t.Fatal(err)
		}
		last := file.Progs[len(file.Progs)-1]
		if end := last.Paddr + last.Memsz; end > guests.WindowAddress {
			t.Errorf("%d instructions reach to %#x, into the window", n, end)
		}
		if last.Filesz < uint64(n) {
			t.Errorf("%d instructions in %d bytes", n, last.Filesz)
		}
	}
}
