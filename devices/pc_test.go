package devices

import (
	"bytes"
	"encoding/json"
	"testing"
)

// manualClock is a guest clock that a test sets.
type manualClock struct {
	now   int64
	reads int
}

func (c *manualClock) Now() int64 {
	c.reads++
	return c.now
}

// collector is a sink that keeps everything.
type collector struct{ bytes.Buffer }

func (c *collector) Output(p []byte) { c.Write(p) }

// testPC is a PC with a clock and sinks of the test's.
type testPC struct {
	*PC
	t              testing.TB
	clock          *manualClock
	console, debug *collector
	resets         int
}

func newTestPC(t testing.TB) *testPC {
	t.Helper()
	pc := &testPC{t: t, clock: &manualClock{}, console: &collector{}, debug: &collector{}}
	var err error
	pc.PC, err = NewPC(PCConfig{
		Clock: pc.clock, EpochNS: testEpochNS, MemoryBytes: 256 << 20,
		Console: pc.console, Debug: pc.debug, Reset: func() { pc.resets++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	return pc
}

// testEpochNS is 2024-02-29 23:59:58.25 UTC.
const testEpochNS = 1709251198_250_000_000

func (pc *testPC) in(port uint64) byte {
	var p [1]byte
	pc.Ports.Read(port, p[:])
	return p[0]
}

// out writes values to a port, one after the other.
func (pc *testPC) out(port uint64, values ...byte) {
	for _, v := range values {
		pc.Ports.Write(port, []byte{v})
	}
}

// expect fails the test if a port does not read as wanted.
func (pc *testPC) expect(port uint64, want byte, what string) {
	pc.t.Helper()
	if got := pc.in(port); got != want {
		pc.t.Fatalf("%s: port %#x reads %#02x, want %#02x", what, port, got, want)
	}
}

// advanceTo does what the machine does with time: one deadline after the other, up to now.
func (pc *testPC) advanceTo(now int64) {
	for {
		at, armed := pc.deadline()
		if !armed || at > now {
			break
		}
		pc.clock.now = max(pc.clock.now, at)
		for _, timer := range pc.Timers() {
			timer.Advance(pc.clock.now)
		}
	}
	pc.clock.now = now
}

func (pc *testPC) deadline() (earliest int64, armed bool) {
	for _, timer := range pc.Timers() {
		if at, ok := timer.Deadline(); ok && (!armed || at < earliest) {
			earliest, armed = at, true
		}
	}
	return earliest, armed
}

// states returns the states of all parts.
func (pc *testPC) states() [][]byte {
	var all [][]byte
	for _, part := range pc.Parts() {
		state, err := part.SaveState()
		if err != nil {
			pc.t.Fatalf("%s: %v", part.Name, err)
		}
		all = append(all, state)
	}
	return all
}

// copyOf returns another PC in the state of pc.
func (pc *testPC) copyOf() *testPC {
	other := newTestPC(pc.t)
	other.clock.now, other.resets = pc.clock.now, pc.resets
	other.console.Write(pc.console.Bytes())
	states := pc.states()
	for i, part := range other.Parts() {
		if err := part.LoadState(states[i]); err != nil {
			pc.t.Fatalf("%s: %v\n%s", part.Name, err, states[i])
		}
	}
	return other
}

// initialisePICs does what Linux's init_8259A does: vectors 0x30 and 0x38, everything masked.
func (pc *testPC) initialisePICs() {
	pc.out(0x21, 0xff)
	pc.out(0x20, 0x11)
	pc.out(0x21, 0x30, 0x04, 0x01)
	pc.out(0xa0, 0x11)
	pc.out(0xa1, 0x38, 0x02, 0x01)
	pc.out(0x21, 0xfb)
	pc.out(0xa1, 0xff)
}

func TestPCIsComplete(t *testing.T) {
	pc := newTestPC(t)
	// What answers at the ports that every PC has, before any driver has run.
	for _, c := range []struct {
		what string
		port uint64
		want byte
	}{
		{"PIC mask", 0x21, 0xff},
		{"PIC mask", 0xa1, 0xff},
		{"ELCR", 0x4d0, 0x00},
		{"PIT control word", 0x43, 0xff},
		{"keyboard controller", 0x64, 0x14},
		{"POST", 0x80, 0xff},
		{"fast A20", 0x92, 0x02},
		{"debug console", 0xe9, 0xe9},
		{"UART line status", 0x3fd, 0x60},
		{"UART modem status", 0x3fe, 0xb0},
		{"reset control", 0xcf9, 0x00},
		{"PCI, absent", 0xcfc, 0xff},
		{"second UART, absent", 0x2fd, 0xff},
	} {
		pc.expect(c.port, c.want, c.what)
	}
	names := map[string]bool{}
	for _, part := range pc.Parts() {
		if names[part.Name] {
			t.Errorf("two parts are named %s", part.Name)
		}
		names[part.Name] = true
	}
}

func TestPCNeedsClockAndReset(t *testing.T) {
	if _, err := NewPC(PCConfig{Clock: &manualClock{}}); err == nil {
		t.Error("a PC without a reset function was made")
	}
	if _, err := NewPC(PCConfig{Reset: func() {}}); err == nil {
		t.Error("a PC without a clock was made")
	}
}

func TestResets(t *testing.T) {
	for _, c := range []struct {
		what   string
		writes []struct {
			port  uint64
			value byte
		}
		want int
	}{
		{"keyboard controller pulse", []struct {
			port  uint64
			value byte
		}{{0x64, 0xfe}}, 1},
		{"keyboard controller pulse of another line", []struct {
			port  uint64
			value byte
		}{{0x64, 0xfd}}, 0},
		{"keyboard controller output port", []struct {
			port  uint64
			value byte
		}{{0x64, 0xd1}, {0x60, 0xfe}}, 1},
		{"port 0x92", []struct {
			port  uint64
			value byte
		}{{0x92, 0x03}, {0x92, 0x03}, {0x92, 0x02}}, 1},
		{"reset control", []struct {
			port  uint64
			value byte
		}{{0xcf9, 0x02}, {0xcf9, 0x06}}, 1},
		{"reset control without CPU reset", []struct {
			port  uint64
			value byte
		}{{0xcf9, 0x02}, {0xcf9, 0x02}}, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			pc := newTestPC(t)
			for _, w := range c.writes {
				pc.out(w.port, w.value)
			}
			if pc.resets != c.want {
				t.Errorf("%d resets, want %d", pc.resets, c.want)
			}
		})
	}
}

// recordingHandler keeps the offset and the length of the last access.
type recordingHandler struct {
	offset uint64
	length int
}

func (h *recordingHandler) Read(offset uint64, p []byte) {
	h.offset, h.length = offset, len(p)
	clear(p)
}
func (h *recordingHandler) Write(offset uint64, p []byte) { h.offset, h.length = offset, len(p) }

func TestPCIConfigPortsShareResetControl(t *testing.T) {
	pc := newTestPC(t)
	bridge := &recordingHandler{}
	pc.ConnectPCI(bridge)
	pc.Ports.Write(0xcf8, []byte{0, 0, 0, 0x80})
	if bridge.offset != 0 || bridge.length != 4 {
		t.Errorf("the address register got %+v", *bridge)
	}
	pc.Ports.Read(0xcfe, make([]byte, 2))
	if bridge.offset != 6 || bridge.length != 2 {
		t.Errorf("the data register got %+v", *bridge)
	}
	pc.out(0xcf9, 0x06)
	if pc.resets != 1 || bridge.offset != 6 {
		t.Errorf("a reset reached the bridge: %+v, %d resets", *bridge, pc.resets)
	}
}

func TestDebugPorts(t *testing.T) {
	pc := newTestPC(t)
	pc.out(0xe9, []byte("hello")...)
	if got := pc.debug.String(); got != "hello" {
		t.Errorf("debug console got %q", got)
	}
	pc.out(0x80, 1, 2, 3)
	pc.out(0xed, 1)
	if got := pc.System.Posts(); got != 3 {
		t.Errorf("%d POST codes, want 3", got)
	}
}

// FuzzPC drives random accesses, inputs and times against a PC and its double. The double is made anew from the PC's
// state every so often. What they read and what state they end in must be the same.
func FuzzPC(f *testing.F) {
	f.Add([]byte{0x80, 0x43, 0x34, 0x80, 0x40, 0x10, 0x80, 0x40, 0x01, 0xc0, 0x20, 0x20, 0xc1, 0, 0})
	f.Add(bytes.Repeat([]byte{0x80, 0x70, 0x0b, 0x80, 0x71, 0x72, 0xc0, 9, 9, 0x00, 0x71, 0}, 8))
	f.Fuzz(func(t *testing.T, program []byte) {
		const stepBytes = 3
		if len(program) > 600*stepBytes {
			program = program[:600*stepBytes]
		}
		pc := newTestPC(t)
		double := pc.copyOf()
		for i := 0; i+stepBytes <= len(program); i += stepBytes {
			op := program[i : i+stepBytes]
			if a, b := pc.fuzzStep(op), double.fuzzStep(op); a != b {
				t.Fatalf("step %d (% x): one gives %v, its double %v", i/stepBytes, op, a, b)
			}
			if op[0]&0x3f == 0x3f {
				double = pc.copyOf()
			}
		}
		states, doubles := pc.states(), double.states()
		for i, part := range pc.Parts() {
			if !bytes.Equal(states[i], doubles[i]) {
				t.Fatalf("%s differs:\n%s\n%s", part.Name, states[i], doubles[i])
			}
		}
		pc.copyOf()
	})
}

// fuzzPorts are the ports that a program of FuzzPC chooses from.
var fuzzPorts = [...]uint64{
	0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x60, 0x64, 0x70, 0x71, 0x92, 0xcf9, 0xe9,
	0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x608, 0x60a, 0xcf8, 0x5f, 0x3f7,
}

// fuzzResult is what a step of FuzzPC lets one see.
type fuzzResult struct {
	value    [8]byte
	length   int
	deadline int64
	armed    bool
	pending  bool
	resets   int
	sent     int
}

func (pc *testPC) fuzzStep(op []byte) fuzzResult {
	r := fuzzResult{}
	size := 1 << (op[0] >> 4 & 3)
	port := fuzzPorts[int(op[1])%len(fuzzPorts)]
	switch op[0] >> 6 {
	case 0:
		pc.Ports.Read(port, r.value[:size])
	case 1, 2:
		value := [8]byte{op[2], op[1], op[0], op[2], op[1]}
		pc.Ports.Write(port, value[:size])
	case 3:
		switch op[0] & 7 {
		case 0, 1: // a leap of up to 17 minutes; most are short
			pc.clock.now += int64(op[1]) << (op[2] % 33)
		case 2, 3, 4:
			if at, armed := pc.deadline(); armed {
				pc.clock.now = max(pc.clock.now, at)
			}
			for _, timer := range pc.Timers() {
				timer.Advance(pc.clock.now)
			}
		case 5, 6:
			if pc.PIC.Pending() {
				r.value[0] = pc.PIC.Acknowledge()
			}
		case 7:
			r.length = pc.UART.Receive(op[1:])
			pc.PowerButton()
		}
	}
	r.deadline, r.armed = pc.deadline()
	r.pending, r.resets, r.sent = pc.PIC.Pending(), pc.resets, pc.console.Len()
	return r
}

// FuzzLoadState feeds bytes to every part. What is refused leaves the part as it was; what is accepted saves as the same
// bytes, and the part survives being used.
func FuzzLoadState(f *testing.F) {
	pc := newTestPC(f)
	for i, state := range pc.states() {
		f.Add(uint8(i), state)
	}
	f.Fuzz(func(t *testing.T, which uint8, state []byte) {
		pc := newTestPC(t)
		index := int(which) % len(pc.Parts())
		part := pc.Parts()[index]
		before, _ := part.SaveState()
		if err := part.LoadState(state); err != nil {
			after, _ := part.SaveState()
			if !bytes.Equal(before, after) {
				t.Fatalf("%s: refused (%v), and yet changed", part.Name, err)
			}
			return
		}
		after, err := part.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, state); err != nil || !bytes.Equal(after, compact.Bytes()) {
			t.Fatalf("%s: loaded\n%s\nand saved\n%s", part.Name, state, after)
		}
		pc.clock.now = 1 << 40
		for i := range 600 {
			pc.fuzzStep([]byte{byte(i * 37), byte(i), byte(i * 7)})
		}
		pc.copyOf()
	})
}
