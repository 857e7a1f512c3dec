package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/ether"
)

// Host is one emulated machine. The embedded client runs commands, moves files
// and opens connections in it; its methods fail once the host is dead.
type Host struct {
	*agent.Client
	Name string
	// BootTime is how long it took from starting QEMU to the agent's hello.
	BootTime time.Duration

	place   int
	console string
	vm      *machine
	ports   []*ether.Port

	mu     sync.Mutex
	ended  bool // Kill or Close was called
	frozen bool
}

// boot makes the image, starts QEMU and waits for the agent.
func (l *Lab) boot(ctx context.Context, hc HostConfig, place int) (h *Host, err error) {
	initrd := filepath.Join(l.dir, hc.Name+".cpio")
	if err := l.writeImage(ctx, initrd, hc); err != nil {
		return nil, err
	}
	defer os.Remove(initrd) // QEMU has read it by the time the agent answers
	h = &Host{Name: hc.Name, place: place, console: l.ConsolePath(hc.Name)}
	defer func() {
		if err != nil {
			err = h.bootError(err)
			h.Kill()
		}
	}()
	spec := machineSpec{
		qemu: l.artifacts.QEMU, kernel: l.artifacts.Kernel, initrd: initrd, console: h.console,
		name: hc.Name, cpus: l.cfg.CPUs, memoryMB: l.cfg.MemoryMB, disks: hc.Disks,
	}
	for n := range l.switches {
		spec.nics = append(spec.nics, nicSpec{mac: mac(n, place), prefix: netip.PrefixFrom(addr(n, place), 24)})
	}
	start := time.Now()
	if h.vm, err = startMachine(spec); err != nil {
		return h, err
	}
	for n, s := range l.switches {
		p, err := s.Attach(hc.Name)
		if err != nil {
			return h, err
		}
		h.ports = append(h.ports, p)
		ether.Plug(p, h.vm.nics[n])
	}
	if h.Client, err = awaitAgent(ctx, h.vm); err != nil {
		return h, err
	}
	h.BootTime = time.Since(start)
	if err := checkHello(h.Hello()); err != nil {
		return h, err
	}
	if l.cfg.Share != "" {
		err = serveFolder(ctx, h.Client, l.cfg.Share, SharePath)
	}
	return h, err
}

// bootTimeout bounds a boot that nothing else bounds: a hundred times what a
// boot takes on an idle machine would be longer than anybody waits.
const bootTimeout = 3 * time.Minute

func awaitAgent(ctx context.Context, vm *machine) (*agent.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("no sign of the agent after %v", bootTimeout))
	defer cancel()
	type result struct {
		c   *agent.Client
		err error
	}
	got := make(chan result, 1)
	go func() {
		c, err := agent.Connect(vm.agent)
		got <- result{c, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			select {
			case <-vm.done: // the cause, of which r.err is but the effect
				return nil, vm.exitError()
			case <-time.After(time.Second):
			}
		}
		return r.c, r.err
	case <-vm.done:
		return nil, vm.exitError()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func checkHello(h agent.Hello) error {
	if len(h.SetupErrors) > 0 {
		return fmt.Errorf("the host came up incomplete: %s", strings.Join(h.SetupErrors, "; "))
	}
	if h.KVMError != "" {
		return fmt.Errorf("the host has no working /dev/kvm: %s", h.KVMError)
	}
	return nil
}

// bootError adds what QEMU said and the end of the console to a failure.
func (h *Host) bootError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if h.vm != nil {
		if s := strings.TrimSpace(h.vm.stderr.String()); s != "" {
			err = fmt.Errorf("%w; QEMU said: %s", err, s)
		}
	}
	if tail := h.ConsoleTail(); tail != "" {
		err = fmt.Errorf("%w\n--- end of %s's console ---\n%s", err, h.Name, tail)
	}
	return err
}

// consoleTailBytes is how much of a console an error shows.
const consoleTailBytes = 3000

// ConsoleTail returns the end of what the host wrote to its serial console.
func (h *Host) ConsoleTail() string {
	b, err := os.ReadFile(h.console)
	if err != nil {
		return ""
	}
	if len(b) > consoleTailBytes {
		b = b[len(b)-consoleTailBytes:]
	}
	b = bytes.ReplaceAll(b, []byte("\r"), nil)
	return strings.TrimSpace(string(bytes.ToValidUTF8(b, []byte("?"))))
}

// Addr is the host's address on network n, from 0.
func (h *Host) Addr(n int) netip.Addr { return addr(n, h.place) }

// PID is the process id of the host's QEMU.
func (h *Host) PID() int { return h.vm.pid() }

// Alive tells whether QEMU is running.
func (h *Host) Alive() bool {
	select {
	case <-h.vm.done:
		return false
	default:
		return true
	}
}

// Dead is closed when QEMU has ended.
func (h *Host) Dead() <-chan struct{} { return h.vm.done }

// Kill is a power loss: SIGKILL to QEMU. It returns when the process is gone.
func (h *Host) Kill() {
	if h.vm != nil {
		h.vm.signal(syscall.SIGKILL)
		<-h.vm.done
	}
	h.release()
}

// Close switches the host off in good order, or kills it when ctx ends.
func (h *Host) Close(ctx context.Context) error {
	defer h.Kill()
	err := h.PowerOff(ctx)
	select {
	case <-h.vm.done:
		return nil // the answer may have been lost with the power
	case <-ctx.Done():
		return errors.Join(err, context.Cause(ctx))
	}
}

// Freeze stops the host in its tracks (SIGSTOP), as seen from outside: its
// network is silent, its clocks stand still. Thaw lets it go on.
func (h *Host) Freeze() { h.setFrozen(true, syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (h *Host) Thaw() { h.setFrozen(false, syscall.SIGCONT) }

func (h *Host) setFrozen(frozen bool, sig syscall.Signal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vm.signal(sig)
	h.frozen = frozen
}

// Frozen tells whether the host is alive, but in its tracks.
func (h *Host) Frozen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.frozen && h.Alive()
}

func (h *Host) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.ended = true
	if h.Client != nil {
		h.Client.Close()
	}
	for _, p := range h.ports {
		p.Close()
	}
	if h.vm != nil {
		h.vm.close()
	}
}
