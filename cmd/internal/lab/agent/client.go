package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hashicorp/yamux"
)

// Client is the near end of a connection to a host's agent.
type Client struct {
	hello   Hello
	session *yamux.Session
}

// Connect waits for the server's Hello on conn and returns a client. It blocks
// until the Hello comes or conn fails; close conn to give up.
func Connect(conn io.ReadWriteCloser) (*Client, error) {
	k, b, err := ReadFrame(conn)
	if err != nil {
		return nil, fmt.Errorf("waiting for the agent's hello: %w", err)
	}
	if k != KindReply {
		return nil, fmt.Errorf("waiting for the agent's hello: got a frame of kind %d", k)
	}
	var h Hello
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, fmt.Errorf("reading the agent's hello: %w", err)
	}
	if h.Protocol != ProtocolVersion {
		return nil, fmt.Errorf("the agent speaks protocol %d, this program %d: rebuild both from one source", h.Protocol, ProtocolVersion)
	}
	s, err := yamux.Client(conn, sessionConfig())
	if err != nil {
		return nil, err
	}
	return &Client{hello: h, session: s}, nil
}

// Hello is what the host said of itself.
func (c *Client) Hello() Hello { return c.hello }

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.session.CloseChan() }

// Close ends the connection; what runs in the host is left to the server,
// which kills the commands of its streams.
func (c *Client) Close() error { return c.session.Close() }

// open starts a request and returns its stream, which is closed when ctx ends
// before stop is called.
func (c *Client) open(ctx context.Context, req Request) (st *yamux.Stream, stop func() bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	st, err = c.session.OpenStream()
	if err != nil {
		return nil, nil, fmt.Errorf("agent of %s is gone: %w", c.hello.Hostname, err)
	}
	stop = context.AfterFunc(ctx, func() { giveUp(st) })
	if err := writeJSON(st, KindRequest, req); err != nil {
		stop()
		st.Close()
		return nil, nil, ctxError(ctx, err)
	}
	return st, stop, nil
}

// giveUp closes a stream and frees whoever waits on it: yamux's Close alone
// leaves a reader waiting for the far end.
func giveUp(st *yamux.Stream) {
	st.Close()
	st.SetDeadline(past)
}

func ctxError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readReply reads the frame that answers a request.
func readReply(r io.Reader) (Reply, error) {
	k, b, err := ReadFrame(r)
	if err != nil {
		return Reply{}, noEOF(err)
	}
	switch k {
	case KindReply:
		var rep Reply
		err := json.Unmarshal(b, &rep)
		return rep, err
	case KindError:
		return Reply{}, &RemoteError{string(b)}
	}
	return Reply{}, fmt.Errorf("expected a reply, got a frame of kind %d", k)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the agent ended the stream: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// call makes a request that is answered by a Reply alone.
func (c *Client) call(ctx context.Context, req Request) error {
	st, stop, err := c.open(ctx, req)
	if err != nil {
		return err
	}
	defer stop()
	defer st.Close()
	_, err = readReply(st)
	return ctxError(ctx, err)
}

// PowerOff asks the host to switch itself off.
func (c *Client) PowerOff(ctx context.Context) error {
	return c.call(ctx, Request{Op: OpPowerOff})
}

// Put writes the bytes of r to path in the host, with permissions mode. Parent
// folders are made; the file replaces an older one at once and only when it is
// complete, so that a running program can be replaced.
func (c *Client) Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error {
	st, stop, err := c.open(ctx, Request{Op: OpPut, Path: path, Mode: permissions(mode)})
	if err != nil {
		return err
	}
	defer stop()
	defer st.Close()
	refused := make(chan error, 1)
	go func() { // beside the copy: a server that refuses doesn't read on
		_, err := readReply(st)
		if err != nil {
			st.SetWriteDeadline(past)
		}
		refused <- err
	}()
	if err = copyToFrames(st, KindData, r); err == nil {
		err = WriteFrame(st, KindEnd, nil)
	}
	var local *readError
	if errors.As(err, &local) {
		giveUp(st)
		return fmt.Errorf("put %s: %w", path, local.err)
	}
	if rerr := <-refused; rerr != nil {
		err = rerr // a write that failed is but its effect
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", path, ctxError(ctx, err))
	}
	return nil
}

// PutFile copies a file of this machine, or a folder with all in it, to path.
func (c *Client) PutFile(ctx context.Context, local, path string) error {
	return filepath.WalkDir(local, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(local, p)
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return c.Put(ctx, filepath.Join(path, rel), st.Mode(), f)
	})
}

// Get copies the file at path in the host to w and returns its permissions.
func (c *Client) Get(ctx context.Context, path string, w io.Writer) (fs.FileMode, error) {
	st, stop, err := c.open(ctx, Request{Op: OpGet, Path: path})
	if err != nil {
		return 0, err
	}
	defer stop()
	defer st.Close()
	rep, err := readReply(st)
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", path, ctxError(ctx, err))
	}
	conn := &frameConn{st: st}
	if _, err := io.Copy(w, conn); err != nil {
		return 0, fmt.Errorf("get %s: %w", path, ctxError(ctx, err))
	}
	return fs.FileMode(rep.Mode).Perm(), nil
}

// GetFile copies the file at path in the host to a file of this machine, with
// its permissions. An older file is replaced only when the copy is complete.
func (c *Client) GetFile(ctx context.Context, path, local string) error {
	tmp, err := os.CreateTemp(filepath.Dir(local), ".get-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing left to remove
	mode, err := c.Get(ctx, path, tmp)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), local)
}

// DialContext opens a connection from inside the host: network is one of Go's
// ("tcp", "unix", ...), address is seen from there. The connection supports
// CloseWrite.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	st, stop, err := c.open(ctx, Request{Op: OpDial, Network: network, Address: address})
	if err != nil {
		return nil, err
	}
	_, err = readReply(st)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		st.Close()
		return nil, ctxError(ctx, err)
	}
	return &frameConn{st: st}, nil
}

// Share mounts a folder at path in the host, for as long as the connection
// lives. answer is called with one FUSE request at a time and writes what it
// answers to reply; 0 bytes are no answer.
func (c *Client) Share(ctx context.Context, path string, answer func(request, reply []byte) int) error {
	st, stop, err := c.open(ctx, Request{Op: OpShare, Path: path})
	if err != nil {
		return err
	}
	defer stop()
	if _, err = readReply(st); err != nil {
		st.Close()
		return ctxError(ctx, err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		defer giveUp(st)
		ended <- serveShare(st, ready, answer)
	}()
	select {
	case <-ready:
		return nil
	case err := <-ended:
		return ctxError(ctx, fmt.Errorf("sharing a folder: %w", err))
	}
}

// serveShare answers until the connection ends, and closes ready on the way.
func serveShare(st io.ReadWriter, ready chan<- struct{}, answer func(request, reply []byte) int) error {
	reply := make([]byte, maxDataBytes)
	for {
		k, b, err := ReadFrame(st)
		if err != nil {
			return err
		}
		switch {
		case k == KindError:
			return &RemoteError{string(b)}
		case k == KindEnd && ready != nil:
			close(ready)
			ready = nil
			continue
		case k != KindData:
			return fmt.Errorf("unexpected frame of kind %d from a shared folder", k)
		}
		n := answer(b, reply)
		if n == 0 {
			continue
		}
		if err := WriteFrame(st, KindData, reply[:n]); err != nil {
			return err
		}
	}
}

// Cmd is a command to be run in the host. Nil streams are empty or discarded.
type Cmd struct {
	Args   []string // program first, looked up in the host's PATH
	Env    []string // "K=V", added to the host's
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// TTY gives the command a terminal of Rows × Cols characters; its output
	// all goes to Stdout then.
	TTY        bool
	Rows, Cols uint16
}

// Process is a running command.
type Process struct {
	c    *Client
	pid  int
	done chan struct{}
	err  error // valid when done is closed
}

// Start runs a command. When ctx ends before it, the command and all of its
// process group is killed.
func (c *Client) Start(ctx context.Context, cmd Cmd) (*Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("no command given")
	}
	st, stop, err := c.open(ctx, Request{
		Op: OpExec, Args: cmd.Args, Env: cmd.Env, Dir: cmd.Dir,
		TTY: cmd.TTY, Rows: cmd.Rows, Cols: cmd.Cols,
	})
	if err != nil {
		return nil, err
	}
	rep, err := readReply(st)
	if err != nil {
		stop()
		st.Close()
		return nil, fmt.Errorf("%s: %w", cmd.Args[0], ctxError(ctx, err))
	}
	p := &Process{c: c, pid: rep.PID, done: make(chan struct{})}
	// Closing the stream alone would be seen late by a server that is busy
	// feeding a command that doesn't read.
	stopKill := context.AfterFunc(ctx, func() { _ = p.Signal(context.Background(), syscall.SIGKILL) })
	go sendStdin(st, cmd.Stdin)
	go func() {
		defer close(p.done)
		defer st.Close()
		defer stop()
		defer stopKill()
		p.err = ctxError(ctx, receive(st, cmd))
	}()
	return p, nil
}

// Run runs a command to its end. The error is an *ExitError if it ran but
// failed.
func (c *Client) Run(ctx context.Context, cmd Cmd) error {
	p, err := c.Start(ctx, cmd)
	if err != nil {
		return err
	}
	return p.Wait()
}

// sendStdin isn't waited for: a reader such as a terminal may never return.
func sendStdin(w io.Writer, r io.Reader) {
	if r != nil && copyToFrames(w, KindData, r) != nil {
		return // the command is gone, or r failed: then leave stdin open
	}
	_ = WriteFrame(w, KindEnd, nil)
}

// receive copies a command's output until its exit.
func receive(r io.Reader, cmd Cmd) error {
	for {
		k, b, err := ReadFrame(r)
		if err != nil {
			return noEOF(err)
		}
		switch k {
		case KindData:
			err = deliver(cmd.Stdout, b)
		case KindStderr:
			err = deliver(cmd.Stderr, b)
		case KindError:
			err = &RemoteError{string(b)}
		case KindExit:
			var e Exit
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			if e.Code != 0 || e.Signal != 0 {
				return &ExitError{e}
			}
			return nil
		default:
			err = fmt.Errorf("unexpected frame of kind %d in a command's output", k)
		}
		if err != nil {
			return err
		}
	}
}

func deliver(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// PID is the command's process id in the host.
func (p *Process) PID() int { return p.pid }

// Done is closed when the command has ended and its output is delivered.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns nil for exit status 0, an *ExitError for another.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the command's process group.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	return p.c.call(ctx, Request{Op: OpSignal, PID: p.pid, Signal: int(sig)})
}

// Resize changes the size of the command's terminal.
func (p *Process) Resize(ctx context.Context, rows, cols uint16) error {
	return p.c.call(ctx, Request{Op: OpResize, PID: p.pid, Rows: rows, Cols: cols})
}

// LockedWriter lets stdout and stderr share one writer.
func LockedWriter(w io.Writer) io.Writer { return &lockedWriter{w: w} }

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
