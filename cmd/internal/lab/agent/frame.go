package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Kind is the kind of a frame. Numbers are never reused.
type Kind uint8

const (
	// KindRequest opens a stream: JSON of a Request, client to server.
	KindRequest Kind = 1
	// KindReply answers it: JSON of a Reply. A Hello travels in one as well.
	KindReply Kind = 2
	// KindData carries bytes: standard input and output, a file, a connection.
	KindData Kind = 3
	// KindStderr carries a command's standard error.
	KindStderr Kind = 4
	// KindEnd says that no more KindData comes in this direction. A stream that
	// closes without it was given up.
	KindEnd Kind = 5
	// KindExit ends a command: JSON of an Exit.
	KindExit Kind = 6
	// KindError ends a request that failed: the message, UTF-8.
	KindError Kind = 7
)

const (
	frameHeaderBytes = 5
	// maxDataBytes bounds the payload of data frames.
	maxDataBytes = 64 << 10
	// maxControlBytes bounds the payload of all others: a request holds a
	// command's arguments and environment.
	maxControlBytes = 1 << 20
)

// limit is the largest payload of a kind, or an error for an unknown one.
func (k Kind) limit() (uint32, error) {
	switch k {
	case KindData, KindStderr:
		return maxDataBytes, nil
	case KindRequest, KindReply, KindExit, KindError:
		return maxControlBytes, nil
	case KindEnd:
		return 0, nil
	}
	return 0, fmt.Errorf("unknown frame kind %d", uint8(k))
}

// parseHeader decodes kind (1 byte) and payload length (4 bytes, big-endian).
func parseHeader(h [frameHeaderBytes]byte) (Kind, uint32, error) {
	k, n := Kind(h[0]), binary.BigEndian.Uint32(h[1:])
	limit, err := k.limit()
	if err != nil {
		return 0, 0, err
	}
	if n > limit {
		return 0, 0, fmt.Errorf("frame of kind %d says %d bytes, %d are allowed", h[0], n, limit)
	}
	return k, n, nil
}

// ReadFrame reads one frame. io.EOF means that the stream ended between frames.
func ReadFrame(r io.Reader) (Kind, []byte, error) {
	var h [frameHeaderBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	k, n, err := parseHeader(h)
	if err != nil || n == 0 {
		return k, nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return k, b, nil
}

// WriteFrame writes one frame in a single Write.
func WriteFrame(w io.Writer, k Kind, payload []byte) error {
	limit, err := k.limit()
	if err != nil {
		return err
	}
	if len(payload) > int(limit) {
		return fmt.Errorf("a frame of kind %d holds %d bytes at most, not %d", k, limit, len(payload))
	}
	b := make([]byte, frameHeaderBytes, frameHeaderBytes+len(payload))
	b[0] = byte(k)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	_, err = w.Write(append(b, payload...))
	return err
}

// writeJSON writes v as the payload of a frame.
func writeJSON[M message](w io.Writer, k Kind, v M) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteFrame(w, k, b)
}

// message is what travels as JSON.
type message interface{ Request | Reply | Exit | Hello }
