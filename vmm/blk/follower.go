package blk

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"tandem/devices/virtio"
)

// following is what a server keeps while it follows a log.
type following struct {
	// open has the requests that the log has not completed, by their id. The device bounds their number. It is nil when the
	// server is live.
	open map[uint64]*task
	// through is the last request that was submitted before the server went live.
	through uint64
	// broken says that the replica is not what the primary has any more.
	broken error
	// ended is signalled when a request is done.
	ended *sync.Cond
}

// NewFollower starts the workers of a disk that is a replica, of a machine that follows a log. It does what changes the
// disk, in the same order as any server; what is read comes by the log. Of a shared disk it does nothing: the primary does. It
// completes nothing until it goes live.
func NewFollower(name string, image Image, log *slog.Logger) *Server {
	return start(&Server{name: name, image: image, log: log, following: following{open: map[uint64]*task{}}})
}

// admit reports whether t, which was submitted, is to be done now. A request that the server has already is not done again:
// since then the log may have completed one that overlaps and came later.
func (s *Server) admit(t *task) bool {
	f := &s.following
	if f.open == nil {
		return t.ID > f.through
	}
	if _, again := f.open[t.ID]; again {
		return false
	}
	f.open[t.ID] = t
	f.through = max(f.through, t.ID)
	return !s.left(t)
}

// left tells whether a server that follows leaves t to the primary: a read, and everything on a shared disk.
func (s *Server) left(t *task) bool { return t.Op == virtio.DiskRead || s.shared != nil }

// Await takes a completion from the log, before the machine does. It returns when this host has done the request too, whose
// data is not in use any more then. An error says that the replica is broken: this host could not do what the primary could,
// now or at an earlier request. A payload that completes nothing that is open is for the machine to refuse. A live server has
// nothing to wait for.
func (s *Server) Await(payload []byte) error {
	c, err := virtio.DecodeDiskCompletion(payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.following
	if t := f.open[c.ID]; err == nil && t != nil {
		for !s.left(t) && t.completion == nil {
			f.ended.Wait()
		}
		delete(f.open, c.ID)
		if t.err != nil && c.Status == virtio.DiskOK && f.broken == nil {
			f.broken = fmt.Errorf("disk %s: the replica is broken: the primary did a %v of %d sectors at %d, this host could not: %w",
				s.name, t.Op, t.Sectors, t.Sector, t.err)
		}
	}
	return f.broken
}

// Err returns why the replica is broken, or nil. A broken one must not go live.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.following.broken
}

// GoLive makes a server that follows one that completes requests, by done as with [NewServer]. It completes those that the
// log has not completed: what is executed already, with what came of it here; reads it does now, and on a shared disk all of
// them, in their order. A read may see a write
// that was submitted after it and is executed already; the guest was told of neither's end and so of no order. The error is
// that of [Server.Err], and then nothing has changed.
func (s *Server) GoLive(done func(payload []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &s.following
	if f.open == nil {
		panic("blk: a live disk goes live")
	}
	if f.broken != nil {
		return f.broken
	}
	s.done = done
	for _, id := range slices.Sorted(maps.Keys(f.open)) {
		switch t := f.open[id]; {
		case t.completion != nil:
			s.ready = append(s.ready, t)
		case s.left(t):
			s.enqueue(t)
		}
	}
	f.open = nil
	s.wake.Broadcast()
	return nil
}
