package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// past is a deadline that has always expired.
var past = time.Unix(1, 0)

// sessionConfig is yamux's for both ends. A host under emulation may be slow,
// or be frozen by a test for as long as it likes: no timeout ends a session,
// only the death of the stream below it does.
func sessionConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 0
	c.ConnectionWriteTimeout = 24 * time.Hour
	c.MaxStreamWindowSize = streamWindowBytes
	c.LogOutput = io.Discard
	return c
}

// streamWindowBytes bounds what one end buffers for a stream.
const streamWindowBytes = 1 << 20

// readError is a failure of the source of a copy, not of the stream.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

// copyToFrames sends all of r in frames of kind k. A failure of r itself comes
// back as a *readError.
func copyToFrames(w io.Writer, k Kind, r io.Reader) error {
	buf := make([]byte, maxDataBytes)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if werr := WriteFrame(w, k, buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &readError{err}
		}
	}
}

// frameConn makes a net.Conn of a stream of KindData and KindEnd frames. A read
// that a deadline interrupts can be taken up again.
type frameConn struct {
	st *yamux.Stream

	readMu sync.Mutex
	head   [frameHeaderBytes]byte
	headN  int    // bytes of head that have come
	left   uint32 // payload bytes of the current data frame still to come
	ended  error  // io.EOF after KindEnd, or what broke the stream

	writeMu sync.Mutex
	broken  error // a write that failed half-way leaves no way to go on
}

func (c *frameConn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 {
		if c.ended != nil {
			return 0, c.ended
		}
		if err := c.nextFrame(); err != nil {
			return 0, err
		}
	}
	n, err := c.st.Read(p[:min(len(p), int(c.left))])
	c.left -= uint32(n)
	if n > 0 {
		return n, nil
	}
	return 0, noEOF(err)
}

// nextFrame reads a header. Only a failure of the protocol is remembered in
// ended; a deadline is not.
func (c *frameConn) nextFrame() error {
	for c.headN < len(c.head) {
		n, err := c.st.Read(c.head[c.headN:])
		c.headN += n
		if err != nil {
			return noEOF(err)
		}
	}
	c.headN = 0
	k, n, err := parseHeader(c.head)
	switch {
	case err != nil:
		c.ended = err
	case k == KindData:
		c.left = n
	case k == KindEnd:
		c.ended = io.EOF
	case k == KindError:
		b := make([]byte, n)
		if _, err := io.ReadFull(c.st, b); err != nil {
			return noEOF(err)
		}
		c.ended = &RemoteError{string(b)}
	default:
		c.ended = fmt.Errorf("unexpected frame of kind %d in a byte stream", k)
	}
	return nil
}

func (c *frameConn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for len(p) > 0 {
		if c.broken != nil {
			return written, c.broken
		}
		n := min(len(p), maxDataBytes)
		if err := WriteFrame(c.st, KindData, p[:n]); err != nil {
			c.broken = err
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// CloseWrite ends this direction; the other goes on.
func (c *frameConn) CloseWrite() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	c.broken = net.ErrClosed
	return WriteFrame(c.st, KindEnd, nil)
}

func (c *frameConn) Close() error {
	giveUp(c.st)
	return nil
}

func (c *frameConn) LocalAddr() net.Addr                { return c.st.LocalAddr() }
func (c *frameConn) RemoteAddr() net.Addr               { return c.st.RemoteAddr() }
func (c *frameConn) SetDeadline(t time.Time) error      { return c.st.SetDeadline(t) }
func (c *frameConn) SetReadDeadline(t time.Time) error  { return c.st.SetReadDeadline(t) }
func (c *frameConn) SetWriteDeadline(t time.Time) error { return c.st.SetWriteDeadline(t) }
