package devices

// How the bytes of a count are accessed (the RW field of the control word).
const (
	accessLow  = 1
	accessHigh = 2
	accessBoth = 3
)

// minPeriod is the shortest period of the periodic modes, in which the data sheet forbids a count of 1.
const minPeriod = 2

// pitCounter is one counter of the 8254. It does not count: its count and its OUT follow from when its count was loaded,
// so nothing has to happen at each pulse, and nothing drifts.
type pitCounter struct {
	Mode   uint8 `json:"mode"`
	Access uint8 `json:"access"`
	BCD    bool  `json:"bcd"`
	Gate   bool  `json:"gate"`

	// Running says that a count has been loaded, in modes 1 and 5 that the gate has triggered.
	Running bool `json:"running"`
	// Paused says that the gate holds the counter where it was, Elapsed pulses after it was loaded.
	Paused  bool  `json:"paused"`
	Elapsed int64 `json:"elapsed"`
	// Start is the pulse at which the count was loaded, Period that count.
	Start  int64  `json:"start"`
	Period uint32 `json:"period"`
	// Next is a count that was written and is not loaded yet, or 0: modes 2 and 3 load it at the end of a cycle or half
	// cycle, 1 and 5 at a trigger.
	Next uint32 `json:"next"`

	// WriteHigh says that WriteLow waits for the high byte.
	WriteLow  uint8 `json:"write_low"`
	WriteHigh bool  `json:"write_high"`
	// ReadHigh says that the next byte read is the high one.
	ReadHigh bool `json:"read_high"`
	// Latched is how many bytes of Latch are still to be read.
	Latch         uint16 `json:"latch"`
	Latched       uint8  `json:"latched"`
	Status        uint8  `json:"status"`
	StatusLatched bool   `json:"status_latched"`
}

func (c *pitCounter) periodic() bool  { return c.Mode == 2 || c.Mode == 3 }
func (c *pitCounter) triggered() bool { return c.Mode == 1 || c.Mode == 5 }

// program takes a control word: the counter stops and waits for a count.
func (c *pitCounter) program(v byte) {
	mode := v >> 1 & 7
	if mode > 5 {
		mode -= 4 // modes 2 and 3 have two numbers
	}
	*c = pitCounter{Mode: mode, Access: v >> 4 & 3, BCD: v&1 != 0, Gate: c.Gate}
}

// stop is what the first byte of a new count does in mode 0: OUT falls, and counting waits.
func (c *pitCounter) stop() {
	c.Running, c.Paused = false, false
	c.Start, c.Elapsed, c.Period = 0, 0, 0
}

// assemble returns the count of which v is the last byte written.
func (c *pitCounter) assemble(v byte) uint32 {
	raw := uint16(v)
	switch c.Access {
	case accessHigh:
		raw <<= 8
	case accessBoth:
		raw = raw<<8 | uint16(c.WriteLow)
		c.WriteLow, c.WriteHigh = 0, false
	}
	n := uint32(raw)
	if c.BCD {
		n = fromBCD(raw)
	}
	if n == 0 {
		n = uint32(c.modulus())
	}
	if c.periodic() {
		n = max(n, minPeriod)
	}
	return n
}

// modulus is what a count of 0 stands for.
func (c *pitCounter) modulus() int64 {
	if c.BCD {
		return 10000
	}
	return 65536
}

// load takes a new count, written at pulse now.
func (c *pitCounter) load(now int64, n uint32) {
	if c.triggered() || c.periodic() && c.Running {
		c.Next = n
		return
	}
	c.begin(now, n)
}

// begin loads a count at the pulse after now.
func (c *pitCounter) begin(now int64, n uint32) {
	c.Running, c.Start, c.Period, c.Next = true, now+1, n, 0
	c.Paused, c.Elapsed = !c.Gate && !c.triggered(), 0
}

// setGate drives the gate (data sheet, figure 21, "gate pin operations summary").
func (c *pitCounter) setGate(now int64, level bool) {
	if level == c.Gate {
		return
	}
	c.Gate = level
	if c.triggered() {
		if n := c.upcoming(); level && n != 0 {
			c.begin(now, n)
		}
		return
	}
	switch {
	case !c.Running:
	case !level:
		c.Paused, c.Elapsed = true, max(0, now-c.Start)
	case c.periodic():
		c.begin(now, c.upcoming())
	default:
		c.Paused, c.Start, c.Elapsed = false, now-c.Elapsed, 0
	}
}

// upcoming returns the count that is loaded next, or 0 if none has been written.
func (c *pitCounter) upcoming() uint32 {
	if c.Next != 0 {
		return c.Next
	}
	return c.Period
}

// elapsed returns the pulses counted since the count was loaded.
func (c *pitCounter) elapsed(now int64) int64 {
	if c.Paused {
		return c.Elapsed
	}
	return max(0, now-c.Start)
}

// highPulses is how long OUT is high in a cycle of mode 3 with period n; odd ones are high a pulse longer than low.
func highPulses(n uint32) int64 { return int64(n+1) / 2 }

// out returns OUT at pulse now.
func (c *pitCounter) out(now int64) bool {
	if !c.Running {
		return c.Mode != 0
	}
	d, n := c.elapsed(now), int64(c.Period)
	switch c.Mode {
	case 0:
		return d >= n
	case 1:
		return now < c.Start || d >= n
	case 2:
		return c.Paused || d%n != n-1
	case 3:
		return c.Paused || d%n < highPulses(c.Period)
	}
	return d != n
}

// count returns the counting element at pulse now, in the form in which it is read.
func (c *pitCounter) count(now int64) uint16 {
	d, n := c.elapsed(now), int64(c.Period)
	var v int64
	switch {
	case n == 0:
		v = 0
	case c.Mode == 2:
		v = n - d%n
	case c.Mode == 3:
		half := d % n
		if high := highPulses(c.Period); half >= high {
			half -= high
		}
		v = n&^1 - 2*half
	default:
		m := c.modulus()
		v = ((n-d)%m + m) % m
	}
	if c.BCD {
		return toBCD(uint16(v))
	}
	return uint16(v)
}

// latch keeps the count of pulse now for reading.
func (c *pitCounter) latch(now int64) {
	c.Latch, c.Latched = c.count(now), 1
	if c.Access == accessBoth {
		c.Latched = 2
	}
}

// readLatched returns the next byte of what is latched: the status first, then the count.
func (c *pitCounter) readLatched() (byte, bool) {
	if c.StatusLatched {
		c.StatusLatched = false
		return c.Status, true
	}
	if c.Latched == 0 {
		return 0, false
	}
	c.Latched--
	return c.readByte(c.Latch), true
}

// readByte returns the byte of a count whose turn it is.
func (c *pitCounter) readByte(v uint16) byte {
	high := c.Access == accessHigh
	if c.Access == accessBoth {
		high = c.ReadHigh
		c.ReadHigh = !c.ReadHigh
	}
	if high {
		return byte(v >> 8)
	}
	return byte(v)
}

// status is what a read-back command latches (data sheet, figure 13): OUT, whether a written count is yet to be loaded,
// and the control word.
func (c *pitCounter) status(now int64) byte {
	v := c.Access<<4 | c.Mode<<1
	if c.BCD {
		v |= 1
	}
	if c.out(now) {
		v |= 0x80
	}
	if !c.Running || c.Next != 0 || !c.Paused && now < c.Start {
		v |= 0x40
	}
	return v
}

// advance makes happen what is due after pulse from, up to pulse to, and returns how often OUT rose.
func (c *pitCounter) advance(from, to int64) int64 {
	if !c.Running || c.Paused {
		return 0
	}
	rises := int64(0)
	if c.Next != 0 && c.periodic() {
		end := c.reloadAt(from)
		if to < end {
			return c.rises(from, to)
		}
		rises = c.rises(from, end)
		c.reload(end)
		from = end
	}
	return rises + c.rises(from, to)
}

// reloadAt returns the pulse after from at which a periodic counter loads the next count: the end of the cycle, in mode
// 3 of the half cycle.
func (c *pitCounter) reloadAt(from int64) int64 {
	n := int64(c.Period)
	cycle := c.Start + c.cycles(from)*n
	if high := highPulses(c.Period); c.Mode == 3 && from < cycle+high {
		return cycle + high
	}
	return cycle + n
}

// reload loads the next count at the end of a cycle or half cycle.
func (c *pitCounter) reload(end int64) {
	high := c.Mode == 3 && (end-c.Start)%int64(c.Period) != 0
	c.Start, c.Period, c.Next = end, c.Next, 0
	if high {
		// The high half has just ended: the cycle of the new count is there too.
		c.Start -= highPulses(c.Period)
	}
}

// cycles returns how many whole cycles a periodic counter has gone through at a pulse.
func (c *pitCounter) cycles(at int64) int64 { return max(0, at-c.Start) / int64(c.Period) }

// rises returns how often OUT rose after pulse from, up to pulse to.
func (c *pitCounter) rises(from, to int64) int64 {
	if c.periodic() {
		return c.cycles(to) - c.cycles(from)
	}
	if at := c.riseOnce(); from < at && at <= to {
		return 1
	}
	return 0
}

// riseOnce returns the pulse at which OUT of a counter that isn't periodic rises.
func (c *pitCounter) riseOnce() int64 {
	at := c.Start + int64(c.Period)
	if c.Mode >= 4 {
		at++ // the strobe is one pulse long
	}
	return at
}

// nextRise returns the first pulse after from at which OUT will rise.
func (c *pitCounter) nextRise(from int64) (int64, bool) {
	if !c.Running || c.Paused {
		return 0, false
	}
	if !c.periodic() {
		at := c.riseOnce()
		return at, at > from
	}
	if c.Next != 0 && c.Mode == 3 {
		changed := *c
		end := c.reloadAt(from)
		changed.reload(end)
		if rise := changed.Start + int64(changed.Period); (end-c.Start)%int64(c.Period) != 0 {
			return rise, true // the present half is the high one
		}
		return end, true
	}
	return c.Start + (c.cycles(from)+1)*int64(c.Period), true
}

// check tells what is wrong with a counter's state at a pulse.
func (c *pitCounter) check(now int64) error {
	maxCount := uint32(65536)
	least := uint32(1)
	if c.periodic() {
		least = minPeriod
	}
	return firstError(
		condition{c.Mode <= 5, "counter: there is no such mode"},
		condition{c.Access >= accessLow && c.Access <= accessBoth, "counter: there is no such access"},
		condition{c.Period == 0 && !c.Running || c.Period >= least && c.Period <= maxCount, "counter: a period that can't be written"},
		condition{c.Next == 0 || c.Next >= least && c.Next <= maxCount, "counter: a count that can't be written"},
		condition{!c.Running || c.Period != 0, "counter: running without a count"},
		condition{c.Start >= -maxPulse && c.Start <= now+1, "counter: loaded in the future"},
		condition{c.Elapsed >= 0 && c.Elapsed <= maxPulse && (c.Paused || c.Elapsed == 0), "counter: elapsed pulses of one that runs"},
		condition{!c.Paused || c.Running && !c.Gate && !c.triggered(), "counter: paused though nothing holds it"},
		condition{c.Latched <= 2, "counter: more latched bytes than there are"},
		condition{!c.WriteHigh || c.Access == accessBoth, "counter: waits for a byte that it doesn't take"},
		condition{!c.ReadHigh || c.Access == accessBoth, "counter: reads a byte that it doesn't have"},
	)
}
