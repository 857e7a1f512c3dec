package protect

import (
	"errors"
	"io"
	"sync"

	"tandem/vmm/blk"
)

// feed is a stream of bytes whose parts are pushed by one goroutine and read by another.
type feed struct {
	taken func(bytes int)

	mu      sync.Mutex
	changed *sync.Cond
	parts   [][]byte
	ended   bool
	err     error // why it ended; nil: all is there
}

func newFeed(taken func(bytes int)) *feed {
	f := &feed{taken: taken}
	f.changed = sync.NewCond(&f.mu)
	return f
}

func (f *feed) push(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts = append(f.parts, p)
	f.changed.Broadcast()
}

// close ends the stream: behind what is there, or at once with an error.
func (f *feed) close(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.err = true, errors.Join(f.err, err)
	f.changed.Broadcast()
}

// Read implements io.Reader.
func (f *feed) Read(p []byte) (int, error) {
	f.mu.Lock()
	for len(f.parts) == 0 && !f.ended {
		f.changed.Wait()
	}
	switch {
	case f.err != nil:
		f.mu.Unlock()
		return 0, f.err
	case len(f.parts) == 0:
		f.mu.Unlock()
		return 0, io.EOF
	}
	n := copy(p, f.parts[0])
	if f.parts[0] = f.parts[0][n:]; len(f.parts[0]) == 0 {
		f.parts = f.parts[1:]
	}
	f.mu.Unlock()
	f.taken(n)
	return n, nil
}

// feedOfParts are the parts of a replica of disks on their way to it.
type feedOfParts struct {
	taken func(bytes int)

	mu      sync.Mutex
	changed *sync.Cond
	parts   [][]byte
	ended   bool
	running bool
	err     error
}

func newFeedOfParts(taken func(bytes int)) *feedOfParts {
	f := &feedOfParts{taken: taken}
	f.changed = sync.NewCond(&f.mu)
	return f
}

func (f *feedOfParts) push(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parts = append(f.parts, p)
	f.changed.Broadcast()
}

// close says that no part will come.
func (f *feedOfParts) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.changed.Broadcast()
}

// store puts the parts into their place as they come.
func (f *feedOfParts) store(disks *blk.Replicas, r *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running = true
	for {
		for len(f.parts) == 0 && !f.ended {
			f.changed.Wait()
		}
		if len(f.parts) == 0 {
			f.running = false
			f.changed.Broadcast()
			return
		}
		p := f.parts[0]
		f.parts = f.parts[1:]
		f.mu.Unlock()
		err := disks.Store(p)
		f.taken(len(p))
		if err != nil {
			h := r.host
			h.post(func() { h.refuse(r, err) })
		}
		f.mu.Lock()
		f.err = errors.Join(f.err, err)
	}
}

// drain waits until all parts are stored.
func (f *feedOfParts) drain() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.running || len(f.parts) > 0 && f.err == nil {
		f.changed.Wait()
	}
	return f.err
}
