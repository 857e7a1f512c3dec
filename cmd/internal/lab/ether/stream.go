package ether

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ReadStreamFrame reads a frame as QEMU's "-netdev stream" sends it: length (4
// bytes, big-endian), then the frame. io.EOF means an end between frames.
func ReadStreamFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrameBytes {
		return nil, fmt.Errorf("a network stream says a frame of %d bytes, %d are allowed", n, MaxFrameBytes)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return b, nil
}

// WriteStreamFrame writes a frame as ReadStreamFrame reads it, in one Write.
func WriteStreamFrame(w io.Writer, frame []byte) error {
	b := make([]byte, 4, 4+len(frame))
	binary.BigEndian.PutUint32(b, uint32(len(frame)))
	_, err := w.Write(append(b, frame...))
	return err
}

// Plug joins a port with a stream of frames, such as a QEMU network card's,
// until either ends. It takes both over and closes them.
func Plug(p *Port, conn io.ReadWriteCloser) {
	go func() {
		defer p.Close()
		defer conn.Close()
		r := bufio.NewReaderSize(conn, MaxFrameBytes)
		for {
			f, err := ReadStreamFrame(r)
			if err != nil || p.WriteFrame(f) != nil {
				return
			}
		}
	}()
	go func() {
		defer p.Close()
		defer conn.Close()
		for {
			f, err := p.ReadFrame()
			if err != nil || WriteStreamFrame(conn, f) != nil {
				return
			}
		}
	}()
}
