package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// CheckpointName returns the name of a checkpoint's file in the directory of a recording.
func CheckpointName(number uint64) string { return fmt.Sprintf("checkpoint-%06d", number) }

// ErrNoCheckpoint says that the bytes are not a checkpoint of this program.
var ErrNoCheckpoint = errors.New("this is not a Tandem checkpoint")

const checkpointPlaceSize = 40

// Checkpoint is what stands at the start of a checkpoint's file. A stream of pages follows, written without a shadow.
type Checkpoint struct {
	Header
	// Number is that of the log's KindCheckpoint.
	Number uint64
	// Base is where the log goes on.
	Base Base
}

// Append appends the checkpoint's bytes to dst.
func (c *Checkpoint) Append(dst []byte) ([]byte, error) {
	dst, err := c.append(dst, checkpointMagic)
	if err != nil {
		return dst, err
	}
	le := binary.LittleEndian
	start := len(dst)
	for _, v := range [4]uint64{c.Number, c.Base.Sequence, c.Base.Position, uint64(c.Base.Time)} {
		dst = le.AppendUint64(dst, v)
	}
	dst = le.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return le.AppendUint32(dst, 0), nil
}

// ReadCheckpoint reads the start of a checkpoint and no further.
func ReadCheckpoint(r io.Reader) (Checkpoint, error) {
	h, _, err := readHeader(r, checkpointMagic, ErrNoCheckpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	var p [checkpointPlaceSize]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return Checkpoint{}, torn("its header", err)
	}
	le := binary.LittleEndian
	c := Checkpoint{Header: h, Number: le.Uint64(p[:]), Base: Base{
		Sequence: le.Uint64(p[8:]), Position: le.Uint64(p[16:]), Time: int64(le.Uint64(p[24:]))}}
	sum := crc32.Checksum(p[:32], castagnoli)
	if stored := le.Uint32(p[32:]); stored != sum || le.Uint32(p[36:]) != 0 || c.Base.Sequence == 0 || c.Base.Time < 0 {
		return Checkpoint{}, malformed("its header is damaged: checksum %08x of bytes that have %08x", stored, sum)
	}
	return c, nil
}
