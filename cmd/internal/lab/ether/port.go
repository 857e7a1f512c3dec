package ether

import (
	"container/heap"
	"io"
	"sync"
	"time"
)

// Port is a place where a host, or Go code, is plugged in.
type Port struct {
	s    *Switch
	name string
	out  chan []byte   // what is due, to ReadFrame
	wake chan struct{} // the queue's head changed
	done chan struct{}

	mu       sync.Mutex
	queue    frameQueue
	sequence uint64
	counters Counters
	closed   bool
}

func newPort(s *Switch, name string) *Port {
	return &Port{s: s, name: name, out: make(chan []byte), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Name is the port's name.
func (p *Port) Name() string { return p.name }

// WriteFrame sends an Ethernet frame (header first, no checksum) into the
// switch. It never blocks; a frame of an impossible size is lost.
func (p *Port) WriteFrame(frame []byte) error {
	select {
	case <-p.done:
		return io.ErrClosedPipe
	default:
	}
	p.count(func(c *Counters) { c.SentFrames++; c.SentBytes += uint64(len(frame)) })
	p.s.forward(p, append([]byte(nil), frame...))
	return nil
}

// ReadFrame waits for a frame for this port. io.EOF says that the port is
// closed.
func (p *Port) ReadFrame() ([]byte, error) {
	select {
	case f := <-p.out:
		p.count(func(c *Counters) { c.ReceivedFrames++; c.ReceivedBytes += uint64(len(f)) })
		return f, nil
	case <-p.done:
		return nil, io.EOF
	}
}

// Close unplugs the port.
func (p *Port) Close() error {
	p.mu.Lock()
	already := p.closed
	p.closed = true
	p.mu.Unlock()
	if already {
		return nil
	}
	close(p.done)
	p.s.detach(p)
	return nil
}

// Counters returns the port's counters.
func (p *Port) Counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counters
}

func (p *Port) count(f func(*Counters)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.counters)
}

func (p *Port) enqueue(frame []byte, due time.Time) {
	p.mu.Lock()
	if len(p.queue) >= queueFrames {
		p.counters.OverflowFrames++
		p.mu.Unlock()
		return
	}
	p.sequence++
	heap.Push(&p.queue, queued{frame, due, p.sequence})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // it is being woken anyway
	}
}

// run hands frames out in the order in which they are due.
func (p *Port) run() {
	for {
		frame, wait := p.next()
		switch {
		case frame != nil:
			select {
			case p.out <- frame:
			case <-p.done:
				return
			}
		case wait > 0:
			select {
			case <-p.s.clock.After(wait):
			case <-p.wake:
			case <-p.done:
				return
			}
		default:
			select {
			case <-p.wake:
			case <-p.done:
				return
			}
		}
	}
}

// next takes a frame that is due, or says how long the first one has to wait;
// no frame and no wait mean that the queue is empty.
func (p *Port) next() ([]byte, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil, 0
	}
	if wait := p.queue[0].due.Sub(p.s.clock.Now()); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&p.queue).(queued).frame, 0
}

type queued struct {
	frame    []byte
	due      time.Time
	sequence uint64 // keeps frames due at the same time in order
}

// frameQueue is a heap by due time (container/heap).
type frameQueue []queued

func (q frameQueue) Len() int { return len(q) }
func (q frameQueue) Less(i, j int) bool {
	if !q[i].due.Equal(q[j].due) {
		return q[i].due.Before(q[j].due)
	}
	return q[i].sequence < q[j].sequence
}
func (q frameQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *frameQueue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *frameQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = queued{}
	*q = old[:len(old)-1]
	return last
}
