package boot

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// checkTiny asserts that k is testdata/kernel/tiny.elf.
func checkTiny(t *testing.T, k *Kernel) {
	t.Helper()
	if k.Entry != 0x1000000 {
		t.Errorf("Entry = %#x, want 0x1000000", k.Entry)
	}
	want := []struct {
		virt, phys, memSize uint64
		data                string // what the segment's data starts or ends with
	}{
		{0xffffffff81000000, 0x1000000, 0x173, "tiny kernel"},
		{0xffffffff81001000, 0x1001000, 8, "\x00\x00\x00\x81\xff\xff\xff\xff"},
		{0, 0x1002000, 8, "\x88\x77\x66\x55\x44\x33\x22\x11"},
		{0xffffffff81003000, 0x1003000, 0x5000, ""},
	}
	if len(k.Segments) != len(want) {
		t.Fatalf("%d segments, want %d", len(k.Segments), len(want))
	}
	for i, w := range want {
		s := k.Segments[i]
		if s.Virt != w.virt || s.Phys != w.phys || s.MemSize != w.memSize || !bytes.HasSuffix(s.Data, []byte(w.data)) {
			t.Errorf("segment %d = virt %#x phys %#x size %#x data … % x, want %+v", i, s.Virt, s.Phys, s.MemSize,
				s.Data[max(0, len(s.Data)-8):], w)
		}
		if s.Exec != (i == 0) {
			t.Errorf("segment %d: Exec = %v", i, s.Exec)
		}
	}
	text := k.Section(".text")
	if text == nil || !text.Exec || text.Phys != 0x1000000 || len(text.Data) != 0x168 {
		t.Error(".text is not 0x168 executable bytes at 0x1000000")
	}
	if bss := k.Section(".bss"); bss == nil || bss.Data != nil || bss.Phys != 0x1003000 {
		t.Errorf(".bss = %+v, want no data at 0x1003000", bss)
	}
	if k.Start() != 0x1000000 || k.End() != 0x1008000 {
		t.Errorf("occupies %#x to %#x, want 0x1000000 to 0x1008000", k.Start(), k.End())
	}
}

func TestReadELF(t *testing.T) {
	k, err := ReadKernel(readTestdata(t, "tiny.elf"))
	if err != nil {
		t.Fatal(err)
	}
	checkTiny(t, k)
	if k.Format != FormatELF || k.Compression != "" || k.CmdlineMaxBytes() != 2047 {
		t.Errorf("format %q, compression %q, command line %d", k.Format, k.Compression, k.CmdlineMaxBytes())
	}
}

// Every packing must give the same kernel, through OpenKernel too.
func TestReadBzImage(t *testing.T) {
	for _, name := range testPackings {
		t.Run(name, func(t *testing.T) {
			image := bzImageOf(readTestdata(t, "tiny."+name))
			k, err := OpenKernel(bytes.NewReader(image), int64(len(image)))
			if err != nil {
				t.Fatal(err)
			}
			checkTiny(t, k)
			if k.Format != FormatBzImage || k.Compression != name {
				t.Errorf("format %q, compression %q", k.Format, k.Compression)
			}
		})
	}
}

func TestExtractELF(t *testing.T) {
	got, err := ExtractELF(bzImageOf(readTestdata(t, "tiny.lz4")))
	if err != nil {
		t.Fatal(err)
	}
	k, err := ReadKernel(got)
	if err != nil {
		t.Fatal(err)
	}
	if k.Format != FormatELF {
		t.Errorf("format %q", k.Format)
	}
	checkSameLoad(t, tinyKernel(t), k)
	if _, err := ExtractELF(got); !errors.Is(err, ErrNotKernel) {
		t.Errorf("from an ELF file: %v, want %v", err, ErrNotKernel)
	}
}

func TestSectionAliasesSegment(t *testing.T) {
	k, err := ReadKernel(bzImageOf(readTestdata(t, "tiny.gzip")))
	if err != nil {
		t.Fatal(err)
	}
	k.Section(".rodata").Data[0] = 'T'
	if got := k.Segments[0].Data[0x168]; got != 'T' {
		t.Errorf("segment byte is %q after a change to the section, want 'T'", got)
	}
}

// A kernel built for KASLR has relocation records behind the ELF file.
func TestReadBzImageWithRelocations(t *testing.T) {
	file := append(readTestdata(t, "tiny.elf"), "relocations"...)
	k, err := ReadKernel(bzImageOf(lz4Payload(file)))
	if err != nil {
		t.Fatal(err)
	}
	checkTiny(t, k)
}

// Refusals: each names its cause, on one line.
func TestReadKernelRefuses(t *testing.T) {
	elf := readTestdata(t, "tiny.elf")
	gz := readTestdata(t, "tiny.gzip")
	bz := bzImageOf(gz)
	const phdr = 64 // the first program header
	tests := []struct {
		name  string
		image []byte
		want  error
		says  string
	}{
		{"empty", nil, ErrEmpty, "give a bzImage"},
		{"three bytes", []byte("abc"), ErrNotKernel, "too few"},
		{"text", bytes.Repeat([]byte("not a kernel\n"), 100), ErrNotKernel, "neither"},
		{"no boot flag", edited(bz, put16(hdrBootFlag, 0)), ErrNotKernel, "neither"},
		{"header cut", bz[:0x220], ErrTruncated, "setup header"},
		{"payload cut", bz[:0x500], ErrTruncated, "payload ends at"},
		{"protocol 2.07", edited(bz, put16(hdrVersion, 0x0207)), ErrOldProtocol, "2.07"},
		{"zImage", edited(bz, func(b []byte) { b[hdrLoadflags] = 0 }), ErrOldProtocol, "zImage"},
		{"32-bit bzImage", edited(bz, put16(hdrXloadflags, 0)), ErrNot64Bit, "64-bit entry"},
		{"short header", edited(bz, func(b []byte) { b[hdrJump+1] = 0x20 }), ErrCorrupt, "setup header ends"},
		{"no payload", edited(bz, put32(hdrPayloadLength, 0)), ErrCorrupt, "empty payload"},
		{"payload offset beyond", edited(bz, put32(hdrPayloadOffset, 0xffffffff)), ErrTruncated, "payload ends at"},
		{"unknown packing", edited(bz, put32(hdrPayloadOffset, 0)), ErrCompression, "00 00"},
		{"lzo", bzImageOf([]byte("\x89LZO\x00\x0d\x0a\x1a\x0a")), ErrCompression, "lzo"},
		{"claims too much", bzImageOf(append(readTestdata(t, "tiny.xz")[:100], 0, 0, 0, 0xff)), ErrTooBig, "limit"},
		{"payload is not ELF", bzImageOf(lz4Payload([]byte("just some text"))), ErrNotKernel, "does not hold an ELF"},
		{"payload is 32-bit", bzImageOf(lz4Payload(edited(elf, func(b []byte) { b[4] = 1 }))), ErrNot64Bit, "32-bit ELF"},
		{"ELF of 40 bytes", elf[:40], ErrTruncated, "ELF header"},
		{"32-bit ELF", edited(elf, func(b []byte) { b[4] = 1 }), ErrNot64Bit, "32-bit ELF"},
		{"ELF for another machine", edited(elf, put16(18, 183)), ErrNot64Bit, "EM_AARCH64"},
		{"object file", edited(elf, put16(16, 1)), ErrNotKernel, "ET_REL"},
		{"no segments", edited(elf, put16(56, 0)), ErrNotKernel, "without loadable segments"},
		{"segment cut", edited(elf, put64(phdr+8, 0x3000), put64(phdr+32, 0x1000), put64(phdr+40, 0x1000)), ErrTruncated, "ends behind"},
		{"file size above memory size", edited(elf, put64(phdr+40, 0x10)), ErrCorrupt, "impossible"},
		{"address wraps", edited(elf, put64(phdr+24, 1<<64-1)), ErrCorrupt, "impossible"},
		{"segments overlap", edited(elf, put64(phdr+24, 0x1001000)), ErrCorrupt, "overlap"},
		{"bytes claimed twice", edited(elf,
			put64(phdr+8, 0), put64(phdr+32, 0x2000), put64(phdr+40, 0x2000), put64(phdr+24, 0x2000000),
			put64(phdr+56+8, 0), put64(phdr+56+32, 0x2000), put64(phdr+56+40, 0x2000)), ErrCorrupt, "claim more bytes"},
		{"entry nowhere", edited(elf, put64(24, 0x5000)), ErrCorrupt, "entry point"},
		{"section headers beyond the file", edited(elf, put64(40, 1<<40)), ErrTruncated, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadKernel(tt.image)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want one wrapping %q", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want one line containing %q", err, tt.says)
			}
		})
	}
}

// A damaged payload is reported as such, whatever the packing and wherever the damage.
func TestReadBzImageCorruptPayload(t *testing.T) {
	for _, name := range testPackings {
		payload := readTestdata(t, "tiny."+name)
		damages := map[string][]byte{
			"cut in half":       append(bytes.Clone(payload[:len(payload)/2]), payload[len(payload)-4:]...),
			"recorded one less": edited(payload, func(b []byte) { b[len(b)-4]-- }),
			"recorded one more": edited(payload, func(b []byte) { b[len(b)-4]++ }),
			"only the magic":    append(bytes.Clone(payload[:6]), payload[len(payload)-4:]...),
		}
		for damage, p := range damages {
			t.Run(name+"/"+damage, func(t *testing.T) {
				_, err := ReadKernel(bzImageOf(p))
				if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) {
					t.Errorf("error %v, want %q naming %s", err, ErrCorrupt, name)
				}
			})
		}
	}
}

func TestOpenKernelTooBig(t *testing.T) {
	_, err := OpenKernel(zeros{}, maxImageBytes+1)
	if !errors.Is(err, ErrTooBig) {
		t.Errorf("error %v, want %q", err, ErrTooBig)
	}
}

func TestOpenKernelReadFails(t *testing.T) {
	broken := errors.New("input/output error")
	if _, err := OpenKernel(failing{broken}, 4096); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if _, err := OpenKernel(strings.NewReader("ab"), 4096); !errors.Is(err, ErrTruncated) {
		t.Errorf("error %v, want %q", err, ErrTruncated)
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

var _ io.ReaderAt = zeros{}
