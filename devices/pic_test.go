package devices

import "testing"

// picScript drives the pair with its inputs alone.
type picScript struct {
	*testPC
}

func newPICScript(t *testing.T) picScript {
	p := picScript{newTestPC(t)}
	p.initialisePICs()
	p.out(0x21, 0x00)
	p.out(0xa1, 0x00)
	return p
}

func (p picScript) raise(lines ...int) {
	for _, n := range lines {
		p.PIC.Line(n).Set(true)
	}
}

func (p picScript) lower(lines ...int) {
	for _, n := range lines {
		p.PIC.Line(n).Set(false)
	}
}

// takes fails the test if the processor does not get these vectors, one INTA after the other, and then none.
func (p picScript) takes(vectors ...uint8) {
	p.t.Helper()
	for _, want := range vectors {
		if !p.PIC.Pending() {
			p.t.Fatalf("no interrupt, want vector %#x", want)
		}
		if got := p.PIC.Acknowledge(); got != want {
			p.t.Fatalf("vector %#x, want %#x", got, want)
		}
	}
	if p.PIC.Pending() {
		p.t.Fatalf("another interrupt after % x: vector %#x", vectors, p.PIC.Acknowledge())
	}
}

const (
	specificEOI    = 0x60
	nonspecificEOI = 0x20
)

// TestPICLinuxProbe plays Linux's probe_8259A and init_8259A: the mask must read back, or Linux goes on without a PIC.
func TestPICLinuxProbe(t *testing.T) {
	pc := newTestPC(t)
	pc.out(0xa1, 0xff)
	pc.out(0x21, 0xfb)
	pc.expect(0x21, 0xfb, "mask of the master")
	pc.initialisePICs()
	pc.expect(0x21, 0xfb, "mask of the master after initialisation")
	pc.expect(0xa1, 0xff, "mask of the slave after initialisation")
	p := picScript{pc}
	p.raise(0, 8)
	p.takes()
	pc.out(0xa1, 0xfe)
	p.takes(0x38)
}

func TestPICPriorities(t *testing.T) {
	p := newPICScript(t)
	p.raise(4, 1)
	p.takes(0x31) // 4 waits for 1's EOI
	p.raise(0)
	p.takes(0x30) // a higher priority interrupts
	p.out(0x20, nonspecificEOI)
	p.takes()
	p.out(0x20, nonspecificEOI)
	p.takes(0x34)
	p.out(0x20, 0x0b)
	p.expect(0x20, 0x10, "ISR")
	p.out(0x20, 0x0a)
	p.expect(0x20, 0x00, "IRR")
	p.out(0x20, specificEOI|4)
	p.out(0x20, 0x0b)
	p.expect(0x20, 0x00, "ISR after EOI")
}

func TestPICCascade(t *testing.T) {
	p := newPICScript(t)
	p.raise(8, 12)
	p.takes(0x38)
	p.out(0x20, 0x0b)
	p.expect(0x20, 1<<2, "master's ISR")
	p.out(0xa0, 0x0b)
	p.expect(0xa0, 1<<0, "slave's ISR")
	p.out(0xa0, nonspecificEOI)
	p.takes() // the master still has the cascade in service
	p.out(0x20, specificEOI|2)
	p.takes(0x3c)
	p.raise(1)
	p.takes(0x31) // above the cascade
	p.raise(3)
	p.takes() // below it
}

func TestPICMask(t *testing.T) {
	p := newPICScript(t)
	p.out(0x21, 0x10)
	p.raise(4)
	p.takes()
	p.expect(0x20, 0x10, "a masked request is in the IRR")
	p.out(0x21, 0x00)
	p.takes(0x34)
	p.out(0xa1, 0xff)
	p.raise(8)
	p.takes()
}

func TestPICEdgeAndLevel(t *testing.T) {
	p := newPICScript(t)
	p.out(0x4d0, 0xff)
	p.expect(0x4d0, 0xf8, "ELCR of the master: some inputs are edge triggered for good")
	p.out(0x4d1, 0xff)
	p.expect(0x4d1, 0xde, "ELCR of the slave")
	p.out(0x4d0, 1<<5)
	p.out(0x4d1, 1<<3)

	p.raise(4, 5, 11)
	p.takes(0x3b) // 11 comes by the cascade, above 4 and 5
	p.out(0xa0, specificEOI|3)
	p.out(0x20, specificEOI|2)
	p.takes(0x3b) // still high
	p.lower(11)
	p.out(0xa0, specificEOI|3)
	p.out(0x20, specificEOI|2)
	p.takes(0x34)
	p.out(0x20, specificEOI|4)
	p.takes(0x35) // an edge comes once
	p.out(0x20, specificEOI|5)
	p.takes(0x35) // a level comes as long as it lasts
	p.lower(5)
	p.out(0x20, specificEOI|5)
	p.takes()

	p.raise(6)
	p.lower(6)
	p.takes() // an edge that is gone before it was seen
}

func TestPICSetLevelTriggered(t *testing.T) {
	p := newPICScript(t)
	p.PIC.SetLevelTriggered(1<<5 | 1<<11)
	p.expect(0x4d0, 1<<5, "ELCR of the master")
	p.expect(0x4d1, 1<<3, "ELCR of the slave")
}

func TestPICSpurious(t *testing.T) {
	p := newPICScript(t)
	if got := p.PIC.Acknowledge(); got != 0x37 {
		t.Errorf("vector %#x, want the master's 7", got)
	}
	p.out(0x20, 0x0b)
	p.expect(0x20, 0, "ISR: nothing is in service")
	if p.PIC.Pending() {
		t.Error("an interrupt comes from nowhere")
	}
}

func TestPICRotation(t *testing.T) {
	p := newPICScript(t)
	p.out(0x20, 0xc0|4) // set priority: 4 is lowest, 5 highest
	p.raise(3, 4, 5)
	p.takes(0x35)
	p.out(0x20, 0xa0) // rotate on non-specific EOI: 5 becomes lowest
	p.takes(0x33)
	p.out(0x20, 0xe0|3) // rotate on specific EOI: 3 becomes lowest
	p.takes(0x34)
	p.out(0x20, nonspecificEOI)
	p.takes()
}

func TestPICAutoEOI(t *testing.T) {
	p := newTestPC(t)
	p.out(0x20, 0x11)
	p.out(0x21, 0x30, 0x04, 0x03, 0x00)
	s := picScript{p}
	s.raise(3, 4)
	s.takes(0x33, 0x34) // nothing stays in service
	p.out(0x20, 0x0b)
	p.expect(0x20, 0, "ISR")

	p.out(0x20, 0x80) // rotate in automatic EOI mode
	s.lower(3, 4)
	s.raise(3)
	s.takes(0x33)
	s.lower(3)
	s.raise(3, 4)
	s.takes(0x34, 0x33)
}

func TestPICSpecialMask(t *testing.T) {
	p := newPICScript(t)
	p.raise(1, 5)
	p.takes(0x31)
	p.out(0x20, 0x68) // special mask mode
	p.takes()
	p.out(0x21, 0x02) // 1 is masked while in service: lower ones get through
	p.takes(0x35)
	p.out(0x20, nonspecificEOI) // ends 5, not the masked 1
	p.out(0x20, 0x0b)
	p.expect(0x20, 0x02, "ISR")
	p.out(0x20, 0x48) // special mask mode off
	p.raise(6)
	p.takes()
}

func TestPICSpecialFullyNested(t *testing.T) {
	p := newTestPC(t)
	p.initialisePICs()
	p.out(0x20, 0x11)
	p.out(0x21, 0x30, 0x04, 0x11, 0x00)
	p.out(0xa1, 0x00)
	s := picScript{p}
	s.raise(12)
	s.takes(0x3c)
	s.raise(13)
	s.takes() // of lower priority in the slave
	s.raise(8)
	s.takes(0x38) // of higher priority: the slave may interrupt itself
	s.raise(3)
	s.takes() // but what is below the cascade waits
}

func TestPICPoll(t *testing.T) {
	p := newPICScript(t)
	p.out(0x20, 0x0c)
	p.expect(0x20, 0x00, "poll of nothing")
	p.raise(6, 9)
	p.out(0x20, 0x0c)
	p.expect(0x20, 0x82, "poll of the master gives the cascade")
	p.out(0xa0, 0x0c)
	p.expect(0xa1, 0x81, "poll of the slave by its odd port")
	p.takes()
	p.out(0xa0, specificEOI|1)
	p.out(0x20, specificEOI|2)
	p.takes(0x36)
}

func TestPICInitialisation(t *testing.T) {
	for _, c := range []struct {
		what string
		icw1 byte
		odd  []byte
		want byte // vector of input 4
		mask byte // of the master afterwards
	}{
		{"cascaded with ICW4", 0x11, []byte{0x45, 0x04, 0x01, 0x06}, 0x44, 0x06},
		{"cascaded without ICW4", 0x10, []byte{0x50, 0x04, 0x08}, 0x54, 0x08},
		{"single with ICW4", 0x13, []byte{0x60, 0x01, 0x20}, 0x64, 0x20},
		{"single without ICW4", 0x12, []byte{0x68, 0x01}, 0x6c, 0x01},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := newPICScript(t)
			p.raise(1)
			p.out(0x20, 0x68)
			p.takes(0x31)
			p.raise(3) // an edge that the initialisation forgets
			p.out(0x20, c.icw1)
			p.out(0x21, c.odd...)
			p.expect(0x21, c.mask, "mask")
			p.expect(0x20, 0x00, "IRR")
			p.takes()
			p.raise(4)
			p.takes(c.want)
		})
	}
}

func TestPICInitialisationKeepsLevels(t *testing.T) {
	p := newPICScript(t)
	p.out(0x4d0, 1<<5)
	p.raise(5)
	p.out(0x20, 0x11)
	p.out(0x21, 0x30, 0x04, 0x01)
	p.takes(0x35)
}

func TestPICAcknowledgeHook(t *testing.T) {
	p := newPICScript(t)
	taken := 0
	p.PIC.OnAcknowledge(9, func() { taken++ })
	p.raise(9)
	if !p.PIC.Line(9).Requested() {
		t.Error("the request does not show")
	}
	p.takes(0x39)
	if taken != 1 || p.PIC.Line(9).Requested() {
		t.Errorf("acknowledged %d times", taken)
	}
	p.lower(9)
	p.raise(9)
	p.out(0xa0, specificEOI|1)
	p.out(0xa0, 0x0c)
	p.expect(0xa0, 0x81, "poll")
	if taken != 2 {
		t.Error("a poll is an acknowledge too")
	}
}
