package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tandem/cmd/internal/lab/agent"
)

// machineSpec is what a QEMU is started with.
type machineSpec struct {
	qemu                          QEMU
	kernel, initrd, console, name string
	cpus, memoryMB                int
	nics                          []nicSpec
	disks                         []Disk
}

type nicSpec struct {
	mac    string
	prefix netip.Prefix
}

// firstInheritedFD is the number of exec.Cmd.ExtraFiles[0] in the child.
const firstInheritedFD = 3

// kernelParams make an emulated boot short; docs/lab.md has the measurements.
const kernelParams = "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests"

// args is QEMU's command line. Descriptor firstInheritedFD is the agent's port,
// those after it are the network cards.
func (m machineSpec) args() []string {
	a := append([]string{}, m.qemu.Args...)
	cmdline := kernelParams + " " + agent.ParamHost + "=" + m.name
	for _, n := range m.nics {
		cmdline += fmt.Sprintf(" %s=%s,%s", agent.ParamNIC, n.mac, n.prefix)
	}
	a = append(a,
		"-name", m.name,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg", "-cpu", "max,+svm,+npt",
		"-smp", fmt.Sprint(m.cpus), "-m", fmt.Sprint(m.memoryMB),
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", cmdline,
		"-chardev", "file,id=console,path="+escape(m.console), "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", firstInheritedFD),
		"-device", "virtserialport,chardev=agent,name="+agent.PortName,
	)
	for i, n := range m.nics {
		a = append(a,
			"-netdev", fmt.Sprintf("stream,id=net%d,server=off,addr.type=fd,addr.str=%d", i, firstInheritedFD+1+i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, n.mac))
	}
	for i, d := range m.disks {
		mode := ""
		if d.ReadOnly {
			mode = ",readonly=on"
		}
		a = append(a,
			"-drive", fmt.Sprintf("if=none,format=raw,id=disk%d,file=%s%s", i, escape(d.Path), mode),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	return a
}

// escape doubles commas, which end a value on QEMU's command line.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// machine is a running QEMU. Nothing of it has a name in the file system but
// the console's log.
type machine struct {
	agent  net.Conn
	nics   []net.Conn
	done   chan struct{} // closed when the process is gone
	stderr boundedBuffer

	mu      sync.Mutex
	process *os.Process // nil when gone: a signal must not hit a later process
	number  int
	err     error
}

func startMachine(spec machineSpec) (*machine, error) {
	m := &machine{done: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	for i := range 1 + len(spec.nics) {
		near, far, err := socketPair()
		if err != nil {
			m.close()
			return nil, err
		}
		theirs = append(theirs, far)
		if i == 0 {
			m.agent = near
		} else {
			m.nics = append(m.nics, near)
		}
	}
	cmd := exec.Command(spec.qemu.Path, spec.args()...)
	cmd.ExtraFiles = theirs
	cmd.Stderr = &m.stderr
	// QEMU dies with this process, and ^C at a terminal is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go m.run(cmd, started)
	if err := <-started; err != nil {
		m.close()
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	return m, nil
}

// run starts QEMU and waits for its end, all on one thread: the kernel delivers
// Pdeathsig when the thread that forked ends, not the process (prctl(2)).
func (m *machine) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.done)
	err := cmd.Start()
	if err == nil {
		m.mu.Lock()
		m.process, m.number = cmd.Process, cmd.Process.Pid
		m.mu.Unlock()
	}
	started <- err
	if err != nil {
		return
	}
	err = cmd.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.process, m.err = nil, err
}

func (m *machine) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.number
}

func (m *machine) signal(sig syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		_ = m.process.Signal(sig)
	}
}

// exitError says how the process ended; valid once done is closed.
func (m *machine) exitError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		return errors.New("the host switched itself off")
	}
	return fmt.Errorf("QEMU ended: %w", m.err)
}

func (m *machine) close() {
	if m.agent != nil {
		m.agent.Close()
	}
	for _, n := range m.nics {
		n.Close()
	}
}

// socketPair makes a connected pair, one end for Go, one to be inherited.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	defer near.Close() // FileConn makes a copy
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return conn, far, nil
}

// boundedBuffer keeps the first bytes written to it.
type boundedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

const boundedBufferBytes = 8 << 10

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := boundedBufferBytes - b.b.Len(); room > 0 {
		b.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *boundedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
