package boot

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"tandem/testdata/guests"
)

func tinyKernel(t testing.TB) *Kernel {
	t.Helper()
	k, err := ReadKernel(bzImageOf(readTestdata(t, "tiny.lz4")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestLayout(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		memory uint64
		want   []Region
	}{
		{0, nil},
		{4095, nil},
		{64 << 20, []Region{{0, 64 << 20}}},
		{64<<20 + 17, []Region{{0, 64 << 20}}},
		{3 * gib, []Region{{0, 3 * gib}}},
		{3*gib + 4096, []Region{{0, 3 * gib}, {4 * gib, 4096}}},
		{16 * gib, []Region{{0, 3 * gib}, {4 * gib, 13 * gib}}},
	}
	for _, tt := range tests {
		if got := Layout(tt.memory); !slices.Equal(got, tt.want) {
			t.Errorf("Layout(%#x) = %+v, want %+v", tt.memory, got, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	mem := newTestMemory(64 << 20)
	initrd := bytes.Repeat([]byte("initrd "), 1000)
	seed := []byte("thirty-two bytes of the caller's")
	entry, err := Load(mem, tinyKernel(t), Options{Cmdline: "console=ttyS0", Initrd: initrd, RNGSeed: seed})
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{
		RIP: 0x1000000, RSI: 0x2000, RSP: 0xa000,
		CR0: 0x80000011, CR3: 0x3000, CR4: 0x20, EFER: 0x500,
		GDTBase: 0x1000, GDTLimit: 31, CodeSelector: 0x10, DataSelector: 0x18,
	}
	if entry != want {
		t.Errorf("entry %+v, want %+v", entry, want)
	}

	for _, s := range tinyKernel(t).Segments {
		if got := mem.read(s.Phys, len(s.Data)); !bytes.Equal(got, s.Data) {
			t.Errorf("segment at %#x differs", s.Phys)
		}
	}
	zero := entry.RSI
	if got := mem.read(uint64(mem.uint32At(zero+hdrCmdLinePtr)), 14); string(got) != "console=ttyS0\x00" {
		t.Errorf("command line %q", got)
	}
	image, size := uint64(mem.uint32At(zero+hdrRamdiskImage)), int(mem.uint32At(zero+hdrRamdiskSize))
	if image != 64<<20-0x2000 || !bytes.Equal(mem.read(image, size), initrd) {
		t.Errorf("initrd of %d bytes at %#x, want %d at %#x", size, image, len(initrd), 64<<20-0x2000)
	}
	data := mem.uint64At(zero + hdrSetupData)
	if next, kind, n := mem.uint64At(data), mem.uint32At(data+8), mem.uint32At(data+12); next != 0 || kind != 9 || int(n) != len(seed) {
		t.Errorf("setup_data next %#x type %d length %d, want 0, 9, %d", next, kind, n, len(seed))
	}
	if got := mem.read(data+16, len(seed)); !bytes.Equal(got, seed) {
		t.Errorf("seed %q", got)
	}
	if got := mem.read(zero+hdrTypeOfLoader, 1)[0]; got != 0xff {
		t.Errorf("type_of_loader %#x, want 0xff", got)
	}
	if got := mem.read(zero+0x1ef, 1)[0]; got != 0 {
		t.Errorf("sentinel %#x: the kernel would throw boot_params away", got)
	}
}

// Without an initrd and a seed boot_params must not point anywhere.
func TestLoadBare(t *testing.T) {
	mem := newTestMemory(64 << 20)
	entry, err := Load(mem, tinyKernel(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []uint64{hdrRamdiskImage, hdrRamdiskSize, hdrSetupData} {
		if got := mem.uint32At(entry.RSI + field); got != 0 {
			t.Errorf("boot_params field %#x is %#x, want 0", field, got)
		}
	}
}

func TestLoadMemoryMap(t *testing.T) {
	const gib = 1 << 30
	type span struct {
		start, size uint64
		kind        uint32
	}
	low := []span{{0, 0x9fc00, 1}, {0x9fc00, 0x60400, 2}}
	tests := []struct {
		memory uint64
		want   []span
	}{
		{64 << 20, append(slices.Clone(low), span{1 << 20, 63 << 20, 1})},
		{3 * gib, append(slices.Clone(low), span{1 << 20, 3*gib - 1<<20, 1})},
		{8 * gib, append(slices.Clone(low), span{1 << 20, 3*gib - 1<<20, 1}, span{4 * gib, 5 * gib, 1})},
	}
	for _, tt := range tests {
		mem := newTestMemory(tt.memory)
		entry, err := Load(mem, tinyKernel(t), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var got []span
		for i := range uint64(mem.read(entry.RSI+bpE820Entries, 1)[0]) {
			at := entry.RSI + bpE820Table + 20*i
			got = append(got, span{mem.uint64At(at), mem.uint64At(at + 8), mem.uint32At(at + 16)})
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%d bytes: e820 %x, want %x", tt.memory, got, tt.want)
		}
	}
}

// Walk the page tables as the processor does: every address below 4 GiB must come out as itself.
func TestLoadPageTables(t *testing.T) {
	mem := newTestMemory(64 << 20)
	entry, err := Load(mem, tinyKernel(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	const addrMask = 0x000ffffffffff000
	for _, virt := range []uint64{0, 0x1000000, 0x3fffffff, 0x40000000, 0xfee00000, 0xffffffff} {
		table := entry.CR3
		for _, shift := range []uint{39, 30} {
			e := mem.uint64At(table&addrMask + 8*(virt>>shift&511))
			if e&3 != 3 || e&0x80 != 0 {
				t.Fatalf("%#x: entry %#x at level %d is not a writable table", virt, e, shift)
			}
			table = e
		}
		e := mem.uint64At(table&addrMask + 8*(virt>>21&511))
		if e&0x83 != 0x83 {
			t.Fatalf("%#x: entry %#x is not a writable 2 MiB page", virt, e)
		}
		if phys := e&0x000fffffffe00000 | virt&0x1fffff; phys != virt {
			t.Errorf("%#x maps to %#x", virt, phys)
		}
	}
	if e := mem.uint64At(entry.CR3 + 8); e != 0 {
		t.Errorf("second PML4 entry %#x, want none", e)
	}
	if d := mem.uint64At(entry.GDTBase + uint64(entry.CodeSelector)); d>>53&1 != 1 || d>>43&3 != 3 {
		t.Errorf("code descriptor %#x is not 64-bit code", d)
	}
}

// Pages that hold nothing are not written: the host need not back .bss.
func TestLoadSkipsZeroPages(t *testing.T) {
	data := make([]byte, 5*pageBytes+10)
	data[0], data[3*pageBytes], data[5*pageBytes+9] = 1, 2, 3
	k := tinyKernel(t)
	k.Segments = []Segment{{Phys: 0x1000800, MemSize: 0x10000, Data: data}}
	mem := newTestMemory(64 << 20)
	if _, err := Load(mem, k, Options{}); err != nil {
		t.Fatal(err)
	}
	var kernelPages []uint64
	for p := range mem.pages {
		if p >= 0x1000 {
			kernelPages = append(kernelPages, p)
		}
	}
	slices.Sort(kernelPages)
	if want := []uint64{0x1000, 0x1003, 0x1005}; !slices.Equal(kernelPages, want) {
		t.Errorf("pages written %x, want %x", kernelPages, want)
	}
	if got := mem.read(0x1000800, len(data)); !bytes.Equal(got, data) {
		t.Error("contents differ")
	}
}

// The same kernel as bzImage and as ELF gives the same memory but for the setup header in boot_params, and the same entry.
func TestLoadBzImageEqualsELF(t *testing.T) {
	elf, err := ReadKernel(readTestdata(t, "tiny.elf"))
	if err != nil {
		t.Fatal(err)
	}
	checkSameLoad(t, tinyKernel(t), elf)
}

func checkSameLoad(t *testing.T, a, b *Kernel) {
	t.Helper()
	opt := Options{Cmdline: "quiet", Initrd: []byte("initrd"), RNGSeed: []byte("seed")}
	memA, memB := newTestMemory(256<<20), newTestMemory(256<<20)
	entryA, errA := Load(memA, a, opt)
	entryB, errB := Load(memB, b, opt)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if entryA != entryB {
		t.Errorf("entries differ: %+v and %+v", entryA, entryB)
	}
	if len(memA.pages) != len(memB.pages) {
		t.Errorf("%d and %d pages written", len(memA.pages), len(memB.pages))
	}
	for number, page := range memA.pages {
		got := memB.read(number*pageBytes, pageBytes)
		want := *page
		if number == bootParamsAddr/pageBytes {
			clear(want[hdrStart:hdrEnd])
			clear(got[hdrStart:hdrEnd])
		}
		if !bytes.Equal(got, want[:]) {
			t.Errorf("page %#x differs", number*pageBytes)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name   string
		memory uint64
		opt    Options
		edit   func(*Kernel)
		want   error
		says   string
	}{
		{"no memory", 0, Options{}, nil, ErrMemoryTooLow, "0 KiB, but this kernel needs at least 33 MiB"},
		{"memory too small", 32 * mib, Options{}, nil, ErrMemoryTooLow, "32768 KiB, but this kernel needs at least 33 MiB"},
		{"initrd beside kernel", 40 * mib, Options{Initrd: make([]byte, 8*mib)}, nil, ErrInitrdTooBig, "at least 41 MiB"},
		{"initrd above the kernel's limit", 256 * mib, Options{Initrd: make([]byte, 8*mib)}, func(k *Kernel) {
			put32(hdrInitrdAddrMax-hdrStart, 0x17fffff)(k.header)
		}, ErrInitrdTooBig, "between 0x1008000 and 0x1800000"},
		{"hostile initrd limit", 256 * mib, Options{Initrd: []byte("x")}, func(k *Kernel) {
			put32(hdrInitrdAddrMax-hdrStart, 0)(k.header)
		}, ErrInitrdTooBig, "between 0x1008000 and 0x0"},
		{"command line", 64 * mib, Options{Cmdline: strings.Repeat("x", 2048)}, nil, ErrCmdlineLength, "2048 bytes, this kernel takes at most 2047"},
		{"command line with NUL", 64 * mib, Options{Cmdline: "a\x00b"}, nil, ErrCmdlineNUL, "byte 1"},
		{"hostile command line limit", 64 * mib, Options{Cmdline: strings.Repeat("x", 1<<20)}, func(k *Kernel) {
			put32(hdrCmdlineSize-hdrStart, 0xffffffff)(k.header)
		}, ErrCmdlineLength, "at most"},
		{"seed", 64 * mib, Options{RNGSeed: make([]byte, 5000)}, nil, ErrSeedLength, "at most 4080"},
		{"below 1 MiB", 64 * mib, Options{}, func(k *Kernel) { k.Segments[0].Phys = 0x8000 }, ErrAddress, "below 1 MiB"},
		{"in the PCI hole", 8192 * mib, Options{}, func(k *Kernel) { k.Segments[3].Phys = 0xe0000000 }, ErrAddress, "no RAM"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := tinyKernel(t)
			if tt.edit != nil {
				tt.edit(k)
			}
			mem := newTestMemory(tt.memory)
			_, err := Load(mem, k, tt.opt)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line wrapping %q and containing %q", err, tt.want, tt.says)
			}
			if len(mem.pages) != 0 {
				t.Errorf("%d pages were written in spite of the error", len(mem.pages))
			}
		})
	}
}

// A program that is not Linux has all that it uses in its image: it may fill its guest's memory.
func TestLoadBareMetalInLittleMemory(t *testing.T) {
	k, err := ReadKernel(guests.Image("halt"))
	if err != nil {
		t.Fatal(err)
	}
	end := pageUp(k.End())
	if _, err := Load(newTestMemory(end), k, Options{}); err != nil {
		t.Errorf("in %#x bytes: %v", end, err)
	}
	if _, err := Load(newTestMemory(end+pageBytes), k, Options{Initrd: make([]byte, pageBytes)}); err != nil {
		t.Errorf("with a page of initrd: %v", err)
	}
	for _, memory := range []uint64{0, pageBytes, end - pageBytes} {
		if _, err := Load(newTestMemory(memory), k, Options{}); !errors.Is(err, ErrMemoryTooLow) {
			t.Errorf("in %#x bytes: %v, want %v", memory, err, ErrMemoryTooLow)
		}
	}
	if _, err := Load(newTestMemory(end), k, Options{Initrd: []byte("x")}); !errors.Is(err, ErrInitrdTooBig) {
		t.Errorf("with an initrd and no room for it: %v, want %v", err, ErrInitrdTooBig)
	}
}

// The largest command line and the largest initrd that are allowed must work.
func TestLoadLimits(t *testing.T) {
	k := tinyKernel(t)
	mem := newTestMemory(64 << 20)
	initrd := bytes.Repeat([]byte{0xab}, 64<<20-workingBytes-0x1008000)
	entry, err := Load(mem, k, Options{Cmdline: strings.Repeat("c", 2047), Initrd: initrd, RNGSeed: bytes.Repeat([]byte{1}, seedMaxBytes)})
	if err != nil {
		t.Fatal(err)
	}
	if at := uint64(mem.uint32At(entry.RSI + hdrRamdiskImage)); at < k.End() || at%pageBytes != 0 {
		t.Errorf("initrd at %#x", at)
	}
	if got := mem.read(cmdlineAddr, 2048); got[2046] != 'c' || got[2047] != 0 {
		t.Error("command line is not whole")
	}
}

// A failing memory is reported with what was being written.
func TestLoadWriteFails(t *testing.T) {
	broken := errors.New("bad address")
	_, err := Load(brokenMemory{broken}, tinyKernel(t), Options{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "GDT") {
		t.Errorf("error %v, want %v naming the GDT", err, broken)
	}
}

type brokenMemory struct{ err error }

func (brokenMemory) Size() uint64                   { return 64 << 20 }
func (m brokenMemory) WriteAt([]byte, uint64) error { return m.err }

// Whatever the image says, reading and loading it ends in an error or in writes to RAM that Layout has, and takes memory in
// proportion to the image: what a packed byte may stand for (1032 bytes in gzip), and the tables of the decoders.
func FuzzReadKernel(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(readTestdata(f, "tiny.elf"))
	for _, name := range testPackings {
		f.Add(bzImageOf(readTestdata(f, "tiny."+name)))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		k, err := ReadKernel(image)
		runtime.ReadMemStats(&after)
		if took, limit := after.TotalAlloc-before.TotalAlloc, uint64(dictionaryMaxBytes+16<<20+4*1032*len(image)); took > limit {
			t.Errorf("allocated %d bytes for an image of %d, limit %d", took, len(image), limit)
		}
		if err != nil {
			return
		}
		checkHostileLoad(t, k)
	})
}

// The same with the setup header and the ELF file made hostile separately, so that mutations reach behind the compression.
func FuzzLoad(f *testing.F) {
	elf := readTestdata(f, "tiny.elf")
	image := bzImageOf(readTestdata(f, "tiny.lz4"))
	f.Add(image[hdrStart:hdrEnd], elf, uint32(64<<20))
	f.Fuzz(func(t *testing.T, header, elf []byte, memory uint32) {
		k, err := parseELFBytes(elf)
		if err != nil {
			return
		}
		k.header = make([]byte, hdrEnd-hdrStart)
		copy(k.header, header)
		checkHostileLoadIn(t, k, uint64(memory))
	})
}

func checkHostileLoad(t *testing.T, k *Kernel) {
	for _, memory := range []uint64{0, 1 << 20, 64 << 20, 8 << 30} {
		checkHostileLoadIn(t, k, memory)
	}
}

func checkHostileLoadIn(t *testing.T, k *Kernel, memory uint64) {
	mem := newTestMemory(memory)
	entry, err := Load(mem, k, Options{Cmdline: "quiet", Initrd: []byte("initrd"), RNGSeed: []byte("seed")})
	if err != nil {
		if len(mem.pages) != 0 {
			t.Errorf("%v, after %d pages were written", err, len(mem.pages))
		}
		return
	}
	if !mem.contains(entry.RIP, 1) {
		t.Errorf("entry point %#x is not RAM", entry.RIP)
	}
	if got := mem.read(cmdlineAddr, 6); string(got) != "quiet\x00" {
		t.Errorf("command line %q was overwritten", got)
	}
}
