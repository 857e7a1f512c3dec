package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/labrun"
)

// replayInit is the guest's init in these tests: labrun's, with the modules of all devices.
const replayInit = `#!/bin/sh
echo "` + labrun.InitMarker + `"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in virtio_pci virtio_blk virtio_net virtio_rng; do modprobe $m; done
export HOME=/root PS1="` + labrun.Prompt + `"
cd /root
exec setsid cttyhack sh
`

// replayTimeout bounds a test that records and replays, on a busy machine.
const replayTimeout = 12 * time.Minute

func replayEngine(t *testing.T) (context.Context, *labrun.Engine) {
	t.Helper()
	_, e := linux(t)
	ctx, cancel := context.WithTimeout(t.Context(), replayTimeout)
	t.Cleanup(cancel)
	return ctx, e
}

// recorded is a recording in the engine.
type recorded struct {
	engine  *labrun.Engine
	dir     string
	console string // all that the guest printed
}

// recordLab records a guest that is typed at: each command is typed when the prompt has come behind the one before. serve is
// called when the guest has printed "serving", nil if it never does.
func recordLab(ctx context.Context, t *testing.T, e *labrun.Engine, name string, flags, commands []string, serve func()) *recorded {
	t.Helper()
	initrd := replayInitrd(ctx, t, e)
	r := &recorded{engine: e, dir: e.Path(name)}
	t.Cleanup(func() { // a lab's host keeps its files in memory
		_ = e.Run(context.WithoutCancel(ctx), agent.Cmd{Args: []string{"rm", "-rf", r.dir}})
	})
	args := append([]string{e.Tandem(), "record", "-o", r.dir, "-k", e.Kernel(), "-i", initrd, "-m", labrun.GuestMemory, "-c", "quiet", "--stats"}, flags...)
	s := start(ctx, t, e, labrun.Options{}, args...)
	await(ctx, t, s.Out, labrun.InitMarker, labrun.Prompt)
	for _, c := range commands {
		enter(t, s, c+"\n")
		if strings.Contains(c, "serving") && serve != nil {
			await(ctx, t, s.Out, "serving\r\n")
			serve()
		}
		await(ctx, t, s.Out, labrun.Prompt)
	}
	enter(t, s, "poweroff -f\n")
	wantEnd(t, s, statusOK)
	r.console = s.Out.String()
	if strings.Contains(r.console, "FAILED") {
		t.Fatalf("the guest says:\n%s", r.console)
	}
	t.Logf("recorded; %s", lastLines(s.Err.String(), 12))
	return r
}

// replayInitrd puts the guest's root into the engine and returns where it is.
func replayInitrd(ctx context.Context, t *testing.T, e *labrun.Engine) string {
	t.Helper()
	work, err := lab.BuildStatic(ctx, "tandem/cmd/tandem/testdata/guestwork", "guestwork")
	if err != nil {
		t.Fatal(err)
	}
	root, err := lab.GuestInitramfs(ctx, e.Artifacts, lab.GuestConfig{
		Init: replayInit, Modules: []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_rng"},
		Files: map[string]string{"bin/guestwork": work},
	})
	if err != nil {
		t.Fatal(err)
	}
	var initrd bytes.Buffer
	if _, err := root.WriteTo(&initrd); err != nil {
		t.Fatal(err)
	}
	path := e.Path("replay-initrd")
	if err := e.Put(ctx, path, 0o644, &initrd); err != nil {
		t.Fatal(err)
	}
	return path
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// weathers are shell scripts around a replay that change what the host does in the meantime: its command is $@.
var weathers = []struct{ name, script string }{
	{"calm", `exec "$@"`},
	{"busy host and signals", `
		(i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done) &
		"$@" & replay=$!
		(while kill -URG $replay && kill -WINCH $replay; do usleep 10000; done) 2>/dev/null &
		wait $replay`},
	{"stopped again and again", `
		"$@" & replay=$!
		(while kill -STOP $replay; do usleep 20000; kill -CONT $replay; usleep 200000; done) 2>/dev/null &
		wait $replay`},
}

// mustReplay replays a recording, in each weather, and fails if anything differs: a digest, all of the machine at the end,
// or what the guest prints.
func (r *recorded) mustReplay(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, w := range weathers {
		s := start(ctx, t, r.engine, labrun.Options{}, "sh", "-c", w.script, "sh", r.engine.Tandem(), "replay", r.dir, "--stats")
		wantEnd(t, s, statusOK)
		if !strings.Contains(s.Err.String(), "memory, registers and devices are equal") {
			t.Errorf("%s: %s", w.name, s.Err)
		}
		if out := s.Out.String(); out != r.console {
			t.Errorf("%s: the guest prints\n%s\nand printed\n%s", w.name, out, r.console)
		}
		t.Logf("%s: %s", w.name, lastLines(s.Err.String(), 12))
	}
}

// summary returns what `tandem log summary` counts.
func (r *recorded) summary(ctx context.Context, t *testing.T) *logSummary {
	t.Helper()
	s := start(ctx, t, r.engine, labrun.Options{}, r.engine.Tandem(), "log", "summary", "--json", r.dir)
	wantEnd(t, s, statusOK)
	var summary logSummary
	if err := json.Unmarshal([]byte(s.Out.String()), &summary); err != nil {
		t.Fatalf("%v: %s", err, s.Out)
	}
	return &summary
}

// of returns how many records of a kind a log has.
func (s *logSummary) of(kind string) uint64 {
	for _, k := range s.Kinds {
		if k.Kind == kind {
			return k.Records
		}
	}
	return 0
}

// TestLabReplayPrograms records a guest in which programs do all that should not repeat by itself, and replays it.
func TestLabReplayPrograms(t *testing.T) {
	ctx, e := replayEngine(t)
	r := recordLab(ctx, t, e, "replay-programs", []string{"--checkpoint", "8s"}, []string{
		"uname -a; cat /proc/uptime; date +%s.%N",
		"for i in 1 2 3 4 5; do echo line $i; done | sort -r | tr a-z A-Z | wc -c",
		"cat /proc/self/maps | head -3; for i in 1 2; do cat /proc/self/stat | cut -d' ' -f26-28; done",
		"head -c 16 /dev/urandom | md5sum",
		"head -c 300000 /dev/urandom > blob; gzip -c blob | md5sum; gzip blob; zcat blob.gz | md5sum",
		"i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo counted to $i",
		"guestwork tsc 2000",
		"guestwork fault",
		"guestwork signals 20",
		"f() { if [ $1 -gt 0 ]; then f $(($1-1)) & f $(($1-1)) & wait; fi; }; f 4; echo the bomb is out",
		"sleep 0.5; cat /proc/interrupts | head -4; cat /proc/uptime",
	}, nil)
	for _, want := range []string{"counted to 30000", "tsc: 2000 readings", "fault: the child got SIGSEGV", "signals: 20 handled", "the bomb is out"} {
		if !strings.Contains(r.console, want) {
			t.Errorf("the guest did not print %q", want)
		}
	}
	summary := r.summary(ctx, t)
	if summary.of("delta") == 0 {
		t.Error("the guest was never stopped where it had no exit")
	}
	t.Logf("%d records, %d deltas, %d checkpoints", summary.Records, summary.of("delta"), summary.of("checkpoint"))
	r.mustReplay(ctx, t)
	if summary.of("checkpoint") == 0 {
		t.Fatal("no checkpoint was made")
	}
	r.testCheckpoint(ctx, t, summary.of("checkpoint"))
	r.testTorn(ctx, t)
	r.testLive(ctx, t)
}

// testCheckpoint replays up to a checkpoint, and from it: together they print what the guest printed.
func (r *recorded) testCheckpoint(ctx context.Context, t *testing.T, number uint64) {
	replay := func(flag string, at uint64) string {
		s := start(ctx, t, r.engine, labrun.Options{}, r.engine.Tandem(), "replay", r.dir, flag, strconv.FormatUint(at, 10))
		wantEnd(t, s, statusOK)
		return s.Out.String()
	}
	before, from := replay("--until-exit", r.exitOf(ctx, t, "checkpoint", "tail")), replay("--from", number)
	if before+from != r.console {
		t.Errorf("up to the last checkpoint the guest prints %q, from there %q", before, from)
	}
}

// testTorn replays a log that was cut off: the guest goes as far as the log is good, and the end is told.
func (r *recorded) testTorn(ctx context.Context, t *testing.T) {
	torn := r.engine.Path("replay-torn")
	script := fmt.Sprintf(`mkdir %[2]s && cd %[1]s && cp checkpoint-000000 %[2]s && head -c 60000 machine.log >%[2]s/machine.log`, r.dir, torn)
	wantEnd(t, start(ctx, t, r.engine, labrun.Options{}, "sh", "-c", script), 0)
	s := start(ctx, t, r.engine, labrun.Options{}, r.engine.Tandem(), "replay", torn)
	wantEnd(t, s, statusLogIncomplete)
	wantEnd(t, start(ctx, t, r.engine, labrun.Options{}, "rm", "-r", torn), 0)
	if !regexp.MustCompile(`the log is cut off at byte \d+: .*; good up to record \d+ \(exit \d+\)`).MatchString(s.Err.String()) {
		t.Errorf("of a torn log it says %q", s.Err)
	}
	if out := s.Out.String(); !strings.HasPrefix(r.console, out) {
		t.Errorf("the torn log's guest prints %q", out)
	}
}

// testLive replays up to the shell's prompt and takes the guest over there.
func (r *recorded) testLive(ctx context.Context, t *testing.T) {
	s := start(ctx, t, r.engine, labrun.Options{}, r.engine.Tandem(), "replay", r.dir, "--until-exit", strconv.FormatUint(r.exitOf(ctx, t, "console", "head")-1, 10), "--go-live")
	await(ctx, t, s.Err, "live from exit")
	enter(t, s, "echo $((6*7)) lives; poweroff -f\n")
	await(ctx, t, s.Out, "42 lives")
	wantEnd(t, s, statusOK)
}

// exitOf returns the exit of a record of a kind: which is head or tail, for the first and for the last.
func (r *recorded) exitOf(ctx context.Context, t *testing.T, kind, which string) uint64 {
	t.Helper()
	script := fmt.Sprintf("%s log dump --json --kind %s %s | %s -n 1", r.engine.Tandem(), kind, r.dir, which)
	s := start(ctx, t, r.engine, labrun.Options{}, "sh", "-c", script)
	wantEnd(t, s, 0)
	var record logRecord
	if err := json.Unmarshal([]byte(s.Out.String()), &record); err != nil {
		t.Fatalf("%v: %q", err, s.Out)
	}
	return record.Exit
}

// TestLabReplayDevices records a guest that writes to a disk and serves clients, and replays it without either.
func TestLabReplayDevices(t *testing.T) {
	ctx, e := replayEngine(t)
	disk := e.Path("replay-disk")
	if err := e.Put(ctx, disk, 0o644, bytes.NewReader(make([]byte, 8<<20))); err != nil {
		t.Fatal(err)
	}
	const clients = 3
	r := recordLab(ctx, t, e, "replay-devices", []string{"--disk", disk, "--forward", "8080:80", "--verify-memory", "5000"}, []string{
		"ls /sys/bus/virtio/devices; cat /sys/class/block/vda/size",
		"head -c 200000 /dev/urandom > blob; md5sum blob",
		"for i in 1 2 3; do dd if=blob of=/dev/vda bs=50000 seek=$i conv=fsync 2>/dev/null; done; sync; echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=50000 skip=3 count=4 2>/dev/null | md5sum",
		"ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; ping -c 2 10.0.2.2 | grep transmitted",
		fmt.Sprintf("(i=0; while [ $i -lt %d ]; do nc -l -p 80 -e sh -c 'read x; echo you said $x; date +%%s.%%N'; i=$((i+1)); done) & sleep 0.3; echo serving; wait", clients),
		"dd if=/dev/hwrng bs=16 count=4 2>/dev/null | md5sum; cat /proc/interrupts | grep virtio",
	}, func() {
		for i := range clients {
			askGuest(ctx, t, e, fmt.Sprintf("client %d", i))
		}
	})
	if n := r.summary(ctx, t).of("frame"); n < 3*clients {
		t.Errorf("%d frames are in the log", n)
	}
	if n := r.summary(ctx, t).of("disk"); n < 10 {
		t.Errorf("%d disk requests are in the log", n)
	}
	if n := r.summary(ctx, t).of("memory"); n == 0 {
		t.Error("no hash of memory is in the log")
	}
	// A replay must not look at the disk, nor need it.
	wantEnd(t, start(ctx, t, e, labrun.Options{}, "rm", disk), 0)
	r.mustReplay(ctx, t)
}

// askGuest talks to the guest's server, once it listens.
func askGuest(ctx context.Context, t *testing.T, e *labrun.Engine, text string) {
	t.Helper()
	for ctx.Err() == nil {
		conn, err := e.DialContext(ctx, "tcp", "127.0.0.1:8080")
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		_, _ = io.WriteString(conn, text+"\n")
		answer, _ := io.ReadAll(conn)
		stop()
		conn.Close()
		if strings.HasPrefix(string(answer), "you said "+text+"\n") {
			return
		}
	}
	t.Fatalf("the guest's server does not answer: %v", ctx.Err())
}
