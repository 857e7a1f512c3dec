package rewrite

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"tandem/boot"
	"tandem/boot/internal/kerneltest"
)

func readKernel(t testing.TB, name string) *boot.Kernel {
	t.Helper()
	image, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	k, err := boot.ReadKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func find(t testing.TB, k *boot.Kernel) Sites {
	t.Helper()
	sites, err := Find(k)
	if err != nil {
		t.Fatal(err)
	}
	return sites
}

// wantSites are the sites of testdata/sites.S, but for the one that only a table of known starts reveals.
var wantSites = []Site{
	{Kind: RDTSC, Virt: 0xffffffff81000000, Phys: 0x1000000},
	{Kind: RDTSCP, Virt: 0xffffffff8100001c, Phys: 0x100001c},
	{Kind: WriteCR4, Virt: 0xffffffff8100001f, Phys: 0x100001f, Register: 0},
	{Kind: WriteCR4, Virt: 0xffffffff81000022, Phys: 0x1000022, Register: 9},
	{Kind: WriteCR4, Virt: 0xffffffff81000026, Phys: 0x1000026, Register: 7},
	{Kind: WriteCR4, Virt: 0xffffffff8100003a, Phys: 0x100003a, Register: 0},
	{Kind: RDTSC, Virt: 0xffffffff8100004c, Phys: 0x100004c},
	{Kind: RDTSC, Virt: 0xffffffff81000052, Phys: 0x1000052},
	{Kind: RDTSC, Virt: 0xffffffff81001000, Phys: 0x1001000},
	{Kind: RDTSC, Virt: 0xffffffff81001005, Phys: 0x1001005},
	{Kind: RDTSCP, Virt: 0xffffffff81001007, Phys: 0x1001007},
}

// behindIsland is the rdtsc behind data that a sweep takes for code.
var behindIsland = Site{Kind: RDTSC, Virt: 0xffffffff81000058, Phys: 0x1000058}

func checkSites(t *testing.T, got, want []Site) {
	t.Helper()
	describe := func(s Site) string {
		return fmt.Sprintf("%#x (%#x) %v register %d", s.Virt, s.Phys, s.Kind, s.Register)
	}
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(want):
			t.Errorf("site %d is %s, want none", i, describe(got[i]))
		case i >= len(got):
			t.Errorf("site %d is missing, want %s", i, describe(want[i]))
		case describe(got[i]) != describe(want[i]):
			t.Errorf("site %d is %s, want %s", i, describe(got[i]), describe(want[i]))
		}
	}
}

func TestFind(t *testing.T) {
	checkSites(t, find(t, readKernel(t, "sites.elf")), wantSites)
}

func TestFindWithORC(t *testing.T) {
	checkSites(t, find(t, readKernel(t, "sites-orc.elf")), slices.Insert(slices.Clone(wantSites), 8, behindIsland))
}

func TestFindWithoutSections(t *testing.T) {
	k := readKernel(t, "sites.elf")
	k.Sections = nil
	if _, err := Find(k); !errors.Is(err, ErrNoSections) {
		t.Errorf("error %v, want %v", err, ErrNoSections)
	}
}

func TestApply(t *testing.T) {
	k := readKernel(t, "sites.elf")
	before := bytes.Clone(k.Segments[0].Data)
	sites := find(t, k)
	if err := sites.Apply(Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xb0}); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(before)
	for at, patch := range map[int][]byte{
		0x00: {0xe5, 0xe0},
		0x1c: {0xe5, 0xe1, 0x90},
		0x1f: {0xe7, 0xb0, 0x90},
		0x22: {0xe7, 0xb9, 0x90, 0x90},
		0x26: {0xe7, 0xb7, 0x90},
		0x3a: {0xe7, 0xb0, 0x90},
		0x4c: {0xe5, 0xe0, 0x90},
		0x52: {0xe5, 0xe0},
	} {
		copy(want[at:], patch)
	}
	if got := k.Segments[0].Data; !bytes.Equal(got, want) {
		t.Errorf("text is\n% x\nwant\n% x", got, want)
	}
	if got, want := k.Section(".altinstr_replacement").Data, []byte("\x0f\xae\xe8\xe5\xe0\xe5\xe1\x90\x0f\x01\xca\x0f\x01\xcb"); !bytes.Equal(got, want) {
		t.Errorf("replacements are % x, want % x", got, want)
	}
	if got, want := k.Section(".data").Data, []byte{0x0f, 0x31}; !bytes.Equal(got, want) {
		t.Errorf("data is % x, want % x", got, want)
	}
	if left := find(t, k); len(left) != 0 {
		t.Errorf("%d sites are left, the first at %#x", len(left), left[0].Virt)
	}
}

func TestPorts(t *testing.T) {
	tests := []struct {
		ports Ports
		says  string
	}{
		{Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xf0}, ""},
		{Ports{RDTSC: 0xe0, RDTSCP: 0xe0, WriteCR4: 0xf0}, "overlap"},
		{Ports{RDTSC: 0xff, RDTSCP: 0xe0, WriteCR4: 0xf0}, "overlap"},
		{Ports{RDTSC: 0xe0, RDTSCP: 0xf0, WriteCR4: 0xf0}, "overlap"},
		{Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xf1}, "at most 0xf0"},
	}
	for _, tt := range tests {
		err := Sites{}.Apply(tt.ports)
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v: error %v, want one containing %q", tt.ports, err, tt.says)
		}
	}
	p := Ports{WriteCR4: 0xb0}
	for _, tt := range []struct {
		port     uint16
		register uint8
		ok       bool
	}{{0xaf, 0, false}, {0xb0, 0, true}, {0xbf, 15, true}, {0xc0, 0, false}, {0x1b0, 0, false}} {
		if register, ok := p.Register(tt.port); register != tt.register || ok != tt.ok {
			t.Errorf("Register(%#x) = %d, %v, want %d, %v", tt.port, register, ok, tt.register, tt.ok)
		}
	}
}

// The sites of a stock kernel are those that objdump shows: none missed, none false; with the help of the ORC table and
// without. And the decoder sees every instruction where objdump sees it.
func TestFindEqualsObjdump(t *testing.T) {
	k, err := boot.ReadKernel(kerneltest.Read(t))
	if err != nil {
		t.Fatal(err)
	}
	var want []Site
	for _, s := range k.Sections {
		if s.Exec {
			want = append(want, checkWithObjdump(t, s)...)
		}
	}
	got := find(t, k)
	checkSites(t, got, want)
	t.Logf("%d rdtsc, %d rdtscp, %d writes to CR4", got.Count(RDTSC), got.Count(RDTSCP), got.Count(WriteCR4))
	for _, kind := range []Kind{RDTSC, RDTSCP, WriteCR4} {
		if got.Count(kind) == 0 {
			t.Errorf("no %v found, which no such kernel is without", kind)
		}
	}
	swept := *k
	swept.Sections = slices.DeleteFunc(slices.Clone(k.Sections), func(s boot.Section) bool { return s.Name == ".orc_unwind_ip" })
	checkSites(t, find(t, &swept), want)

	if err := got.Apply(Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xb0}); err != nil {
		t.Fatal(err)
	}
	if left := find(t, &swept); len(left) != 0 {
		t.Errorf("%d sites are left after rewriting, the first at %#x", len(left), left[0].Virt)
	}
}

// checkWithObjdump disassembles a section with objdump, compares where instructions start, and returns the sites listed.
func checkWithObjdump(t *testing.T, s boot.Section) []Site {
	t.Helper()
	program, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed (package binutils)")
	}
	file := filepath.Join(t.TempDir(), "section")
	if err := os.WriteFile(file, s.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	list := exec.Command(program, "-D", "-z", "-w", "--no-show-raw-insn", "-b", "binary", "-m", "i386:x86-64",
		fmt.Sprintf("--adjust-vma=%#x", s.Virt), file)
	out, err := list.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Start(); err != nil {
		t.Fatal(err)
	}
	var sites []Site
	cursor := cursor{section: s}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		addr, text, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":\t")
		virt, err := strconv.ParseUint(addr, 16, 64)
		if !ok || err != nil {
			continue
		}
		cursor.check(t, int(virt-s.Virt), text)
		if site, ok := objdumpSite(text); ok {
			site.Virt, site.Phys = virt, s.Phys+(virt-s.Virt)
			sites = append(sites, site)
		}
	}
	if err := list.Wait(); err != nil {
		t.Fatal(err)
	}
	if cursor.at != len(s.Data) {
		t.Errorf("%s: objdump's listing ends at %#x of %#x bytes", s.Name, cursor.at, len(s.Data))
	}
	return sites
}

// cursor walks a section by decode beside objdump's listing.
type cursor struct {
	section     boot.Section
	at          int  // where the next instruction starts
	lost        bool // objdump met an instruction that it does not know and has not come back into step
	differences int
}

const differencesMax = 10 // that are printed for a section

// check compares one line of the listing: text at index. An objdump older than the kernel does not know every instruction
// (that of Debian 12 takes lkgs for bad bytes); then it counts from where it agrees again.
func (c *cursor) check(t *testing.T, index int, text string) {
	t.Helper()
	for c.lost && c.at < index {
		c.at += stepAsObjdump(c.section.Data[c.at:])
	}
	if c.lost && c.at > index {
		return
	}
	c.lost = strings.Contains(text, "(bad)")
	if c.at != index {
		if c.differences++; c.differences <= differencesMax {
			t.Errorf("%s: objdump sees %q at %#x, decode has the next instruction at %#x",
				c.section.Name, text, c.section.Virt+uint64(index), c.section.Virt+uint64(c.at))
		}
		c.at = index
	}
	c.at += stepAsObjdump(c.section.Data[c.at:])
}

// stepAsObjdump returns the length of the instruction at the start of code, or 1 if there is none. objdump shows an fwait and
// the floating-point instruction behind it as one.
func stepAsObjdump(code []byte) int {
	in, ok := decode(code)
	if !ok {
		return 1
	}
	if next, ok := decode(code[in.length:]); ok && in.opcode == 0x9b && next.opcode&^7 == 0xd8 {
		return in.length + next.length
	}
	return in.length
}

var (
	objdumpText = regexp.MustCompile(`^(?:(?:repn?z|lock|data16|rex\S*) )*(?:(rdtscp?)|mov +%(\w+),%cr4)\s*$`)
	registers   = []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}
)

// objdumpSite reads an instruction from objdump's listing; it leaves the addresses to the caller.
func objdumpSite(text string) (Site, bool) {
	if !strings.Contains(text, "rdtsc") && !strings.Contains(text, "%cr4") {
		return Site{}, false
	}
	m := objdumpText.FindStringSubmatch(text)
	switch {
	case m == nil:
		return Site{}, false
	case m[1] == "rdtsc":
		return Site{Kind: RDTSC}, true
	case m[1] == "rdtscp":
		return Site{Kind: RDTSCP}, true
	}
	return Site{Kind: WriteCR4, Register: uint8(slices.Index(registers, m[2]))}, true
}

func BenchmarkFind(b *testing.B) {
	k, err := boot.ReadKernel(kerneltest.Read(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("orc", func(b *testing.B) {
		for b.Loop() {
			find(b, k)
		}
	})
	k.Sections = slices.DeleteFunc(k.Sections, func(s boot.Section) bool { return s.Name == ".orc_unwind_ip" })
	b.Run("sweep", func(b *testing.B) {
		for b.Loop() {
			find(b, k)
		}
	})
}

// Any section and any table of starts: no panic, every site is what it says, and rewriting changes the sites alone.
func FuzzFind(f *testing.F) {
	k := readKernel(f, "sites-orc.elf")
	f.Add(k.Section(".text").Data, k.Section(".orc_unwind_ip").Data)
	f.Add(k.Section(".altinstr_replacement").Data, []byte(nil))
	f.Fuzz(func(t *testing.T, code, orc []byte) {
		code = bytes.Clone(code)
		k := &boot.Kernel{Sections: []boot.Section{
			{Name: ".text", Virt: 0xffffffff81000000, Phys: 0x1000000, Data: code, Exec: true},
			{Name: ".orc_unwind_ip", Virt: 0xffffffff81000000 + uint64(len(code)), Data: orc},
		}}
		sites := find(t, k)
		before := bytes.Clone(code)
		if err := sites.Apply(Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xb0}); err != nil {
			t.Fatal(err)
		}
		end := 0
		for _, s := range sites {
			at := int(s.Virt - 0xffffffff81000000)
			if at < end || s.Phys-0x1000000 != uint64(at) || !bytes.Equal(before[end:at], code[end:at]) {
				t.Fatalf("bytes before site %#x changed, or it overlaps the one before", s.Virt)
			}
			end = at + s.Length()
		}
		if !bytes.Equal(before[end:], code[end:]) {
			t.Fatal("bytes behind the last site changed")
		}
		k.Sections = k.Sections[:1]
		if len(orc) == 0 && len(find(t, k)) != 0 {
			t.Fatal("sites are left after rewriting")
		}
	})
}
