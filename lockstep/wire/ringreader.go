package wire

import (
	"context"
	"fmt"
	"io"
)

// RingReader gets the batches of a ring in their order. Next, Rewind and Close belong to one goroutine; Acknowledge and
// the others may be called from any.
type RingReader struct {
	ring *Ring
	bell chan struct{} // capacity 1: there may be something new

	// Guarded by ring.mu. Invariant: ring.first <= acked <= cursor <= ring.end, and sequence <= sent <= ring.visible.
	acked    uint64 // the first chunk that is not wholly acknowledged
	cursor   uint64 // the next chunk to get
	sequence uint64 // the last record that is acknowledged
	sent     uint64 // the last record that Next has returned
	held     int    // bytes of the chunks from acked to ring.end
	closed   bool
}

// NewReader returns a reader that gets every batch that becomes visible from now on. For a reader that joins a running
// machine, the machine's goroutine flushes and calls this, and knows by Base where the reader begins.
func (r *Ring) NewReader() *RingReader {
	r.mu.Lock()
	defer r.mu.Unlock()
	reader := &RingReader{ring: r, bell: make(chan struct{}, 1), acked: r.end, cursor: r.end, sequence: r.visible, sent: r.visible}
	r.readers = append(r.readers, reader)
	return reader
}

func (d *RingReader) wake() {
	select {
	case d.bell <- struct{}{}:
	default:
	}
}

// Next waits for records and returns as many batches in one as stand in a row, but no more than most bytes unless the
// first alone is larger. The bytes are the ring's own: they are valid until the last record is acknowledged. It returns
// io.EOF when the ring is closed and read to its end, and the context's error when that is done.
func (d *RingReader) Next(ctx context.Context, most int) (Batch, error) {
	for {
		b, err := d.take(most)
		if err != nil || b.Records > 0 {
			return b, err
		}
		select {
		case <-d.bell:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		}
	}
}

// take returns what there is: a batch without records if nothing.
func (d *RingReader) take(most int) (Batch, error) {
	r := d.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.cursor == r.end {
		if r.closed || d.closed {
			return Batch{}, io.EOF
		}
		return Batch{}, nil
	}
	c := *r.chunk(d.cursor)
	d.cursor++
	for d.cursor < r.end {
		next := r.chunk(d.cursor)
		if next.start != c.start+c.bytes || c.bytes+next.bytes > most {
			break
		}
		c.bytes += next.bytes
		c.records += next.records
		c.position = next.position
		d.cursor++
	}
	d.sent = max(d.sent, c.last())
	return Batch{Base: c.base, Records: c.records, Position: c.position, Bytes: r.data[c.start : c.start+c.bytes : c.start+c.bytes]}, nil
}

// Acknowledge says that the records up to number sequence have arrived and need not be kept for this reader. A number
// below an earlier one changes nothing; one that the reader has not got yet is an error, for it comes from a peer.
func (d *RingReader) Acknowledge(sequence uint64) error {
	r := d.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.closed || sequence <= d.sequence {
		return nil
	}
	if sequence > d.sent {
		return fmt.Errorf("record %d is acknowledged, the last one sent is %d", sequence, d.sent)
	}
	d.sequence = sequence
	for d.acked < r.end && r.chunk(d.acked).last() <= sequence {
		d.held -= r.chunk(d.acked).bytes
		d.acked++
	}
	d.cursor = max(d.cursor, d.acked)
	r.release()
	return nil
}

// Acknowledged returns the number of the last record that is acknowledged; at first that before the reader's first.
func (d *RingReader) Acknowledged() uint64 {
	d.ring.mu.Lock()
	defer d.ring.mu.Unlock()
	return d.sequence
}

// Rewind makes Next begin again at the first batch that is not wholly acknowledged.
func (d *RingReader) Rewind() {
	d.ring.mu.Lock()
	defer d.ring.mu.Unlock()
	d.cursor = d.acked
	d.wake()
}

// Lag returns how many visible records the reader has not acknowledged, and how many bytes are kept for it.
func (d *RingReader) Lag() (records uint64, bytes int) {
	d.ring.mu.Lock()
	defer d.ring.mu.Unlock()
	if d.closed {
		return 0, 0
	}
	return d.ring.visible - d.sequence, d.held
}

// Close takes the reader away from the ring, which keeps nothing for it from now on: a batch that the reader still
// holds is no longer valid.
func (d *RingReader) Close() {
	r := d.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	for i, other := range r.readers {
		if other == d {
			r.readers = append(r.readers[:i], r.readers[i+1:]...)
			break
		}
	}
	d.acked, d.cursor = r.end, r.end
	r.release()
}
