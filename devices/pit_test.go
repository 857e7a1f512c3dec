package devices

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

func TestPITClockIsExact(t *testing.T) {
	const hour = int64(3600) * secondNS
	random := rand.New(rand.NewPCG(1, 2))
	for _, ns := range []int64{0, 1, 838, 839, 87999, 88000, 88001, hour, 24 * 365 * 100 * hour,
		random.Int64N(hour), random.Int64N(hour), random.Int64N(1 << 60), random.Int64N(1 << 60)} {
		want := new(big.Int).Mul(big.NewInt(ns), big.NewInt(105))
		want.Div(want, big.NewInt(88000))
		pulse := pitPulse(ns)
		if pulse != want.Int64() {
			t.Errorf("%d pulses after %d ns, want %v", pulse, ns, want)
		}
		at := pitTime(pulse)
		if pitPulse(at) != pulse || at > 0 && pitPulse(at-1) != pulse-1 {
			t.Errorf("pulse %d is not at %d ns", pulse, at)
		}
	}
}

// setPIT programs a counter with a two-byte count.
func (pc *testPC) setPIT(counter, mode byte, count uint16) {
	pc.out(0x43, counter<<6|0x30|mode<<1)
	pc.out(0x40+uint64(counter), byte(count), byte(count>>8))
}

// readPIT latches and reads a counter.
func (pc *testPC) readPIT(counter byte) uint16 {
	pc.out(0x43, counter<<6)
	low := pc.in(0x40 + uint64(counter))
	return uint16(low) | uint16(pc.in(0x40+uint64(counter)))<<8
}

// pulses moves the clock by so many pulses of the PIT's.
func (pc *testPC) pulses(n int64) { pc.clock.now = pitTime(pitPulse(pc.clock.now) + n) }

func TestPITReading(t *testing.T) {
	pc := newTestPC(t)
	pc.setPIT(0, 2, 1000)
	pc.pulses(1)
	if got := pc.readPIT(0); got != 1000 {
		t.Errorf("count %d when loaded, want 1000", got)
	}
	pc.pulses(10)
	if got := pc.readPIT(0); got != 990 {
		t.Errorf("count %d, want 990", got)
	}
	pc.out(0x43, 0x00) // latch
	pc.pulses(5)
	pc.out(0x43, 0x00) // a second latch command before the read is ignored
	low, high := pc.in(0x40), pc.in(0x40)
	if got := uint16(low) | uint16(high)<<8; got != 990 {
		t.Errorf("latched count %d, want 990", got)
	}
	low, high = pc.in(0x40), pc.in(0x40)
	if got := uint16(low) | uint16(high)<<8; got != 985 {
		t.Errorf("count %d without a latch, want 985", got)
	}
}

func TestPITReadBack(t *testing.T) {
	pc := newTestPC(t)
	pc.out(0x43, 0xe2)
	pc.expect(0x40, 0x80|0x30|3<<1, "status of counter 0 as firmware leaves it: OUT high, both bytes, mode 3")
	pc.out(0x43, 0xe4)
	pc.expect(0x41, 0xc0|0x30|3<<1, "status of counter 1, never programmed: OUT high, no count")
	pc.setPIT(0, 0, 100)
	pc.out(0x43, 0xe2)
	pc.expect(0x40, 0x40|0x30, "status: OUT low, count not loaded yet")
	pc.pulses(1)
	pc.out(0x43, 0xc2) // status and count
	pc.expect(0x40, 0x30, "status first")
	pc.expect(0x40, 100, "then the count's low byte")
	pc.expect(0x40, 0, "then the high one")
	pc.pulses(100)
	pc.out(0x43, 0xe2)
	pc.expect(0x40, 0xb0, "status: OUT high")
	pc.setPIT(1, 2, 50)
	pc.setPIT(2, 2, 70)
	pc.out(0x61, 1)
	pc.pulses(3)
	pc.out(0x43, 0xd0|0x0c) // counts of counters 1 and 2
	pc.pulses(20)
	pc.expect(0x41, 48, "counter 1")
	pc.expect(0x42, 68, "counter 2")
}

func TestPITAccessModes(t *testing.T) {
	pc := newTestPC(t)
	pc.out(0x43, 0x10|4<<1) // low byte only
	pc.out(0x40, 200)
	pc.pulses(1)
	pc.expect(0x40, 200, "low byte")
	pc.expect(0x40, 200, "low byte again")
	pc.out(0x43, 0x20|4<<1) // high byte only
	pc.out(0x40, 3)
	pc.pulses(1)
	pc.expect(0x40, 3, "high byte")
	if at, armed := pc.PIT.Deadline(); !armed || pitPulse(at) != pitPulse(pc.clock.now)+0x300+1 {
		t.Errorf("the strobe ends at pulse %d, want %d", pitPulse(at), pitPulse(pc.clock.now)+0x301)
	}
	pc.expect(0x43, 0xff, "the control word can't be read")
}

func TestPITBCD(t *testing.T) {
	pc := newTestPC(t)
	pc.out(0x43, 0x30|2<<1|1)
	pc.out(0x40, 0x00, 0x10) // 1000
	pc.pulses(2)
	if got := pc.readPIT(0); got != 0x0999 {
		t.Errorf("count %#x, want 999 in BCD", got)
	}
	if at, _ := pc.PIT.Deadline(); pitPulse(at) != 1001 {
		t.Errorf("the period ends at pulse %d, want 1001", pitPulse(at))
	}
	pc.out(0x43, 0x30|4<<1|1)
	pc.out(0x40, 0, 0) // 10000
	if at, _ := pc.PIT.Deadline(); pitPulse(at) != 2+1+10000+1 {
		t.Errorf("the strobe ends at pulse %d, want 10004", pitPulse(at))
	}
}

func TestPITPort61(t *testing.T) {
	pc := newTestPC(t)
	pc.setPIT(2, 0, 1000)
	pc.pulses(2000)
	if pc.in(0x61)&controlOut2 != 0 {
		t.Error("counter 2 has run with its gate low")
	}
	pc.out(0x61, 0x01)
	pc.pulses(999)
	if pc.in(0x61)&controlOut2 != 0 {
		t.Error("OUT of counter 2 rises early")
	}
	pc.pulses(1)
	if pc.in(0x61)&(controlOut2|controlWrite) != controlOut2|1 {
		t.Error("OUT of counter 2 does not rise")
	}
	pc.out(0x61, 0xff)
	if got := pc.in(0x61) & controlWrite; got != 0x0f {
		t.Errorf("port 0x61 keeps %#x of what is written", got)
	}
	before := pc.in(0x61) & controlRefresh
	pc.clock.now += refreshNS
	if pc.in(0x61)&controlRefresh == before {
		t.Error("the refresh bit does not toggle")
	}
}

// TestPITOneShot plays Linux's tickless mode: mode 4, a new count for each event, and shutdown by mode 0.
func TestPITOneShot(t *testing.T) {
	pc := newTestPC(t)
	pc.initialisePICs()
	pc.out(0x21, 0xfa)
	pc.out(0x43, 0x38)
	if _, armed := pc.PIT.Deadline(); armed {
		t.Fatal("armed without a count")
	}
	for _, count := range []uint16{5000, 0x7fff, 33} {
		reads := pc.clock.reads
		pc.out(0x40, byte(count), byte(count>>8))
		if n := pc.clock.reads - reads; n != 1 {
			t.Errorf("programming an event samples the clock %d times", n)
		}
		start := pitPulse(pc.clock.now)
		at, armed := pc.PIT.Deadline()
		if want := start + int64(count) + 2; !armed || pitPulse(at) != want {
			t.Fatalf("count %d: due at pulse %d, want %d", count, pitPulse(at), want)
		}
		pc.advanceTo(at)
		if got := pc.PIC.Acknowledge(); got != 0x30 {
			t.Fatalf("vector %#x", got)
		}
		pc.out(0x20, specificEOI)
		pc.advanceTo(at + secondNS)
		if pc.PIC.Pending() {
			t.Fatal("a one-shot came twice")
		}
	}
	pc.out(0x40, 100, 0)
	pc.advanceTo(pc.clock.now + secondNS)
	pc.out(0x43, 0x30) // shutdown: the event that was not taken is gone
	if pc.PIC.Pending() {
		t.Error("an event is left after the shutdown")
	}
	if _, armed := pc.PIT.Deadline(); armed {
		t.Error("armed after the shutdown")
	}
}

// takeTicks does what Linux does with all ticks that are there, and returns how many there were.
func (pc *testPC) takeTicks() int64 {
	n := int64(0)
	for ; pc.PIC.Pending(); n++ {
		if got := pc.PIC.Acknowledge(); got != 0x30 {
			pc.t.Fatalf("vector %#x", got)
		}
		pc.out(0x21, 0xfb)
		pc.out(0x20, specificEOI)
		pc.out(0x21, 0xfa)
	}
	return n
}

// startTicks programs Linux's periodic tick at 250 Hz and returns its period in pulses.
func (pc *testPC) startTicks() int64 {
	const latch = 4773 // (1193182 + 250/2) / 250
	pc.initialisePICs()
	pc.setPIT(0, 2, latch)
	pc.out(0x21, 0xfa)
	return latch
}

// TestPITHour runs a guest for an hour that takes its ticks late, several at once, sometimes by reading the clock, and
// sometimes with interrupts off for seconds. It must get every one.
func TestPITHour(t *testing.T) {
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 4))
		pc := newTestPC(t)
		latch := pc.startTicks()
		ticks := int64(0)
		const hour = int64(3600) * secondNS
		for pc.clock.now < hour {
			until := min(hour, pc.clock.now+random.Int64N(12_000_000))
			switch random.IntN(4000) {
			case 0:
				pc.clock.now = min(hour, until+random.Int64N(5*secondNS)) // interrupts off for long
				pc.readPIT(0)
			case 1, 2, 3, 4, 5, 6, 7, 8:
				pc.clock.now = until // the clock leaps, perhaps over several deadlines
				pc.PIT.Advance(until)
			default:
				for {
					at, armed := pc.PIT.Deadline()
					if !armed || at > until {
						break
					}
					pc.advanceTo(max(pc.clock.now, at) + random.Int64N(1_000_000)) // taken a little late
					ticks += pc.takeTicks()
				}
				pc.advanceTo(max(pc.clock.now, until))
			}
			ticks += pc.takeTicks()
		}
		if owed := pc.PIT.s.Pending; owed > 10*250 {
			t.Errorf("seed %d: %d ticks are owed at the end: the guest does not catch up", seed, owed)
		}
		if want := (pitPulse(hour) - 1) / latch; ticks+pc.PIT.s.Pending != want {
			t.Errorf("seed %d: %d ticks in an hour and %d owed, want %d", seed, ticks, pc.PIT.s.Pending, want)
		}
	}
}

func TestPITPendingIsBounded(t *testing.T) {
	pc := newTestPC(t)
	latch := pc.startTicks()
	pc.clock.now = 3600 * secondNS
	pc.PIT.Advance(pc.clock.now)
	if _, armed := pc.PIT.Deadline(); armed {
		t.Error("there is a deadline although a tick waits to be taken")
	}
	all := (pitPulse(pc.clock.now) - 1) / latch
	if want := all - maxPendingTicks - 1; pc.PIT.s.Dropped != want {
		t.Errorf("%d ticks dropped, want %d", pc.PIT.s.Dropped, want)
	}
	if got := pc.takeTicks(); got != 1 {
		t.Errorf("%d ticks at once, want 1", got)
	}
	taken := int64(0)
	for start := pc.clock.now; pc.PIT.s.Pending > 1; {
		at, armed := pc.PIT.Deadline()
		if !armed || at > start+maxPendingTicks*secondNS {
			t.Fatalf("%d ticks are owed and none is due", pc.PIT.s.Pending)
		}
		pc.advanceTo(at)
		taken += pc.takeTicks()
	}
	if rate := taken * latch * 100 / (pitPulse(pc.clock.now) - pitPulse(3600*secondNS)); rate < 130 || rate > 134 {
		t.Errorf("a guest that is behind gets %d %% of the ticks per time, want a third more than usual", rate)
	}
	pc.clock.now += secondNS
	pc.PIT.Advance(pc.clock.now)
	pc.setPIT(0, 2, 4000)
	if got := pc.takeTicks(); got != 1 {
		t.Errorf("%d ticks after counter 0 was programmed anew, want the one that was requested", got)
	}
}

// TestPITSurvivesPICReset is Linux's order of events when the PIT already runs: the PIC's initialisation forgets a
// request, and the PIT must not wait for ever for that to be taken.
func TestPITSurvivesPICReset(t *testing.T) {
	pc := newTestPC(t)
	pc.setPIT(0, 2, 4773)
	pc.advanceTo(secondNS)
	pc.initialisePICs()
	pc.out(0x21, 0xfa)
	if _, armed := pc.PIT.Deadline(); !armed {
		t.Fatal("the PIT waits for a tick that is gone")
	}
	pc.advanceTo(2 * secondNS)
	if pc.takeTicks() == 0 {
		t.Error("no ticks")
	}
}

func TestPITRisingOutIsATick(t *testing.T) {
	pc := newTestPC(t)
	pc.initialisePICs()
	pc.out(0x21, 0xfa)
	pc.setPIT(0, 2, 1000)
	if pc.PIC.Pending() {
		t.Error("programming a counter whose OUT was high makes a tick")
	}
	pc.setPIT(0, 0, 1000) // OUT falls
	pc.out(0x43, 0x34)    // OUT rises
	if got := pc.takeTicks(); got != 1 {
		t.Errorf("%d ticks when OUT rises, want 1", got)
	}
}
