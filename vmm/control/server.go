package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"tandem/vmm/protect"
)

// Bounds of what whoever connects can take up.
const (
	// MaxConnections is how many connections are served at the same time; one more is closed at once.
	MaxConnections = 16
	// DefaultTimeout is how long a client may take for its next request, and to read an answer.
	DefaultTimeout = 10 * time.Second
)

// Handler does what requests ask for. Its methods must not wait for long, and are called from several goroutines.
type Handler interface {
	Status() protect.Status
	Protect(address string) error
	// Stop begins the orderly end of this host's part, and does not wait for it.
	Stop()
}

// Server serves a socket.
type Server struct {
	listener *socket
	handler  Handler
	log      *slog.Logger
	timeout  time.Duration
	done     sync.WaitGroup

	mu          sync.Mutex
	connections map[net.Conn]struct{} // Invariant: len(connections) <= MaxConnections
	closed      bool
}

// Serve makes a socket at a path, in a folder that exists, and serves it until Close. timeout is how long a client may take;
// 0 stands for DefaultTimeout.
func Serve(path string, handler Handler, log *slog.Logger, timeout time.Duration) (*Server, error) {
	listener, err := listen(path)
	if err != nil {
		return nil, err
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	s := &Server{listener: listener, handler: handler, log: log, timeout: timeout, connections: map[net.Conn]struct{}{}}
	s.done.Add(1)
	go s.accept()
	return s, nil
}

// Close removes the socket and ends all connections.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.connections {
		_ = c.Close()
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.done.Wait()
	return err
}

// acceptPause keeps a host that has no file descriptors left from spinning.
const acceptPause = 100 * time.Millisecond

func (s *Server) accept() {
	defer s.done.Done()
	for {
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.log.Warn("the control socket takes no connection", "cause", err)
			time.Sleep(acceptPause)
		case !s.enter(c):
			_ = c.Close()
		}
	}
}

// enter starts to serve a connection, if there is room for it.
func (s *Server) enter(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.connections) == MaxConnections {
		return false
	}
	s.connections[c] = struct{}{}
	s.done.Add(1)
	go s.serve(c)
	return true
}

func (s *Server) serve(c net.Conn) {
	defer s.done.Done()
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.connections, c)
		s.mu.Unlock()
	}()
	in := bufio.NewReaderSize(c, MaxRequestBytes)
	for {
		_ = c.SetDeadline(time.Now().Add(s.timeout))
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			_ = s.send(c, Answer{Error: fmt.Sprintf("a request has at most %d bytes", MaxRequestBytes)})
			return
		}
		if err != nil {
			return // the client has gone, or was too slow
		}
		if s.send(c, s.answer(line[:len(line)-1])) != nil {
			return
		}
	}
}

// answer does what a line asks for.
func (s *Server) answer(line []byte) Answer {
	r, err := DecodeRequest(line)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	switch r.Verb {
	case VerbStatus:
		status := s.handler.Status()
		return Answer{Status: &status}
	case VerbProtect:
		if err := s.handler.Protect(r.Address); err != nil {
			return Answer{Error: oneLine(err.Error())}
		}
	case VerbStop:
		s.log.Info("stop was asked for at the control socket")
		s.handler.Stop()
	}
	return Answer{}
}

func (s *Server) send(c net.Conn, a Answer) error {
	a.Version = Version
	line, err := json.Marshal(a)
	if err == nil && len(line) >= MaxAnswerBytes {
		err = fmt.Errorf("an answer of %d bytes is too long", len(line))
	}
	if err != nil {
		s.log.Error("the control socket can't answer", "cause", err)
		return err
	}
	_ = c.SetDeadline(time.Now().Add(s.timeout))
	_, err = c.Write(append(line, '\n'))
	return err
}
