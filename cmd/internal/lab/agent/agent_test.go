package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// connect joins a client and a server on this machine.
func connect(t *testing.T, s *Server) *Client {
	t.Helper()
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- s.Serve(far) }()
	c, err := Connect(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return c
}

// deadline bounds a test that hangs.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestExec(t *testing.T) {
	c := connect(t, &Server{Hello: Hello{Hostname: "here"}})
	if c.Hello().Hostname != "here" || c.Hello().Protocol != ProtocolVersion {
		t.Errorf("hello is %+v", c.Hello())
	}
	big := strings.Repeat("0123456789abcdef", 20000) // several frames
	tests := []struct {
		name           string
		cmd            Cmd
		stdin          string
		stdout, stderr string
		code, signal   int
		err            string
	}{
		{name: "true", cmd: Cmd{Args: []string{"true"}}},
		{name: "both outputs", cmd: Cmd{Args: []string{"sh", "-c", "echo out; echo err >&2"}}, stdout: "out\n", stderr: "err\n"},
		{name: "status", cmd: Cmd{Args: []string{"sh", "-c", "exit 7"}}, code: 7},
		{name: "signal", cmd: Cmd{Args: []string{"sh", "-c", "kill -TERM $$"}}, signal: 15},
		{name: "stdin", cmd: Cmd{Args: []string{"cat"}}, stdin: big, stdout: big},
		{name: "stdin not read", cmd: Cmd{Args: []string{"true"}}, stdin: big},
		{name: "environment and folder", cmd: Cmd{Args: []string{"sh", "-c", "echo $V; pwd"}, Env: []string{"V=x y"}, Dir: "/"}, stdout: "x y\n/\n"},
		{name: "no such program", cmd: Cmd{Args: []string{"no-such-program"}}, err: "not found"},
		{name: "no such folder", cmd: Cmd{Args: []string{"true"}, Dir: "/no/such"}, err: "no such file"},
		{name: "nothing", err: "no command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			tt.cmd.Stdout, tt.cmd.Stderr = &stdout, &stderr
			if tt.stdin != "" {
				tt.cmd.Stdin = strings.NewReader(tt.stdin)
			}
			err := c.Run(deadline(t), tt.cmd)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			var exit *ExitError
			if !errors.As(err, &exit) {
				exit = &ExitError{}
				if err != nil {
					t.Fatal(err)
				}
			}
			if exit.Code != tt.code || exit.Signal != tt.signal {
				t.Errorf("ended with %v", err)
			}
			if stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("stdout %.40q, stderr %.40q", stdout.String(), stderr.String())
			}
		})
	}
}

func TestExitErrorCode(t *testing.T) {
	if got := (&ExitError{Exit{Signal: 9}}); got.ShellCode() != 137 || !strings.Contains(got.Error(), "signal 9") {
		t.Errorf("%v, %d", got, got.ShellCode())
	}
	if got := (&ExitError{Exit{Code: 3}}); got.ShellCode() != 3 || got.Error() != "exit status 3" {
		t.Errorf("%v, %d", got, got.ShellCode())
	}
}

// lines gives what a command writes, line by line.
func lines(t *testing.T) (io.Writer, func() string) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	got := make(chan string, 100)
	go func() {
		var b bytes.Buffer
		one := make([]byte, 1)
		for {
			if _, err := r.Read(one); err != nil {
				return
			}
			if one[0] == '\n' {
				got <- b.String()
				b.Reset()
				continue
			}
			b.Write(one)
		}
	}()
	return w, func() string {
		select {
		case s := <-got:
			return s
		case <-time.After(30 * time.Second):
			t.Fatal("no line came")
			return ""
		}
	}
}

func TestSignal(t *testing.T) {
	c := connect(t, &Server{})
	ctx := deadline(t)
	w, next := lines(t)
	p, err := c.Start(ctx, Cmd{Args: []string{"sh", "-c", "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done"}, Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "ready" {
		t.Fatalf("got %q", got)
	}
	if err := p.Signal(ctx, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "caught" {
		t.Errorf("got %q", got)
	}
	var exit *ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Code != 5 {
		t.Errorf("ended with %v", err)
	}
	if err := p.Signal(ctx, syscall.SIGUSR1); err == nil || !strings.Contains(err.Error(), "no command with process id") {
		t.Errorf("a signal to a command that has ended: %v", err)
	}
	if err := p.Resize(ctx, 1, 1); err == nil {
		t.Error("a command that has ended was resized")
	}
}

// gone waits until process pid has ended, reaped by its parent or not.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestCancelKillsTheGroup(t *testing.T) {
	for name, stdin := range map[string]io.Reader{
		"no input": nil, "input that nobody reads": strings.NewReader(strings.Repeat("x", 4<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, &Server{})
			ctx, cancel := context.WithCancel(deadline(t))
			w, next := lines(t)
			p, err := c.Start(ctx, Cmd{Args: []string{"sh", "-c", "sleep 1000 & echo $!; wait"}, Stdout: w, Stdin: stdin})
			if err != nil {
				t.Fatal(err)
			}
			var child int
			if _, err := fmt.Sscan(next(), &child); err != nil {
				t.Fatal(err)
			}
			cancel()
			if err := p.Wait(); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			gone(t, p.PID())
			gone(t, child)
		})
	}
}

func TestEndOfConnectionKills(t *testing.T) {
	near, far := net.Pipe()
	served := make(chan error, 1)
	s := &Server{}
	go func() { served <- s.Serve(far) }()
	c, err := Connect(near)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Start(deadline(t), Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	if err := p.Wait(); err == nil {
		t.Error("the command ended well")
	}
	if err := <-served; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	gone(t, p.PID())
	if _, err := c.Start(t.Context(), Cmd{Args: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("a command on a dead connection: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	c := connect(t, &Server{})
	ctx := deadline(t)
	w, next := lines(t)
	in, typing := io.Pipe()
	p, err := c.Start(ctx, Cmd{
		Args: []string{"sh", "-c", `trap "stty size" WINCH; stty -echo; stty size; test -t 0 && echo tty; while ! read x; do :; done; echo "[$x]"`},
		TTY:  true, Rows: 33, Cols: 111, Stdin: in, Stdout: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"33 111\r", "tty\r"} {
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if err := p.Resize(ctx, 44, 55); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "44 55\r" {
		t.Errorf("after the change of size: %q", got)
	}
	if _, err := typing.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "[hello]\r" {
		t.Errorf("got %q", got)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestTerminalEndOfInput(t *testing.T) {
	c := connect(t, &Server{})
	var out bytes.Buffer
	err := c.Run(deadline(t), Cmd{Args: []string{"sh", "-c", "stty -echo; cat; echo done"}, TTY: true,
		Stdin: strings.NewReader("line\n"), Stdout: &out})
	if err != nil || !strings.HasSuffix(out.String(), "line\r\ndone\r\n") {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestPutAndGet(t *testing.T) {
	dir := t.TempDir() // first: it is removed when the server has ended
	c := connect(t, &Server{})
	ctx := deadline(t)
	content := bytes.Repeat([]byte("some bytes "), 50000)
	path := filepath.Join(dir, "new", "folder", "file")
	if err := c.Put(ctx, path, 0o751, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o751 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	var back bytes.Buffer
	mode, err := c.Get(ctx, path, &back)
	if err != nil || mode != 0o751 || !bytes.Equal(back.Bytes(), content) {
		t.Errorf("got %d bytes, mode %v, %v", back.Len(), mode, err)
	}
	local := filepath.Join(dir, "copy")
	if err := c.GetFile(ctx, path, local); err != nil {
		t.Fatal(err)
	}
	if err := c.PutFile(ctx, filepath.Join(dir, "new"), filepath.Join(dir, "second")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{local, filepath.Join(dir, "second", "folder", "file")} {
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s has %d bytes, %v", p, len(b), err)
		}
		if st, err := os.Stat(p); err != nil || st.Mode() != 0o751 {
			t.Errorf("%s has mode %v, %v", p, st.Mode(), err)
		}
	}
	if err := c.Put(ctx, path, 0o600, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 0 || st.Mode() != 0o600 {
		t.Errorf("replaced by %v, %v", st, err)
	}
	if err := c.Put(ctx, "/dev/null", 0o600, strings.NewReader("x")); err != nil {
		t.Errorf("a device can't be written: %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("bad sector") }

func TestPutAndGetFail(t *testing.T) {
	dir := t.TempDir() // first: it is removed when the server has ended
	c := connect(t, &Server{})
	ctx := deadline(t)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	big := strings.NewReader(strings.Repeat("x", 3<<20))
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"put on a folder":     {c.Put(ctx, dir, 0o600, strings.NewReader("x")), "is a folder"},
		"put below a file":    {c.Put(ctx, filepath.Join(path, "x"), 0o600, big), "not a directory"},
		"put from bad source": {c.Put(ctx, path, 0o600, brokenReader{}), "bad sector"},
		"put what isn't":      {c.PutFile(ctx, filepath.Join(dir, "none"), "/tmp/x"), "no such file"},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", name, tt.err, tt.want)
		}
	}
	for name, want := range map[string]string{dir: "is a folder", filepath.Join(dir, "none"): "no such file"} {
		if _, err := c.Get(ctx, name, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("get %s: error %v, want one with %q", name, err, want)
		}
	}
	if err := c.GetFile(ctx, filepath.Join(dir, "none"), filepath.Join(dir, "out")); err == nil {
		t.Error("a missing file was copied")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("a put that failed left %q, %v", b, err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %q", left)
		}
	}
}

func TestDial(t *testing.T) {
	c := connect(t, &Server{})
	ctx := deadline(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // answers what came, once all of it has come
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte("got: "), b...))
	}()
	conn, err := c.DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	msg := strings.Repeat("over the wire ", 20000)
	if _, err := io.WriteString(conn, msg); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) && !isTimeout(err) {
		t.Errorf("a read past its deadline gives %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after CloseWrite gives %v", err)
	}
	b, err := io.ReadAll(conn)
	if err != nil || string(b) != "got: "+msg {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	ln.Close()
	if _, err := c.DialContext(ctx, "tcp", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port gives %v", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestDialClose checks that closing the near end closes the far one, though
// the server goes on sending.
func TestDialClose(t *testing.T) {
	c := connect(t, &Server{})
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		for err == nil {
			_, err = conn.Write(make([]byte, 4096))
		}
		ended <- err
	}()
	conn, err := c.DialContext(deadline(t), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the far end still sends")
	}
}

func TestPowerOff(t *testing.T) {
	called := make(chan struct{}, 1)
	c := connect(t, &Server{PowerOff: func() error { called <- struct{}{}; return nil }})
	if err := c.PowerOff(deadline(t)); err != nil {
		t.Fatal(err)
	}
	<-called
	if err := connect(t, &Server{}).PowerOff(deadline(t)); err == nil || !strings.Contains(err.Error(), "can't switch") {
		t.Errorf("without a way to do it: %v", err)
	}
}

func TestProxy(t *testing.T) {
	direct := connect(t, &Server{Hello: Hello{Hostname: "far"}})
	near, far := net.Pipe()
	proxied := make(chan error, 1)
	go func() { proxied <- Proxy(direct, far) }()
	c, err := Connect(near)
	if err != nil {
		t.Fatal(err)
	}
	if c.Hello().Hostname != "far" {
		t.Errorf("hello is %+v", c.Hello())
	}
	var out bytes.Buffer
	err = c.Run(deadline(t), Cmd{Args: []string{"sh", "-c", "cat; exit 4"}, Stdin: strings.NewReader("through"), Stdout: &out})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 4 || out.String() != "through" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	p, err := c.Start(deadline(t), Cmd{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // as if the process that asked had died
	gone(t, p.PID())
	if err := <-proxied; err != nil {
		t.Errorf("the proxy ended with %v", err)
	}
	if err := direct.Run(deadline(t), Cmd{Args: []string{"true"}}); err != nil {
		t.Errorf("the connection behind the proxy is harmed: %v", err)
	}
}

func TestConnectRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ raw, want string }{
		"another protocol": {"\x02\x00\x00\x00\x0e{\"protocol\":9}", "protocol 9"},
		"another frame":    {"\x05\x00\x00\x00\x00", "frame of kind 5"},
		"no JSON":          {"\x02\x00\x00\x00\x01x", "reading the agent's hello"},
		"noise":            {"login: root", "unknown frame kind"},
		"silence":          {"", "EOF"},
	} {
		near, far := net.Pipe()
		go func() {
			_, _ = io.WriteString(far, tt.raw)
			far.Close()
		}()
		if _, err := Connect(near); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tt.want)
		}
		near.Close()
	}
}

func TestServerRefuses(t *testing.T) {
	c := connect(t, &Server{})
	for raw, want := range map[string]string{
		"\x01\x00\x00\x00\x0d{\"op\":\"what\"}": "unknown request",
		"\x01\x00\x00\x00\x01{":                 "unexpected end of JSON",
		"\x03\x00\x00\x00\x00":                  "must open with a request",
	} {
		st, err := c.session.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(st, raw); err != nil {
			t.Fatal(err)
		}
		if _, err := readReply(st); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", raw, err, want)
		}
		st.Close()
	}
}
