package lockstep

import "sync"

// maxHeldBytes bounds the output that waits for the peer. A guest that sends more waits with it.
const maxHeldBytes = 8 << 20

// Hold keeps what leaves the machine until the peer holds every input that led to it: output waits for the record that
// was the last one in the log when it was made. Release order is the order of output.
//
// Add belongs to the machine's goroutine, the other methods may be called from any.
type Hold struct {
	mu      sync.Mutex
	changed *sync.Cond
	acked   uint64 // the peer has the records up to this number
	open    bool   // nothing waits any more
	bytes   int
	queue   []heldOutput // Invariant: sequences rise, the first one is above acked
	// releasing excludes two releases from each other, so that output stays in order. Lock order: releasing, mu.
	releasing sync.Mutex
}

type heldOutput struct {
	sequence uint64
	bytes    int
	release  func()
}

// NewHold returns a Hold for a peer that has the records up to a number.
func NewHold(acked uint64) *Hold {
	h := &Hold{acked: acked}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// Add lets output go as soon as the peer has the record of that number, which may be at once. It waits while too much
// is held.
func (h *Hold) Add(sequence uint64, bytes int, release func()) {
	h.mu.Lock()
	for !h.open && h.bytes > maxHeldBytes {
		h.changed.Wait()
	}
	h.queue = append(h.queue, heldOutput{sequence, bytes, release})
	h.bytes += bytes
	ready := h.open || sequence <= h.acked
	h.mu.Unlock()
	if ready {
		h.drain()
	}
}

// Acknowledge says that the peer has the records up to a number.
func (h *Hold) Acknowledge(sequence uint64) {
	h.mu.Lock()
	h.acked = max(h.acked, sequence)
	h.mu.Unlock()
	h.drain()
}

// Open lets all output go, now and from now on: there is no peer to wait for.
func (h *Hold) Open() {
	h.mu.Lock()
	h.open = true
	h.mu.Unlock()
	h.drain()
}

// Discard drops what is held and lets nothing go any more: the machine is not the one that lives.
func (h *Hold) Discard() {
	h.releasing.Lock()
	defer h.releasing.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue, h.bytes, h.acked = nil, 0, 0
	h.changed.Broadcast()
}

func (h *Hold) drain() {
	h.releasing.Lock()
	defer h.releasing.Unlock()
	for {
		h.mu.Lock()
		if len(h.queue) == 0 || !h.open && h.queue[0].sequence > h.acked {
			h.mu.Unlock()
			return
		}
		out := h.queue[0]
		h.queue = h.queue[1:]
		h.bytes -= out.bytes
		h.changed.Broadcast()
		h.mu.Unlock()
		out.release()
	}
}
