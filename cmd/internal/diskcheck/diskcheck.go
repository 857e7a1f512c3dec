// Package diskcheck writes a disk at random and finds out later whether every byte is as it was written.
//
// A [Plan] is a sequence of writes that its seed determines, so that whoever knows the plan knows what the disk must hold:
// the guest that wrote it, the same guest after a restart, and the host that looks into the image.
//
// A block is 4096 bytes: seed, block number and the number of the write that made it (8 bytes each, little-endian), then
// pseudo-random bytes from these three. What was never written is zero.
package diskcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	// BlockBytes is the unit of all writes.
	BlockBytes = 4096
	// MaxRunBytes is the longest write.
	MaxRunBytes = 16 * BlockBytes

	headerBytes = 24
)

// Plan is a sequence of random writes.
type Plan struct {
	Seed   uint64
	Writes int
	Blocks int64 // size of the disk; at least as many as the longest write has
}

// each calls do with every write in turn: its number from 1, its first block and how many it has.
func (p Plan) each(do func(number uint64, first, blocks int64) error) error {
	random := rand.New(rand.NewPCG(p.Seed, 0))
	for number := range uint64(p.Writes) {
		blocks := 1 + random.Int64N(MaxRunBytes/BlockBytes)
		first := random.Int64N(p.Blocks - blocks + 1)
		if err := do(number+1, first, blocks); err != nil {
			return err
		}
	}
	return nil
}

// fill makes the block that a write leaves.
func (p Plan) fill(block []byte, at int64, number uint64) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[0:], p.Seed)
	binary.LittleEndian.PutUint64(seed[8:], uint64(at))
	binary.LittleEndian.PutUint64(seed[16:], number)
	copy(block, seed[:headerBytes])
	_, _ = rand.NewChaCha8(seed).Read(block[headerBytes:]) // never fails
}

// Write carries the plan out, with buffer of MaxRunBytes. It goes on after a write that fails, and returns the blocks of
// those, of which only Verify's weaker claim holds, and the last failure.
func (p Plan) Write(f io.WriterAt, buffer []byte) (uncertain map[int64]bool, failure error) {
	uncertain = map[int64]bool{}
	_ = p.each(func(number uint64, first, blocks int64) error {
		for i := range blocks {
			p.fill(buffer[i*BlockBytes:][:BlockBytes], first+i, number)
		}
		_, err := f.WriteAt(buffer[:blocks*BlockBytes], first*BlockBytes)
		for i := range blocks {
			if err != nil {
				uncertain[first+i], failure = true, err
			} else {
				delete(uncertain, first+i)
			}
		}
		return nil
	})
	return uncertain, failure
}

// Verify reads the whole disk, with buffer of at least BlockBytes, and names the first block that is not what the plan's
// last write to it has left. A block for which uncertain is true may also be what any earlier write has left, or zero, but
// nothing else.
func (p Plan) Verify(f io.ReaderAt, buffer []byte, uncertain func(block int64) bool) error {
	last := map[int64]uint64{}
	_ = p.each(func(number uint64, first, blocks int64) error {
		for i := range blocks {
			last[first+i] = number
		}
		return nil
	})
	block, want := buffer[:BlockBytes], make([]byte, BlockBytes)
	for at := range p.Blocks {
		if _, err := f.ReadAt(block, at*BlockBytes); err != nil {
			return fmt.Errorf("block %d can't be read: %w", at, err)
		}
		number := last[at]
		if uncertain(at) {
			number = min(number, binary.LittleEndian.Uint64(block[16:]))
		}
		clear(want)
		if number != 0 {
			p.fill(want, at, number)
		}
		if !bytes.Equal(block, want) {
			return fmt.Errorf("block %d is not what write %d has left: it starts with % x", at, number, block[:headerBytes])
		}
	}
	return nil
}

// Check says what is impossible in a plan.
func (p Plan) Check() error {
	if p.Blocks < MaxRunBytes/BlockBytes || p.Writes < 0 {
		return errors.New("the disk is too small for the longest write")
	}
	return nil
}
