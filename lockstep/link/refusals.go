package link

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// A refusal costs the log a line at most so often: a port scan must not fill the disk.
const (
	refusalsPerInterval = 10
	refusalInterval     = 10 * time.Second
)

// refusals counts and logs who was refused.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	// mu guards what follows.
	mu         sync.Mutex
	total      uint64
	began      time.Time // of the current interval
	logged     int       // in it
	suppressed uint64    // since the last line
}

func newRefusals(log *slog.Logger, now func() time.Time) *refusals {
	return &refusals{log: log, now: now}
}

func (r *refusals) count() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// add notes that address was refused.
func (r *refusals) add(address net.Addr, reason error) {
	suppressed, ok := r.note()
	if !ok {
		return
	}
	r.log.Warn("refused a connection", "address", address.String(), "reason", reason.Error(), "suppressed", suppressed)
}

// note counts a refusal. If it may be logged, note tells how many before it were not.
func (r *refusals) note() (suppressed uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if now := r.now(); r.began.IsZero() || now.Sub(r.began) >= refusalInterval {
		r.began, r.logged = now, 0
	}
	if r.logged == refusalsPerInterval {
		r.suppressed++
		return 0, false
	}
	r.logged++
	suppressed, r.suppressed = r.suppressed, 0
	return suppressed, true
}
