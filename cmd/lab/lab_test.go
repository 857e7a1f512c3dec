package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/control"
)

// TestBadInput checks that a mistake gives one line, before anything is done.
func TestBadInput(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("LAB", "")
	tests := []struct{ args, err string }{
		{"frobnicate", "unknown command"},
		{"run", "requires at least 1 arg"},
		{"run --hosts 0 -- true", "--hosts must be at least 1"},
		{"run --hosts many -- true", "invalid argument"},
		{"run --put x -- true", "SRC:DST"},
		{"run --put x:relative -- true", "absolute DST"},
		{"run --disk /no/such/image -- true", "no such file"},
		{"run --memory 1 -- true", "256 MB"},
		{"run --networks 9 -- true", "1 to 4 networks"},
		{"shell extra", "unknown command"},
		{"up --lab a/b", "can't be a lab's name"},
		{"status", "no lab is up"},
		{"down --lab nobody", `no lab is up under the name "nobody"`},
		{"exec h1", "requires at least 2 arg"},
		{"exec h1 --", "needs a command"},
		{"exec h1 true", "no lab is up"},
		{"put h1 x", "accepts 3 arg"},
		{"get h1 x y", "no lab is up"},
		{"kill", "accepts 1 arg"},
		{"net delay fast", "is no delay"},
		{"net delay -1s h1", "unknown shorthand flag"},
		{"net drop 1.5", "is no probability"},
		{"net drop 101%", "is no probability"},
		{"net drop NaN", "is no probability"},
		{"net rate 10Q", "is no rate"},
		{"net rate 99999999999", "is no rate"},
		{"net cut a b c", "accepts between 0 and 2"},
		{"net cut --one-way a", "needs two hosts"},
		{"net cut h1", "no lab is up"},
	}
	for _, tt := range tests {
		root := newRoot()
		var out bytes.Buffer
		root.SetArgs(strings.Fields(tt.args))
		root.SetOut(&out)
		root.SetErr(&out)
		err := root.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: error %v, want one with %q", tt.args, err, tt.err)
			continue
		}
		if strings.Contains(strings.TrimSpace(err.Error()), "\n") || out.Len() > 0 {
			t.Errorf("%s: more than a line: %v %s", tt.args, err, out.String())
		}
	}
}

func TestNetValues(t *testing.T) {
	tests := []struct{ kind, value, want string }{
		{"delay", "20ms", `{"delay":20000000}`},
		{"drop", "10%", `{"drop":0.1}`},
		{"drop", "1", `{"drop":1}`},
		{"rate", "512k", `{"rate_bits_per_second":512000}`},
		{"rate", "10M", `{"rate_bits_per_second":10000000}`},
		{"rate", "2G", `{"rate_bits_per_second":2000000000}`},
		{"rate", "0", `{"rate_bits_per_second":0}`},
	}
	set := map[string]func(*control.Change, string) error{"delay": setDelay, "drop": setDrop, "rate": setRate}
	for _, tt := range tests {
		var ch control.Change
		if err := set[tt.kind](&ch, tt.value); err != nil {
			t.Errorf("%s %s: %v", tt.kind, tt.value, err)
			continue
		}
		if b, err := json.Marshal(ch); err != nil || string(b) != tt.want {
			t.Errorf("%s %s: %s, %v; want %s", tt.kind, tt.value, b, err, tt.want)
		}
	}
}

func TestFollowKeeper(t *testing.T) {
	tests := []struct{ text, progress, err string }{
		{"lab: one\nlab: two\nready\n", "lab: one\nlab: two\n", ""},
		{"lab: one\nfailed: cause\nsecond line\n", "lab: one\n", "cause\nsecond line"},
		{"lab: one\n", "lab: one\n", "ended before"},
	}
	for _, tt := range tests {
		var progress bytes.Buffer
		err := followKeeper(strings.NewReader(tt.text), &progress)
		if progress.String() != tt.progress || (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q, %v", tt.text, progress.String(), err)
		}
	}
}

// commands runs the real program.
type commands struct {
	t       *testing.T
	ctx     context.Context
	program string
}

// run returns what the program printed and its exit status.
func (c commands) run(stdin string, args ...string) (stdout, stderr string, status int) {
	c.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(c.ctx, c.program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%q: %v", args, err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must returns what a command that has to succeed printed.
func (c commands) must(args ...string) string {
	c.t.Helper()
	out, errs, status := c.run("", args...)
	if status != 0 {
		c.t.Fatalf("%q: status %d: %s%s", args, status, out, errs)
	}
	return out
}

func (c commands) status() control.Status {
	c.t.Helper()
	var st control.Status
	if err := json.Unmarshal([]byte(c.must("status", "--json")), &st); err != nil {
		c.t.Fatal(err)
	}
	return st
}

// TestLab uses a lab that stays up, as a person does, and then takes away the
// process that keeps it.
func TestLab(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated hosts: not with -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program, err := lab.BuildAgent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", shortTempDir(t))
	t.Setenv("LAB", "")
	c := commands{t, ctx, program}
	shared := t.TempDir()
	c.must("up", "--hosts", "2", "--share", shared)
	st := c.status()
	t.Cleanup(func() { _ = syscall.Kill(st.PID, syscall.SIGKILL) })
	if len(st.Hosts) != 2 || !st.Hosts[0].Alive || st.Hosts[1].Addresses[0] != "10.77.0.2" {
		t.Fatalf("status is %+v", st)
	}
	if _, errs, status := c.run("", "up"); status != statusFailed || !strings.Contains(errs, "up already") {
		t.Errorf("a second lab: status %d, %s", status, errs)
	}
	t.Run("exec", func(t *testing.T) { testExec(commands{t, ctx, program}) })
	t.Run("files", func(t *testing.T) { testFiles(commands{t, ctx, program}) })
	t.Run("network", func(t *testing.T) { testNetwork(commands{t, ctx, program}) })
	t.Run("freeze and thaw", func(t *testing.T) { testFreeze(commands{t, ctx, program}) })
	t.Run("kill and boot", func(t *testing.T) { testKill(commands{t, ctx, program}, shared) })
	t.Run("keeper's death", func(t *testing.T) { testKeeperDeath(commands{t, ctx, program}) })
}

// shortTempDir is a temporary folder whose path leaves room for a socket's.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func testExec(c commands) {
	out, errs, status := c.run("input", "exec", "-e", "V=1", "-C", "/root", "h1", "--", "sh", "-c", "cat; echo $V; pwd; echo err >&2; exit 9")
	if status != 9 || errs != "err\n" || out != "input1\n/root\n" {
		c.t.Errorf("status %d, %q, %q", status, out, errs)
	}
	if _, _, status := c.run("", "exec", "h2", "--", "sh", "-c", "kill -9 $$"); status != 137 {
		c.t.Errorf("killed by SIGKILL: status %d", status)
	}
	if _, errs, status := c.run("", "exec", "h7", "true"); status != statusFailed || !strings.Contains(errs, `no host "h7"`) {
		c.t.Errorf("no such host: status %d, %q", status, errs)
	}
}

func testFiles(c commands) {
	src := filepath.Join(c.t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("some text"), 0o640); err != nil {
		c.t.Fatal(err)
	}
	c.must("put", "h1", src, "/root/")
	back := filepath.Join(c.t.TempDir(), "back")
	c.must("get", "h1", "/root/src", back)
	st, err := os.Stat(back)
	if err != nil || st.Mode() != 0o640 || c.must("get", "h1", "/root/src", "-") != "some text" {
		c.t.Errorf("got back %v, %v", st, err)
	}
}

func testNetwork(c commands) {
	ping := func() int {
		_, _, status := c.run("", "exec", "h1", "--", "ping", "-c", "1", "-W", "3", "h2")
		return status
	}
	if ping() != 0 {
		c.t.Error("no ping at first")
	}
	c.must("net", "cut", "h1", "h2")
	if ping() == 0 {
		c.t.Error("ping over a cut link")
	}
	c.must("net", "heal", "h1", "h2")
	c.must("net", "delay", "30ms", "h2")
	if ping() != 0 {
		c.t.Error("no ping over a healed link")
	}
	if text := c.must("status"); !strings.Contains(text, "delays 30ms") {
		c.t.Errorf("status doesn't show the delay:\n%s", text)
	}
	c.must("net", "heal")
	if text := c.must("status"); strings.Contains(text, "delays") || strings.Contains(text, "→") {
		c.t.Errorf("status after healing all:\n%s", text)
	}
	if _, errs, status := c.run("", "net", "cut", "--network", "3"); status != statusFailed || !strings.Contains(errs, "no network 3") {
		c.t.Errorf("no such network: status %d, %q", status, errs)
	}
}

func testFreeze(c commands) {
	c.must("freeze", "h2")
	if text := c.must("status"); !strings.Contains(text, "frozen") {
		c.t.Errorf("status doesn't show that a host is frozen:\n%s", text)
	}
	c.must("thaw", "h2")
	if text := c.must("status"); strings.Contains(text, "frozen") {
		c.t.Errorf("status after the thaw:\n%s", text)
	}
	c.must("exec", "h2", "true")
}

func testKill(c commands, shared string) {
	c.must("exec", "h1", "--", "sh", "-c", "echo kept > "+lab.SharePath+"/file")
	c.must("kill", "h2")
	if st := c.status(); st.Hosts[1].Alive {
		c.t.Error("a killed host is alive")
	}
	if _, errs, status := c.run("", "exec", "h2", "true"); status != statusFailed || !strings.Contains(errs, "is dead") {
		c.t.Errorf("a command on a dead host: status %d, %q", status, errs)
	}
	if text := c.must("console", "h2"); text != "" && !strings.Contains(text, "]") {
		c.t.Errorf("console is %q", text)
	}
	c.must("boot", "h2")
	if got := c.must("exec", "h2", "cat", lab.SharePath+"/file"); got != "kept\n" {
		c.t.Errorf("the host that came back reads %q from the shared folder", got)
	}
	if b, err := os.ReadFile(filepath.Join(shared, "file")); err != nil || string(b) != "kept\n" {
		c.t.Errorf("out here the shared folder has %q, %v", b, err)
	}
}

// testKeeperDeath checks that the hosts die with the keeper, however it dies,
// and that the next lab isn't hindered by what it left.
func testKeeperDeath(c commands) {
	st := c.status()
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	pids := []int{st.PID}
	for _, h := range st.Hosts {
		pids = append(pids, h.PID)
	}
	for _, pid := range pids {
		c.poll(fmt.Sprintf("process %d outlived the keeper", pid), func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
	if _, errs, status := c.run("", "status"); status != statusFailed || !strings.Contains(errs, "no lab is up") {
		c.t.Errorf("status %d, %q", status, errs)
	}
	c.must("up", "-q")
	c.must("down")
	c.poll("work folders are left behind", func() bool {
		dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "*", "work-*"))
		return err == nil && len(dirs) == 0
	})
}

// poll waits until ok, or fails with complaint when the test's time is over.
func (c commands) poll(complaint string, ok func() bool) {
	c.t.Helper()
	for !ok() {
		select {
		case <-c.ctx.Done():
			c.t.Fatal(complaint)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestRun boots a host for one command.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated hosts: not with -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program, err := lab.BuildAgent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", shortTempDir(t))
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("put in"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := commands{t, ctx, program}
	out, errs, status := c.run("typed", "run", "--put", file+":/f", "--", "sh", "-c", "cat /f -; echo; exit 33")
	if status != 33 || out != "put intyped\n" || !strings.Contains(errs, "h1 is up") {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
}
