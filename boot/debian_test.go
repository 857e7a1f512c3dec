package boot

import (
	"testing"

	"tandem/boot/internal/kerneltest"
)

func TestDebianKernel(t *testing.T) {
	image := kerneltest.Read(t)
	packed, err := ReadKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	if packed.CmdlineMaxBytes() != 2047 || packed.Compression == "" {
		t.Errorf("command line %d, compression %q", packed.CmdlineMaxBytes(), packed.Compression)
	}
	text := packed.Section(".text")
	if text == nil || text.Virt != 0xffffffff81000000 || text.Phys != 0x1000000 {
		t.Fatal("no .text at 0xffffffff81000000 and 0x1000000")
	}
	if packed.Entry < text.Phys || packed.Entry >= text.Phys+uint64(len(text.Data)) {
		t.Errorf("entry %#x is not in .text", packed.Entry)
	}

	// The payload by itself is the ELF file; loading that must make no difference.
	header, err := parseSetupHeader(image)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := findPayload(image, header)
	if err != nil {
		t.Fatal(err)
	}
	elf, _, err := unpack(payload)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ReadKernel(elf)
	if err != nil {
		t.Fatal(err)
	}
	checkSameLoad(t, packed, plain)
}

func BenchmarkReadDebianKernel(b *testing.B) {
	image := kerneltest.Read(b)
	b.SetBytes(int64(len(image)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadKernel(image); err != nil {
			b.Fatal(err)
		}
	}
}

// Copying into RAM that is backed already; the host's page faults come on top.
func BenchmarkLoadDebianKernel(b *testing.B) {
	k, err := ReadKernel(kerneltest.Read(b))
	if err != nil {
		b.Fatal(err)
	}
	mem := flatMemory(make([]byte, 256<<20))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load(mem, k, Options{Cmdline: "quiet"}); err != nil {
			b.Fatal(err)
		}
	}
}

type flatMemory []byte

func (m flatMemory) Size() uint64 { return uint64(len(m)) }

func (m flatMemory) WriteAt(p []byte, gpa uint64) error { copy(m[gpa:], p); return nil }
