package lockstep

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"tandem/lockstep/wire"
)

// Inbox holds the frames of a log as they come from a peer, and gives their records. Push, Close and Abort may be called
// from any goroutine, Next belongs to the machine's.
type Inbox struct {
	taken func(bytes int)

	mu      sync.Mutex
	changed *sync.Cond
	frames  []inboxFrame
	next    uint64 // the sequence number that the next frame begins with
	ended   error  // why there are no more frames

	// The machine's side.
	reader  *wire.FrameReader
	source  bytes.Reader
	decoder wire.Decoder
	begun   bool
	err     error // why there are no more records
}

type inboxFrame struct {
	first   uint64
	records uint32
	bytes   []byte
}

// NewInbox returns an empty inbox for a log from record first on. taken, if not nil, is called by the machine's goroutine
// with the size of each frame that it has taken out.
func NewInbox(first uint64, taken func(bytes int)) *Inbox {
	b := &Inbox{next: first, taken: taken}
	b.changed = sync.NewCond(&b.mu)
	b.reader = wire.NewFrameReader(&b.source)
	return b
}

// Push adds a frame of the given number of records, which is kept. A frame that does not follow the last one is refused.
func (b *Inbox) Push(first uint64, records uint32, frame []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if first != b.next {
		return fmt.Errorf("a frame begins with record %d, %d was due", first, b.next)
	}
	b.next = first + uint64(records)
	b.frames = append(b.frames, inboxFrame{first, records, frame})
	b.changed.Broadcast()
	return nil
}

// Close says that no frame will come: Next returns io.EOF behind those that are there.
func (b *Inbox) Close() { b.end(false) }

// Abort ends the records where they are.
func (b *Inbox) Abort() { b.end(true) }

func (b *Inbox) end(now bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = io.EOF
	}
	if now {
		b.frames = nil
	}
	b.changed.Broadcast()
}

// Next implements Source. It waits for a record to come.
func (b *Inbox) Next(r *wire.Record) error {
	for b.err == nil {
		if b.begun {
			err := b.decoder.Next(r)
			if !errors.Is(err, io.EOF) {
				b.err = err
				return err
			}
		}
		b.err = b.take()
	}
	return b.err
}

// take waits for the next frame.
func (b *Inbox) take() error {
	b.mu.Lock()
	for len(b.frames) == 0 && b.ended == nil {
		b.changed.Wait()
	}
	if len(b.frames) == 0 {
		b.mu.Unlock()
		return b.ended
	}
	frame := b.frames[0]
	b.frames = b.frames[1:]
	b.mu.Unlock()
	if b.taken != nil {
		b.taken(len(frame.bytes))
	}
	b.source.Reset(frame.bytes)
	f, err := b.reader.Next()
	if err == nil && (f.Base.Sequence != frame.first || f.Records != int(frame.records)) {
		err = fmt.Errorf("a frame of %d records from %d, %d from %d were announced", f.Records, f.Base.Sequence, frame.records, frame.first)
	}
	if err != nil {
		return err
	}
	b.decoder.Reset(f.Body, f.Base)
	b.begun = true
	return nil
}
