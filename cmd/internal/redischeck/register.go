package redischeck

import (
	"fmt"
	"sync"
)

// register is what is known of a key that one client writes with 1, 2, 3, ... and others read. The server is wrong if a
// read gives less than what was acknowledged, or seen, before the read was sent, or more than what was sent before the read's
// answer came: then no order of the requests explains the answers (a linearizable register, Herlihy and Wing 1990).
type register struct {
	mu sync.Mutex
	// Invariant: acknowledged ≤ sent ≤ acknowledged+1, and seen ≤ sent.
	sent, acknowledged uint64
	seen               uint64 // the largest that a completed read gave
}

// send begins a write and returns its value.
func (r *register) send() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	return r.sent
}

// acknowledge ends the write that was begun last.
func (r *register) acknowledge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acknowledged = r.sent
}

// least returns the smallest value that a read may give that is sent now.
func (r *register) least() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(r.acknowledged, r.seen)
}

// read checks what a read gave that was sent when least was as given.
func (r *register) read(least, got uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case got < least:
		return fmt.Errorf("a read gives %d although %d was acknowledged or read before: a write is lost or rolled back", got, least)
	case got > r.sent:
		return fmt.Errorf("a read gives %d although no more than %d was ever sent", got, r.sent)
	}
	r.seen = max(r.seen, got)
	return nil
}
