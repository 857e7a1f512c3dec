package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	requestBytes = 9
	chunkBytes   = 64 << 10
)

// What a client asks for.
const (
	wantSend    = 's' // the client sends, and gets one byte when all is there
	wantReceive = 'r' // the server sends
	wantTrips   = 't' // the server sends each byte back
)

func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := answer(c); err != nil {
				fmt.Printf("ioload: %v: %v\n", c.RemoteAddr(), err)
			}
		}()
	}
}

// answer does what one client asks for.
func answer(c net.Conn) error {
	var request [requestBytes]byte
	if _, err := io.ReadFull(c, request[:]); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint64(request[1:]))
	switch request[0] {
	case wantSend:
		if _, err := io.CopyN(io.Discard, c, n); err != nil {
			return err
		}
		_, err := c.Write([]byte{0})
		return err
	case wantReceive:
		return fill(c, n)
	case wantTrips:
		_, err := io.CopyN(c, c, n)
		return err
	}
	return fmt.Errorf("asks for %q", request[0])
}

// fill writes n bytes.
func fill(w io.Writer, n int64) error {
	chunk := make([]byte, chunkBytes)
	for n > 0 {
		k, err := w.Write(chunk[:min(n, chunkBytes)])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// connection is the client's side. The time begins when there is a connection.
func connection(what byte, address string, n int64) (time.Duration, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Write(binary.LittleEndian.AppendUint64([]byte{what}, uint64(n))); err != nil {
		return 0, err
	}
	var last [1]byte
	switch what {
	case wantSend:
		err = fill(c, n)
		if err == nil {
			_, err = io.ReadFull(c, last[:])
		}
	case wantReceive:
		_, err = io.CopyN(io.Discard, c, n)
	default:
		for ; n > 0 && err == nil; n-- {
			_, err = c.Write(last[:])
			if err == nil {
				_, err = io.ReadFull(c, last[:])
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return time.Since(start), err
}
