package devices

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// pulsedCounter is the 8254 as the data sheet draws it, pulse by pulse: what pitCounter must be equal to.
type pulsedCounter struct {
	mode          uint8
	gate, out     bool
	count         int64
	period, next  int64
	load, started bool // load at the next pulse; a count has been loaded
	expired       bool // odd period of mode 3: the pulse after the count's end
}

func (c *pulsedCounter) program(mode uint8) {
	*c = pulsedCounter{mode: mode, gate: c.gate, out: mode != 0}
}

func (c *pulsedCounter) write(n int64) {
	switch {
	case c.mode == 1 || c.mode == 5 || (c.mode == 2 || c.mode == 3) && c.started:
		c.next = n
	default:
		c.period, c.next, c.load, c.started = n, 0, true, true
		c.out = c.mode != 0
	}
}

func (c *pulsedCounter) setGate(level bool) {
	rises := level && !c.gate
	c.gate = level
	switch c.mode {
	case 1, 5:
		if rises && (c.period != 0 || c.next != 0) {
			c.takeNext()
			c.load, c.started = true, true
		}
	case 2, 3:
		if !level {
			c.out = true
		} else if rises && c.started {
			c.takeNext()
			c.load = true
		}
	}
}

func (c *pulsedCounter) takeNext() {
	if c.next != 0 {
		c.period, c.next = c.next, 0
	}
}

// pulse is one pulse of the clock.
func (c *pulsedCounter) pulse() {
	if c.load {
		c.load, c.expired = false, false
		c.count = c.period
		switch c.mode {
		case 1:
			c.out = false
		case 3:
			c.count &^= 1
		case 5:
			c.out = true
		}
		return
	}
	if !c.started || !c.gate && c.mode != 1 && c.mode != 5 {
		return
	}
	switch c.mode {
	case 0, 1:
		if c.count = (c.count + 65535) % 65536; c.count == 0 {
			c.out = true
		}
	case 2:
		c.count--
		switch c.count {
		case 1:
			c.out = false
		case 0:
			c.takeNext()
			c.count, c.out = c.period, true
		}
	case 3:
		c.pulseSquare()
	case 4, 5:
		c.count = (c.count + 65535) % 65536
		c.out = c.count != 0
	}
}

func (c *pulsedCounter) pulseSquare() {
	if c.count -= 2; c.count > 0 {
		return
	}
	if c.out && c.period%2 != 0 && !c.expired {
		c.expired = true // an odd high half is a pulse longer
		c.count = 0
		return
	}
	c.expired = false
	c.takeNext()
	c.out = !c.out
	c.count = c.period &^ 1
}

// TestPITCounterAgainstPulses compares the counter with one that goes pulse by pulse, over random counts, gates and
// steps of time.
func TestPITCounterAgainstPulses(t *testing.T) {
	for mode := range uint8(6) {
		for seed := range uint64(40) {
			t.Run(fmt.Sprintf("mode %d seed %d", mode, seed), func(t *testing.T) {
				comparePulses(t, mode, rand.New(rand.NewPCG(seed, uint64(mode))))
			})
		}
	}
}

func comparePulses(t *testing.T, mode uint8, random *rand.Rand) {
	c, p := pitCounter{Gate: true}, pulsedCounter{gate: true}
	c.program(accessBoth<<4 | mode<<1)
	p.program(mode)
	now, rises := int64(1000), int64(0)
	for step := range 300 {
		switch random.IntN(4) {
		case 0:
			n := 2 + random.Uint32N(40)
			if random.IntN(20) == 0 {
				n = 65536
			}
			c.load(now, n)
			p.write(int64(n))
		case 1:
			level := random.IntN(3) != 0
			c.setGate(now, level)
			p.setGate(level)
		}
		length := 2 + random.Int64N(100)
		planned, armed := c.nextRise(now)
		first, want := int64(-1), int64(0)
		for i := range length {
			was := p.out
			p.pulse()
			if !was && p.out {
				want++
				if first < 0 {
					first = now + i + 1
				}
			}
			probe := c
			probe.advance(now, now+i+1)
			comparePulse(t, step, &probe, &p, now+i+1)
		}
		got := c.advance(now, now+length)
		now += length
		if mode == 1 || mode == 5 {
			continue // the gate's OUT is not counted: only counter 2 has one
		}
		if got != want {
			t.Fatalf("step %d: %d rising edges, want %d", step, got, want)
		}
		if first >= 0 && (!armed || planned != first) {
			t.Fatalf("step %d: next edge at %d (%v), want %d", step, planned, armed, first)
		}
		rises += got
	}
	if rises == 0 && mode != 1 && mode != 5 {
		t.Error("OUT never rose: nothing was tested")
	}
}

func comparePulse(t *testing.T, step int, c *pitCounter, p *pulsedCounter, at int64) {
	t.Helper()
	if got := c.out(at); got != p.out {
		t.Fatalf("step %d, pulse %d: OUT is %v, want %v\n%+v\n%+v", step, at, got, p.out, c, p)
	}
	if !p.started || p.load {
		return
	}
	if got := c.count(at); got != uint16(p.count) {
		t.Fatalf("step %d, pulse %d: count %d, want %d\n%+v\n%+v", step, at, got, p.count, c, p)
	}
}
