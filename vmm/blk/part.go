package blk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of a part; the package comment has its layout.
const (
	partHeader  = 24
	maxPartData = 1 << 20
	// MaxPart bounds a part, in bytes.
	MaxPart = partHeader + maxPartData
)

// Kinds of parts. The numbers are part of the format and are never changed.
const (
	partData  = 1
	partZeros = 2
	partBased = 3
	partSame  = 4
)

// part is a piece of a row of disks.
type part struct {
	off, n int64
	data   []byte // nil: zeros
	based  bool   // instead: as in the base of an overlay
	same   bool   // instead: as it is
}

// appendPartHeader appends the header of n bytes at off.
func appendPartHeader(dst []byte, kind byte, off, n int64) []byte {
	dst = append(dst, kind, 0, 0, 0, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(off))
	return binary.LittleEndian.AppendUint64(dst, uint64(n))
}

// decodePart decodes the one part that is p, of a row of size bytes. The data of a part points into p.
func decodePart(p []byte, size int64) (part, error) {
	if len(p) < partHeader {
		return part{}, fmt.Errorf("a part of a disk has %d bytes, at least %d needed", len(p), partHeader)
	}
	le := binary.LittleEndian
	off, n := le.Uint64(p[8:]), le.Uint64(p[16:])
	switch {
	case le.Uint64(p)>>8 != 0:
		return part{}, errors.New("reserved bytes of a part of a disk are set")
	case n == 0 || off > uint64(size) || n > uint64(size)-off:
		return part{}, fmt.Errorf("a part of %d bytes at %d, of disks of %d bytes", n, off, size)
	case p[0] == partZeros && len(p) == partHeader:
		return part{off: int64(off), n: int64(n)}, nil
	case p[0] == partBased && len(p) == partHeader:
		return part{off: int64(off), n: int64(n), based: true}, nil
	case p[0] == partSame && len(p) == partHeader:
		return part{off: int64(off), n: int64(n), same: true}, nil
	case p[0] == partData && n <= maxPartData && uint64(len(p)-partHeader) == n:
		return part{off: int64(off), n: int64(n), data: p[partHeader:]}, nil
	}
	return part{}, fmt.Errorf("a part of kind %d for %d bytes has %d bytes", p[0], n, len(p)-partHeader)
}
