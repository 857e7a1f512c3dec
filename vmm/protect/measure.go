package protect

import (
	"slices"
	"time"

	"tandem/lockstep/pair"
)

const (
	// keptEvents and keptDelays bound what a host remembers for those who ask.
	keptEvents = 64
	keptDelays = 4096
	// rateOver is the time over which the log's rate is taken, in so many steps.
	rateOver  = 4 * time.Second
	rateSteps = 16
	// keptMarks bounds the places in the log whose times are known.
	keptMarks = 1024
)

// meter measures what goes through a host. It is guarded by Host.mu.
type meter struct {
	host *Host

	bytes       uint64
	rate        [rateSteps]uint64 // bytes by step of time, in a ring
	rateStep    int64
	marks       []mark // when the log came to a record, oldest first
	delays      [keptDelays]time.Duration
	outputs     uint64
	divergences uint64
}

type mark struct {
	sequence uint64
	at       time.Time
}

// logged notes records that this host has logged.
func (m *meter) logged(last uint64, bytes int) {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.count(bytes)
	if len(m.marks) == keptMarks {
		m.marks = m.marks[keptMarks/2:]
	}
	m.marks = append(m.marks, mark{last, time.Now()})
}

// received notes records that have come.
func (m *meter) received(bytes int) {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.count(bytes)
}

func (m *meter) count(bytes int) {
	m.bytes += uint64(bytes)
	m.turn()
	m.rate[m.rateStep%rateSteps] += uint64(bytes)
}

// turn forgets the steps of the rate that are too long ago.
func (m *meter) turn() {
	step := int64(time.Since(m.host.started) / (rateOver / rateSteps))
	for ; m.rateStep < step; m.rateStep++ {
		if step-m.rateStep > rateSteps {
			m.rateStep = step - rateSteps
		}
		m.rate[(m.rateStep+1)%rateSteps] = 0
	}
}

// released notes output that has left, after some time.
func (m *meter) released(delay time.Duration) {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.delays[m.outputs%keptDelays] = delay
	m.outputs++
}

func (m *meter) diverged() {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	m.divergences++
}

// lag returns how long ago the first record was logged that a backup has not executed. The lock is held.
func (m *meter) lag(verified uint64) time.Duration {
	n := 0
	for n < len(m.marks) && m.marks[n].sequence <= verified {
		n++
	}
	m.marks = m.marks[n:]
	if len(m.marks) == 0 {
		return 0
	}
	return time.Since(m.marks[0].at)
}

// quantiles returns the median and the 99th percentile of the latest delays, in µs. The lock is held.
func (m *meter) quantiles() (median, p99 float64) {
	n := int(min(m.outputs, keptDelays))
	if n == 0 {
		return 0, 0
	}
	sorted := slices.Clone(m.delays[:n])
	slices.Sort(sorted)
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return us(sorted[n/2]), us(sorted[n*99/100])
}

// timeline follows how a host comes from losing its peer to being the guest. It belongs to the loop's goroutine.
type timeline struct {
	heard time.Time // the peer's last sign of life
	cause string
	from  time.Time // heard, as it was when the peer was lost; zero: it is not
	last  time.Time
	steps []Step
}

// note takes a change of the pair's state.
func (t *timeline) note(h *Host, before, after pair.State) {
	if before == after {
		return
	}
	if before == pair.Protected && after != pair.Joining && after != pair.Fenced || after == pair.Contending {
		t.from, t.last, t.steps = t.heard, t.heard, nil
		t.step("detection")
	}
	switch after {
	case pair.Draining:
		t.step("arbitration")
	case pair.Live:
		t.step("drain")
	case pair.Alone:
		if t.from.IsZero() {
			return
		}
		name := "arbitration"
		if before == pair.Live {
			name = "go live"
		}
		t.step(name)
		h.failedOver(t)
		t.from = time.Time{}
	case pair.Fenced, pair.Joining:
		t.from = time.Time{}
	}
}

func (t *timeline) step(name string) {
	now := time.Now()
	t.steps = append(t.steps, Step{Name: name, MS: milliseconds(now.Sub(t.last))})
	t.last = now
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
