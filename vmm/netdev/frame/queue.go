// Package frame has what the back ends of network devices share: the form of a frame between machine and back end, the
// queue in which frames wait, and the form of frames on a stream socket.
//
// A packet is a frame with a header of [HeaderBytes] before it, struct virtio_net_hdr of virtio 1.2 §5.1.6. A header of
// zeros asks for nothing.
//
// On a stream a frame has its length before it, 4 bytes, big-endian, and no header: the form of QEMU's "-netdev stream".
package frame

import "sync"

// Sizes in bytes.
const (
	// HeaderBytes is the header before each frame.
	HeaderBytes = 12
	// MinBytes is the shortest frame, an Ethernet header.
	MinBytes = 14
	// MaxBytes is the longest: an IP packet of 64 KiB behind an Ethernet header with a VLAN tag.
	MaxBytes = 18 + 65535
)

// Valid reports whether a packet has a length that a packet can have.
func Valid(packet []byte) bool {
	return len(packet) >= HeaderBytes+MinBytes && len(packet) <= HeaderBytes+MaxBytes
}

// Plain returns a packet of a frame that asks for nothing. It copies the frame.
func Plain(f []byte) []byte {
	p := make([]byte, HeaderBytes+len(f))
	copy(p[HeaderBytes:], f)
	return p
}

// Queue is a bounded queue of packets, for any number of goroutines on both sides.
type Queue struct {
	maxPackets, maxBytes int

	mu      sync.Mutex
	changed *sync.Cond
	packets [][]byte // Invariant: len(packets) <= maxPackets
	bytes   int      // of packets. Invariant: bytes <= maxBytes, or there is one packet only
	dropped uint64
	closed  bool
}

// NewQueue returns a queue of at most maxPackets packets and maxBytes bytes. One packet always fits.
func NewQueue(maxPackets, maxBytes int) *Queue {
	q := &Queue{maxPackets: maxPackets, maxBytes: maxBytes}
	q.changed = sync.NewCond(&q.mu)
	return q
}

// Offer queues a packet if there is room. If not, the packet is dropped and counted.
func (q *Queue) Offer(p []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.full(p) {
		q.dropped++
		return false
	}
	q.push(p)
	return true
}

// Put queues a packet, waiting for room. It returns false if the queue is closed.
func (q *Queue) Put(p []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && q.full(p) {
		q.changed.Wait()
	}
	if q.closed {
		return false
	}
	q.push(p)
	return true
}

func (q *Queue) full(p []byte) bool {
	return len(q.packets) >= q.maxPackets || len(q.packets) > 0 && q.bytes+len(p) > q.maxBytes
}

func (q *Queue) push(p []byte) {
	q.packets = append(q.packets, p)
	q.bytes += len(p)
	q.changed.Broadcast()
}

// Take removes the oldest packet, waiting for one. It returns false when the queue is closed.
func (q *Queue) Take() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && len(q.packets) == 0 {
		q.changed.Wait()
	}
	if q.closed {
		return nil, false
	}
	p := q.packets[0]
	q.packets[0] = nil
	if q.packets = q.packets[1:]; len(q.packets) == 0 {
		q.packets = nil // what the slice has used up is given back
	}
	q.bytes -= len(p)
	q.changed.Broadcast()
	return p, true
}

// Close lets go who waits. What is queued is lost.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.packets, q.bytes = nil, 0
	q.changed.Broadcast()
}

// Dropped returns how many packets Offer has dropped.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}
