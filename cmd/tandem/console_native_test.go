package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/testdata/guests"
)

// terminalTimeout bounds a test that talks to a guest of milliseconds.
const terminalTimeout = 60 * time.Second

// terminal is a shell script on a terminal of this machine.
type terminal struct {
	ctx     context.Context
	process *agent.Process
	keys    *io.PipeWriter
	screen  *screen
}

// screen collects what is shown.
type screen struct {
	chunks chan []byte
	shown  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.chunks <- bytes.Clone(p)
	return len(p), nil
}

// onTerminal runs a script on a terminal, in which $TANDEM is the program.
func onTerminal(t *testing.T, script string) *terminal {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	go func() { _ = (&agent.Server{}).Serve(far) }()
	client, err := agent.Connect(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), terminalTimeout)
	t.Cleanup(cancel)
	in, keys := io.Pipe()
	s := &screen{chunks: make(chan []byte, 1024)}
	p, err := client.Start(ctx, agent.Cmd{
		Args: []string{"sh", "-c", script}, Env: []string{asProgram + "=1", "TANDEM=" + exe},
		Stdin: in, Stdout: s, TTY: true, Rows: 24, Cols: 80,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &terminal{ctx, p, keys, s}
}

// await waits until the screen shows text.
func (x *terminal) await(t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(x.screen.shown.String(), text) {
		select {
		case p := <-x.screen.chunks:
			x.screen.shown.Write(p)
		case <-x.ctx.Done():
			t.Fatalf("%q did not come; there is %q", text, x.screen.shown.String())
		}
	}
}

func (x *terminal) enter(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(x.keys, keys); err != nil {
		t.Fatal(err)
	}
}

// TestTerminalIsRestored ends the program in each way that leaves it a chance, and looks at the terminal after it.
func TestTerminalIsRestored(t *testing.T) {
	nativeKVM(t)
	tests := []struct {
		name, guest, flags string
		ready              string // what shows that keys can be typed
		keys               string
		want               []string
	}{
		{"power-off", "uart-echo", "-m 16M", "ready", "abc\x04", []string{"ABC", "the guest powered off", "status 0"}},
		{"leaving", "uart-echo", "-m 16M", "ready", "\x01x", []string{"stopped by the VMM", "status 12"}},
		{"another escape key", "uart-echo", "-m 16M --escape ^T", "press ^T x to leave", "a\x01x\x14x", []string{"stopped by the VMM", "status 12"}},
		{"a virtio console", "uart-echo", "-m 16M --console none --virtio-console stdio", "press ^A x to leave", "a\x01x", []string{"stopped by the VMM", "status 12"}},
		{"one of a pair", "uart-echo", "-m 16M --arbiter unsafe-none --keys " + testKeys(t) + " --control " + filepath.Join(t.TempDir(), "s"), "ready", "a\x01x",
			[]string{"stopped by the VMM", "status 12"}},
		{"an end of the guest's own", "triple-fault", "-m 16M", "", "", []string{"the guest crashed", "status 11"}},
		{"an error behind raw mode", "halt", "-m 1M", "", "", []string{"guest memory is too small", "status 2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kernel := writeFile(t, tt.guest, guests.Image(tt.guest))
			x := onTerminal(t, "echo before $(stty -g); $TANDEM run -k "+kernel+" "+tt.flags+"; echo status $?; echo after $(stty -g); echo all done")
			x.await(t, tt.ready)
			x.enter(t, tt.keys)
			for _, want := range append(tt.want, "all done") {
				x.await(t, want)
			}
			wantRestored(t, x.screen.shown.String())
		})
	}
}

// TestSignals sends the program what service managers and terminals send. The shell around it gets the same and goes on.
func TestSignals(t *testing.T) {
	nativeKVM(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			kernel := writeFile(t, "uart-echo", guests.Image("uart-echo"))
			x := onTerminal(t, "trap : TERM INT HUP; echo before $(stty -g); $TANDEM run -m 16M -k "+kernel+"; echo status $?; echo after $(stty -g); echo all done")
			x.await(t, "ready")
			if err := x.process.Signal(x.ctx, sig); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"stopped by the VMM", "status 12", "all done"} {
				x.await(t, want)
			}
			wantRestored(t, x.screen.shown.String())
		})
	}
}

// TestNobodyReadsTheConsole fills the pipe behind the console. The guest then waits; a second signal ends the program all
// the same.
func TestNobodyReadsTheConsole(t *testing.T) {
	nativeKVM(t)
	kernel := writeFile(t, "uart-echo", guests.Image("uart-echo"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := program(t, "run", "-m", "16M", "-k", kernel)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	// The guest's echo fills the pipe and what the program buffers; then the program takes no more input, and writing fails
	// when it ends.
	go func() {
		line := bytes.Repeat([]byte("x"), 4096)
		for {
			if _, err := stdin.Write(line); err != nil {
				return
			}
		}
	}()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil { // the guest runs, and signals are caught
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(terminalTimeout)
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != statusStopped {
				t.Errorf("it ended with %v, want status %d", err, statusStopped)
			}
			return
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatal("it does not end")
		case <-time.After(100 * time.Millisecond):
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}
}

// TestClosedPipe takes the reader of the console away. The guest must not go on for nobody.
func TestClosedPipe(t *testing.T) {
	nativeKVM(t)
	kernel := writeFile(t, "uart-echo", guests.Image("uart-echo"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd := program(t, "run", "-m", "16M", "-k", kernel)
	cmd.Stdout = w
	in, keep, err := os.Pipe() // an input that never ends by itself
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer keep.Close()
	cmd.Stdin = in
	finish(t, cmd).wantOneLine(t, statusFailure, "write the guest's console", "broken pipe")
}
