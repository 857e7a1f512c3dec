package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/ether"
)

func ptr[T any](v T) *T { return &v }

func TestChangeApply(t *testing.T) {
	base := ether.Link{Drop: 0.5, Delay: time.Second}
	tests := []struct {
		name   string
		change Change
		want   ether.Link
	}{
		{"nothing", Change{}, base},
		{"cut adds up", Change{Cut: ptr(true)}, ether.Link{Cut: true, Drop: 0.5, Delay: time.Second}},
		{"one value replaced", Change{Drop: ptr(0.0)}, ether.Link{Delay: time.Second}},
		{"healed", Change{Heal: true}, ether.Link{}},
		{"all", Change{Cut: ptr(false), Drop: ptr(1.0), Delay: ptr(time.Minute), RateBitsPerSecond: ptr(int64(7))},
			ether.Link{Drop: 1, Delay: time.Minute, RateBitsPerSecond: 7}},
	}
	for _, tt := range tests {
		if got := tt.change.Apply(base); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestSocketPath(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	p, err := SocketPath("mine")
	if err != nil || filepath.Base(p) != "socket-mine" {
		t.Errorf("%q, %v", p, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc"} {
		if _, err := SocketPath(name); err == nil || !strings.Contains(err.Error(), "can't be a lab's name") {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := SocketPath(strings.Repeat("x", 100)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a long name: %v", err)
	}
}

func TestListenReplacesOnlyTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := Call(path, Request{Op: OpStatus}); !errors.Is(err, ErrNotUp) {
		t.Errorf("nobody there: %v", err)
	}
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "up already") {
		t.Errorf("a second lab of one name: %v", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as SIGKILL leaves it
	ln.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Call(path, Request{Op: OpStatus}); !errors.Is(err, ErrNotUp) {
		t.Errorf("a dead lab's socket: %v", err)
	}
	ln, err = Listen(path)
	if err != nil {
		t.Fatalf("a dead lab's socket is in the way: %v", err)
	}
	ln.Close()
}

// TestCallReadsAnswers plays the lab's side.
func TestCallReadsAnswers(t *testing.T) {
	tests := []struct {
		name string
		kind agent.Kind
		text string
		pid  int
		err  string
	}{
		{name: "status", kind: agent.KindReply, text: `{"pid":7}`, pid: 7},
		{name: "empty reply", kind: agent.KindReply},
		{name: "refusal", kind: agent.KindError, text: "no such host", err: "no such host"},
		{name: "no JSON", kind: agent.KindReply, text: "{", err: "JSON"},
		{name: "another frame", kind: agent.KindEnd, err: "frame of kind 5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			ln, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if _, _, err := agent.ReadFrame(conn); err == nil {
					_ = agent.WriteFrame(conn, tt.kind, []byte(tt.text))
				}
			}()
			st, err := Call(path, Request{Op: OpStatus})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || st.PID != tt.pid {
				t.Errorf("got %+v, %v", st, err)
			}
		})
	}
}
