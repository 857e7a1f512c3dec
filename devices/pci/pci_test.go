package pci

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

type line struct{ level bool }

func (l *line) Set(level bool) { l.level = level }

// registers remembers the last access.
type registers struct {
	name          string
	offset        uint64
	written, read int
}

func (r *registers) Read(offset uint64, p []byte) {
	r.offset = offset
	r.read++
	for i := range p {
		p[i] = 0x5a
	}
}

func (r *registers) Write(offset uint64, p []byte) {
	r.offset = offset
	r.written++
}

func address(device, reg uint32) uint32 { return 1<<31 | device<<11 | reg }

func (b *Bus) read32(device, reg uint32) uint32 {
	b.Write(0, binary.LittleEndian.AppendUint32(nil, address(device, reg)))
	p := make([]byte, 4)
	b.Read(4, p)
	return binary.LittleEndian.Uint32(p)
}

func (b *Bus) write32(device, reg, v uint32) {
	b.Write(0, binary.LittleEndian.AppendUint32(nil, address(device, reg)))
	b.Write(4, binary.LittleEndian.AppendUint32(nil, v))
}

// newBus returns a bus with a function of a memory BAR and a port BAR.
func newBus(t testing.TB) (*Bus, *Function, *line, *registers, *registers) {
	l, memory, ports := &line{}, &registers{name: "memory"}, &registers{name: "ports"}
	b := New([]IRQ{{5, l}})
	f := NewFunction(Header{
		VendorID: 0x1234, DeviceID: 0x5678, Class: 0x020304, Revision: 9,
		SubsystemVendorID: 0xaaaa, SubsystemID: 0xbbbb, Interrupt: true,
		BARs: [6]BAR{0: {Size: 0x1000, Handler: memory}, 1: {Size: 32, IO: true, Handler: ports}},
	})
	if err := b.Add(f); err != nil {
		t.Fatal(err)
	}
	return b, f, l, memory, ports
}

func TestHeader(t *testing.T) {
	b, f, _, _, _ := newBus(t)
	f.AddCapability(9, []byte{1, 2, 3}, nil)
	f.AddCapability(5, []byte{4, 5, 6, 7}, []byte{0, 0xff, 0, 0})
	tests := []struct {
		name        string
		device, reg uint32
		want        uint32
	}{
		{"host bridge", 0, 0x00, 0x12378086},
		{"host bridge class", 0, 0x08, 0x06000002},
		{"identifiers", 1, 0x00, 0x56781234},
		{"class and revision", 1, 0x08, 0x02030409},
		{"header type", 1, 0x0c, 0},
		{"command and status", 1, 0x04, 0x00100003},
		{"memory BAR", 1, 0x10, MemoryBase},
		{"port BAR", 1, 0x14, PortBase | 1},
		{"no BAR", 1, 0x18, 0},
		{"subsystem", 1, 0x2c, 0xbbbbaaaa},
		{"capabilities", 1, 0x34, 0x40},
		{"interrupt", 1, 0x3c, 0x0105},
		{"first capability", 1, 0x40, 0x02014809},
		{"second capability", 1, 0x48, 0x05040005},
		{"no device", 2, 0, 0xffffffff},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := b.read32(test.device, test.reg); got != test.want {
				t.Errorf("register %#x is %#08x, want %#08x", test.reg, got, test.want)
			}
		})
	}
	// What is not writable does not change (§6.1).
	for reg := uint32(0); reg < 0x100; reg += 4 {
		before := b.read32(1, reg)
		b.write32(1, reg, ^before)
		changed := (b.read32(1, reg) ^ before)
		if mask := binary.LittleEndian.Uint32(f.writable[reg:]); changed&^mask != 0 {
			t.Errorf("register %#x changed by %#x, only %#x is writable", reg, changed, mask)
		}
	}
}

func TestConfigurationMechanism(t *testing.T) {
	b, _, _, _, _ := newBus(t)
	// Linux's probe of the mechanism (a byte to 0xcfb must not disturb CONFIG_ADDRESS).
	b.Write(3, []byte{1})
	b.Write(0, []byte{0, 0, 0, 0x80})
	p := make([]byte, 4)
	if b.Read(0, p); binary.LittleEndian.Uint32(p) != 0x80000000 {
		t.Fatalf("CONFIG_ADDRESS is %x", p)
	}
	tests := []struct {
		name    string
		address uint32
		offset  uint64
		want    []byte
	}{
		{"dword", address(1, 0), 4, []byte{0x34, 0x12, 0x78, 0x56}},
		{"high word", address(1, 0), 6, []byte{0x78, 0x56}},
		{"byte", address(1, 0), 5, []byte{0x12}},
		{"word inside the dword", address(1, 0), 5, []byte{0x12, 0x78}},
		{"beyond the dword", address(1, 0), 6, []byte{0xff, 0xff, 0xff, 0xff}},
		{"not enabled", address(1, 0) &^ (1 << 31), 4, []byte{0xff, 0xff}},
		{"another function", address(1, 0) | 1<<8, 4, []byte{0xff, 0xff}},
		{"another bus", address(1, 0) | 1<<16, 4, []byte{0xff, 0xff}},
		{"a word of CONFIG_ADDRESS", address(1, 0), 0, []byte{0xff, 0xff}},
		{"across both registers", address(1, 0), 2, []byte{0xff, 0xff, 0xff, 0xff}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.Write(0, binary.LittleEndian.AppendUint32(nil, test.address))
			got := make([]byte, len(test.want))
			b.Read(test.offset, got)
			if !bytes.Equal(got, test.want) {
				t.Errorf("got %x, want %x", got, test.want)
			}
		})
	}
}

func TestBARs(t *testing.T) {
	b, f, _, memory, ports := newBus(t)
	// Sizing (§6.2.5.1).
	b.write32(1, 0x10, 0xffffffff)
	b.write32(1, 0x14, 0xffffffff)
	if m, p := b.read32(1, 0x10), b.read32(1, 0x14); m != 0xfffff000 || p != 0xffffffe1 {
		t.Fatalf("sizes read as %#x and %#x", m, p)
	}
	b.write32(1, 0x10, MemoryBase+0x30000)
	b.write32(1, 0x14, PortBase+0x400)
	if f.BARAddress(0) != MemoryBase+0x30000 || f.BARAddress(1) != PortBase+0x400 {
		t.Fatal("the BARs did not move")
	}

	p := make([]byte, 4)
	b.Memory().Read(0x30010, p)
	if memory.read != 1 || memory.offset != 0x10 || p[0] != 0x5a {
		t.Errorf("memory %+v", memory)
	}
	b.Ports().Write(0x41f, p[:1])
	if ports.written != 1 || ports.offset != 0x1f {
		t.Errorf("ports %+v", ports)
	}
	for _, offset := range []uint64{0, 0x2fffe, 0x30ffe, 0x31000} {
		if b.Memory().Read(offset, p); p[0] != 0xff || p[3] != 0xff || memory.read != 1 {
			t.Errorf("offset %#x: %x", offset, p)
		}
	}
	// Decoding off (§6.2.2).
	b.write32(1, 4, commandIO)
	if b.Memory().Read(0x30010, p); memory.read != 1 {
		t.Error("the memory BAR answers with decoding off")
	}
	if b.Ports().Read(0x400, p[:1]); ports.read != 1 {
		t.Error("the port BAR does not answer")
	}
}

func TestWindowIsFull(t *testing.T) {
	b := New(nil)
	big := Header{BARs: [6]BAR{{Size: 1 << 28, Handler: &registers{}}}}
	for range 2 {
		if err := b.Add(NewFunction(big)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(NewFunction(big)); err == nil || !strings.Contains(err.Error(), "no address space") {
		t.Errorf("error %v", err)
	}
	for range 29 {
		if err := b.Add(NewFunction(Header{})); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(NewFunction(Header{})); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v", err)
	}
	if err := b.Add(NewFunction(Header{Interrupt: true})); err == nil {
		t.Error("a function with an interrupt on a bus without lines")
	}
}

func TestINTx(t *testing.T) {
	b, f, l, _, _ := newBus(t)
	if b.LevelMask() != 1<<5 || f.IRQ() != 5 {
		t.Errorf("level mask %#x, IRQ %d", b.LevelMask(), f.IRQ())
	}
	f.Set(true)
	if !l.level || b.read32(1, 4)>>16&statusInterrupt == 0 {
		t.Fatal("no interrupt")
	}
	b.write32(1, 4, 3|commandINTxDisable)
	if l.level || b.read32(1, 4)>>16&statusInterrupt == 0 {
		t.Fatal("INTx disable does not hold the line, or hides the status")
	}
	b.write32(1, 4, 3)
	if !l.level {
		t.Fatal("the interrupt was lost")
	}
	f.Set(false)
	if l.level || b.read32(1, 4)>>16&statusInterrupt != 0 {
		t.Error("the interrupt stays")
	}
}

func TestSharedLines(t *testing.T) {
	lines := []*line{{}, {}}
	b := New([]IRQ{{5, lines[0]}, {9, lines[1]}})
	var f []*Function
	for range 3 {
		fn := NewFunction(Header{Interrupt: true})
		if err := b.Add(fn); err != nil {
			t.Fatal(err)
		}
		f = append(f, fn)
	}
	if f[0].IRQ() != 5 || f[1].IRQ() != 9 || f[2].IRQ() != 5 || b.LevelMask() != 1<<5|1<<9 {
		t.Fatalf("IRQs %d %d %d", f[0].IRQ(), f[1].IRQ(), f[2].IRQ())
	}
	f[0].Set(true)
	f[2].Set(true)
	f[0].Set(false)
	if !lines[0].level || lines[1].level {
		t.Error("a shared line fell while one function still drives it")
	}
	f[2].Set(false)
	if lines[0].level {
		t.Error("a shared line stays")
	}
}

func TestState(t *testing.T) {
	b, f, _, _, _ := newBus(t)
	b.write32(1, 0x10, MemoryBase+0x5000)
	f.Set(true)
	state, err := b.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	b2, f2, l2, memory, _ := newBus(t)
	if err := b2.LoadState(state); err != nil {
		t.Fatal(err)
	}
	again, err := b2.SaveState()
	if err != nil || !bytes.Equal(state, again) {
		t.Fatalf("state %s, was %s (%v)", again, state, err)
	}
	if b2.Memory().Read(0x5004, make([]byte, 4)); memory.read != 1 {
		t.Error("the BAR is not where it was")
	}
	// The line's level came with the interrupt controller; the next edge is the function's.
	l2.level = true
	if f2.Set(false); l2.level {
		t.Error("the line cannot be taken down")
	}
	for _, bad := range []string{
		`{}`, `[]`, strings.Replace(string(state), `"device":1`, `"device":2`, 1),
		strings.Replace(string(state), `"address"`, `"adress"`, 1),
		strings.Replace(string(state), `"pending":false`, `"pending":true`, 1),
		strings.Replace(string(state), `NBJ4V`, `NBJ4W`, 1),
	} {
		if bad == string(state) {
			t.Fatalf("no damage done to %s", state)
		}
		if err := b2.LoadState([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

// FuzzAccesses gives two machines the same accesses and expects the same answers and the same state, and a state that
// can be loaded.
func FuzzAccesses(f *testing.F) {
	f.Add([]byte{0x14, 0x10, 0x08, 0, 0x80, 0x24, 0xff, 0xff, 0xff, 0xff, 0x84, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		a, fa, la, _, _ := newBus(t)
		b, fb, lb, _, _ := newBus(t)
		for len(ops) >= 6 {
			op, v := ops[0], ops[1:5]
			width := 1 << (op >> 2 & 3) % 8
			offset := uint64(ops[5])
			ops = ops[6:]
			va, vb := make([]byte, width), make([]byte, width)
			copy(va, v)
			copy(vb, v)
			switch op & 3 {
			case 0:
				a.Read(offset%8, va)
				b.Read(offset%8, vb)
			case 1:
				a.Write(offset%8, va)
				b.Write(offset%8, vb)
			case 2:
				a.Ports().Read(offset*16, va)
				b.Ports().Read(offset*16, vb)
				a.Memory().Read(offset*256, va)
				b.Memory().Read(offset*256, vb)
			case 3:
				fa.Set(offset&1 != 0)
				fb.Set(offset&1 != 0)
			}
			if !bytes.Equal(va, vb) || la.level != lb.level {
				t.Fatalf("answers %x and %x, lines %v and %v", va, vb, la.level, lb.level)
			}
		}
		sa, err := a.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		sb, err := b.SaveState()
		if err != nil || !bytes.Equal(sa, sb) {
			t.Fatalf("states\n%s\n%s\n%v", sa, sb, err)
		}
		c, _, _, _, _ := newBus(t)
		if err := c.LoadState(sa); err != nil {
			t.Fatalf("state %s: %v", sa, err)
		}
	})
}
