package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"syscall"
	"testing"

	"tandem/boot"
	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/labrun"
)

// guestCommand is how the tests start Debian's kernel, with arguments of their own behind it.
func guestCommand(e *labrun.Engine, kernel string, more ...string) []string {
	return append([]string{e.Tandem(), "run", "-k", kernel, "-i", e.Initrd(), "-m", labrun.GuestMemory, "-c", "quiet"}, more...)
}

// start starts a command and shows what it printed if the test fails.
func start(ctx context.Context, t *testing.T, e *labrun.Engine, o labrun.Options, args ...string) *labrun.Session {
	t.Helper()
	s, err := e.Start(ctx, o, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%q printed:\n%s\nand on standard error:\n%s", args, s.Out, s.Err)
		}
	})
	return s
}

// await waits for texts in turn.
func await(ctx context.Context, t *testing.T, s *labrun.Screen, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := s.Await(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
}

func enter(t *testing.T, s *labrun.Session, text string) {
	t.Helper()
	if err := s.Type(text); err != nil {
		t.Fatal(err)
	}
}

// wantEnd waits for the command's end and checks its status.
func wantEnd(t *testing.T, s *labrun.Session, status int) {
	t.Helper()
	got, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	if got != status {
		t.Errorf("exit status %d, want %d", got, status)
	}
}

// TestLabDoctor examines a KVM that can run Linux.
func TestLabDoctor(t *testing.T) {
	ctx, e := linux(t)
	s := start(ctx, t, e, labrun.Options{}, e.Tandem(), "doctor")
	wantEnd(t, s, 0)
}

// TestLabBoot boots Debian's stock kernel to its shell and ends it in each of the ways in which a guest ends.
func TestLabBoot(t *testing.T) {
	t.Run("pipe and power-off", testPipe)
	t.Run("ELF and commands piped at the start", testELF)
	t.Run("reboot", func(t *testing.T) { testTypedEnd(t, "reboot -f\n", "the guest reset the machine") })
	t.Run("panic", func(t *testing.T) { testTypedEnd(t, "echo c >/proc/sysrq-trigger\n", "the guest reset the machine") })
	t.Run("terminal and leaving", testTerminal)
	t.Run("signal", testSignal)
}

// testPipe talks to the shell without a terminal.
func testPipe(t *testing.T) {
	ctx, e := linux(t)
	s := start(ctx, t, e, labrun.Options{}, guestCommand(e, e.Kernel(), "--stats-json", e.Path("stats"))...)
	await(ctx, t, s.Out, labrun.InitMarker, labrun.Prompt)
	enter(t, s, "echo six times seven is $((6 * 7))\n")
	await(ctx, t, s.Out, "six times seven is 42", labrun.Prompt)
	enter(t, s, "uname -r\n")
	await(ctx, t, s.Out, "\r\n"+e.Artifacts.Release, labrun.Prompt)
	enter(t, s, "poweroff -f\n")
	wantEnd(t, s, statusOK)
	if got, want := s.Err.String(), "tandem: the guest powered off (halted with interrupts off)\n"; got != want {
		t.Errorf("standard error is %q, want %q", got, want)
	}
	var stats bytes.Buffer
	if _, err := e.Get(ctx, e.Path("stats"), &stats); err != nil || !strings.Contains(stats.String(), `"kind": "io"`) {
		t.Errorf("the statistics are %q (%v)", stats.String(), err)
	}
}

// testELF boots the same kernel given as ELF, without any virtio device, with all its commands written before it listens.
func testELF(t *testing.T) {
	ctx, e := linux(t)
	image, err := os.ReadFile(e.Artifacts.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	elf, err := boot.ExtractELF(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Put(ctx, e.Path("vmlinux"), 0o644, bytes.NewReader(elf)); err != nil {
		t.Fatal(err)
	}
	input := "echo one $((1 + 0)) ; cat /sys/bus/pci/devices/*/vendor\necho two $((1 + 1))\necho three $((1 + 2))\npoweroff -f\n"
	s := start(ctx, t, e, labrun.Options{Input: input}, guestCommand(e, e.Path("vmlinux"), "--rng=false")...)
	if err := s.CloseInput(); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, s.Out, labrun.InitMarker, "\none 1", "\ntwo 2", "\nthree 3")
	wantEnd(t, s, statusOK)
	const virtioVendor = "0x1af4"
	if strings.Contains(s.Out.String(), virtioVendor) {
		t.Error("the guest has a virtio device")
	}
}

// testTypedEnd types what resets the guest.
func testTypedEnd(t *testing.T, typed, says string) {
	ctx, e := linux(t)
	s := start(ctx, t, e, labrun.Options{Input: typed}, guestCommand(e, e.Kernel())...)
	wantEnd(t, s, statusReset)
	await(ctx, t, s.Out, labrun.InitMarker)
	await(ctx, t, s.Err, says)
}

// testTerminal uses the shell on a terminal and leaves with the escape key; the terminal must be as it was.
func testTerminal(t *testing.T) {
	ctx, e := linux(t)
	command := guestCommand(e, e.Kernel())
	command[len(command)-1] = "'" + command[len(command)-1] + "'"
	script := "echo before $(stty -g); " + strings.Join(command, " ") + "; echo status $?; echo after $(stty -g)"
	s := start(ctx, t, e, labrun.Options{TTY: true}, "sh", "-c", script)
	await(ctx, t, s.Out, "tandem: press ^A x to leave", labrun.InitMarker, labrun.Prompt)
	enter(t, s, "echo asleep; sleep 1000\r") // only an interrupt typed into the guest gets the prompt back
	await(ctx, t, s.Out, "\r\nasleep")
	enter(t, s, "\x03")
	await(ctx, t, s.Out, labrun.Prompt)
	enter(t, s, "echo six times seven is $((6 * 7))\r")
	await(ctx, t, s.Out, "six times seven is 42", labrun.Prompt)
	enter(t, s, "\x01x")
	await(ctx, t, s.Out, "stopped by the VMM", "status 12")
	wantEnd(t, s, 0)
	wantRestored(t, s.Out.String())
}

// wantRestored checks that what stty said of the terminal before and after is the same.
func wantRestored(t *testing.T, output string) {
	t.Helper()
	said := map[string]string{}
	for _, line := range strings.Split(output, "\n") {
		for _, when := range []string{"before", "after"} {
			if state, ok := strings.CutPrefix(strings.TrimSpace(line), when+" "); ok {
				said[when] = state
			}
		}
	}
	if said["before"] == "" || said["after"] != said["before"] {
		t.Errorf("the terminal was %q, and is %q afterwards", said["before"], said["after"])
	}
}

// testSignal ends the program as a service manager would.
func testSignal(t *testing.T) {
	ctx, e := linux(t)
	s := start(ctx, t, e, labrun.Options{}, guestCommand(e, e.Kernel())...)
	await(ctx, t, s.Out, labrun.InitMarker)
	if err := s.Signal(ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, s, statusStopped)
	await(ctx, t, s.Err, "stopped by the VMM")
}

// TestLabClosedPipe boots a guest whose output nobody reads any more.
func TestLabClosedPipe(t *testing.T) {
	ctx, e := linux(t)
	script := "{ " + e.Tandem() + ` run -k ` + e.Kernel() + " -i " + e.Initrd() + " -m " + labrun.GuestMemory + "; echo status $? >&2; } | head -c 1"
	var out, errs bytes.Buffer
	if err := e.Run(ctx, agent.Cmd{Args: []string{"sh", "-c", script}, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatal(err)
	}
	if out.Len() != 1 || !strings.Contains(errs.String(), "broken pipe\nstatus 1\n") {
		t.Errorf("%q, standard error %q", out.String(), errs.String())
	}
}
