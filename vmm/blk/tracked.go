package blk

import (
	"crypto/rand"
	"math/bits"
	"sync/atomic"
)

// chunk is the number of bytes of a disk that are tracked, and sent again, together, and that have a sum. It is a multiple of
// clusterSize, and part of what hosts tell each other: it is never changed.
const chunk = 64 << 10

// Tracked is an image that remembers where it was changed, so that a replica of it can be made while it is in use.
//
// A change is marked after it is in the image and before its caller learns that it is. Who takes a mark and then reads the
// chunk therefore reads every change that was acknowledged before the mark was taken; one that is acknowledged later leaves
// a mark again. What is being written at this instant may be read in part: it is not acknowledged, and so is among the
// requests that the machine has in flight, which a backup does itself.
type Tracked struct {
	Image
	name [32]byte
	// ever has what was changed since Track: what a replica of this name, whenever it was made, may lack.
	ever chunkSet
	// since has what was changed since a transfer took it. It is marked after ever.
	since chunkSet
}

// Track returns image with its changes remembered from now on.
func Track(image Image) *Tracked {
	n := (image.Size() + chunk - 1) / chunk
	if IsShared(image) {
		n = 0 // nothing of it is ever sent
	}
	t := &Tracked{Image: image, ever: newChunkSet(n), since: newChunkSet(n)}
	rand.Read(t.name[:]) // never fails: crypto/rand ends the process before it gives anything but entropy
	return t
}

// WriteAt implements File.
func (t *Tracked) WriteAt(p []byte, off int64) (int, error) {
	defer t.mark(off, int64(len(p))) // whatever came of it: a write that fails may have been done in part
	return t.Image.WriteAt(p, off)
}

// Zero implements File.
func (t *Tracked) Zero(off, n int64, punch bool) error {
	defer t.mark(off, n)
	return t.Image.Zero(off, n, punch)
}

func (t *Tracked) form() (Form, error) { return FormOf(t.Image) }

func (t *Tracked) extent(off, n int64) (extent, error) { return extentOf(t.Image, off, n) }

// stretch returns what is at off, up to the disk's end, of stored content no more than is looked at together.
func (t *Tracked) stretch(off int64) (extent, error) {
	const look = askBlocks * chunk
	e, err := t.extent(off, min(t.Size()-off, look))
	if err != nil || e.content == stored || e.n < look {
		return e, err
	}
	return t.extent(off, t.Size()-off)
}

func (t *Tracked) mark(off, n int64) {
	end := min(off+n, t.Size())
	if off < 0 || off >= end || len(t.ever.words) == 0 {
		return // refused as outside of the disk, or not sent
	}
	t.ever.add(off/chunk, (end-1)/chunk)
	t.since.add(off/chunk, (end-1)/chunk)
}

// chunkSet is a set of chunk numbers that any goroutine may use.
type chunkSet struct {
	words []atomic.Uint64
	n     *atomic.Int64 // how many there are, or were a moment ago
}

func newChunkSet(chunks int64) chunkSet {
	return chunkSet{make([]atomic.Uint64, (chunks+63)/64), new(atomic.Int64)}
}

// add adds the chunks from first to last.
func (s chunkSet) add(first, last int64) {
	for w := first / 64; w <= last/64; w++ {
		mask := ^uint64(0)
		if w == first/64 {
			mask &= ^uint64(0) << (first % 64)
		}
		if w == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		old := s.words[w].Or(mask)
		s.n.Add(int64(bits.OnesCount64(mask &^ old)))
	}
}

// take takes chunk c out and reports whether it was there.
func (s chunkSet) take(c int64) bool {
	bit := uint64(1) << (c % 64)
	if s.words[c/64].Load()&bit == 0 {
		return false
	}
	if s.words[c/64].And(^bit)&bit == 0 {
		return false
	}
	s.n.Add(-1)
	return true
}

// takeAll moves all chunks to another set.
func (s chunkSet) takeAll(to chunkSet) {
	for w := range s.words {
		if s.words[w].Load() == 0 {
			continue
		}
		moved := s.words[w].Swap(0)
		s.n.Add(-int64(bits.OnesCount64(moved)))
		old := to.words[w].Or(moved)
		to.n.Add(int64(bits.OnesCount64(moved &^ old)))
	}
}

// next returns the first chunk from c on, or -1.
func (s chunkSet) next(c int64) int64 {
	for w := c / 64; w < int64(len(s.words)); w++ {
		v := s.words[w].Load()
		if w == c/64 {
			v &= ^uint64(0) << (c % 64)
		}
		if v != 0 {
			return w*64 + int64(bits.TrailingZeros64(v))
		}
	}
	return -1
}
