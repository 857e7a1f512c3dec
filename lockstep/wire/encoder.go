package wire

import (
	"encoding/binary"
	"fmt"
)

// Encoder turns records into the bytes of a frame's body. What it writes depends on the record before: its zero value
// stands at the start of a log.
type Encoder struct {
	base      Base
	registers Registers
	known     bool // registers is the last image in this frame
}

// NewEncoder returns an encoder that goes on where a log stands at base.
func NewEncoder(base Base) *Encoder { return &Encoder{base: base} }

// Base returns where the next record stands.
func (e *Encoder) Base() Base { return e.base }

// Restart makes the next record one that a frame can begin with.
func (e *Encoder) Restart() { e.known = false }

// Append appends record r to dst. A record that breaks the rules of the format (a position or time that falls, an unknown
// kind, too long a payload) is an error of the caller's program: Append panics.
func (e *Encoder) Append(dst []byte, r *Record) []byte {
	if r.Position < e.base.Position || !r.Kind.valid() || len(r.Payload) > maxPayload[r.Kind] {
		panic(e.misuse(r))
	}
	dst = appendHead(dst, r.Position-e.base.Position, r.Kind)
	e.base.Position = r.Position
	e.base.Sequence++
	switch r.Kind {
	case KindTick, KindPower:
	case KindClock:
		dst = e.appendTime(dst, r)
	case KindConsole, KindFrame, KindDisk, KindRandom:
		dst = append(dst, r.Device)
		dst = appendBytes(dst, r.Payload)
	case KindDigest:
		dst = e.appendDigest(dst, r)
	case KindDelta:
		dst = append(dst, bitIf(r.Last, deltaLast))
		dst = appendBytes(dst, r.Payload)
	case KindMemory:
		dst = binary.AppendUvarint(dst, r.Number)
		dst = appendBytes(dst, r.Payload)
	case KindDevices:
		dst = appendBytes(dst, r.Payload)
	case KindCheckpoint:
		dst = e.appendTime(dst, r)
		dst = binary.AppendUvarint(dst, r.Number)
	case KindOutput:
		dst = append(dst, r.Device, byte(r.Of))
		dst = binary.AppendUvarint(dst, r.Length)
		dst = binary.LittleEndian.AppendUint64(dst, r.Hash)
	case KindEnd:
		dst = append(dst, byte(r.Cause))
		dst = e.appendTime(dst, r)
		dst = appendBytes(dst, r.Payload)
	}
	return dst
}

// maxHeadDelta is the largest distance of positions that a head has room for.
const maxHeadDelta = 1<<60 - 1

func appendHead(dst []byte, delta uint64, k Kind) []byte {
	if delta > maxHeadDelta {
		panic(fmt.Sprintf("wire: a record %d exits after the one before", delta))
	}
	return binary.AppendUvarint(dst, delta<<4|uint64(k))
}

func (e *Encoder) appendTime(dst []byte, r *Record) []byte {
	if r.Time < e.base.Time {
		panic(e.misuse(r))
	}
	dst = binary.AppendUvarint(dst, uint64(r.Time-e.base.Time))
	e.base.Time = r.Time
	return dst
}

func (e *Encoder) appendDigest(dst []byte, r *Record) []byte {
	flags := bitIf(r.Registers != nil, digestRegisters) | bitIf(r.Registers != nil && !e.known, digestWhole)
	dst = append(dst, flags)
	dst = e.appendTime(dst, r)
	dst = binary.LittleEndian.AppendUint64(dst, r.Hash)
	if r.Registers == nil {
		return dst
	}
	if !e.known {
		e.registers = Registers{}
	}
	var mask uint64
	for i, v := range r.Registers {
		if v != e.registers[i] {
			mask |= 1 << i
		}
	}
	dst = binary.AppendUvarint(dst, mask)
	for i, v := range r.Registers {
		if mask>>i&1 != 0 {
			dst = binary.AppendUvarint(dst, zigzag(v-e.registers[i]))
		}
	}
	e.registers, e.known = *r.Registers, true
	return dst
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func (e *Encoder) misuse(r *Record) string {
	return fmt.Sprintf("wire: %v record at position %d, time %d with %d bytes after position %d, time %d (at most %d bytes)",
		r.Kind, r.Position, r.Time, len(r.Payload), e.base.Position, e.base.Time, r.Kind.MaxPayload())
}

func bitIf(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// zigzag makes small numbers of small differences, whichever their sign.
func zigzag(d uint64) uint64 { return d<<1 ^ uint64(int64(d)>>63) }

func unzigzag(z uint64) uint64 { return z>>1 ^ -(z & 1) }
