package wire

import "io"

// DeltaWriter appends a stream to a ring as the parts of one delta.
type DeltaWriter struct {
	ring *Ring
	part Record
}

// NewDeltaWriter returns a writer of a delta at the given position.
func NewDeltaWriter(ring *Ring, position uint64) *DeltaWriter {
	return &DeltaWriter{ring: ring, part: Record{Kind: KindDelta, Position: position}}
}

// Write implements io.Writer.
func (d *DeltaWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if len(d.part.Payload) == MaxDeltaPart {
			if err := d.ring.Append(&d.part); err != nil {
				return len(p) - len(rest), err
			}
			d.part.Payload = d.part.Payload[:0]
		}
		n := min(len(rest), MaxDeltaPart-len(d.part.Payload))
		d.part.Payload = append(d.part.Payload, rest[:n]...)
		rest = rest[n:]
	}
	return len(p), nil
}

// Close appends the last part.
func (d *DeltaWriter) Close() error {
	d.part.Last = true
	return d.ring.Append(&d.part)
}

// DeltaReader reads the parts of one delta as a stream. It ends with io.EOF behind the last part.
type DeltaReader struct {
	next func(*Record) error
	part Record
	rest []byte
}

// NewDeltaReader returns a reader of the delta whose first part is given; next gets the records behind it, such as
// [Reader.Next]. The parts' payloads are valid until next is called.
func NewDeltaReader(first *Record, next func(*Record) error) *DeltaReader {
	return &DeltaReader{next: next, part: *first, rest: first.Payload}
}

// Read implements io.Reader.
func (d *DeltaReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(d.rest) == 0 {
		if d.part.Last {
			return 0, io.EOF
		}
		position := d.part.Position
		if err := d.next(&d.part); err != nil {
			return 0, unexpected(err)
		}
		if d.part.Kind != KindDelta || d.part.Position != position {
			return 0, malformed("a %v record at exit %d stands inside a delta at exit %d", d.part.Kind, d.part.Position, position)
		}
		d.rest = d.part.Payload
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
