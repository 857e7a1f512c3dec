package virtio

import (
	"fmt"

	"tandem/devices"
)

// Bounds of an entropy device.
const (
	// MaxRandomBytes is the most that one request asks for; a driver that wants more gets this much (§5.4.6 requires
	// one byte). Linux asks for 64 at a time.
	MaxRandomBytes = 256
	// maxRandomRequests is the number of requests that wait for bytes.
	maxRandomRequests = 8

	rngQueueSize = 16
)

// EntropySource is asked for n bytes, and answers by an input of the machine. Request must not block.
type EntropySource interface {
	Request(n int)
}

// Rng is an entropy device (virtio 1.2 §5.4). Every byte that it gives is an input of the machine.
type Rng struct {
	Core
	source EntropySource
	// waiting has the requests that have not been answered, the oldest first.
	waiting []rngRequest
	chain   chain
}

type rngRequest struct {
	n    uint32
	head uint16
	// orphan says that the device was reset since: the answer goes nowhere.
	orphan bool
	out    []segment
}

// NewRng returns an entropy device that asks source.
func NewRng(mem devices.Memory, source EntropySource) *Rng {
	r := &Rng{source: source}
	r.init(r, mem, rngQueueSize)
	return r
}

func (r *Rng) id() uint16                           { return idRng }
func (r *Rng) features() uint64                     { return featInOrder }
func (r *Rng) configuration(*[configSpace]byte) int { return 0 }
func (r *Rng) configure(uint64, []byte)             {}
func (r *Rng) start(uint64)                         {}
func (r *Rng) notify(int)                           { r.process() }

func (r *Rng) reset() {
	for i := range r.waiting {
		r.waiting[i].orphan = true
	}
}

// process takes requests until there are none, or enough wait; then the next delivery goes on.
func (r *Rng) process() {
	for len(r.waiting) < maxRandomRequests {
		if !r.pop(0, &r.chain) {
			break
		}
		if r.chain.outLen == 0 {
			r.fail(fmt.Errorf("entropy request without a buffer to fill"))
			return
		}
		r.request()
	}
	r.publish(0)
	if len(r.waiting) < maxRandomRequests {
		r.listen(0, 0)
	}
}

// request asks for what the chain wants.
func (r *Rng) request() {
	n := uint32(min(r.chain.outLen, MaxRandomBytes))
	r.waiting = append(r.waiting, rngRequest{n: n, head: r.chain.head, out: append([]segment(nil), r.chain.out...)})
	r.source.Request(int(n))
}

// Pending returns the sizes of the requests that wait, the oldest first: what a machine that goes live in this state
// has to ask its source for.
func (r *Rng) Pending() []int {
	var p []int
	for _, w := range r.waiting {
		p = append(p, int(w.n))
	}
	return p
}

// Deliver answers the oldest request that waits. It is an error, and changes nothing, if there is none or it asked for
// another number of bytes: the log is damaged or the machine is not the one that was recorded.
func (r *Rng) Deliver(p []byte) error {
	if len(r.waiting) == 0 {
		return fmt.Errorf("virtio: %d random bytes that no one has asked for", len(p))
	}
	w := r.waiting[0]
	if len(p) != int(w.n) {
		return fmt.Errorf("virtio: %d random bytes where %d were asked for", len(p), w.n)
	}
	r.waiting = append(r.waiting[:0], r.waiting[1:]...)
	if !r.usable(0) {
		return nil
	}
	if !w.orphan {
		if err := writeSegments(r.mem, w.out, 0, p); err != nil {
			r.fail(fmt.Errorf("entropy request: %w", err))
			return nil
		}
		r.push(0, w.head, w.n)
	}
	r.process()
	return nil
}

type rngState struct {
	Waiting []rngRequestState `json:"waiting"`
}

type rngRequestState struct {
	Bytes  uint32         `json:"bytes"`
	Head   uint16         `json:"head"`
	Orphan bool           `json:"orphan"`
	Out    []segmentState `json:"out"`
}

func (r *Rng) save() any {
	s := rngState{Waiting: []rngRequestState{}}
	for _, w := range r.waiting {
		s.Waiting = append(s.Waiting, rngRequestState{w.n, w.head, w.orphan, saveSegments(w.out)})
	}
	return s
}

func (r *Rng) load(p []byte, _ uint64, _ []queueState) (func(), error) {
	var s rngState
	if err := devices.DecodeState(p, &s); err != nil {
		return nil, fmt.Errorf("entropy: %w", err)
	}
	if len(s.Waiting) > maxRandomRequests {
		return nil, fmt.Errorf("entropy: %d requests wait, at most %d possible", len(s.Waiting), maxRandomRequests)
	}
	var waiting []rngRequest
	for _, w := range s.Waiting {
		out, n, err := loadSegments(w.Out)
		if err != nil {
			return nil, fmt.Errorf("entropy: %w", err)
		}
		if n == 0 || uint64(w.Bytes) != min(n, MaxRandomBytes) {
			return nil, fmt.Errorf("entropy: a request of %d bytes with buffers of %d", w.Bytes, n)
		}
		waiting = append(waiting, rngRequest{w.Bytes, w.Head, w.Orphan, out})
	}
	return func() { r.waiting = waiting }, nil
}
