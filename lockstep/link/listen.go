package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Listener takes connections of peers that prove themselves, and refuses others.
type Listener struct {
	config   Config
	tcp      net.Listener
	ready    chan *Conn // unbuffered: who is not taken before his handshake's deadline is closed
	done     chan struct{}
	workers  sync.WaitGroup
	refusals *refusals

	// mu guards what follows.
	mu      sync.Mutex
	pending []*candidate // Invariant: at most MaxPending, oldest first
	closed  bool
	failure error // of accepting
}

// candidate is a connection that has not proved itself.
type candidate struct {
	conn    *boundedConn
	evicted atomic.Bool
}

// Listen opens a TCP address ("host:port"; port 0 takes any) for peers.
func Listen(ctx context.Context, address string, config Config) (*Listener, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	l := &Listener{config: config, tcp: tcp, ready: make(chan *Conn), done: make(chan struct{}),
		refusals: newRefusals(config.Log, time.Now)}
	l.workers.Add(1)
	go l.run()
	return l, nil
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Refused counts the connections that were refused.
func (l *Listener) Refused() uint64 { return l.refusals.count() }

// Accept waits for a peer that has proved itself.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.failure != nil {
			return nil, fmt.Errorf("link: %w", l.failure)
		}
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Close stops listening and ends the handshakes under way. Accepted connections stay.
func (l *Listener) Close() error {
	err := l.stop(nil)
	l.workers.Wait()
	return err
}

func (l *Listener) stop(failure error) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed, l.failure = true, failure
	for _, c := range l.pending {
		c.conn.Close()
	}
	l.mu.Unlock()
	close(l.done)
	return l.tcp.Close()
}

// run accepts until the listener is closed. A passing failure, as of too many open files, is waited out.
func (l *Listener) run() {
	defer l.workers.Done()
	for wait := 5 * time.Millisecond; ; {
		raw, err := l.tcp.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			l.admit(raw)
			continue
		}
		select {
		case <-l.done:
			return
		case <-time.After(wait):
		}
		if wait *= 2; wait > 5*time.Second {
			l.stop(err)
			return
		}
	}
}

// admit starts a connection's handshake. If too many are under way the oldest ends: a peer proves itself within
// milliseconds, so it is hardly ever the oldest, while someone who holds connections open always is.
func (l *Listener) admit(raw net.Conn) {
	c := &candidate{conn: &boundedConn{Conn: raw}}
	c.conn.remaining.Store(MaxHandshakeBytes)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		raw.Close()
		return
	}
	if len(l.pending) == MaxPending {
		oldest := l.pending[0]
		oldest.evicted.Store(true)
		oldest.conn.Close()
		l.pending = l.pending[1:]
	}
	l.pending = append(l.pending, c)
	l.workers.Add(1)
	go l.examine(c)
}

func (l *Listener) forget(c *candidate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.pending {
		if p == c {
			l.pending = append(l.pending[:i:i], l.pending[i+1:]...)
			return
		}
	}
}

// examine lets a candidate prove itself and hands it to Accept.
func (l *Listener) examine(c *candidate) {
	defer l.workers.Done()
	conn, err := l.handshake(c)
	l.forget(c)
	if err != nil {
		c.conn.Close()
		if c.evicted.Load() {
			err = ErrEvicted
		}
		if !l.isClosed() {
			l.refusals.add(c.conn.RemoteAddr(), named(err))
		}
		return
	}
	// A proved peer waits for Accept no longer than a handshake may take: its key keeps it from being a stranger, not
	// from dialing without end.
	timeout := time.NewTimer(l.config.HandshakeTimeout)
	defer timeout.Stop()
	select {
	case l.ready <- conn:
	case <-l.done:
		conn.Close()
	case <-timeout.C:
		conn.Close()
		l.config.Log.Warn("a peer was not needed", "peer", conn.peer.Name, "address", conn.RemoteAddr().String())
	}
}

func (l *Listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *Listener) handshake(c *candidate) (*Conn, error) {
	deadline := time.Now().Add(l.config.HandshakeTimeout)
	if err := c.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	var version error
	config := l.config.tls()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		version = l.config.offered(hello.SupportedProtos)
		return nil, nil // TLS refuses it with the alert made for that
	}
	t := tls.Server(c.conn, config)
	if err := t.Handshake(); err != nil {
		if version != nil {
			return nil, version
		}
		return nil, err
	}
	c.conn.proved.Store(true)
	conn := newConn(l.config, t, false)
	if err := conn.send(kindOwn, nil); err != nil {
		return nil, err
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	return conn, c.conn.SetReadDeadline(time.Time{})
}

// boundedConn ends a connection that sends too much before it has proved itself.
type boundedConn struct {
	net.Conn
	remaining atomic.Int64 // bytes; belongs to the handshake until proved
	proved    atomic.Bool
}

func (b *boundedConn) Read(p []byte) (int, error) {
	if b.proved.Load() {
		return b.Conn.Read(p)
	}
	left := b.remaining.Load()
	if left <= 0 {
		return 0, ErrHandshakeBytes
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := b.Conn.Read(p)
	b.remaining.Add(-int64(n))
	return n, err
}
