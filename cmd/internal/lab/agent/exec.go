package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// dialTimeout ends an attempt to connect that nothing answers.
const dialTimeout = 60 * time.Second

// command is one that is running; terminal is nil without a TTY.
type command struct {
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	terminal *os.File
	outputs  []output
}

// output is a pipe or terminal to be copied to the client.
type output struct {
	kind Kind
	r    io.ReadCloser
}

// exec runs a command and reports its exit, which comes after all output: like
// a shell's pipe, a background child that keeps the output open is waited for.
func (s *Server) exec(st *yamux.Stream, req Request) error {
	c, err := newCommand(req)
	if err != nil {
		return err
	}
	if err := s.start(c); err != nil {
		c.close()
		return err
	}
	pid := c.cmd.Process.Pid
	if err := writeJSON(st, KindReply, Reply{PID: pid}); err != nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	w := LockedWriter(st)
	go s.feed(c, st, pid)
	var copies sync.WaitGroup
	for _, o := range c.outputs {
		copies.Go(func() {
			_ = copyToFrames(w, o.kind, o.r)
			o.r.Close()
		})
	}
	copies.Wait()
	exit := exitOf(c.cmd.Wait())
	s.forget(pid)
	c.close()
	return writeJSON(st, KindExit, exit)
}

func (s *Server) start(c *command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := c.cmd.Start(); err != nil {
		return err
	}
	s.commands[c.cmd.Process.Pid] = c
	closeAll(c.childFiles())
	return nil
}

func (s *Server) forget(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.commands, pid)
}

// newCommand prepares a command with its pipes, or its terminal.
func newCommand(req Request) (*command, error) {
	if len(req.Args) == 0 {
		return nil, errors.New("no command given")
	}
	cmd := exec.Command(req.Args[0], req.Args[1:]...)
	cmd.Env = append(os.Environ(), req.Env...)
	cmd.Dir = req.Dir
	if req.TTY {
		return newTerminalCommand(cmd, req)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		closeAll([]*os.File{inR, inW})
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		closeAll([]*os.File{inR, inW, outR, outW})
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	return &command{cmd: cmd, stdin: inW, outputs: []output{{KindData, outR}, {KindStderr, errR}}}, nil
}

func newTerminalCommand(cmd *exec.Cmd, req Request) (*command, error) {
	near, far, err := openTerminal(req.Rows, req.Cols)
	if err != nil {
		return nil, fmt.Errorf("opening a terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	return &command{
		cmd: cmd, terminal: near, stdin: terminalInput{near},
		outputs: []output{{KindData, terminalOutput{near}}},
	}, nil
}

// childFiles are the ends that belong to the command.
func (c *command) childFiles() []*os.File {
	var files []*os.File
	for _, v := range []any{c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr} {
		if f, ok := v.(*os.File); ok {
			files = append(files, f)
		}
	}
	return files
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() // one file may stand for three: closing it again is harmless
	}
}

func (c *command) close() {
	closeAll(c.childFiles())
	c.stdin.Close()
	for _, o := range c.outputs {
		o.r.Close()
	}
	if c.terminal != nil {
		c.terminal.Close()
	}
}

// feed passes the client's input on. A stream that closes without KindEnd means
// that the client gave up.
func (s *Server) feed(c *command, st *yamux.Stream, pid int) {
	conn := &frameConn{st: st}
	buf := make([]byte, maxDataBytes)
	dead := false
	for {
		n, err := conn.Read(buf)
		if n > 0 && !dead {
			_, werr := c.stdin.Write(buf[:n])
			dead = werr != nil // the command doesn't read any more: let the rest go by
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			c.stdin.Close()
			s.awaitGiveUp(st, pid)
			return
		}
		if err != nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			giveUp(st)
			return
		}
	}
}

// awaitGiveUp watches the stream after the end of input: the client sends
// nothing more, so that whatever ends this read is its close, or our own.
func (s *Server) awaitGiveUp(st *yamux.Stream, pid int) {
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return
	}
	if _, err := s.running(pid); err == nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		giveUp(st)
	}
}

func exitOf(err error) Exit {
	if err == nil {
		return Exit{}
	}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return Exit{Signal: int(ws.Signal())}
		}
		return Exit{Code: ee.ExitCode()}
	}
	return Exit{Code: 255}
}

func (s *Server) running(pid int) (*command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.commands[pid]
	if !ok {
		return nil, fmt.Errorf("no command with process id %d is running", pid)
	}
	return c, nil
}

func (s *Server) signal(st *yamux.Stream, req Request) error {
	if _, err := s.running(req.PID); err != nil {
		return err
	}
	if err := syscall.Kill(-req.PID, syscall.Signal(req.Signal)); err != nil {
		return err
	}
	return writeJSON(st, KindReply, Reply{})
}

func (s *Server) resize(st *yamux.Stream, req Request) error {
	c, err := s.running(req.PID)
	if err != nil {
		return err
	}
	if c.terminal == nil {
		return fmt.Errorf("process %d has no terminal", req.PID)
	}
	if err := setTerminalSize(c.terminal, req.Rows, req.Cols); err != nil {
		return err
	}
	return writeJSON(st, KindReply, Reply{})
}
