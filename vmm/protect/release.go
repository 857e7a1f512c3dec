package protect

import "sync"

// releaser lets go what may have to wait for somebody who reads it, in its order, so that the loop need not wait.
type releaser struct {
	mu      sync.Mutex
	changed *sync.Cond
	queue   []func()
	closed  bool
}

func newReleaser() *releaser {
	r := &releaser{}
	r.changed = sync.NewCond(&r.mu)
	return r
}

// add lets f go after all that was added before.
func (r *releaser) add(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, f)
	r.changed.Signal()
}

// close ends run when all is gone.
func (r *releaser) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.changed.Signal()
}

func (r *releaser) run() {
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.closed {
			r.changed.Wait()
		}
		queue := r.queue
		r.queue = nil
		r.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, f := range queue {
			f()
		}
	}
}
