package devices

import (
	"encoding/json"

	"tandem/lockstep"
)

// The PIT's input clock is a twelfth of the PC's 14.31818 MHz crystal (315/22 MHz): 105/88 MHz. Thus 105 pulses take
// 88000 ns exactly, and conversions in integers neither drift nor, done by quotient and remainder, overflow.
const (
	pitPulses   = 105
	pitPulsesNS = 88000
)

// maxPendingTicks bounds the timer ticks that are owed to a guest which could not take them in time: a minute of Linux's
// 250 Hz. Ticks beyond are lost for good, and time kept by counting ticks is behind from then on; the alternative is a
// guest that does nothing but catch up.
const maxPendingTicks = 1 << 14

// refreshNS is how long the DRAM refresh bit of port 0x61 keeps its value (18 pulses of the PIT's clock).
const refreshNS = 15085

// Bits of port 0x61 (82371AB data sheet §4.2.5.1).
const (
	controlGate2   = 1 << 0
	controlWrite   = 0x0f
	controlRefresh = 1 << 4
	controlOut2    = 1 << 5
)

// PIT is an 8254 interval timer with port 0x61 (Intel 8254 data sheet). Counter 0's OUT is IRQ 0, counter 1's goes
// nowhere, counter 2's can be read in port 0x61, which also has its gate.
//
// OUT of counter 0 reaches the interrupt controller as requests: each rising edge is one tick. A tick that comes while
// the one before is not yet acknowledged is owed, up to maxPendingTicks; so a guest that counts ticks keeps time although
// the host ran it late. Ticks follow each other by three quarters of the period at the least: a guest that is behind
// catches up by a third of its speed, and has time for other things meanwhile. Programming counter 0 cancels what is
// owed. While a tick waits to be acknowledged there is no deadline, since the guest could not tell whether another one
// has come.
type PIT struct {
	clock lockstep.Clock
	irq   PICLine
	s     pitState
	// due is the guest time in ns of the next tick, or -1. It follows from s.
	due int64
}

type pitState struct {
	Counters [3]pitCounter `json:"counters"`
	// Pulse is the number of clock pulses up to which everything has happened.
	Pulse int64 `json:"pulse"`
	// Pending is the ticks owed, Dropped those lost. Ready is the pulse before which no tick follows the last one taken.
	Pending int64 `json:"pending"`
	Dropped int64 `json:"dropped"`
	Ready   int64 `json:"ready"`
	// Control is the writable part of port 0x61.
	Control uint8 `json:"control"`
}

// NewPIT returns a PIT as firmware leaves it: counter 0 runs at 18.2 Hz, the others have never been programmed. irq is
// input 0 of the interrupt controller; the caller has the controller call TickTaken when it is acknowledged.
func NewPIT(clock lockstep.Clock, irq PICLine) *PIT {
	p := &PIT{clock: clock, irq: irq, due: -1}
	for i := range p.s.Counters {
		p.s.Counters[i] = pitCounter{Mode: 3, Access: accessBoth, Gate: i != 2}
	}
	// Without a TSC Linux seeds its address layout from counter 0 before it has programmed it, and waits until it runs
	// (arch/x86/lib/kaslr.c).
	p.s.Counters[0].begin(-1, 1<<16)
	p.plan()
	return p
}

// Attach puts the ports on the bus: 0x40 to 0x43, 0x61.
func (p *PIT) Attach(ports *Bus) error {
	return attachAll(ports,
		attachment{0x40, 4, &bytePorts{p.read, p.write}},
		attachment{0x61, 1, &bytePorts{p.readControl, p.writeControl}},
	)
}

// pitPulse returns how many clock pulses there have been at a guest time.
func pitPulse(ns int64) int64 {
	return ns/pitPulsesNS*pitPulses + ns%pitPulsesNS*pitPulses/pitPulsesNS
}

// pitTime returns the first guest time in ns at which there have been so many pulses.
func pitTime(pulse int64) int64 {
	return pulse/pitPulses*pitPulsesNS + (pulse%pitPulses*pitPulsesNS+pitPulses-1)/pitPulses
}

// Deadline implements Timer.
func (p *PIT) Deadline() (int64, bool) {
	if p.due < 0 || p.irq.Requested() {
		return 0, false
	}
	return p.due, true
}

// Advance implements Timer. All ticks up to now are counted, however many there are.
func (p *PIT) Advance(now int64) {
	pulse := pitPulse(now)
	if pulse <= p.s.Pulse {
		return
	}
	ticks := int64(0)
	for i := range p.s.Counters {
		n := p.s.Counters[i].advance(p.s.Pulse, pulse)
		if i == 0 {
			ticks = n
		}
	}
	p.s.Pulse = pulse
	p.owe(ticks)
	p.plan()
}

// owe adds ticks to what the guest is to get.
func (p *PIT) owe(ticks int64) {
	p.s.Pending += ticks
	if p.s.Pending > 0 && !p.irq.Requested() && p.s.Pulse >= p.s.Ready {
		p.tick()
	}
	if over := p.s.Pending - maxPendingTicks; over > 0 {
		p.s.Pending -= over
		p.s.Dropped += over
	}
}

// tick makes a rising edge on IRQ 0.
func (p *PIT) tick() {
	p.s.Pending--
	p.irq.Set(false)
	p.irq.Set(true)
}

// TickTaken tells the PIT that the request of IRQ 0 has been acknowledged.
func (p *PIT) TickTaken() {
	p.s.Ready = 0
	if c := &p.s.Counters[0]; c.periodic() {
		p.s.Ready = p.s.Pulse + int64(c.Period)*3/4
	}
	p.plan()
}

// plan sets due from the state.
func (p *PIT) plan() {
	p.due = -1
	pulse, ok := p.s.Counters[0].nextRise(p.s.Pulse)
	if p.s.Pending > 0 {
		pulse, ok = max(p.s.Ready, p.s.Pulse+1), true
	}
	if ok {
		p.due = pitTime(pulse)
	}
}

// now brings the PIT up to the present and returns the pulse count.
func (p *PIT) now() int64 {
	p.Advance(p.clock.Now())
	return p.s.Pulse
}

func (p *PIT) read(port uint64) byte {
	if port == 3 {
		return 0xff // the control word can't be read
	}
	c := &p.s.Counters[port]
	if v, ok := c.readLatched(); ok {
		return v
	}
	return c.readByte(c.count(p.now()))
}

func (p *PIT) write(port uint64, v byte) {
	if port == 3 {
		p.command(v)
		return
	}
	c := &p.s.Counters[port]
	if c.Access == accessBoth && !c.WriteHigh && c.Mode != 0 {
		// The first of two bytes does nothing but wait for the second: no need to know the time.
		c.WriteLow, c.WriteHigh = v, true
		return
	}
	now := p.now()
	if c.Mode == 0 {
		p.hold(port)
	}
	if c.Access == accessBoth && !c.WriteHigh {
		c.stop()
		c.WriteLow, c.WriteHigh = v, true
	} else {
		c.load(now, c.assemble(v))
	}
	p.plan()
}

// hold drives OUT low, as programming mode 0 does. For counter 0 that takes back a request which was not acknowledged.
func (p *PIT) hold(counter uint64) {
	if counter == 0 {
		p.s.Pending = 0
		p.irq.Set(false)
	}
}

// command takes a control word: a mode, a counter latch command or a read-back command (data sheet, figure 7 on).
func (p *PIT) command(v byte) {
	which := v >> 6
	if which == 3 {
		p.readBack(v)
		return
	}
	c := &p.s.Counters[which]
	access := v >> 4 & 3
	if access == 0 {
		if c.Latched == 0 {
			c.latch(p.now())
		}
		return
	}
	now := p.now()
	wasLow := c.Mode == 0 && !c.out(now)
	c.program(v)
	if which == 0 {
		p.s.Pending, p.s.Ready = 0, 0
		switch {
		case c.Mode == 0:
			p.hold(0)
		case wasLow:
			p.s.Pending = 1
			p.tick() // OUT rises: that is an edge like any other
		}
	}
	p.plan()
}

// readBack latches counts, states or both of the counters chosen by bits 3..1.
func (p *PIT) readBack(v byte) {
	const noCount, noStatus = 1 << 5, 1 << 4
	for i := range p.s.Counters {
		c := &p.s.Counters[i]
		if v>>(i+1)&1 == 0 {
			continue
		}
		if v&noCount == 0 && c.Latched == 0 {
			c.latch(p.now())
		}
		if v&noStatus == 0 && !c.StatusLatched {
			c.Status, c.StatusLatched = c.status(p.now()), true
		}
	}
}

func (p *PIT) readControl(uint64) byte {
	v := p.s.Control
	if p.s.Counters[2].out(p.now()) {
		v |= controlOut2
	}
	if p.clock.Now()/refreshNS&1 != 0 {
		v |= controlRefresh
	}
	return v
}

func (p *PIT) writeControl(_ uint64, v byte) {
	changed := (p.s.Control ^ v) & controlWrite
	p.s.Control = v & controlWrite
	if changed&controlGate2 != 0 {
		p.s.Counters[2].setGate(p.now(), v&controlGate2 != 0)
	}
}

// SaveState implements Stateful.
func (p *PIT) SaveState() ([]byte, error) { return json.Marshal(&p.s) }

// LoadState implements Stateful.
func (p *PIT) LoadState(state []byte) error {
	s, err := decodeState("PIT", state, checkPIT)
	if err != nil {
		return err
	}
	p.s = s
	p.plan()
	return nil
}

func checkPIT(s *pitState) error {
	err := firstError(
		condition{s.Pulse >= 0 && s.Pulse <= maxPulse, "pulse: no guest has run so long"},
		condition{s.Pending >= 0 && s.Pending <= maxPendingTicks, "pending: more ticks than are ever owed"},
		condition{s.Ready >= 0 && s.Ready <= s.Pulse+1<<16, "ready: later than a period from now"},
		condition{s.Dropped >= 0 && s.Dropped <= maxPulse, "dropped: more ticks than there were"},
		condition{s.Control&^controlWrite == 0, "control: bits that can't be written"},
		condition{s.Counters[2].Gate == (s.Control&controlGate2 != 0), "control: counter 2's gate differs from the bit that drives it"},
		condition{s.Counters[0].Gate && s.Counters[1].Gate, "a gate that is wired high is low"},
	)
	for i := range s.Counters {
		if err == nil {
			err = s.Counters[i].check(s.Pulse)
		}
	}
	return err
}

// maxPulse bounds the pulse counts that a state may have, short of where times in ns overflow: 239 years.
const maxPulse = 1 << 53

// toBCD returns the low four decimal digits of v.
func toBCD(v uint16) uint16 {
	return v%10 | v/10%10<<4 | v/100%10<<8 | v/1000%10<<12
}

// fromBCD returns the value of four decimal digits; one above 9 counts as what it is.
func fromBCD(v uint16) uint32 {
	return uint32(v&0xf) + uint32(v>>4&0xf)*10 + uint32(v>>8&0xf)*100 + uint32(v>>12)*1000
}
