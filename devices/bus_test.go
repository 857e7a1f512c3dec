package devices

import (
	"bytes"
	"strings"
	"testing"
)

// namedHandler answers reads with its mark in the high nibble and the offset in the low one, and keeps what is written.
type namedHandler struct {
	mark    byte
	written []byte
}

func (h *namedHandler) Read(offset uint64, p []byte) {
	for i := range p {
		p[i] = h.mark<<4 | byte(offset+uint64(i))&0xf
	}
}

func (h *namedHandler) Write(offset uint64, p []byte) {
	h.written = append(append(h.written, byte(offset)), p...)
}

func TestBusAttach(t *testing.T) {
	const top = ^uint64(0)
	for _, c := range []struct {
		what       string
		base, size uint64
		err        string
	}{
		{"below", 0x00, 0x10, ""},
		{"directly before", 0x0c, 0x4, ""},
		{"directly after", 0x20, 0x10, ""},
		{"the same", 0x10, 0x10, "overlaps the one of 0x10 at 0x10"},
		{"inside", 0x18, 0x4, "overlaps"},
		{"around", 0x00, 0x100, "overlaps"},
		{"into its begin", 0x00, 0x11, "overlaps"},
		{"into its end", 0x1f, 0x2, "overlaps"},
		{"empty", 0x80, 0, "empty"},
		{"the last address", top, 1, ""},
		{"beyond the last address", top, 2, "beyond the end"},
	} {
		t.Run(c.what, func(t *testing.T) {
			var b Bus
			if err := b.Attach(0x10, 0x10, &namedHandler{}); err != nil {
				t.Fatal(err)
			}
			err := b.Attach(c.base, c.size, &namedHandler{})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
		})
	}
}

func TestBusAccess(t *testing.T) {
	var b Bus
	first, second := &namedHandler{mark: 1}, &namedHandler{mark: 2}
	for _, w := range []struct {
		base uint64
		h    Handler
	}{{0x108, second}, {0x100, first}, {^uint64(0) - 1, &namedHandler{mark: 3}}} {
		size := uint64(8)
		if w.base > 0x1000 {
			size = 2
		}
		if err := b.Attach(w.base, size, w.h); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what      string
		address   uint64
		want      []byte
		unclaimed uint64
	}{
		{"one byte", 0x100, []byte{0x10}, 0},
		{"eight bytes", 0x100, []byte{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17}, 0},
		{"the last byte", 0x10f, []byte{0x27}, 0},
		{"across two windows", 0x106, []byte{0x16, 0x17, 0x20, 0x21}, 0},
		{"into a window", 0xfe, []byte{0xff, 0xff, 0x10, 0x11}, 2},
		{"out of a window", 0x10e, []byte{0x26, 0x27, 0xff, 0xff}, 2},
		{"nowhere", 0x200, []byte{0xff, 0xff, 0xff, 0xff}, 4},
		{"round the end of the address space", ^uint64(0), []byte{0x31, 0xff}, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := b.Unclaimed()
			got := make([]byte, len(c.want))
			b.Read(c.address, got)
			if !bytes.Equal(got, c.want) {
				t.Errorf("read % x, want % x", got, c.want)
			}
			if n := b.Unclaimed() - before; n != c.unclaimed {
				t.Errorf("%d unclaimed, want %d", n, c.unclaimed)
			}
		})
	}

	b.Write(0x106, []byte{0xa, 0xb, 0xc, 0xd})
	if want := []byte{6, 0xa, 7, 0xb}; !bytes.Equal(first.written, want) {
		t.Errorf("the first window got % x, want % x", first.written, want)
	}
	if want := []byte{0, 0xc, 1, 0xd}; !bytes.Equal(second.written, want) {
		t.Errorf("the second window got % x, want % x", second.written, want)
	}
	b.Write(0x300, []byte{1})
}

func TestBusDetach(t *testing.T) {
	var b Bus
	if err := b.Attach(0x10, 4, &namedHandler{mark: 1}); err != nil {
		t.Fatal(err)
	}
	p := []byte{0}
	b.Read(0x10, p)
	if b.Detach(0x11) || !b.Detach(0x10) || b.Detach(0x10) {
		t.Error("a window is detached once, by its base")
	}
	if b.Read(0x10, p); p[0] != 0xff {
		t.Errorf("a detached window reads %#x", p[0])
	}
	if err := b.Attach(0x12, 4, &namedHandler{mark: 2}); err != nil {
		t.Errorf("the freed place is taken: %v", err)
	}
}

// movingHandler moves its own window while it handles a write, as a PCI function does whose base address is set.
type movingHandler struct {
	namedHandler
	bus *Bus
	t   *testing.T
}

func (h *movingHandler) Write(_ uint64, p []byte) {
	h.bus.Detach(0x10)
	if err := h.bus.Attach(uint64(p[0]), 4, h); err != nil {
		h.t.Error(err)
	}
}

func TestBusMoveWhileHandling(t *testing.T) {
	var b Bus
	if err := b.Attach(0x10, 4, &movingHandler{namedHandler{mark: 5}, &b, t}); err != nil {
		t.Fatal(err)
	}
	b.Write(0x10, []byte{0x40})
	p := []byte{0, 0}
	b.Read(0x40, p[:1])
	b.Read(0x10, p[1:])
	if !bytes.Equal(p, []byte{0x50, 0xff}) {
		t.Errorf("the new place and the old read % x", p)
	}
}

func TestNoAllocations(t *testing.T) {
	pc := newTestPC(t)
	pc.console.Grow(1 << 20)
	pc.initialisePICs()
	pc.out(0x43, 0x34)
	pc.out(0x40, 0xa4, 0x12)
	pc.out(0x21, 0xfe)
	var p [4]byte
	for what, access := range map[string]func(){
		"UART write":     func() { p[0] = 'x'; pc.Ports.Write(0x3f8, p[:1]) },
		"UART status":    func() { pc.Ports.Read(0x3fd, p[:1]) },
		"PM timer":       func() { pc.clock.now += 1000; pc.Ports.Read(PMTimerPort, p[:4]) },
		"unclaimed":      func() { pc.Ports.Read(0x5555, p[:2]) },
		"split access":   func() { pc.Ports.Read(0x3fe, p[:4]) },
		"PIT count":      func() { p[0] = 0; pc.Ports.Write(0x43, p[:1]); pc.Ports.Read(0x40, p[:1]) },
		"CMOS time":      func() { p[0] = 0; pc.Ports.Write(0x70, p[:1]); pc.Ports.Read(0x71, p[:1]) },
		"keyboard":       func() { p[0] = 0x20; pc.Ports.Write(0x64, p[:1]); pc.Ports.Read(0x60, p[:1]) },
		"received bytes": func() { pc.UART.Receive(p[:]); pc.Ports.Read(0x3f8, p[:1]) },
		"timer tick": func() {
			at, _ := pc.PIT.Deadline()
			pc.clock.now = max(pc.clock.now, at)
			pc.PIT.Advance(pc.clock.now)
			for pc.PIC.Pending() {
				pc.PIC.Acknowledge()
				p[0] = 0x60
				pc.Ports.Write(0x20, p[:1])
			}
		},
	} {
		if n := testing.AllocsPerRun(200, access); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

func BenchmarkUARTWrite(b *testing.B) {
	pc := newTestPC(b)
	pc.UART.line.sink = nowhere{}
	p := []byte{'x'}
	b.ReportAllocs()
	for b.Loop() {
		pc.Ports.Write(0x3f8, p)
	}
}

// BenchmarkTick is what a timer tick costs as Linux handles it on a PIC: mask and EOI, then unmask.
func BenchmarkTick(b *testing.B) {
	pc := newTestPC(b)
	pc.initialisePICs()
	pc.out(0x43, 0x34)
	pc.out(0x40, 0xa4, 0x12)
	pc.out(0x21, 0xfa)
	mask, eoi, unmask := []byte{0xfb}, []byte{0x60}, []byte{0xfa}
	b.ReportAllocs()
	for b.Loop() {
		pc.clock.now, _ = pc.PIT.Deadline()
		pc.PIT.Advance(pc.clock.now)
		if pc.PIC.Acknowledge() != 0x30 {
			b.Fatal("not the timer's vector")
		}
		pc.Ports.Write(0x21, mask)
		pc.Ports.Write(0x20, eoi)
		pc.Ports.Write(0x21, unmask)
	}
}
