package vmm

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNotRunning says that a machine's Run has returned.
var ErrNotRunning = errors.New("the machine is not running")

// visitors wait for the machine's goroutine.
type visitors struct {
	waiting atomic.Bool

	mu    sync.Mutex
	queue []*visit
	ended bool // Run has returned
}

type visit struct {
	f       func()
	done    chan struct{}
	refused bool
}

// Visit has f called by the machine's goroutine, at a position whose inputs are applied; the guest stands still until f
// returns. It fails with ErrNotRunning if Run returns before. It may be called from any goroutine but the machine's, on a
// machine that has a door to the world.
func (m *Machine) Visit(f func()) error {
	v := &visit{f: f, done: make(chan struct{})}
	m.visitors.mu.Lock()
	if m.visitors.ended {
		m.visitors.mu.Unlock()
		return ErrNotRunning
	}
	m.visitors.queue = append(m.visitors.queue, v)
	m.visitors.waiting.Store(true)
	m.visitors.mu.Unlock()
	m.live.Wake()
	<-v.done
	if v.refused {
		return ErrNotRunning
	}
	return nil
}

// open lets visitors in, and shut sends those away that have not been received.
func (v *visitors) open() {
	v.mu.Lock()
	v.ended = false
	v.mu.Unlock()
}

func (v *visitors) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	v.waiting.Store(false)
	for _, waiting := range v.queue {
		waiting.refused = true
		close(waiting.done)
	}
	v.queue = nil
}

// receive calls the functions that wait, and tells whether there were any.
func (v *visitors) receive() bool {
	if !v.waiting.Load() {
		return false
	}
	v.mu.Lock()
	queue := v.queue
	v.queue = nil
	v.waiting.Store(false)
	v.mu.Unlock()
	for _, waiting := range queue {
		waiting.f()
		close(waiting.done)
	}
	return true
}

// Pace is how fast a machine may run.
type Pace int32

const (
	FullPace Pace = iota
	// SlowPace lets the guest run for about half of the time.
	SlowPace
	// StalledPace lets the guest stand still.
	StalledPace
)

// SetPace slows the machine down or lets it go on. It may be called from any goroutine.
func (m *Machine) SetPace(p Pace) { m.pace.Store(int32(p)) }

const (
	// slowRest is how long a slow machine runs, and rests, in turn.
	slowRest = time.Millisecond
	// stallCheck is how often a stalled machine looks whether it may go on.
	stallCheck = 200 * time.Microsecond
)

// keepPace rests the machine as its pace asks for.
func (m *Machine) keepPace() {
	pace := Pace(m.pace.Load())
	if pace == FullPace {
		return
	}
	if now := time.Now(); pace == SlowPace && now.Sub(m.rested) >= slowRest {
		time.Sleep(slowRest)
		m.rested = time.Now()
	}
	for Pace(m.pace.Load()) == StalledPace && !m.stop.Load() && !m.visitors.waiting.Load() {
		time.Sleep(stallCheck)
	}
}
