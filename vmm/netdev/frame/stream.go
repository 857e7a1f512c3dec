package frame

import (
	"encoding/binary"
	"fmt"
	"io"
)

// lengthBytes is the length before each frame of a stream.
const lengthBytes = 4

// ReadStream reads the next frame of a stream and returns it as a packet with a header of zeros. io.EOF means that the
// stream ended between frames; a frame of an impossible length is an error, after which nothing can be read.
func ReadStream(r io.Reader) ([]byte, error) {
	var head [lengthBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < MinBytes || n > MaxBytes {
		return nil, fmt.Errorf("the other side announces a frame of %d bytes; frames have %d to %d", n, MinBytes, MaxBytes)
	}
	p := make([]byte, HeaderBytes+n)
	if _, err := io.ReadFull(r, p[HeaderBytes:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return p, nil
}

// WriteStream writes a packet's frame to a stream, in one Write. The header is lost.
func WriteStream(w io.Writer, packet []byte) error {
	// The length takes the place of the header's end, so that nothing is copied.
	at := HeaderBytes - lengthBytes
	binary.BigEndian.PutUint32(packet[at:], uint32(len(packet)-HeaderBytes))
	_, err := w.Write(packet[at:])
	return err
}
