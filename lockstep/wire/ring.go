package wire

import (
	"errors"
	"fmt"
	"sync"
)

// Bounds of a ring.
const (
	// DefaultRing is a ring's usual size in bytes. It is touched only as far as readers lag.
	DefaultRing = 32 << 20
	// MinRing is the smallest size in bytes: two of the largest batches fit, so that one can be read while one is filled.
	MinRing = 2 * (batchBytes + maxRecord)
	// batchBytes is the size in bytes at which records become visible without Flush.
	batchBytes = 64 << 10
	// maxChunks bounds the batches in a ring.
	maxChunks = 1 << 14
)

// ErrRingClosed says that a ring takes no more records.
var ErrRingClosed = errors.New("the log is closed")

// Ring holds the newest part of the log in memory, between the machine's goroutine, which appends records, and readers:
// the writer of a file, the connection to a peer. Append and Flush belong to the machine's goroutine; everything else may
// be called from any.
//
// Records become visible in batches, at Flush or when a batch is full. A record is kept until every reader has
// acknowledged it. A ring that is full makes Flush wait: the guest stands still, and nothing is dropped. Without readers
// records are counted and forgotten.
type Ring struct {
	now func() int64

	// The producer's own.
	encoder Encoder
	batch   Batch // encoded and not yet visible
	counts  KindCounts

	// space has an element if a reader has made room since the producer last looked.
	space chan struct{} // capacity 1

	mu   sync.Mutex
	data []byte
	next int // where in data the next batch goes if it fits there
	// chunks are the batches in data: number n stands at n % maxChunks, for first <= n < end. They stand in data in
	// their order, and go on at its start when the end has no room for a whole batch.
	chunks     [maxChunks]chunk
	first, end uint64
	readers    []*RingReader
	closed     bool
	visible    uint64 // the number of the last visible record
	stats      RingStats
}

// chunk is a batch in a ring's data.
type chunk struct {
	base     Base
	position uint64
	records  int
	start    int
	bytes    int
}

func (c *chunk) last() uint64 { return c.base.Sequence + uint64(c.records) - 1 }

// KindCounts is a number of records and of their encoded bytes for each kind.
type KindCounts struct {
	Records, Bytes [maxKind + 1]uint64
}

// Total returns the sums over all kinds.
func (c *KindCounts) Total() (records, bytes uint64) {
	for k := range c.Records {
		records += c.Records[k]
		bytes += c.Bytes[k]
	}
	return records, bytes
}

// RingStats is what a ring has seen.
type RingStats struct {
	// Counts are of the records that became visible, without frame headers.
	Counts  KindCounts
	Batches uint64
	// Stalls is how often the producer had to wait for room, and StalledNS for how long in all, if the ring has a clock.
	Stalls    uint64
	StalledNS int64
	// UsedBytes of CapacityBytes hold records that a reader has not acknowledged.
	UsedBytes, CapacityBytes int
}

// NewRing returns an empty ring of the given size for a log that stands at base. now is a clock in ns that measures
// stalls, or nil.
func NewRing(bytes int, base Base, now func() int64) *Ring {
	if bytes < MinRing {
		panic(fmt.Sprintf("wire: a ring of %d bytes, at least %d needed", bytes, MinRing))
	}
	return newRing(bytes, base, now)
}

func newRing(bytes int, base Base, now func() int64) *Ring {
	return &Ring{
		now: now, encoder: Encoder{base: base}, batch: Batch{Base: base},
		data: make([]byte, bytes), space: make(chan struct{}, 1),
		visible: base.Sequence - 1, stats: RingStats{CapacityBytes: bytes},
	}
}

// Base returns where the next record will stand. It belongs to the producer.
func (r *Ring) Base() Base { return r.encoder.base }

// Append appends a record, which becomes visible with its batch. The record is copied. Append waits only if it ends a
// batch and the ring is full; after Close it may return ErrRingClosed.
func (r *Ring) Append(rec *Record) error {
	before := len(r.batch.Bytes)
	r.batch.Bytes = r.encoder.Append(r.batch.Bytes, rec)
	r.batch.Records++
	r.batch.Position = rec.Position
	r.counts.Records[rec.Kind]++
	r.counts.Bytes[rec.Kind] += uint64(len(r.batch.Bytes) - before)
	if len(r.batch.Bytes) < batchBytes {
		return nil
	}
	return r.Flush()
}

// Flush makes all records visible to the readers. It waits while the ring is full.
func (r *Ring) Flush() error {
	if r.batch.Records == 0 {
		return nil
	}
	r.mu.Lock()
	err := r.reserve(len(r.batch.Bytes))
	if err == nil {
		r.publish()
	}
	r.mu.Unlock()
	r.batch = Batch{Base: r.encoder.base, Bytes: r.batch.Bytes[:0]}
	r.encoder.Restart()
	return err
}

// reserve waits until n bytes fit at r.next. It is called, and returns, with the lock held.
func (r *Ring) reserve(n int) error {
	if n > len(r.data) {
		panic(fmt.Sprintf("wire: a batch of %d bytes in a ring of %d", n, len(r.data)))
	}
	if r.closed {
		return ErrRingClosed
	}
	if r.fit(n) {
		return nil
	}
	r.stats.Stalls++
	var since int64
	if r.now != nil {
		since = r.now()
	}
	for !r.closed && !r.fit(n) {
		r.mu.Unlock()
		<-r.space
		r.mu.Lock()
	}
	if r.now != nil {
		r.stats.StalledNS += r.now() - since
	}
	if r.closed {
		return ErrRingClosed
	}
	return nil
}

// fit tells whether a batch of n bytes has room, and moves next to where.
func (r *Ring) fit(n int) bool {
	switch {
	case r.first == r.end:
		r.next = 0
		return true
	case r.end-r.first == maxChunks:
		return false
	}
	oldest := r.chunk(r.first).start
	switch {
	case r.next <= oldest: // the newest batches stand before the oldest
		return r.next+n <= oldest
	case r.next+n <= len(r.data):
		return true
	case n <= oldest:
		r.next = 0
		return true
	}
	return false
}

func (r *Ring) chunk(n uint64) *chunk { return &r.chunks[n%maxChunks] }

// publish copies the batch into data, for which there is room.
func (r *Ring) publish() {
	b := &r.batch
	r.visible = b.Last()
	r.stats.Counts = r.counts
	r.stats.Batches++
	if len(r.readers) == 0 {
		return
	}
	r.stats.UsedBytes += len(b.Bytes)
	copy(r.data[r.next:], b.Bytes)
	if last := r.mergeable(len(b.Bytes)); last != nil {
		last.records += b.Records
		last.bytes += len(b.Bytes)
		last.position = b.Position
	} else {
		*r.chunk(r.end) = chunk{base: b.Base, position: b.Position, records: b.Records, start: r.next, bytes: len(b.Bytes)}
		r.end++
	}
	r.next += len(b.Bytes)
	for _, reader := range r.readers {
		reader.held += len(b.Bytes)
		reader.wake()
	}
}

// mergeable returns the newest chunk if the next batch stands right behind it and no reader has got it yet: many small
// batches that nobody hurries to fetch become one.
func (r *Ring) mergeable(n int) *chunk {
	if r.first == r.end {
		return nil
	}
	last := r.chunk(r.end - 1)
	if last.start+last.bytes != r.next || last.bytes+n > batchBytes {
		return nil
	}
	for _, reader := range r.readers {
		if reader.sent >= last.base.Sequence {
			return nil
		}
	}
	return last
}

// Close lets the producer go if it waits, and readers when they have read what is visible. Records that are not visible
// yet are lost: the producer flushes first.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wakeProducer()
	for _, reader := range r.readers {
		reader.wake()
	}
}

func (r *Ring) wakeProducer() {
	select {
	case r.space <- struct{}{}:
	default:
	}
}

// release forgets what all readers have acknowledged. The lock is held.
func (r *Ring) release() {
	oldest := r.end
	for _, reader := range r.readers {
		oldest = min(oldest, reader.acked)
	}
	if oldest == r.first {
		return
	}
	for ; r.first < oldest; r.first++ {
		r.stats.UsedBytes -= r.chunk(r.first).bytes
	}
	r.wakeProducer()
}

// Stats returns what the ring has seen up to now.
func (r *Ring) Stats() RingStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}
