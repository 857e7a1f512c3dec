package main

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/testdata/guests"
	"tandem/vmm/control"
)

// pairProgram is a run of the program with a control socket, in the background.
type pairProgram struct {
	*exec.Cmd
	keys           io.WriteCloser
	stdout, stderr *screen
	socket         string
}

// awaitOutput waits until a text has been written.
func awaitOutput(t *testing.T, s *screen, text string) {
	t.Helper()
	deadline := time.After(terminalTimeout)
	for !strings.Contains(s.shown.String(), text) {
		select {
		case p := <-s.chunks:
			s.shown.Write(p)
		case <-deadline:
			t.Fatalf("%q has not come, but %q", text, s.shown.String())
		}
	}
}

func newScreen() *screen { return &screen{chunks: make(chan []byte, 1024)} }

// startPair starts the program as a host of a pair without its peer.
func startPair(t *testing.T, args ...string) *pairProgram {
	t.Helper()
	return startHost(t, append(args, "--keys", testKeys(t), "--arbiter", "file:"+testArbiter(t))...)
}

// startHost starts the program as a host of a pair.
func startHost(t *testing.T, args ...string) *pairProgram {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	args = append(args, "--guest", "mail", "--control", socket)
	p := &pairProgram{Cmd: program(t, args...), stdout: newScreen(), stderr: newScreen(), socket: socket}
	p.Stdout, p.Stderr = p.stdout, p.stderr
	var err error
	if p.keys, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// wantEnd waits for the program's end. Its socket must be gone then.
func (p *pairProgram) wantEnd(t *testing.T, status int) {
	t.Helper()
	late := time.AfterFunc(terminalTimeout, func() { _ = p.Process.Kill() })
	defer late.Stop()
	_ = p.Wait()
	if got := p.ProcessState.ExitCode(); got != status {
		t.Errorf("status %d, want %d", got, status)
	}
	wantNothing(t, p.socket)
}

// status asks for the status's page.
func (p *pairProgram) status(t *testing.T) string {
	t.Helper()
	r := finish(t, program(t, "status", "--control", p.socket))
	if r.status != statusOK || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	return r.stdout
}

// TestGuestThatCanBeProtected runs a guest without a backup, talks to it and about it, and ends it in three ways.
func TestGuestThatCanBeProtected(t *testing.T) {
	nativeKVM(t)
	kernel := writeFile(t, "uart-echo", guests.Image("uart-echo"))
	tests := []struct {
		name   string
		end    func(*pairProgram) error
		status int
	}{
		{"a signal", func(p *pairProgram) error { return p.Process.Signal(syscall.SIGTERM) }, statusStopped},
		{"power-off", func(p *pairProgram) error { _, err := io.WriteString(p.keys, "\x04"); return err }, statusOK},
		{"the control socket", func(p *pairProgram) error { return stopAt(t, p.socket) }, statusStopped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := startPair(t, "run", "-m", "16M", "-k", kernel)
			awaitOutput(t, p.stdout, "ready")
			if page := p.status(t); !strings.Contains(page, "mail: primary, alone") || !strings.Contains(page, "not protected") {
				t.Errorf("the status is %s", page)
			}
			if _, err := io.WriteString(p.keys, "abc"); err != nil {
				t.Fatal(err)
			}
			awaitOutput(t, p.stdout, "ABC")
			if r := finish(t, program(t, "protect", deadPort(t), "--control", p.socket)); r.status != statusOK || !strings.Contains(r.stdout, "is dialled from now on") {
				t.Errorf("%+v", r)
			}
			finish(t, program(t, "protect", "b", "--control", p.socket)).wantOneLine(t, statusUsage, "ADDR:PORT")
			if err := tt.end(p); err != nil {
				t.Fatal(err)
			}
			p.wantEnd(t, tt.status)
		})
	}
}

// TestBackupThatWaits starts a backup that no primary comes to, and ends it. It takes nothing from the terminal's user.
func TestBackupThatWaits(t *testing.T) {
	nativeKVM(t)
	p := startPair(t, "backup", "--listen", "127.0.0.1:0", "--log-format", "json", "--net", "user")
	awaitOutput(t, p.stderr, "connections of a user-mode network end with this host")
	deadline := time.Now().Add(terminalTimeout)
	for !strings.Contains(finish(t, program(t, "status", "--control", p.socket)).stdout, "mail: ") {
		if time.Now().After(deadline) {
			t.Fatal("the backup has no status")
		}
	}
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, p.stderr, `"msg":"this host leaves the pair"`)
	p.wantEnd(t, statusStopped)
}

// awaitStatus waits until the status's page has a text.
func (p *pairProgram) awaitStatus(t *testing.T, text string) {
	t.Helper()
	deadline := time.Now().Add(terminalTimeout)
	for {
		r := finish(t, program(t, "status", "--control", p.socket))
		if strings.Contains(r.stdout, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q does not come, but %s%s", text, r.stdout, r.stderr)
		}
	}
}

// echo types at a guest that writes what is typed in capitals.
func (p *pairProgram) echo(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(p.keys, text); err != nil {
		t.Fatal(err)
	}
	awaitOutput(t, p.stdout, strings.ToUpper(text))
}

// TestGuestOutlivesItsHosts moves a guest over three hosts, of which the first two are killed.
func TestGuestOutlivesItsHosts(t *testing.T) {
	nativeKVM(t)
	keys, folder := filepath.Dir(testKeysOf(t, "a", "b", "c")), testArbiter(t)
	join := func(name string, args ...string) *pairProgram {
		return startHost(t, append(args, "--keys", filepath.Join(keys, name), "--arbiter", "file:"+folder)...)
	}
	addressB, addressC := deadPort(t), deadPort(t)
	b := join("b", "backup", "--listen", addressB)
	a := join("a", "run", "-m", "16M", "-k", writeFile(t, "uart-echo", guests.Image("uart-echo")), "--backup", addressB)
	awaitOutput(t, a.stdout, "ready") // what is typed before, the guest's start clears away
	a.echo(t, "abc")
	a.awaitStatus(t, "mail: primary, protected")
	b.awaitStatus(t, "mail: backup, protected")
	a.echo(t, "def")
	if err := a.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.Wait()
	b.awaitStatus(t, "mail: primary, alone")
	b.echo(t, "ghi")

	c := join("c", "backup", "--listen", addressC)
	c.awaitStatus(t, "mail: backup, joining")
	if r := finish(t, program(t, "protect", addressC, "--control", b.socket)); r.status != statusOK {
		t.Fatalf("%+v", r)
	}
	b.awaitStatus(t, "mail: primary, protected")
	if err := b.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = b.Wait()
	c.awaitStatus(t, "mail: primary, alone")
	c.echo(t, "jkl")
	if _, err := io.WriteString(c.keys, "\x04"); err != nil {
		t.Fatal(err)
	}
	c.wantEnd(t, statusOK)
}

// stopAt asks for the end at a control socket.
func stopAt(t *testing.T, socket string) error {
	t.Helper()
	c, err := control.Dial(t.Context(), socket, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Stop()
}

// TestGuestEndsOnBothHosts powers a protected guest off. Its backup ends as it does.
func TestGuestEndsOnBothHosts(t *testing.T) {
	nativeKVM(t)
	keys, folder, address := filepath.Dir(testKeysOf(t, "a", "b")), testArbiter(t), deadPort(t)
	b := startHost(t, "backup", "--listen", address, "--keys", filepath.Join(keys, "b"), "--arbiter", "file:"+folder)
	a := startHost(t, "run", "-m", "16M", "-k", writeFile(t, "uart-echo", guests.Image("uart-echo")), "--backup", address,
		"--keys", filepath.Join(keys, "a"), "--arbiter", "file:"+folder)
	awaitOutput(t, a.stdout, "ready") // what is typed before, the guest's start clears away
	a.awaitStatus(t, "mail: primary, protected")
	if _, err := io.WriteString(a.keys, "\x04"); err != nil {
		t.Fatal(err)
	}
	a.wantEnd(t, statusOK)
	b.wantEnd(t, statusOK)
}

// TestPrimaryLeaves ends a protected primary's part in order. Its backup goes on at once.
func TestPrimaryLeaves(t *testing.T) {
	nativeKVM(t)
	keys, folder, address := filepath.Dir(testKeysOf(t, "a", "b")), testArbiter(t), deadPort(t)
	b := startHost(t, "backup", "--listen", address, "--keys", filepath.Join(keys, "b"), "--arbiter", "file:"+folder)
	a := startHost(t, "run", "-m", "16M", "-k", writeFile(t, "uart-echo", guests.Image("uart-echo")), "--backup", address,
		"--keys", filepath.Join(keys, "a"), "--arbiter", "file:"+folder)
	awaitOutput(t, a.stdout, "ready")
	a.awaitStatus(t, "mail: primary, protected")
	if err := a.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.wantEnd(t, statusStopped)
	b.awaitStatus(t, "mail: primary, alone")
	b.echo(t, "abc")
}
