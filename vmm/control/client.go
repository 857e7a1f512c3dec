package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"tandem/vmm/protect"
)

// ErrNobody says that no tandem listens at a socket.
var ErrNobody = errors.New("no tandem listens there: is the guest running, and is this its socket?")

// Client is a connection to a socket.
type Client struct {
	connection net.Conn
	in         *bufio.Reader
	timeout    time.Duration
}

// Dial connects to a socket. timeout bounds each request; 0 stands for DefaultTimeout. Errors are one line for the user.
func Dial(ctx context.Context, path string, timeout time.Duration) (*Client, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTSOCK):
		return nil, fmt.Errorf("%s: %w", path, ErrNobody)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s belongs to another user: ask as that user, or as root", path)
	case err != nil:
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &Client{connection: c, in: bufio.NewReader(c), timeout: timeout}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.connection.Close() }

// Status asks how the pair is.
func (c *Client) Status() (*protect.Status, error) {
	a, err := c.ask(Request{Verb: VerbStatus})
	if err != nil {
		return nil, err
	}
	if a.Status == nil {
		return nil, errors.New("the guest's tandem gave no status: use the same version on both sides")
	}
	return a.Status, nil
}

// Protect gives the guest a backup at a TCP address.
func (c *Client) Protect(address string) error {
	_, err := c.ask(Request{Verb: VerbProtect, Address: address})
	return err
}

// Stop asks for the orderly end of that host's part. It does not wait for it.
func (c *Client) Stop() error {
	_, err := c.ask(Request{Verb: VerbStop})
	return err
}

// ask sends a request and returns its answer. What the server refuses is an error.
func (c *Client) ask(r Request) (Answer, error) {
	r.Version = Version
	line, err := json.Marshal(r)
	if err != nil {
		return Answer{}, err
	}
	if len(line) >= MaxRequestBytes {
		return Answer{}, fmt.Errorf("a request has at most %d bytes", MaxRequestBytes)
	}
	_ = c.connection.SetDeadline(time.Now().Add(c.timeout))
	if _, err := c.connection.Write(append(line, '\n')); err != nil {
		return Answer{}, broken(err)
	}
	if line, err = c.readLine(); err != nil {
		return Answer{}, broken(err)
	}
	a, err := DecodeAnswer(line)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// readLine reads up to a line's end, which is left out.
func (c *Client) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := c.in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxAnswerBytes:
			return nil, fmt.Errorf("its answer has more than %d bytes", MaxAnswerBytes)
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func broken(err error) error { return fmt.Errorf("the guest's tandem does not answer: %w", err) }
