package blk

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"tandem/devices/virtio"
)

// Workers is the number of a disk's requests that are with the host at the same time.
const Workers = 4

// Server does the requests of one disk. It implements virtio.DiskBackend. It is live, and completes them, or it follows a
// log, which completes them.
//
// Requests run at the same time, except that one waits for those submitted before it whose sectors overlap with its
// own, when either of the two writes, and a flush waits for all writes submitted before it. Nothing waits for a flush.
//
// Of a disk that both hosts share a server that follows does nothing before it goes live, and what changes the disk may be held
// back until it may leave the machine ([Server.SubmitHeld]). A request that waits for another begins only when the other's
// completion has been handed over, so that the log has the completions of requests that overlap in their order: see Shared disks
// in the package comment for why. Of what ErrFenced stops nothing comes, not even an error.
type Server struct {
	name  string
	image Image
	log   *slog.Logger
	// shared is not nil if the image is a disk that both hosts share.
	shared *shared

	workers sync.WaitGroup

	mu sync.Mutex
	// done takes completions; it is nil while the server follows.
	done func(payload []byte)
	// following has what only a server that follows needs.
	following following
	// wake is signalled when ready or closing has changed.
	wake *sync.Cond
	// active has the requests that are not done, in the order of submission. The device bounds their number.
	active []*task
	// ready has those of them that wait for a worker.
	ready []*task
	// running is how many a worker has.
	running int
	closing bool
	// stranded says that a request was left undone because another host has the disk. lost, if not nil, is told then.
	stranded bool
	lost     func(error)
	stats    Stats
	// told has the operations whose failure has been logged.
	told [virtio.DiskWriteZeroes + 1]bool
}

// Stats counts what a disk has done.
type Stats struct {
	Requests     uint64 `json:"requests"`
	BytesRead    uint64 `json:"bytes_read"`
	BytesWritten uint64 `json:"bytes_written"`
	Flushes      uint64 `json:"flushes"`
	Errors       uint64 `json:"errors"`
}

type task struct {
	virtio.DiskRequest
	// waits is the number of active requests before this one that it has to wait for, and one more while it is held.
	waits int
	held  bool
	// completion is what came of it, err why it failed; nil until it is executed.
	completion []byte
	err        error
}

// NewServer starts the workers of a disk. done is called from them with the payload of each completion, in the order in
// which requests end; it is called at most once for each request, so a queue of virtio.MaxDiskRequests never blocks
// it. name is what the log calls the disk.
func NewServer(name string, image Image, log *slog.Logger, done func(payload []byte)) *Server {
	return start(&Server{name: name, image: image, done: done, log: log})
}

// start starts the workers of s.
func start(s *Server) *Server {
	s.shared = sharedOf(s.image)
	s.wake = sync.NewCond(&s.mu)
	s.following.ended = sync.NewCond(&s.mu)
	for range Workers {
		s.workers.Go(s.work)
	}
	return s
}

// Submit implements virtio.DiskBackend. It must not be called after Close.
func (s *Server) Submit(r virtio.DiskRequest) {
	t := &task{DiskRequest: r}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		panic("blk: request for a disk that is closed")
	}
	if s.admit(t) {
		s.enqueue(t)
	}
}

// SubmitHeld submits a request of a shared disk that must not begin before Release is called with its id. Those submitted after
// it wait for it as ever.
func (s *Server) SubmitHeld(r virtio.DiskRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.done == nil {
		panic("blk: request for a disk that is closed, or not live")
	}
	s.enqueue(&task{DiskRequest: r, held: true, waits: 1})
}

// Release lets a request begin that is held. One that is not there any more is none of this server's.
func (s *Server) Release(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.active {
		if t.ID == id && t.held {
			t.held = false
			s.waitsLess(t)
			return
		}
	}
}

// waitsLess takes note that t waits for one thing less.
func (s *Server) waitsLess(t *task) {
	if t.waits--; t.waits == 0 {
		s.ready = append(s.ready, t)
		s.wake.Signal()
	}
}

// enqueue lets t be done when those before it are.
func (s *Server) enqueue(t *task) {
	for _, before := range s.active {
		if mustFollow(before, t) {
			t.waits++
		}
	}
	s.active = append(s.active, t)
	if t.waits == 0 {
		s.ready = append(s.ready, t)
		s.wake.Signal()
	}
}

// mustFollow reports whether t, submitted after before, has to wait for it.
func mustFollow(before, t *task) bool {
	writes := before.Op != virtio.DiskRead && before.Op != virtio.DiskFlush
	switch {
	case t.Op == virtio.DiskFlush:
		return writes
	case before.Op == virtio.DiskFlush || t.Op == virtio.DiskRead && !writes:
		return false
	}
	return before.Sector < t.Sector+t.Sectors && t.Sector < before.Sector+before.Sectors
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Close waits until every request is done and closes the image, with all that was written stable. What is held is not done, nor
// what waits for it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closing = true
	s.wake.Broadcast()
	s.mu.Unlock()
	if s.shared != nil {
		s.shared.interrupt()
	}
	s.workers.Wait()

	var err error
	if !s.image.ReadOnly() {
		err = s.image.Sync()
	}
	if closeErr := s.image.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("disk %s: closing: %w", s.name, err)
	}
	return nil
}

// work does requests until the server is closed and none is left.
func (s *Server) work() {
	for t := s.next(nil); t != nil; t = s.next(t) {
		switch {
		case t.completion != nil:
			s.done(t.completion)
		case s.shared != nil:
			s.doShared(t)
		default:
			payload, err := s.do(t)
			if s.finish(t, payload, err) {
				s.done(t.completion)
			}
		}
	}
}

// doShared does t on a shared disk.
func (s *Server) doShared(t *task) {
	payload, err := s.do(t)
	if errors.Is(err, ErrFenced) || errors.Is(err, errUnsure) {
		s.strand(t, err)
		return
	}
	s.done(payload)
	s.finish(t, payload, err)
}

// strand leaves t for ever undone: whoever has the disk now does it, or it never was.
func (s *Server) strand(t *task, err error) {
	s.mu.Lock()
	tell := !s.stranded && errors.Is(err, ErrFenced)
	s.stranded = s.stranded || tell
	lost := s.lost
	s.mu.Unlock()
	if !tell {
		return
	}
	s.log.Error("the guest here has lost a shared disk, of which nothing is written any more", "disk", s.name, "operation", t.Op.String(), "cause", err)
	if lost != nil {
		lost(fmt.Errorf("disk %s: %w", s.name, err))
	}
}

// OnLost has f called, from any goroutine, when it is found that another host has taken a shared disk.
func (s *Server) OnLost(f func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = f
}

// next returns the request that has waited longest, or nil when there will be no more. before is what the worker has done.
func (s *Server) next(before *task) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before != nil {
		s.running--
	}
	for len(s.ready) == 0 {
		if s.closing && (len(s.active) == 0 || s.shared != nil && s.running == 0) {
			s.wake.Broadcast() // others may wait for what never comes
			return nil
		}
		s.wake.Wait()
	}
	t := s.ready[0]
	s.ready = s.ready[1:]
	s.running++
	return t
}

// finish lets those go on that have waited for t, and counts and reports. It tells whether the completion is to be given
// to the machine.
func (s *Server) finish(t *task, payload []byte, err error) bool {
	s.mu.Lock()
	t.completion, t.err = payload, err
	i := 0
	for s.active[i] != t {
		i++
	}
	s.active = append(s.active[:i], s.active[i+1:]...)
	for _, later := range s.active[i:] {
		if mustFollow(t, later) {
			s.waitsLess(later)
		}
	}
	s.count(t, err)
	tell := err != nil && !s.told[t.Op]
	if tell {
		s.told[t.Op] = true
	}
	live := s.done != nil
	s.wake.Broadcast()
	s.following.ended.Broadcast()
	s.mu.Unlock()
	if tell {
		s.tell(t, err, live)
	}
	return live
}

func (s *Server) count(t *task, err error) {
	s.stats.Requests++
	switch {
	case err != nil:
		s.stats.Errors++
	case t.Op == virtio.DiskRead:
		s.stats.BytesRead += t.Sectors * virtio.SectorSize
	case t.Op == virtio.DiskWrite:
		s.stats.BytesWritten += t.Sectors * virtio.SectorSize
	case t.Op == virtio.DiskFlush:
		s.stats.Flushes++
	}
}

// tell logs the first failure of an operation; a guest that tries again and again does not fill the log.
func (s *Server) tell(t *task, err error, live bool) {
	message := "a disk request failed, the guest gets an I/O error; more of this kind are counted, not logged"
	switch {
	case !live:
		message = "this host could not do a request of the guest that it follows; more of this kind are counted, not logged"
	case isFull(err):
		message = "the host's storage is full, the guest gets an I/O error; make room for its disk"
	}
	s.log.Error(message, "disk", s.name, "operation", t.Op.String(), "sector", t.Sector, "sectors", t.Sectors, "error", err)
}

// do does t and returns its completion.
func (s *Server) do(t *task) ([]byte, error) {
	n := 0
	if t.Op == virtio.DiskRead {
		n = int(t.Sectors * virtio.SectorSize)
	}
	payload := make([]byte, virtio.DiskCompletionHeader+n)
	err := s.access(t, payload[virtio.DiskCompletionHeader:])
	status := virtio.DiskOK
	if err != nil {
		status, payload = virtio.DiskIOError, payload[:virtio.DiskCompletionHeader]
	}
	virtio.PutDiskCompletion(payload, t.ID, status)
	return payload, err
}

// access moves t's bytes; a read's go to p.
func (s *Server) access(t *task, p []byte) error {
	off, n := int64(t.Sector*virtio.SectorSize), int64(t.Sectors*virtio.SectorSize)
	var err error
	switch t.Op {
	case virtio.DiskRead:
		_, err = s.image.ReadAt(p, off)
	case virtio.DiskWrite:
		_, err = s.image.WriteAt(t.Data, off)
	case virtio.DiskDiscard:
		err = s.image.Zero(off, n, true)
	case virtio.DiskWriteZeroes:
		err = s.image.Zero(off, n, t.Unmap)
	case virtio.DiskFlush:
		if s.image.ReadOnly() {
			return nil
		}
		return s.image.Sync()
	default:
		return fmt.Errorf("unknown %v", t.Op)
	}
	if err == nil && t.Sync {
		err = s.image.Sync()
	}
	return err
}
