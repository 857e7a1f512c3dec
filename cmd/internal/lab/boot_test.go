package lab

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/ether"
)

// labTimeout bounds a test that boots hosts, on a busy machine.
const labTimeout = 8 * time.Minute

// startLab boots a lab for one test, setting up what is missing.
func startLab(t *testing.T, cfg Config) (context.Context, *Lab) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots emulated hosts: not with -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTimeout)
	t.Cleanup(cancel)
	cfg.Log = testLog{t}
	l, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, l
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimRight(b, "\n"))
	return len(b), nil
}

// output runs a command that must succeed and returns what it printed.
func output(ctx context.Context, t *testing.T, h *Host, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if err := h.Run(ctx, agent.Cmd{Args: args, Stdout: &out, Stderr: &errs}); err != nil {
		t.Fatalf("%s: %q: %v: %s%s", h.Name, args, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

func pings(ctx context.Context, h *Host, to string) bool {
	return h.Run(ctx, agent.Cmd{Args: []string{"ping", "-c", "1", "-W", "2", to}}) == nil
}

// TestTwoHosts is one boot for all that needs two hosts.
func TestTwoHosts(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(disk, bytes.Repeat([]byte("disk"), 1<<18), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("from outside"), 0o750); err != nil {
		t.Fatal(err)
	}
	shared := t.TempDir()
	ctx, l := startLab(t, Config{
		Share:    shared,
		Hosts:    []HostConfig{{Disks: []Disk{{Path: disk, ReadOnly: true}}}, {Name: "other"}},
		Networks: 2, Files: map[string]string{"/opt/file": file},
	})
	one, two := l.Host("h1"), l.Host("other")
	t.Run("ready", func(t *testing.T) { testReady(ctx, t, l) })
	t.Run("kept awake", func(t *testing.T) { testKeptAwake(ctx, t, one) })
	t.Run("disk", func(t *testing.T) {
		if got := output(ctx, t, one, "sh", "-c", "dd if=/dev/vda bs=1M 2>/dev/null | md5sum; cat /sys/block/vda/ro"); !strings.HasSuffix(got, "\n1") || !strings.HasPrefix(got, sumOf(t, disk)) {
			t.Errorf("the disk reads as %q", got)
		}
	})
	t.Run("files", func(t *testing.T) { testFiles(ctx, t, one) })
	t.Run("network", func(t *testing.T) { testNetwork(ctx, t, l) })
	t.Run("dial", func(t *testing.T) { testDial(ctx, t, one) })
	t.Run("raw frames", func(t *testing.T) { testRawFrames(ctx, t, l, one) })
	t.Run("client outside", func(t *testing.T) { testClient(ctx, t, l, one) })
	t.Run("freeze", func(t *testing.T) {
		two.Freeze()
		if pings(ctx, one, "other") {
			t.Error("a frozen host answers")
		}
		if !two.Frozen() || !two.Alive() || one.Frozen() {
			t.Error("it can't be seen which host is frozen")
		}
		two.Thaw()
		if !pings(ctx, one, "other") {
			t.Error("a thawed host doesn't answer")
		}
	})
	t.Run("share", func(t *testing.T) { testShare(ctx, t, l, shared) })
	t.Run("kill and boot again", func(t *testing.T) { testKill(ctx, t, l) })
	t.Run("close", func(t *testing.T) {
		if err := one.Close(ctx); err != nil {
			t.Error(err)
		}
		if one.Alive() {
			t.Error("the host is still there")
		}
	})
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", md5.Sum(b))
}

func testReady(ctx context.Context, t *testing.T, l *Lab) {
	for i, h := range l.Hosts() {
		if v := h.Hello().KVMVersion; v != 12 { // linux/kvm.h, KVM_API_VERSION
			t.Errorf("%s: KVM's version is %d", h.Name, v)
		}
		script := "test -c /dev/kvm && test -c /dev/net/tun; modprobe tun; for m in /proc /sys /dev/pts /tmp /sys/fs/cgroup; do grep -q \" $m \" /proc/mounts || echo no $m; done; hostname; cat /opt/file"
		if got, want := output(ctx, t, h, "sh", "-c", script), h.Name+"\nfrom outside"; got != want {
			t.Errorf("%s says %q, want %q", h.Name, got, want)
		}
		if want := fmt.Sprintf("10.77.1.%d", i+1); h.Addr(1).String() != want {
			t.Errorf("%s has address %v, want %s", h.Name, h.Addr(1), want)
		}
	}
	err := l.Host("h1").Run(ctx, agent.Cmd{Args: []string{"sh", "-c", "exit 42"}})
	var exit *agent.ExitError
	if !errors.As(err, &exit) || exit.Code != 42 {
		t.Errorf("exit 42 gives %v", err)
	}
	if _, err := l.Boot(ctx, HostConfig{Name: "h1"}); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("booting a host that is up: %v", err)
	}
}

// testKeptAwake checks that the timer which wakes a host goes on interrupting it.
func testKeptAwake(ctx context.Context, t *testing.T, h *Host) {
	count := func() (n int) {
		line := output(ctx, t, h, "grep", "hpet", "/proc/interrupts") // "16:  123  IO-APIC 16-fasteoi hpet2"
		if _, err := fmt.Sscan(strings.Fields(line)[1], &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	const more = 10
	for first := count(); count() < first+more; {
		if ctx.Err() != nil {
			t.Fatalf("no %d interrupts came", more)
		}
	}
}

func testFiles(ctx context.Context, t *testing.T, h *Host) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := h.Put(ctx, "/root/new/blob", 0o640, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	if mode, err := h.Get(ctx, "/root/new/blob", &back); err != nil || mode != 0o640 || !bytes.Equal(back.Bytes(), content) {
		t.Errorf("got back %d bytes, mode %v, %v", back.Len(), mode, err)
	}
}

func testNetwork(ctx context.Context, t *testing.T, l *Lab) {
	one := l.Host("h1")
	check := func(step string, net0, net1 bool) {
		t.Helper()
		if got := pings(ctx, one, "other"); got != net0 {
			t.Errorf("%s: ping on network 0 is %v", step, got)
		}
		if got := pings(ctx, one, "other-net1"); got != net1 {
			t.Errorf("%s: ping on network 1 is %v", step, got)
		}
	}
	check("at first", true, true)
	if err := l.Switch(0).SetPair("h1", "other", ether.Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	check("network 0 cut", false, true)
	l.Switch(0).Heal()
	if err := l.Switch(1).SetPort("other", ether.Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	check("network 1 cut", true, false)
	l.Switch(1).Heal()
	check("healed", true, true)
	if c := l.Switch(0).Ports()[0].Counters; c.SentFrames == 0 || c.ReceivedFrames == 0 {
		t.Errorf("nothing was counted: %+v", c)
	}
}

// testDial talks to a server inside from out here.
func testDial(ctx context.Context, t *testing.T, h *Host) {
	p, err := h.Start(ctx, agent.Cmd{Args: []string{"nc", "-l", "-p", "7000", "-e", "cat"}})
	if err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil {
		conn, err := h.DialContext(ctx, "tcp", "127.0.0.1:7000")
		if err != nil {
			continue // it isn't listening yet
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("echo")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if _, err := conn.Read(b); err != nil || string(b) != "echo" {
			t.Errorf("got %q, %v", b, err)
		}
		break
	}
	if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	var exit *agent.ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Signal != int(syscall.SIGKILL) {
		t.Errorf("the server ended with %v", err)
	}
}

// testRawFrames plays a host on the switch: it asks for one's address by ARP.
func testRawFrames(ctx context.Context, t *testing.T, l *Lab, h *Host) {
	p, err := l.Switch(0).Attach("probe")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	own := []byte{0x52, 0x54, 0, 0x4d, 0, 0xfe}
	target := h.Addr(0).As4()
	request := append(bytes.Repeat([]byte{0xff}, 6), own...)
	request = append(request, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	request = append(request, own...)
	request = append(request, 10, 77, 0, 254, 0, 0, 0, 0, 0, 0)
	request = append(request, target[:]...)
	if err := p.WriteFrame(request); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		// An ARP reply (RFC 826): opcode 2, sender's hardware address.
		if len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && bytes.Equal(f[28:32], target[:]) {
			if want := []byte{0x52, 0x54, 0, 0x4d, 0, 1}; !bytes.Equal(f[22:28], want) {
				t.Errorf("%v is at %x, want %x", h.Addr(0), f[22:28], want)
			}
			return
		}
	}
}

// testClient talks over the switch to a server in a host, which is cut off and frozen meanwhile.
func testClient(ctx context.Context, t *testing.T, l *Lab, h *Host) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	const name = "10.77.1.100"
	c, err := l.Client(1, netip.MustParsePrefix(name+"/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := h.Start(ctx, agent.Cmd{Args: []string{"nc", "-ll", "-p", "7001", "-e", "cat"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.DialContext(ctx, "tcp", h.Addr(1).String()+":7001")
	for err != nil && ctx.Err() == nil { // it isn't listening yet
		select {
		case <-server.Done():
			t.Fatalf("the server ended with %v", server.Wait())
		default:
		}
		conn, err = c.DialContext(ctx, "tcp", h.Addr(1).String()+":7001")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	echo := func(when, text string) {
		t.Helper()
		p := make([]byte, len(text))
		if _, err := io.ReadFull(conn, p); err != nil || string(p) != text {
			t.Errorf("%s: %.20q came back, %v", when, p, err)
		}
	}
	send := func(text string) {
		t.Helper()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	big := strings.Repeat("more than a segment ", 5000)
	send(big)
	echo("at first", big)
	if err := l.Switch(1).SetPair(h.Name, name, ether.Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	send("cut")
	before := h.ports[1].Counters().CutFrames
	for h.ports[1].Counters().CutFrames < before+3 {
		if ctx.Err() != nil {
			t.Fatal("nothing was sent again into the cut")
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.Switch(1).Heal()
	echo("after the cut", "cut")
	h.Freeze()
	defer h.Thaw() // also if this fails
	send("frozen")
	h.Thaw()
	echo("after the thaw", "frozen")
	if err := server.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = server.Wait() // it was killed
}

func testKill(ctx context.Context, t *testing.T, l *Lab) {
	one, two := l.Host("h1"), l.Host("other")
	pid := two.PID()
	p, err := two.Start(ctx, agent.Cmd{Args: []string{"sleep", "10000"}})
	if err != nil {
		t.Fatal(err)
	}
	two.Kill()
	if two.Alive() {
		t.Error("a killed host is alive")
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its QEMU is still there: %v", err)
	}
	if err := p.Wait(); err == nil {
		t.Error("a command on it ended well")
	}
	if err := two.Run(ctx, agent.Cmd{Args: []string{"true"}}); err == nil {
		t.Error("a command runs on it")
	}
	if pings(ctx, one, "other") {
		t.Error("it answers")
	}
	again, err := l.Boot(ctx, l.HostConfig("other"))
	if err != nil {
		t.Fatal(err)
	}
	if again != l.Host("other") || again.Addr(0) != two.Addr(0) {
		t.Error("the host that came back is another")
	}
	if !pings(ctx, one, "other") {
		t.Error("the host that came back doesn't answer")
	}
	if got := output(ctx, t, again, "cat", SharePath+"/claim-of-h1"); got != "h1" {
		t.Errorf("the host that came back reads %q from the shared folder", got)
	}
}

// testShare lets both hosts claim the same names by link(2), as an arbiter does, while the network between them is cut.
func testShare(ctx context.Context, t *testing.T, l *Lab, dir string) {
	for n := range l.Networks() {
		if err := l.Switch(n).SetPair("h1", "other", ether.Link{Cut: true}); err != nil {
			t.Fatal(err)
		}
		defer l.Switch(n).Heal()
	}
	const terms = 40
	script := fmt.Sprintf(`cd %s && echo -n $(hostname) | dd of=claim-of-$(hostname) conv=fsync 2>/dev/null || exit 1
		until [ -e claim-of-h1 -a -e claim-of-other ]; do :; done
		for i in $(seq %d); do ln claim-of-$(hostname) term-$i 2>/dev/null; [ -s term-$i ] || exit 1; done; sync .`, SharePath, terms)
	done := make(chan error, 2)
	for _, h := range []*Host{l.Host("h1"), l.Host("other")} {
		go func() { done <- h.Run(ctx, agent.Cmd{Args: []string{"sh", "-c", script}}) }()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	// A file has as many names as claims that it won, and its own.
	links := output(ctx, t, l.Host("h1"), "sh", "-c", "cd "+SharePath+"; stat -c %h claim-of-h1 claim-of-other")
	var one, other int
	if _, err := fmt.Sscan(links, &one, &other); err != nil || one+other != terms+2 {
		t.Errorf("%d claims were won, and the files' names are %q, %v", terms, links, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "term-1"))
	if err != nil || (string(b) != "h1" && string(b) != "other") {
		t.Errorf("out here the first claim is of %q, %v", b, err)
	}
	big := bytes.Repeat([]byte("bigger than a message "), 20_000)
	if err := os.WriteFile(filepath.Join(dir, "big"), big, 0o644); err != nil {
		t.Fatal(err)
	}
	copied := output(ctx, t, l.Host("other"), "sh", "-c", "cd "+SharePath+" && cp big copy && mv copy moved && md5sum <moved && ls | wc -l && rm moved")
	if want := fmt.Sprintf("%s  -\n%d", sumOf(t, filepath.Join(dir, "big")), terms+4); copied != want {
		t.Errorf("a copy in the shared folder gives %q, want %q", copied, want)
	}
}

// TestBootFailureShowsTheConsole boots a host whose init isn't the agent.
func TestBootFailureShowsTheConsole(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated hosts: not with -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), labTimeout)
	defer cancel()
	init := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(init, []byte("#!/bin/sh\necho this is not the agent\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Start(ctx, Config{Agent: init, Log: testLog{t}})
	if err == nil {
		l.Close()
		t.Fatal("it booted")
	}
	for _, want := range []string{"booting host h1", "this is not the agent", "Kernel panic"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}
