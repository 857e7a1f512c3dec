package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// asProgram, in the environment, makes the test binary be the program.
const asProgram = "TANDEM_TEST_AS_PROGRAM"

// TestMain lets tests run the program as its user does, as a process of its own, without building it.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	status := m.Run()
	if err := closeEngine(); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		status = 1
	}
	os.Exit(status)
}

// program prepares a run of the program with these arguments.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

// result is what a run of the program left.
type result struct {
	stdout, stderr string
	status         int // 128 + n if it was killed by signal n
}

// finish runs a prepared program to its end.
func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{stdout: stdout.String(), stderr: stderr.String(), status: cmd.ProcessState.ExitCode()}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.status = 128 + int(ws.Signal())
	}
	return r
}

// wantOneLine fails the test unless the program ended with a status and one line that says each of the texts.
func (r result) wantOneLine(t *testing.T, status int, says ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d", r.status, status)
	}
	line, ended := strings.CutSuffix(r.stderr, "\n")
	if !ended || !strings.HasPrefix(line, "tandem: ") || strings.ContainsAny(line, "\n\r") {
		t.Errorf("standard error is %q, want one line from tandem", r.stderr)
	}
	for _, s := range says {
		if !strings.Contains(line, s) {
			t.Errorf("standard error is %q, want %q in it", r.stderr, s)
		}
	}
}
