package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Reader reads the records of a log, in a file or from a connection, and holds one frame of it at most.
type Reader struct {
	header  Header
	frames  *FrameReader
	decoder Decoder
	wanted  KindSet
	offset  int64 // where the present frame begins
	frame   Frame // the present frame
	begun   bool  // a frame has been read: the next one must follow it
	ended   bool  // the last record was the end
	size    int   // the last record's encoded bytes
	err     error // what all further calls return
}

// NewReader reads the header of a log and returns a reader of what follows. A damaged header is an error: without it
// nothing is known about the machine.
func NewReader(r io.Reader) (*Reader, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	header, n, err := ReadHeader(buffered)
	if err != nil {
		return nil, err
	}
	l := newReader(buffered)
	l.header, l.offset = header, n
	return l, nil
}

// NewFrameLog returns a reader of a log without a header, as it comes over a connection. It reads no further than it
// must.
func NewFrameLog(r io.Reader) *Reader { return newReader(r) }

func newReader(r io.Reader) *Reader {
	return &Reader{frames: NewFrameReader(r), wanted: AllKinds}
}

// Header returns the log's header.
func (l *Reader) Header() *Header { return &l.header }

// Only makes Next skip records of kinds that are not in the set. KindEnd is never skipped.
func (l *Reader) Only(kinds KindSet) { l.wanted = kinds | SetOf(KindEnd) }

// Base returns where the next record stands; before the first frame is read it knows nothing.
func (l *Reader) Base() Base { return l.decoder.Base() }

// Offset returns the byte at which the frame begins that was read last.
func (l *Reader) Offset() int64 { return l.offset }

// Frame returns the frame that the last record was in.
func (l *Reader) Frame() Frame { return l.frame }

// Size returns how many bytes the last record takes in its frame's body.
func (l *Reader) Size() int { return l.size }

// Next reads the next record of a wanted kind. What it refers to is valid until the next call. The last record of a log is a
// KindEnd; behind it Next returns io.EOF. A log that ends otherwise gives a [*DamageError], and a source that fails its
// own error. An error is final.
func (l *Reader) Next(r *Record) error {
	for l.err == nil {
		l.next(r)
		if l.err == nil && l.wanted.Has(r.Kind) {
			return nil
		}
	}
	return l.err
}

// next reads one record, or sets err.
func (l *Reader) next(r *Record) {
	if l.decoder.Offset() == len(l.frame.Body) && !l.nextFrame() {
		return
	}
	before, start := l.decoder.Base(), l.decoder.Offset()
	if err := l.decoder.Next(r); err != nil {
		l.fail(fmt.Errorf("record %d, %d bytes into its frame: %w", before.Sequence, l.decoder.Offset(), err))
		return
	}
	done, all := l.decoder.Offset() == len(l.frame.Body), l.frame.Base.Sequence+uint64(l.frame.Records)
	switch after := l.decoder.Base().Sequence; {
	case done != (after == all):
		l.decoder.base = before
		l.fail(malformed("a frame has another number of records than the %d it tells", l.frame.Records))
	case r.Kind == KindEnd && !done:
		l.decoder.base = before
		l.fail(malformed("records follow the end"))
	}
	l.ended = r.Kind == KindEnd
	l.size = l.decoder.Offset() - start
}

// nextFrame reads a frame that follows the last one, or sets err and returns false.
func (l *Reader) nextFrame() bool {
	expected := l.decoder.Base()
	if l.ended {
		l.err = io.EOF
		return false
	}
	l.offset += l.frame.Stored
	l.frame = Frame{}
	frame, err := l.frames.Next()
	if err != nil {
		l.fail(err)
		return false
	}
	if l.begun && frame.Base != expected {
		l.fail(malformed("a frame from record %d, exit %d, time %d follows where record %d, exit %d, time %d is next",
			frame.Base.Sequence, frame.Base.Position, frame.Base.Time, expected.Sequence, expected.Position, expected.Time))
		return false
	}
	l.begun = true
	l.frame = frame
	l.decoder.Reset(frame.Body, frame.Base)
	return true
}

var (
	errTorn  = errors.New("it ends inside a frame")
	errNoEnd = errors.New("there is no end record (the machine is still running, or its host failed)")
)

// fail sets err to what err means for the log.
func (l *Reader) fail(err error) {
	damage := &DamageError{Offset: l.offset, Err: err}
	if l.begun {
		damage.Sequence, damage.Position = l.decoder.Base().Sequence-1, l.decoder.Base().Position
	}
	var format *FormatError
	switch {
	case err == io.EOF:
		damage.Torn, damage.Err = true, errNoEnd
	case errors.Is(err, io.ErrUnexpectedEOF):
		damage.Torn, damage.Err = true, errTorn
	case !errors.As(err, &format):
		l.err = fmt.Errorf("read the log at byte %d: %w", l.offset, err)
		return
	}
	l.err = damage
}

// Growing reads a source that may still grow, like the file of a log that is being written. At the source's present end it
// calls more, which waits until there may be more, and returns false to give up.
func Growing(source io.Reader, more func() bool) io.Reader { return &growing{source, more} }

type growing struct {
	source io.Reader
	more   func() bool
}

func (g *growing) Read(p []byte) (int, error) {
	for {
		n, err := g.source.Read(p)
		if n > 0 || err != io.EOF || len(p) == 0 {
			return n, err
		}
		if !g.more() {
			return 0, io.EOF
		}
	}
}
