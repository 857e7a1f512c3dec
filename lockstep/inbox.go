package lockstep

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"tandem/lockstep/wire"
)

// inboxFrames bounds the frames that a follower holds and has not executed. A full inbox stops reading from the
// connection, which in the end stalls the guest at the other side.
const inboxFrames = 1024

// Inbox holds the frames of a log as they come over a connection, and gives their records. A goroutine of its own reads
// the connection, so that what has arrived is held, and acknowledged, whatever the machine is at.
type Inbox struct {
	frames  chan inboxFrame
	stopped chan struct{}
	stop    sync.Once
	decoder wire.Decoder
	begun   bool
	err     error // the machine's side: why there are no more records
}

type inboxFrame struct {
	wire.Frame
	err error
}

// NewInbox reads frames from r until it ends or fails, and calls received with the number of the last record of each
// frame once the frame is held.
func NewInbox(r io.Reader, received func(sequence uint64)) *Inbox {
	b := &Inbox{frames: make(chan inboxFrame, inboxFrames), stopped: make(chan struct{})}
	go b.read(wire.NewFrameReader(r), received)
	return b
}

func (b *Inbox) read(frames *wire.FrameReader, received func(uint64)) {
	next := uint64(0) // the sequence number that the next frame begins with; unknown at first
	for {
		f, err := frames.Next()
		if err == nil && next != 0 && f.Base.Sequence != next {
			err = fmt.Errorf("a frame begins with record %d, %d was due", f.Base.Sequence, next)
		}
		f.Body = append([]byte(nil), f.Body...)
		select {
		case b.frames <- inboxFrame{f, err}:
		case <-b.stopped:
			return
		}
		if err != nil {
			return
		}
		next = f.Base.Sequence + uint64(f.Records)
		received(next - 1)
	}
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
		b.take()
	}
	return b.err
}

// take waits for the next frame.
func (b *Inbox) take() {
	select {
	case f := <-b.frames:
		if b.err = f.err; f.err == nil {
			b.decoder.Reset(f.Body, f.Base)
			b.begun = true
		}
	case <-b.stopped:
		b.err = io.EOF
	}
}

// Close ends the records where they are. The connection is closed by itself.
func (b *Inbox) Close() { b.stop.Do(func() { close(b.stopped) }) }
