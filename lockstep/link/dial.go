package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// Dial connects to a peer that listens on a TCP address. When it returns, both have accepted each other's keys. It gives
// up at the context's end or after the handshake timeout, whichever is first.
func Dial(ctx context.Context, address string, config Config) (*Conn, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, config.HandshakeTimeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	c, err := greet(ctx, raw, config)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("link: %s: %w", address, named(err))
	}
	return c, nil
}

// greet makes a dialer's handshake on a fresh connection, up to the listener's first frame.
func greet(ctx context.Context, raw net.Conn, config Config) (*Conn, error) {
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	bounded := &boundedConn{Conn: raw}
	bounded.remaining.Store(MaxHandshakeBytes)
	t := tls.Client(bounded, config.tls())
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	// Only the peer's accepted key gives it more room.
	bounded.proved.Store(true)
	waiting := config
	waiting.ReadTimeout = 0
	c := newConn(waiting, t, true)
	kind, payload, err := c.reader.next()
	if err != nil {
		return nil, err
	}
	if kind != kindOwn || len(payload) != 0 {
		return nil, fmt.Errorf("%w: its first frame has kind %d and %d bytes", ErrNotTandem, kind, len(payload))
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c.config = config
	c.reader.r.(*streamReader).timeout = config.ReadTimeout
	return c, nil
}
