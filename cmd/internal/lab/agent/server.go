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

// Server carries out requests in the host it runs in.
type Server struct {
	// Hello is sent first; Protocol is filled in.
	Hello Hello
	// PowerOff switches the host off; nil refuses.
	PowerOff func() error

	mu       sync.Mutex
	commands map[int]*command // by process id, which the command's group has too
}

// Serve answers requests on conn until it breaks, then kills what is running.
func (s *Server) Serve(conn io.ReadWriteCloser) error {
	s.mu.Lock()
	s.commands = map[int]*command{}
	s.mu.Unlock()
	hello := s.Hello
	hello.Protocol = ProtocolVersion
	if err := writeJSON(conn, KindReply, hello); err != nil {
		return fmt.Errorf("sending hello: %w", err)
	}
	session, err := yamux.Server(conn, sessionConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var requests sync.WaitGroup
	defer requests.Wait()
	defer s.killAll()
	defer cancel()
	defer session.Close()
	for {
		st, err := session.AcceptStream()
		if connectionEnded(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting a request: %w", err)
		}
		requests.Go(func() { s.serveStream(ctx, st) })
	}
}

func connectionEnded(err error) bool {
	for _, end := range []error{io.EOF, yamux.ErrSessionShutdown, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// killAll ends every command, and the wait for output that a child which left
// the command's group keeps open.
func (s *Server) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, c := range s.commands {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		for _, o := range c.outputs {
			o.r.Close()
		}
	}
}

func (s *Server) serveStream(ctx context.Context, st *yamux.Stream) {
	defer st.Close()
	k, b, err := ReadFrame(st)
	if err != nil {
		return
	}
	var req Request
	switch {
	case k != KindRequest:
		err = fmt.Errorf("a stream must open with a request, not with a frame of kind %d", k)
	default:
		err = json.Unmarshal(b, &req)
	}
	if err == nil {
		err = s.handle(ctx, st, req)
	}
	if err != nil {
		_ = WriteFrame(st, KindError, []byte(err.Error()))
	}
}

// handle carries out one request; an error it returns is sent to the client.
func (s *Server) handle(ctx context.Context, st *yamux.Stream, req Request) error {
	switch req.Op {
	case OpExec:
		return s.exec(st, req)
	case OpPut:
		return put(st, req)
	case OpGet:
		return get(st, req)
	case OpDial:
		return dial(ctx, st, req)
	case OpShare:
		return share(ctx, st, req)
	case OpSignal:
		return s.signal(st, req)
	case OpResize:
		return s.resize(st, req)
	case OpPowerOff:
		return s.powerOff(st)
	}
	return fmt.Errorf("unknown request %q", req.Op)
}

func (s *Server) powerOff(st *yamux.Stream) error {
	if s.PowerOff == nil {
		return errors.New("this agent can't switch its host off")
	}
	if err := writeJSON(st, KindReply, Reply{}); err != nil {
		return err
	}
	return s.PowerOff()
}

func put(st *yamux.Stream, req Request) error {
	src := &frameConn{st: st}
	if err := os.MkdirAll(filepath.Dir(req.Path), 0o755); err != nil {
		return err
	}
	if info, err := os.Stat(req.Path); err == nil && !info.Mode().IsRegular() {
		return putInPlace(st, src, req, info)
	}
	tmp, err := os.CreateTemp(filepath.Dir(req.Path), ".put-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing left to remove
	_, err = io.Copy(tmp, src)
	if err == nil {
		err = tmp.Chmod(fs.FileMode(req.Mode).Perm())
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), req.Path)
	}
	if err != nil {
		return err
	}
	return writeJSON(st, KindReply, Reply{})
}

// putInPlace writes to what can't be replaced by a rename, such as a device.
func putInPlace(st *yamux.Stream, src io.Reader, req Request, info fs.FileInfo) error {
	if info.IsDir() {
		return fmt.Errorf("%s is a folder", req.Path)
	}
	f, err := os.OpenFile(req.Path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, src)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return writeJSON(st, KindReply, Reply{})
}

func get(st *yamux.Stream, req Request) error {
	f, err := os.Open(req.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("%s is a folder", req.Path)
	}
	if err := writeJSON(st, KindReply, Reply{Mode: permissions(info.Mode()), Size: info.Size()}); err != nil {
		return err
	}
	if err := copyToFrames(st, KindData, f); err != nil {
		return err
	}
	return WriteFrame(st, KindEnd, nil)
}

// dial joins the stream with a new connection until both directions ended, or
// the client gave up.
func dial(ctx context.Context, st *yamux.Stream, req Request) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, req.Network, req.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := writeJSON(st, KindReply, Reply{}); err != nil {
		return err
	}
	near := &frameConn{st: st}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, near)
		if err != nil {
			giveUp(st)
			conn.Close()
		} else if cw, ok := conn.(interface{ CloseWrite() error }); ok {
			err = cw.CloseWrite()
		}
		sent <- err
	}()
	if err := copyToFrames(st, KindData, conn); err != nil {
		return err // the deferred closes end the other direction
	}
	if err := near.CloseWrite(); err != nil {
		return nil
	}
	<-sent
	return nil
}
