package protect

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/boot"
	"tandem/devices/virtio"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/lockstep/pair"
	"tandem/testdata/guests"
	"tandem/vmm"
	"tandem/vmm/blk"
)

// A host of the tests is a process of its own, this test program with hostEnv set, so that it can be killed: its standard
// input is what is typed at the guest, its standard output what the guest says, and on standard error it prints each state.
const hostEnv = "TANDEM_TEST_HOST"

// deadline is how long a test waits for what must come. It is far more than anything takes.
const deadline = 60 * time.Second

// hostSpec is what such a process is told, in JSON.
type hostSpec struct {
	Guest   string // the small guest of a primary; "" is a backup
	Param   uint64
	Keys    string
	Arbiter string
	Listen  string
	Peers   []string
	Rule    pair.Rule
	// Heartbeat and HeartbeatPeer are as Config's.
	Heartbeat, HeartbeatPeer string
	// Break changes an instruction of the guest in a backup's memory, as a cosmic ray would, each time that it begins to follow,
	// so many times.
	Break int
	// Hang makes of that instruction a loop without end.
	Hang bool
	// TakeGuest is Config's.
	TakeGuest bool
	// Fill is how many bytes of the guest's memory have content that the guest does not use.
	Fill int
	// Disk is the guest's disk, if it has a path.
	Disk blk.Options
	// Detect is as Config's.
	Detect time.Duration
}

// fillAt is where such content is.
const fillAt = 8 << 20

// filling returns such content.
func filling(bytes int) []byte {
	p := make([]byte, bytes)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

func TestMain(m *testing.M) {
	text, ok := os.LookupEnv(hostEnv)
	if !ok {
		os.Exit(m.Run())
	}
	var spec hostSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		err = spec.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

// run is such a process.
func (s *hostSpec) run() error {
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		return err
	}
	credentials, err := link.LoadCredentials(s.Keys)
	if err != nil {
		return err
	}
	place, err := arbiter.OpenFile(context.Background(), s.Arbiter, "guest")
	if err != nil {
		return err
	}
	d := &stdio{console: vmm.NewConsoleWriter(os.Stdout)}
	if s.Disk.Path != "" {
		d.disks = []blk.Options{s.Disk}
	}
	go d.read()
	h, err := New(Config{
		System: system, Guest: "guest", Credentials: credentials, Arbiter: place, Listen: s.Listen, Peers: s.Peers, Rule: s.Rule,
		Heartbeat: s.Heartbeat, HeartbeatPeer: s.HeartbeatPeer, TakeGuest: s.TakeGuest,
		Detect: s.Detect, Devices: d, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", h.Status().Listen)
	go report(h)
	go s.breakGuest(h)
	go failGuest()
	go tellMemory(h)
	cause, err := s.play(h, system, d)
	if err := errors.Join(err, h.Close(), d.console.Close()); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "ended:", cause)
	return nil
}

func (s *hostSpec) play(h *Host, system *kvm.System, d *stdio) (vmm.Cause, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if s.Guest == "" {
		return h.RunBackup(ctx)
	}
	c := vmm.Config{MemoryBytes: 32 << 20, EpochNS: 1767323045e9, Console: d.console, Debug: d.console, MMIO: true}
	for _, o := range d.disks {
		image, err := blk.Open(o)
		if err != nil {
			return 0, err
		}
		sectors := uint64(image.Size()) / virtio.SectorSize
		c.Disks = append(c.Disks, vmm.Disk{BlkConfig: virtio.BlkConfig{Sectors: sectors}, Name: o.Path, Image: image})
	}
	m, err := vmm.New(system, c)
	if err != nil {
		return 0, err
	}
	k, err := boot.ReadKernel(guests.Image(s.Guest))
	if err != nil {
		return 0, err
	}
	if err := m.Load(k, boot.Options{}); err != nil {
		return 0, err
	}
	if err := m.Memory().WriteAt(binary.LittleEndian.AppendUint64(nil, s.Param), guests.ParamAddress); err != nil {
		return 0, err
	}
	if err := m.Memory().WriteAt(filling(s.Fill), fillAt); err != nil {
		return 0, err
	}
	return h.RunPrimary(ctx, m)
}

// tellMemory prints the hash of the machine's memory whenever it is asked to by a signal.
func tellMemory(h *Host) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	for range asked {
		h.post(func() {
			sum := sha256.New()
			if m := h.machine(); m != nil {
				for _, r := range m.Memory().Regions() {
					all, err := m.Memory().Bytes(r.Base, r.Bytes)
					if err != nil {
						panic(err)
					}
					sum.Write(all)
				}
			}
			fmt.Fprintf(os.Stderr, "memory %x\n", sum.Sum(nil))
		})
	}
}

// capitals is the instruction of the guest uart-echo that compares a letter with 'a'.
var capitals = []byte{0x3c, 'a'}

// breakGuest changes the machine of a backup.
func (s *hostSpec) breakGuest(h *Host) {
	var broken *vmm.Machine
	for left := s.Break; left > 0; {
		h.inLoop(func() {
			if h.replica == nil || h.replica.m == nil || h.replica.m == broken {
				return
			}
			broken = h.replica.m
			left--
			memory := broken.Memory()
			all, err := memory.Bytes(0, memory.Regions()[0].Bytes)
			if err != nil {
				panic(err)
			}
			instruction := []byte{0x3c, 0x7f}
			if s.Hang {
				instruction = []byte{0xeb, 0xfe}
			}
			if err := memory.WriteAt(instruction, uint64(bytes.Index(all, capitals))); err != nil {
				panic(err)
			}
			fmt.Fprintln(os.Stderr, "broken")
		})
		time.Sleep(time.Millisecond)
	}
}

// failGuest makes the host fail its guest at a signal: it has no vCPU any more.
func failGuest() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	<-signals
	null, err := os.Open(os.DevNull)
	if err != nil {
		panic(err)
	}
	for fd := range 256 {
		if what, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); strings.Contains(what, "kvm-vcpu") {
			if err := unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC); err != nil {
				panic(err)
			}
			fmt.Fprintln(os.Stderr, "no vCPU")
		}
	}
}

// report prints what becomes of a host.
func report(h *Host) {
	last, held := "", 0
	for {
		s := h.Status()
		if s.Output.Held != held {
			held = s.Output.Held
			fmt.Fprintf(os.Stderr, "held %d\n", held)
		}
		if now := fmt.Sprintf("state %s %s term %d", s.Role, s.State, s.Term); now != last {
			fmt.Fprintln(os.Stderr, now)
			last = now
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// stdio are the devices of such a process: a console, and perhaps a disk.
type stdio struct {
	console *vmm.ConsoleWriter
	disks   []blk.Options
	machine atomic.Pointer[vmm.Machine]
}

func (d *stdio) read() {
	var p [1]byte
	for {
		if _, err := os.Stdin.Read(p[:]); err != nil {
			return
		}
		for d.machine.Load() == nil || d.machine.Load().Post(lockstep.Input{Kind: lockstep.KindConsole, Payload: []byte{p[0]}}) != nil {
			time.Sleep(time.Millisecond)
		}
	}
}

func (d *stdio) Disks() []blk.Options { return d.disks }
func (d *stdio) Complete(c *vmm.Config) error {
	c.Console, c.Debug = d.console, d.console
	return nil
}
func (d *stdio) Connect(m *vmm.Machine)     { d.machine.Store(m) }
func (d *stdio) Disconnect()                { d.machine.Store(nil) }
func (d *stdio) Announce(int, []netip.Addr) {}

// process is a host of a test.
type process struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *screen
	errs   *screen
	listen string
	ended  chan struct{}
}

// screen keeps what a process says.
type screen struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   bytes.Buffer
}

func newScreen() *screen {
	s := &screen{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
	return s.bytes.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes.String()
}

// await waits until what was said satisfies a condition.
func (s *screen) await(t *testing.T, what string, enough func(string) bool) {
	t.Helper()
	late := false
	alarm := time.AfterFunc(deadline, func() {
		s.mu.Lock()
		late = true
		s.changed.Broadcast()
		s.mu.Unlock()
	})
	defer alarm.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !enough(s.bytes.String()) {
		if late {
			t.Fatalf("%s did not come; there is\n%s", what, s.bytes.String())
		}
		s.changed.Wait()
	}
}

func (s *screen) text(t *testing.T, text string) {
	t.Helper()
	s.await(t, fmt.Sprintf("%q", text), func(all string) bool { return strings.Contains(all, text) })
}

// pairOfHosts is where a test's hosts live: their keys and their arbiter.
type pairOfHosts struct {
	keys    []string
	arbiter string
	rule    pair.Rule
	beats   [2]string // the hosts' addresses of the second path, or ""
	hang    bool      // as hostSpec's
	take    bool      // hosts that are started take the guest from whoever has it
	fill    int       // as hostSpec's
	disks   [2]blk.Options
	detect  time.Duration
}

func newPair(t *testing.T, rule pair.Rule) *pairOfHosts {
	t.Helper()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip(err)
	}
	p := &pairOfHosts{arbiter: filepath.Join(t.TempDir(), "arbiter"), rule: rule}
	if err := errors.Join(os.Mkdir(p.arbiter, 0o700), arbiter.CreateFile(p.arbiter)); err != nil {
		t.Fatal(err)
	}
	keys, err := link.GenerateKeys([]string{"a", "b"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		folder := t.TempDir()
		err := errors.Join(
			os.WriteFile(filepath.Join(folder, link.HostFile), k.Host, 0o600),
			os.WriteFile(filepath.Join(folder, link.TrustFile), k.Trust, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		p.keys = append(p.keys, folder)
	}
	return p
}

// beat gives the pair's second path addresses of its own.
func (p *pairOfHosts) beat(t *testing.T) {
	t.Helper()
	for i := range p.beats {
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.beats[i] = socket.LocalAddr().String()
		if err := socket.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// sameMemory waits until the memories of two hosts' machines are equal.
func sameMemory(t *testing.T, a, b *process) {
	t.Helper()
	late := time.Now().Add(deadline)
	for memoryOf(t, a) != memoryOf(t, b) {
		if time.Now().After(late) {
			t.Fatal("the hosts' machines have different memories")
		}
	}
}

// memoryOf asks a host for the hash of its machine's memory.
func memoryOf(t *testing.T, h *process) string {
	t.Helper()
	said := len(h.errs.String())
	if err := h.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var hash string
	h.errs.await(t, "a hash of memory", func(all string) bool {
		_, rest, _ := strings.Cut(all[said:], "memory ")
		var whole bool
		hash, _, whole = strings.Cut(rest, "\n")
		return whole
	})
	return hash
}

// delta returns how many MiB a host says that it sent, of how many, where it says so for the nth time.
func delta(t *testing.T, h *process, what string, n int) (sent, all float64) {
	t.Helper()
	h.errs.await(t, what, func(said string) bool { return strings.Count(said, what) >= n })
	at := strings.Split(h.errs.String(), what)[n]
	if _, err := fmt.Sscanf(at, " by a delta of %f MiB of %f MiB", &sent, &all); err != nil {
		t.Fatalf("%q: %v", at[:min(len(at), 80)], err)
	}
	return sent, all
}

// start starts a host: number 0 or 1 of the pair, with a guest or as a backup.
func (p *pairOfHosts) start(t *testing.T, number int, guest string, peers ...string) *process {
	t.Helper()
	return p.startBroken(t, number, 0, guest, peers...)
}

// protect starts a backup on host 1 and a guest on host 0, and waits until the guest is protected.
func (p *pairOfHosts) protect(t *testing.T, image string) (guest, backup *process) {
	t.Helper()
	backup = p.start(t, 1, "")
	guest = p.start(t, 0, image, backup.listen)
	backup.errs.text(t, "state backup protected")
	return guest, backup
}

// startBroken starts a host that, as a backup, breaks its machine so many times.
func (p *pairOfHosts) startBroken(t *testing.T, number, times int, guest string, peers ...string) *process {
	t.Helper()
	return p.startAt(t, number, times, "127.0.0.1:0", guest, peers...)
}

// startAt starts a host that listens at an address.
func (p *pairOfHosts) startAt(t *testing.T, number, times int, listen, guest string, peers ...string) *process {
	t.Helper()
	spec, err := json.Marshal(hostSpec{
		Guest: guest, Keys: p.keys[number], Arbiter: p.arbiter, Listen: listen, Peers: peers, Rule: p.rule, Break: times, Fill: p.fill, Disk: p.disks[number],
		Heartbeat: p.beats[number], HeartbeatPeer: p.beats[1-number], TakeGuest: p.take, Hang: p.hang, Detect: p.detect,
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &process{Cmd: exec.Command(os.Args[0]), out: newScreen(), errs: newScreen(), ended: make(chan struct{})}
	h.Env = append(os.Environ(), hostEnv+"="+string(spec))
	h.Stdout, h.Stderr = h.out, h.errs
	if h.in, err = h.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = h.Wait()
		close(h.ended)
	}()
	t.Cleanup(func() {
		h.kill()
		if strings.Contains(h.errs.String(), "DATA RACE") { // of a test that was built to find them
			t.Error("a host has a data race")
		}
		if t.Failed() {
			t.Logf("host %d (%s) said\n%s\nand its guest %q", number, guest, h.errs, h.out)
		}
	})
	h.errs.text(t, "listening on ")
	lines := bufio.NewScanner(strings.NewReader(h.errs.String()))
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
			h.listen = at
		}
	}
	return h
}

// kill takes a host's process away.
func (h *process) kill() {
	_ = h.Process.Kill()
	<-h.ended
}

func (h *process) typed(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(h.in, text); err != nil {
		t.Fatal(err)
	}
}
