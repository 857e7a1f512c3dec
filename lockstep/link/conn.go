package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// batchBytes is how much Send gathers before it writes without being told to.
const batchBytes = 64 << 10

// Conn is an established, authenticated connection.
type Conn struct {
	config  Config
	tls     *tls.Conn
	peer    Peer
	dialer  bool
	reader  frameReader // of the receiving goroutine
	closed  atomic.Bool
	beating atomic.Bool // OpenHeartbeat was called: keys must not start twice

	received, sent, flushes atomic.Uint64 // frames, frames, writes

	// writing guards what follows. It is held while the kernel takes bytes, so a Send may wait for another's Flush.
	writing  sync.Mutex
	batch    []byte
	sequence uint64 // of the last frame in or before the batch
	err      error  // Invariant: once set, nothing is written: TLS can't go on after half a record
}

func newConn(config Config, t *tls.Conn, dialer bool) *Conn {
	c := &Conn{config: config, tls: t, dialer: dialer, peer: peerOf(certificateOf(t.ConnectionState()))}
	limitUnsent(t.NetConn())
	c.reader = frameReader{r: &streamReader{conn: t, timeout: config.ReadTimeout}, maxPayload: config.MaxPayloadBytes}
	return c
}

// unsentBytes bounds what waits in the kernel's queue and is not on the network yet. Where there is more to send than the
// network takes, what is urgent, a heartbeat or what gates output, would wait behind all of it.
const unsentBytes = 128 << 10

// limitUnsent does so for a connection, if it is one of TCP.
func limitUnsent(conn net.Conn) {
	socket, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes) // without it there is more delay
	})
}

// streamReader gathers what the connection has, so that a frame's header and payload, and the frames behind it, cost one
// read. The deadline is set only when bytes are waited for.
type streamReader struct {
	conn    net.Conn
	timeout time.Duration
	buffer  [batchBytes]byte
	have    []byte
}

func (s *streamReader) Read(p []byte) (int, error) {
	if len(s.have) == 0 {
		if s.timeout > 0 {
			if err := s.conn.SetReadDeadline(time.Now().Add(s.timeout)); err != nil {
				return 0, err
			}
		}
		n, err := s.conn.Read(s.buffer[:])
		if n == 0 {
			return 0, err
		}
		s.have = s.buffer[:n] // an error comes again with the next read
	}
	n := copy(p, s.have)
	s.have = s.have[n:]
	return n, nil
}

// Peer tells who is at the other end.
func (c *Conn) Peer() Peer { return c.peer }

// LocalAddr and RemoteAddr are those of the TCP connection.
func (c *Conn) LocalAddr() net.Addr { return c.tls.LocalAddr() }

// RemoteAddr is the peer's end.
func (c *Conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// Stats counts since the connection began.
type Stats struct {
	FramesSent, FramesReceived uint64
	// Writes is how often a batch was handed to the kernel.
	Writes uint64
}

// Stats may be called from any goroutine.
func (c *Conn) Stats() Stats {
	return Stats{FramesSent: c.sent.Load(), FramesReceived: c.received.Load(), Writes: c.flushes.Load()}
}

// Send puts a message behind those not yet flushed. The payload is copied. It waits for the network only when the batch is
// full; an error means that the connection is over.
func (c *Conn) Send(kind uint8, payload []byte) error {
	if kind == kindOwn {
		panic("link: kind 0 is the link's own")
	}
	if len(payload) > c.config.MaxPayloadBytes {
		return fmt.Errorf("%w: %d bytes of kind %d, the bound is %d", ErrOversize, len(payload), kind, c.config.MaxPayloadBytes)
	}
	return c.send(kind, payload)
}

func (c *Conn) send(kind uint8, payload []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.err != nil {
		return c.err
	}
	c.sequence++
	c.batch = appendFrame(c.batch, kind, c.sequence, payload)
	c.sent.Add(1)
	if len(c.batch) < batchBytes {
		return nil
	}
	return c.write()
}

// Flush hands everything sent so far to the kernel, which puts it on the network at once. When it returns without an error
// the peer has not got it yet: only its answer says that.
func (c *Conn) Flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.err != nil || len(c.batch) == 0 {
		return c.err
	}
	return c.write()
}

// write sends the batch. The caller holds writing.
func (c *Conn) write() error {
	err := c.tls.SetWriteDeadline(time.Now().Add(c.config.WriteTimeout))
	if err == nil {
		_, err = c.tls.Write(c.batch)
		c.flushes.Add(1)
	}
	// A batch can be larger than batchBytes by one message; such a buffer is not kept.
	if c.batch = c.batch[:0]; cap(c.batch) > 4*batchBytes {
		c.batch = nil
	}
	if err != nil {
		c.err = c.ended("sending to", err)
		c.tls.NetConn().Close() // the receiving goroutine must not wait for a peer that takes nothing
	}
	return c.err
}

// Receive waits for the next message. The payload is valid until the next call. io.EOF says that the peer closed the link
// in order, io.ErrUnexpectedEOF that it ended without that.
func (c *Conn) Receive() (kind uint8, payload []byte, err error) {
	kind, payload, err = c.reader.next()
	switch {
	case err == io.EOF:
		// crypto/tls takes a connection's end for orderly where a record ends, alert or not. Anybody on the way can make one.
		err = io.ErrUnexpectedEOF
	case err == nil && kind == kindOwn && len(payload) != 0:
		err = fmt.Errorf("%w: frame %d has the link's own kind and %d bytes", ErrMalformed, c.reader.sequence, len(payload))
	case err == nil && kind == kindOwn:
		err = io.EOF
	}
	if err != nil {
		return 0, nil, c.ended("receiving from", err)
	}
	c.received.Add(1)
	return kind, payload, nil
}

// ended describes what ended the connection. The peer's orderly end stays a bare io.EOF.
func (c *Conn) ended(doing string, err error) error {
	switch {
	case c.closed.Load():
		return ErrClosed
	case err == io.EOF:
		return err
	}
	return fmt.Errorf("link: %s %s: %w", doing, c.peer.Name, err)
}

// farewellTimeout is how long Close may wait for the network to take what is left.
const farewellTimeout = time.Second

// Close flushes what the network takes at once, tells the peer that this is the end, and ends all calls on the connection.
// The peer's Receive returns io.EOF if the network still carries that.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	// A writer that holds the lock waits for a peer that takes nothing: there is nobody to tell.
	if c.writing.TryLock() {
		if c.err == nil {
			c.batch = appendFrame(c.batch, kindOwn, c.sequence+1, nil)
			c.config.WriteTimeout = min(c.config.WriteTimeout, farewellTimeout)
			c.write()
			c.err = ErrClosed
		}
		c.writing.Unlock()
	}
	err := c.tls.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
