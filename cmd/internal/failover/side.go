package failover

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
	"tandem/vmm/control"
	"tandem/vmm/protect"
)

// Side is one host of a pair.
type Side struct {
	Name string

	pair    *Pair
	number  int
	host    *lab.Host
	process *agent.Process // nil until tandem was started
	input   *io.PipeWriter // what is typed at the guest's console
	said    transcript
	// commands numbers what was typed.
	commands int
}

// Host is the emulated machine, the latest if it was booted again.
func (s *Side) Host() *lab.Host { return s.host }

// address is the host's on a network.
func (s *Side) address(network, port int) string {
	return fmt.Sprintf("%s:%d", s.host.Addr(network), port)
}

// prepare turns the host's card on network 1 into a bridge's, for the guest's frames.
func (s *Side) prepare(ctx context.Context) error {
	var out bytes.Buffer
	err := s.host.Run(ctx, script(fmt.Sprintf(`
		modprobe tun; modprobe bridge
		brctl addbr br0
		ip address flush dev eth1
		brctl addif br0 eth1
		ip address add %s/%d dev br0
		ip link set br0 up
	`, s.host.Addr(1), prefixBits), &out))
	if err != nil {
		return fmt.Errorf("preparing %s: %w: %s", s.Name, err, &out)
	}
	return nil
}

// devices are the flags for what is behind the guest's devices, the same on both hosts.
func (s *Side) devices() []string {
	return []string{
		"--disk", "/dev/vda,overlay=" + folder + "/root.overlay",
		"--net", "tap,bridge=br0,ifname=tap0,mac=" + guestMAC,
	}
}

// commandLine is the guest's kernel's. By default Linux reads the time from a port (there is no TSC), dozens of times for a
// request to a server, and an emulated host takes 110 µs for each: half of all exits. So the guest counts ticks instead.
const commandLine = "quiet io_delay=none clocksource=jiffies highres=off nohz=off"

// guest are the flags for the guest itself.
func (s *Side) guest() []string {
	return []string{
		"-k", folder + "/vmlinuz", "-i", folder + "/initrd", "-m", s.pair.cfg.Memory,
		"-c", fmt.Sprintf("%s tandem.address=%s/%d", commandLine, GuestAddress, prefixBits),
	}
}

// part are the flags for the host's part of the pair.
func (s *Side) part() []string {
	other := s.pair.Other(s)
	flags := []string{
		"--keys", folder + "/keys", "--arbiter", s.pair.arbiter, "--listen", s.address(0, logPort),
		"--heartbeat", s.address(1, heartbeatPort), "--heartbeat-peer", other.address(1, heartbeatPort),
	}
	return append(flags, s.pair.cfg.Flags...)
}

// RunAlone starts the guest without anything of a pair.
func (s *Side) RunAlone(ctx context.Context) error {
	return s.start(ctx, append(append([]string{"run"}, s.guest()...), s.devices()...))
}

// Run starts the guest. It is alone until a backup comes, which the boot is quicker without.
func (s *Side) Run(ctx context.Context) error {
	args := append(append([]string{"run"}, s.guest()...), s.devices()...)
	return s.start(ctx, append(args, s.part()...))
}

// Back starts the guest's backup.
func (s *Side) Back(ctx context.Context) error {
	args := append(append([]string{"backup"}, s.devices()...), s.part()...)
	return s.start(ctx, append(args, "--peer", s.pair.Other(s).address(0, logPort)))
}

// start runs tandem until it ends or is killed. The context bounds the start alone.
func (s *Side) start(ctx context.Context, args []string) error {
	if s.Running() {
		return fmt.Errorf("tandem is running on %s already", s.Name)
	}
	keyboard, input := io.Pipe()
	p, err := s.host.Start(context.WithoutCancel(ctx), agent.Cmd{
		Args: append([]string{folder + "/tandem"}, args...), Stdin: keyboard, Stdout: &s.said, Stderr: &s.said,
	})
	if err != nil {
		return fmt.Errorf("starting tandem on %s: %w", s.Name, err)
	}
	s.process, s.input = p, input
	go func() {
		<-p.Done()
		_ = keyboard.CloseWithError(io.ErrClosedPipe)
	}()
	return nil
}

// shellPollEvery is how often the console is looked at; that costs the host nothing.
const shellPollEvery = 10 * time.Millisecond

// Shell types a command at the guest's console, where a shell of root's waits, and returns how long the guest took for it.
func (s *Side) Shell(ctx context.Context, command string) (time.Duration, error) {
	s.commands++
	// The terminal echoes what is typed; the shell alone works the number out.
	end := fmt.Sprintf("end-%d-", s.commands+1)
	start := time.Now()
	if _, err := fmt.Fprintf(s.input, "%s; echo end-$((%d + 1))-$?\n", command, s.commands); err != nil {
		return 0, fmt.Errorf("the console of tandem on %s: %w", s.Name, err)
	}
	for {
		if _, after, ok := strings.Cut(s.said.String(), end); ok && strings.Contains(after, "\n") {
			if status, _, _ := strings.Cut(after, "\n"); status != "0" {
				return 0, fmt.Errorf("the guest's shell ended %q with status %s", command, status)
			}
			return time.Since(start), nil
		}
		select {
		case <-time.After(shellPollEvery):
		case <-s.process.Done():
			return 0, fmt.Errorf("tandem on %s ended; it said: %s", s.Name, s.Said())
		case <-ctx.Done():
			return 0, fmt.Errorf("%q in the guest: %w; tandem said: %s", command, context.Cause(ctx), s.Said())
		}
	}
}

// Running tells whether tandem runs on this host.
func (s *Side) Running() bool {
	if s.process == nil || !s.host.Alive() {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

// Ended returns tandem's end: nil if it was in order.
func (s *Side) Ended(ctx context.Context) error {
	select {
	case <-s.process.Done():
		return s.process.Wait()
	case <-ctx.Done():
		return fmt.Errorf("tandem on %s does not end: %w; it said: %s", s.Name, context.Cause(ctx), s.Said())
	}
}

// KillProcess ends tandem on this host with SIGKILL, in the middle of whatever it does.
func (s *Side) KillProcess(ctx context.Context) error {
	if err := s.process.Signal(ctx, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing tandem on %s: %w", s.Name, err)
	}
	var exit *agent.ExitError
	if err := s.Ended(ctx); !errors.As(err, &exit) {
		return fmt.Errorf("tandem on %s was killed and ended with %w", s.Name, err)
	}
	return nil
}

// KillHost takes the host's power away.
func (s *Side) KillHost() { s.host.Kill() }

// Boot lets a host that lost its power come back. Its replica of the disk is gone: it was in the host's memory.
func (s *Side) Boot(ctx context.Context) error {
	h, err := s.pair.Lab.Boot(ctx, s.pair.Lab.HostConfig(s.Name))
	if err != nil {
		return err
	}
	s.host, s.process = h, nil
	return s.prepare(ctx)
}

// statusTimeout bounds a request to tandem's control socket.
const statusTimeout = 20 * time.Second

// Status asks tandem, by its control socket. No program is started on the host for that: it would take processor time away
// from the guest.
func (s *Side) Status(ctx context.Context) (*protect.Status, error) {
	if !s.Running() {
		return nil, fmt.Errorf("no tandem is running on %s", s.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	conn, err := s.host.DialContext(ctx, "unix", "/run/tandem/guest.sock")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	request, err := json.Marshal(control.Request{Version: control.Version, Verb: control.VerbStatus})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(request, '\n')); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the status of tandem on %s: %w", s.Name, err)
	}
	answer, err := control.DecodeAnswer(bytes.TrimSuffix(line, []byte("\n")))
	switch {
	case err != nil:
		return nil, err
	case answer.Error != "":
		return nil, fmt.Errorf("tandem on %s: %s", s.Name, answer.Error)
	case answer.Status == nil:
		return nil, fmt.Errorf("tandem on %s gave no status", s.Name)
	}
	return answer.Status, nil
}

// Said returns the end of what tandem and the guest's console have said on this host.
func (s *Side) Said() string { return s.said.String() }

// transcript keeps the end of what is written.
type transcript struct {
	mu   sync.Mutex
	text []byte
}

const transcriptBytes = 64 << 10

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*transcriptBytes {
		t.text = append([]byte(nil), t.text[len(t.text)-transcriptBytes:]...)
	}
	return len(p), nil
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ReplaceAll(t.text, []byte("\r"), nil))
}
