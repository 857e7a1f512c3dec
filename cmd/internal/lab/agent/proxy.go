package agent

import (
	"errors"
	"io"

	"github.com/hashicorp/yamux"
)

// Proxy serves conn as if it were the host that c is connected to, so that
// another process can use it: each stream opened on conn is one opened on c.
// It returns when conn ends.
func Proxy(c *Client, conn io.ReadWriteCloser) error {
	if err := writeJSON(conn, KindReply, c.hello); err != nil {
		return err
	}
	session, err := yamux.Server(conn, sessionConfig())
	if err != nil {
		return err
	}
	defer session.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.Done(): // the host is dead: so is this, for those who wait
			session.Close()
		case <-stop:
		}
	}()
	for {
		near, err := session.AcceptStream()
		if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
			return nil
		}
		if err != nil {
			return err
		}
		far, err := c.session.OpenStream()
		if err != nil {
			return err
		}
		go relay(near, far)
	}
}

// relay copies both ways; the end of one direction closes that one alone.
func relay(near, far *yamux.Stream) {
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far)
		near.Close()
	}()
	_, _ = io.Copy(far, near)
	far.Close()
	<-back
}
