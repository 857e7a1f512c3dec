package blk

import (
	"bytes"
	"testing"
)

// FuzzPart feeds the decoder of parts: what it accepts lies in the row, and encodes to the same bytes.
func FuzzPart(f *testing.F) {
	f.Add(append(appendPartHeader(nil, partData, 512, 4), "data"...), int64(1024))
	f.Add(appendPartHeader(nil, partZeros, 0, 1<<40), int64(1<<40))
	f.Add(appendPartHeader(nil, partBased, 3, 9), int64(12))
	f.Add(appendPartHeader(nil, partSame, 65536, 65536), int64(1<<20))
	f.Add(appendPartHeader(nil, partZeros, -1, 2), int64(1024))
	f.Add(appendPartHeader(nil, partData, 1, -1), int64(1024))
	f.Fuzz(func(t *testing.T, p []byte, size int64) {
		size = max(0, min(size, maxDiskSize))
		got, err := decodePart(p, size)
		if err != nil {
			return
		}
		if got.n <= 0 || got.off < 0 || got.off+got.n > size || got.data != nil && int64(len(got.data)) != got.n {
			t.Fatalf("part %+v of a row of %d bytes", got, size)
		}
		kind := byte(partZeros)
		switch {
		case got.based:
			kind = partBased
		case got.same:
			kind = partSame
		case got.data != nil:
			kind = partData
		}
		if again := append(appendPartHeader(nil, kind, got.off, got.n), got.data...); !bytes.Equal(again, p) {
			t.Fatalf("%x encodes to %x", p, again)
		}
	})
}
