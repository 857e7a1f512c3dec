package labrun

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

const deadline = 30 * time.Second

// nativeEngine is an engine on this machine, without tandem or a guest.
func nativeEngine(t *testing.T) (context.Context, *Engine) {
	t.Helper()
	e := &Engine{Native: true}
	if err := e.openNative(t.TempDir(), map[string]string{"file": "session_test.go"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx, e
}

func TestSession(t *testing.T) {
	ctx, e := nativeEngine(t)
	var mirror bytes.Buffer
	s, err := e.Start(ctx, Options{Input: "first\n", Mirror: &mirror}, "sh", "-c", `while read line; do echo "got $line"; done; echo end >&2; exit 7`)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Out.Await(ctx, "got first"); err != nil {
		t.Fatal(err)
	}
	if err := s.Type("second\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Out.Await(ctx, "got"); err != nil { // not the first one again
		t.Fatal(err)
	}
	if err := s.CloseInput(); err != nil {
		t.Fatal(err)
	}
	if status, err := s.Status(); err != nil || status != 7 {
		t.Errorf("status %d, %v; want 7", status, err)
	}
	if got := s.Out.String(); got != "got first\ngot second\n" || mirror.String() != got || s.Err.String() != "end\n" {
		t.Errorf("out %q, mirror %q, err %q", got, mirror.String(), s.Err.String())
	}
}

func TestAwaitFails(t *testing.T) {
	ctx, e := nativeEngine(t)
	s, err := e.Start(ctx, Options{}, "echo", "something else")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Out.Await(ctx, "this"); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("at the command's end: %v", err)
	}
	s, err = e.Start(ctx, Options{}, "cat")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Out.Await(gone, "this"); !errors.Is(err, context.Canceled) {
		t.Errorf("at the context's end: %v", err)
	}
}

func TestNativeFiles(t *testing.T) {
	ctx, e := nativeEngine(t)
	var text bytes.Buffer
	if _, err := e.Get(ctx, e.Path("file"), &text); err != nil || !strings.Contains(text.String(), "package labrun") {
		t.Errorf("%d bytes, %v", text.Len(), err)
	}
}
