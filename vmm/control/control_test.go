package control

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/vmm/protect"
)

// host is a Handler that notes what it was asked for.
type host struct {
	protected atomic.Pointer[string]
	stopped   atomic.Bool
}

var someStatus = protect.Status{
	Guest: "mail", Role: "primary", State: "alone", Term: 7,
	Events: []protect.Event{{At: time.Unix(1, 0).UTC(), Alarm: true, Text: "the peer is lost\nso it is"}},
}

func (h *host) Status() protect.Status { return someStatus }
func (h *host) Stop()                  { h.stopped.Store(true) }
func (h *host) Protect(address string) error {
	if address == "bad" {
		return errors.New("bad: no such\nhost")
	}
	h.protected.Store(&address)
	return nil
}

// serve starts a server with a socket in a folder of the test's.
func serve(t *testing.T, timeout time.Duration) (*host, string) {
	t.Helper()
	h, path := &host{}, filepath.Join(t.TempDir(), "s")
	s, err := Serve(path, h, slog.New(slog.DiscardHandler), timeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestVerbs asks for everything there is, on one connection.
func TestVerbs(t *testing.T) {
	h, path := serve(t, 0)
	c := dial(t, path)
	status, err := c.Status()
	if err != nil || !reflect.DeepEqual(*status, someStatus) {
		t.Errorf("%+v, %v", status, err)
	}
	if err := c.Protect("hostb:7400"); err != nil || *h.protected.Load() != "hostb:7400" {
		t.Errorf("protect: %v", err)
	}
	if err := c.Protect("bad"); err == nil || err.Error() != "bad: no such host" {
		t.Errorf("what the host refuses: %v", err)
	}
	if err := c.Protect(strings.Repeat("x", MaxRequestBytes)); err == nil {
		t.Error("an oversize request was sent")
	}
	if h.stopped.Load() {
		t.Error("stopped too early")
	}
	if err := c.Stop(); err != nil || !h.stopped.Load() {
		t.Errorf("stop: %v", err)
	}
}

// TestRefusedLines sends what is no request. The connection goes on unless the line has no end.
func TestRefusedLines(t *testing.T) {
	_, path := serve(t, 0)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	for _, tt := range []struct{ line, says string }{
		{``, "not a request"},
		{`status`, "not a request"},
		{`{"v":1,"verb":"status"`, "not a request"},
		{`{"v":1,"verb":"status"} {}`, "something follows"},
		{`{"v":1,"verb":"status","force":true}`, "unknown field"},
		{`{"v":1,"verb":"status","address":"a:1"}`, "has no address"},
		{`{"v":1,"verb":"protect"}`, "needs an address"},
		{`{"v":2,"verb":"status"}`, "version 2"},
		{`{"verb":"status"}`, "version 0"},
		{`{"v":1,"verb":"explode"}`, `verb \"explode\" is unknown`},
		{strings.Repeat("x", 2*MaxRequestBytes), "at most"},
	} {
		if _, err := io.WriteString(c, tt.line+"\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := in.ReadString('\n')
		if err != nil || !strings.Contains(answer, tt.says) || !strings.Contains(answer, `"error"`) {
			t.Errorf("%.50s: %q, %v; want %q in it", tt.line, answer, err, tt.says)
		}
	}
	if _, err := in.ReadByte(); err == nil {
		t.Error("the connection goes on behind a line without an end")
	}
}

// TestSlowClient leaves a request unfinished. It must not keep its place for ever.
func TestSlowClient(t *testing.T) {
	_, path := serve(t, time.Millisecond)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, `{"v":1,`); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes, want the end", n)
	}
}

// TestTooManyConnections takes all places. Whoever comes next is sent away, and gets in when one has gone.
func TestTooManyConnections(t *testing.T) {
	_, path := serve(t, 0)
	var all []*Client
	for range MaxConnections {
		c := dial(t, path)
		if _, err := c.Status(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if _, err := dial(t, path).Status(); err == nil {
		t.Error("one too many is served")
	}
	_ = all[0].Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := dial(t, path).Status()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the place of one who has gone stays taken: %v", err)
		}
	}
}

// TestSocket checks the file: its mode, who gets it, and that it goes.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	log := slog.New(slog.DiscardHandler)
	s, err := Serve(path, &host{}, log, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v; want a socket of mode 0600", info.Mode(), err)
	}
	if _, err := Serve(path, &host{}, log, 0); !errors.Is(err, ErrInUse) {
		t.Errorf("a socket in use: %v", err)
	}
	if _, err := dial(t, path).Status(); err != nil {
		t.Errorf("the first has lost its socket: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket was left behind: %v", err)
	}
	if _, err := Dial(t.Context(), path, 0); !errors.Is(err, ErrNobody) {
		t.Errorf("nobody: %v", err)
	}
}

// TestStaleSocket starts at the socket of a program that has died.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if _, err := Dial(t.Context(), path, 0); !errors.Is(err, ErrNobody) {
		t.Errorf("a dead socket: %v", err)
	}
	s, err := Serve(path, &host{}, slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, path).Status(); err != nil {
		t.Error(err)
	}
	// Another has taken the name meanwhile: it is not this server's to remove.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := Serve(path, &host{}, slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dial(t, path).Status(); err != nil {
		t.Errorf("another's socket was removed: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestImpossiblePaths asks for sockets where none can be.
func TestImpossiblePaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, says string }{
		{"", "from 1 to"},
		{filepath.Join(dir, strings.Repeat("x", MaxPathBytes)), "from 1 to"},
		{filepath.Join(dir, "none", "s"), "folder does not exist"},
		{file, "is no socket"},
	} {
		_, err := Serve(tt.path, &host{}, slog.New(slog.DiscardHandler), 0)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q in it", tt.path, err, tt.says)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file has %q, %v", content, err)
	}
}

// TestHostileServer gives a client answers that are none.
func TestHostileServer(t *testing.T) {
	for _, tt := range []struct{ answer, says string }{
		{"", "EOF"},
		{"hello\n", "not an answer"},
		{`{"v":9}` + "\n", "version 9"},
		{`{"v":1}` + "\n", "no status"},
		{`{"v":1,"error":"\u001b[2J\u001b[1mno"}` + "\n", " [2J [1mno"},
		{strings.Repeat("x", MaxAnswerBytes+1) + "\n", "more than"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, tt.answer)
			_ = c.Close()
		}()
		_, err = dial(t, path).Status()
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%.30q: %v, want %q in it", tt.answer, err, tt.says)
		}
		_ = l.Close()
	}
}
