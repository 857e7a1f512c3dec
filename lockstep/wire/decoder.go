package wire

import (
	"encoding/binary"
	"io"
	"math"
)

// errShort says that a record goes beyond the end of its frame.
var errShort = malformed("a record goes beyond the end of its frame")

// Decoder reads the records of a frame's body. It keeps no copy: records refer to the body.
type Decoder struct {
	body      []byte
	at        int
	base      Base
	registers Registers
	image     Registers // what Record.Registers refers to
	known     bool      // registers is the last image in this frame
}

// Reset makes the decoder stand at the start of a body.
func (d *Decoder) Reset(body []byte, base Base) {
	d.body, d.at, d.base, d.known = body, 0, base, false
}

// Base returns where the next record stands.
func (d *Decoder) Base() Base { return d.base }

// Offset returns how many bytes of the body have been read.
func (d *Decoder) Offset() int { return d.at }

// Next reads the next record into r. It returns io.EOF at the end of the body, and a [*FormatError] for bytes that are no
// record; then the decoder stands where it stood, and nothing behind is to be trusted. What r refers to is valid until the
// next call.
func (d *Decoder) Next(r *Record) error {
	if d.at == len(d.body) {
		return io.EOF
	}
	c := cursor{data: d.body[d.at:]}
	head := c.uvarint()
	*r = Record{Sequence: d.base.Sequence, Kind: Kind(head & kindMask), Position: d.base.Position + head>>4}
	if c.err == nil && !r.Kind.valid() {
		c.err = malformed("kind %d does not exist", head&kindMask)
	}
	if c.err == nil && r.Position < d.base.Position {
		c.err = malformed("a position goes beyond 64 bits")
	}
	if c.err == nil {
		d.rest(&c, r)
	}
	if c.err != nil {
		return c.err
	}
	d.at += c.at
	d.base.Sequence++
	d.base.Position = r.Position
	if r.Kind.hasTime() {
		d.base.Time = r.Time
	}
	return nil
}

// rest reads what stands behind the head.
func (d *Decoder) rest(c *cursor, r *Record) {
	switch r.Kind {
	case KindTick, KindPower:
	case KindClock:
		d.time(c, r)
	case KindConsole, KindFrame, KindDisk, KindRandom:
		r.Device = c.u8()
		r.Payload = c.bytes(maxPayload[r.Kind])
	case KindDigest:
		d.digest(c, r)
	case KindDelta:
		r.Last = c.flags(deltaLast)&deltaLast != 0
		r.Payload = c.bytes(MaxDeltaPart)
	case KindMemory:
		r.Number = c.uvarint()
		r.Payload = c.bytes(maxPayload[KindMemory])
		if len(r.Payload)%hashBytes != 0 || r.Number > math.MaxUint64-MaxMemoryPages {
			c.fail("a memory record of %d bytes from page %#x", len(r.Payload), r.Number)
		}
	case KindDevices:
		r.Payload = c.bytes(maxPayload[KindDevices])
		if len(r.Payload)%hashBytes != 0 {
			c.fail("a hash is cut off")
		}
	case KindCheckpoint:
		d.time(c, r)
		r.Number = c.uvarint()
	case KindOutput:
		r.Device, r.Of = c.u8(), Kind(c.u8())
		r.Length = c.uvarint()
		r.Hash = c.u64()
		if r.Of != KindConsole && r.Of != KindFrame && r.Of != KindDisk {
			c.fail("an output of kind %d", uint8(r.Of))
		}
	case KindEnd:
		r.Cause = Cause(c.u8())
		if r.Cause == 0 || r.Cause > maxCause {
			c.fail("an end with cause %d", uint8(r.Cause))
		}
		d.time(c, r)
		r.Payload = c.bytes(MaxMessage)
	}
}

func (d *Decoder) time(c *cursor, r *Record) {
	delta := c.uvarint()
	if delta > uint64(math.MaxInt64-d.base.Time) {
		c.fail("a time goes beyond 63 bits")
		return
	}
	r.Time = d.base.Time + int64(delta)
}

func (d *Decoder) digest(c *cursor, r *Record) {
	flags := c.flags(digestRegisters | digestWhole)
	d.time(c, r)
	r.Hash = c.u64()
	if flags&digestRegisters == 0 {
		if flags != 0 {
			c.fail("digest flags %#x", flags)
		}
		return
	}
	whole := flags&digestWhole != 0
	if !whole && !d.known {
		c.fail("registers relative to an image that is not in the frame")
		return
	}
	image := d.registers
	if whole {
		image = Registers{}
	}
	mask := c.uvarint()
	if mask>>registerCount != 0 {
		c.fail("register mask %#x", mask)
	}
	for i := range image {
		if mask>>i&1 == 0 || c.err != nil {
			continue
		}
		z := c.uvarint()
		if z == 0 {
			c.fail("a register that is said to differ and does not")
		}
		image[i] += unzigzag(z)
	}
	if c.err != nil {
		return
	}
	d.registers, d.image, d.known = image, image, true
	r.Registers = &d.image
}

// cursor reads integers and bytes and remembers the first error; after an error it gives zeros.
type cursor struct {
	data []byte
	at   int
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = malformed(format, args...)
	}
}

func (c *cursor) u8() byte {
	if c.err == nil && c.at == len(c.data) {
		c.err = errShort
	}
	if c.err != nil {
		return 0
	}
	c.at++
	return c.data[c.at-1]
}

// flags reads a byte of which only the allowed bits may be set.
func (c *cursor) flags(allowed byte) byte {
	v := c.u8()
	if v&^allowed != 0 {
		c.fail("reserved flags %#x are set", v&^allowed)
	}
	return v
}

func (c *cursor) u64() uint64 {
	if c.err == nil && len(c.data)-c.at < 8 {
		c.err = errShort
	}
	if c.err != nil {
		return 0
	}
	c.at += 8
	return binary.LittleEndian.Uint64(c.data[c.at-8:])
}

func (c *cursor) uvarint() uint64 {
	if c.err != nil {
		return 0
	}
	if c.at < len(c.data) && c.data[c.at] < 0x80 {
		c.at++
		return uint64(c.data[c.at-1])
	}
	v, n := binary.Uvarint(c.data[c.at:])
	switch {
	case n == 0:
		c.err = errShort
		return 0
	case n < 0:
		c.err = malformed("an integer goes beyond 64 bits")
		return 0
	case n > 1 && c.data[c.at+n-1] == 0:
		c.err = malformed("an integer is longer than it need be")
		return 0
	}
	c.at += n
	return v
}

// bytes reads a length and that many bytes.
func (c *cursor) bytes(most int) []byte {
	n := c.uvarint()
	if c.err != nil {
		return nil
	}
	if n > uint64(most) {
		c.fail("%d bytes where at most %d are allowed", n, most)
		return nil
	}
	return c.take(int(n))
}

// take reads n bytes.
func (c *cursor) take(n int) []byte {
	if c.err == nil && len(c.data)-c.at < n {
		c.err = errShort
	}
	if c.err != nil {
		return nil
	}
	c.at += n
	return c.data[c.at-n : c.at : c.at]
}
