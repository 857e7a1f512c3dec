package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	headerSize = 20
	// DefaultMaxPayloadBytes bounds a message unless the configuration names another bound.
	DefaultMaxPayloadBytes = 1 << 20
	// HighestMaxPayloadBytes bounds what a configuration may name.
	HighestMaxPayloadBytes = 16 << 20

	// kindOwn is the link's own. As the listener's first frame it tells the dialer that its key was accepted: in TLS 1.3 the
	// dialer's handshake is complete before the listener has looked at its key. Later, from either, it says that the sender
	// has closed the link: the end of the stream alone doesn't, since anybody on the way can cut it. It is empty.
	kindOwn uint8 = 0
)

var (
	// ErrMalformed says that the peer sent what is no frame: an error of the program, since TLS keeps the network out.
	ErrMalformed = errors.New("malformed frame")
	// ErrOversize says that a message is longer than the bound.
	ErrOversize = errors.New("message over the size bound")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a frame's first bytes, decoded.
type header struct {
	length   uint32 // of the payload, in bytes
	kind     uint8
	sequence uint64
	checksum uint32
}

func appendFrame(dst []byte, kind uint8, sequence uint64, payload []byte) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = le.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, kind, 0, 0, 0)
	dst = le.AppendUint64(dst, sequence)
	dst = le.AppendUint32(dst, checksum(dst[start:], payload))
	return append(dst, payload...)
}

// checksum is that of the first 16 bytes of a header and its payload.
func checksum(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:16], castagnoli), castagnoli, payload)
}

// parseHeader decodes b, which has headerSize bytes, and checks what can be checked without the payload.
func parseHeader(b []byte, maxPayload int) (header, error) {
	le := binary.LittleEndian
	h := header{length: le.Uint32(b), kind: b[4], sequence: le.Uint64(b[8:]), checksum: le.Uint32(b[16:])}
	if b[5]|b[6]|b[7] != 0 {
		return h, fmt.Errorf("%w: reserved bytes are % x, not zero", ErrMalformed, b[5:8])
	}
	if int64(h.length) > int64(maxPayload) {
		return h, fmt.Errorf("%w: the peer announces %d bytes, the bound is %d", ErrOversize, h.length, maxPayload)
	}
	return h, nil
}

// frameReader takes frames from a stream. It belongs to one goroutine.
type frameReader struct {
	r          io.Reader
	maxPayload int
	sequence   uint64 // of the last frame
	head       [headerSize]byte
	payload    []byte
}

// next returns the next frame. The payload is valid until the next call. The end of the stream between two frames is
// io.EOF; within one it is io.ErrUnexpectedEOF.
func (f *frameReader) next() (kind uint8, payload []byte, err error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return 0, nil, err
	}
	h, err := parseHeader(f.head[:], f.maxPayload)
	if err != nil {
		return 0, nil, err
	}
	if h.sequence != f.sequence+1 {
		return 0, nil, fmt.Errorf("%w: frame %d follows frame %d", ErrMalformed, h.sequence, f.sequence)
	}
	if cap(f.payload) < int(h.length) {
		f.payload = make([]byte, h.length)
	}
	payload = f.payload[:h.length]
	if _, err := io.ReadFull(f.r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	if sum := checksum(f.head[:], payload); sum != h.checksum {
		return 0, nil, fmt.Errorf("%w: frame %d has checksum %08x, its bytes have %08x", ErrMalformed, h.sequence, h.checksum, sum)
	}
	f.sequence = h.sequence
	return h.kind, payload, nil
}
