// Package pause measures how long clients wait for their servers.
//
// A Meter belongs to one client, which has one request under way at a time: it calls Begin and End. All else may be called
// from any goroutine. Waits are kept as a histogram of fixed size, so that a meter never grows.
package pause

import (
	"math"
	"sync"
	"time"
)

// Buckets are a twentieth of a factor e apart, from a microsecond on: a quantile is right to 5 %, and the last bucket
// begins after 45 minutes.
const (
	bucketsPerE = 20
	buckets     = 22 * bucketsPerE
	smallest    = time.Microsecond
)

// Meter measures one client's waits. The zero value is ready.
type Meter struct {
	// Now is the clock; nil is the system's.
	Now func() time.Time

	mu      sync.Mutex
	began   time.Time     // zero while nothing is waited for
	longest time.Duration // since the last Mark, of requests that are answered
	waits   Waits
}

func (m *Meter) now() time.Time {
	if m.Now == nil {
		return time.Now()
	}
	return m.Now()
}

// Begin says that a request is sent.
func (m *Meter) Begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.began = m.now()
}

// End says that the answer is there, or will never come.
func (m *Meter) End() {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait := m.now().Sub(m.began)
	m.began = time.Time{}
	m.longest = max(m.longest, wait)
	m.waits.add(wait)
}

// Mark forgets what was longest so far. A request that is under way counts with all of its wait.
func (m *Meter) Mark() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.longest = 0
}

// Longest returns the longest wait since the last Mark, and for how long the request under way has waited since it was sent (0
// if there is none).
func (m *Meter) Longest() (longest, pending time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.began.IsZero() {
		return m.longest, 0
	}
	pending = m.now().Sub(m.began)
	return max(m.longest, pending), pending
}

// Waits returns a copy of all waits so far.
func (m *Meter) Waits() Waits {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waits
}

// Waits are a histogram of waits.
type Waits struct {
	counts [buckets]uint32
	total  uint64
}

func (w *Waits) add(d time.Duration) {
	i := 0
	if d > smallest {
		i = min(buckets-1, int(math.Log(float64(d)/float64(smallest))*bucketsPerE))
	}
	w.counts[i]++
	w.total++
}

// Add adds another client's waits.
func (w *Waits) Add(other Waits) {
	for i, n := range other.counts {
		w.counts[i] += n
	}
	w.total += other.total
}

// Count returns how many waits there are.
func (w *Waits) Count() uint64 { return w.total }

// Quantile returns the wait that a share q of all (0 to 1) do not exceed, rounded up to its bucket's end; 0 without any.
func (w *Waits) Quantile(q float64) time.Duration {
	rank := max(1, uint64(math.Ceil(q*float64(w.total))))
	var seen uint64
	for i, n := range w.counts {
		seen += uint64(n)
		if n > 0 && seen >= rank {
			return time.Duration(float64(smallest) * math.Exp(float64(i+1)/bucketsPerE))
		}
	}
	return 0
}
