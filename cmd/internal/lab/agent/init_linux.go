package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names that the image builder and the program inside agree on.
const (
	// PortName is the virtio-serial port that the agent serves.
	PortName = "tandem.agent"
	// ModuleList names the modules to load at start, one path a line.
	ModuleList = "/etc/lab/modules"
	// ParamHost and ParamNIC are kernel command line parameters: the host's
	// name, and MAC "," address "/" prefix length of a network card.
	ParamHost = "lab.host"
	ParamNIC  = "lab.nic"
	// agentFlag makes the program that is /init the agent instead.
	agentFlag = "--lab-agent"
	// setupErrorsEnv hands what failed in Init to the agent, a line each.
	setupErrorsEnv = "LAB_SETUP_ERRORS"
)

// IsInit tells whether this process is a lab host's first process, or the agent
// that it started: a program that is a host's /init calls Main then.
func IsInit(args []string) bool {
	if os.Getpid() == 1 && len(args) > 0 && args[0] == "/init" {
		return true
	}
	return len(args) == 2 && args[1] == agentFlag
}

// Main is the whole of a lab host's user space: as the first process it sets
// the host up, starts the agent and reaps orphans; as the agent it serves. It
// doesn't return.
func Main(args []string) {
	if len(args) == 2 && args[1] == agentFlag {
		if err := serveHost(); err != nil {
			fmt.Fprintln(os.Stderr, "lab agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	superviseAgent(setUpHost())
}

// superviseAgent is apart from the agent so that reaping the orphans of the
// whole host doesn't take exit statuses away from the agent's own commands.
func superviseAgent(failed []string) {
	cmd := exec.Command("/proc/self/exe", agentFlag)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), setupErrorsEnv+"="+strings.Join(failed, "\n"))
	if err := cmd.Start(); err != nil {
		fmt.Println("lab: starting the agent:", err)
		_ = powerOff()
	}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid == cmd.Process.Pid {
			fmt.Printf("lab: the agent ended (%v, %v), powering off\n", ws, err)
			_ = powerOff()
		}
	}
}

func powerOff() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

type mount struct {
	kind, target, options string
}

var mounts = []mount{
	{"proc", "/proc", ""},
	{"sysfs", "/sys", ""},
	{"devtmpfs", "/dev", ""},
	{"devpts", "/dev/pts", "mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "mode=1777"},
	{"tmpfs", "/tmp", "mode=1777"},
	{"tmpfs", "/run", "mode=755"},
	{"cgroup2", "/sys/fs/cgroup", ""},
}

// deviceLinks are those that udev would make.
var deviceLinks = map[string]string{
	"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
}

// setUpHost brings the host up as far as it can and returns what failed: a host
// that lacks something can still tell its tale through the agent.
func setUpHost() []string {
	var failed []string
	note := func(err error) {
		if err != nil {
			fmt.Println("lab:", err)
			failed = append(failed, err.Error())
		}
	}
	os.Clearenv()
	for k, v := range map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root", "TERM": "linux", "TMPDIR": "/tmp",
	} {
		note(os.Setenv(k, v))
	}
	for _, m := range mounts {
		note(mountOne(m))
	}
	for name, target := range deviceLinks {
		note(os.Symlink(target, name))
	}
	note(keepAwake(hpetDevice))
	note(loadModules(ModuleList))
	cmdline, err := os.ReadFile("/proc/cmdline")
	note(err)
	host, nics, err := parseCmdline(string(cmdline))
	note(err)
	note(unix.Sethostname([]byte(host)))
	note(os.WriteFile("/etc/hostname", []byte(host+"\n"), 0o644))
	note(bringUp("lo", netip.MustParsePrefix("127.0.0.1/8")))
	for _, n := range nics {
		note(configureNIC(n))
	}
	return failed
}

func mountOne(m mount) error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.kind, m.target, m.kind, 0, m.options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

func loadModules(list string) error {
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(b)) {
		if err := loadModule(path); err != nil {
			return fmt.Errorf("loading %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

type nic struct {
	mac    string
	prefix netip.Prefix
}

// parseCmdline reads the lab's parameters out of a kernel command line.
func parseCmdline(s string) (host string, nics []nic, err error) {
	host = "lab"
	for _, word := range strings.Fields(s) {
		key, val, _ := strings.Cut(word, "=")
		switch key {
		case ParamHost:
			host = val
		case ParamNIC:
			mac, addr, _ := strings.Cut(val, ",")
			p, perr := netip.ParsePrefix(addr)
			if perr == nil && !p.Addr().Is4() {
				perr = errors.New("not an IPv4 address")
			}
			if perr != nil {
				err = errors.Join(err, fmt.Errorf("kernel parameter %s: %w", word, perr))
				continue
			}
			nics = append(nics, nic{mac, p})
		}
	}
	return host, nics, err
}

func configureNIC(n nic) error {
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		if i.HardwareAddr.String() == n.mac {
			return bringUp(i.Name, n.prefix)
		}
	}
	return fmt.Errorf("no network card with address %s", n.mac)
}

// bringUp gives an interface an IPv4 address and switches it on (netdevice(7)).
func bringUp(name string, p netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	addr := p.Addr().As4()
	mask := net.CIDRMask(p.Bits(), 32)
	for _, step := range []struct {
		request uint
		value   []byte
	}{{unix.SIOCSIFADDR, addr[:]}, {unix.SIOCSIFNETMASK, mask}} {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := ifr.SetInet4Addr(step.value); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.request, ifr); err != nil {
			return fmt.Errorf("giving %s address %s: %w", name, p, err)
		}
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("switching %s on: %w", name, err)
	}
	return nil
}

// serveHost finds the agent's port and serves it until the far end goes.
func serveHost() error {
	dev, err := findPort("/sys/class/virtio-ports", PortName)
	if err != nil {
		return err
	}
	port, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	s := &Server{Hello: describeHost(), PowerOff: powerOff}
	return s.Serve(port)
}

// findPort returns the device of the virtio-serial port of that name.
func findPort(sysfs, name string) (string, error) {
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return "", fmt.Errorf("looking for port %s: %w", name, err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(sysfs, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(b)) == name {
			return "/dev/" + e.Name(), nil
		}
	}
	return "", fmt.Errorf("this host has no virtio-serial port named %s", name)
}

func describeHost() Hello {
	var h Hello
	h.Hostname, _ = os.Hostname()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Release = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		if sec, err := strconv.ParseFloat(first, 64); err == nil {
			h.UptimeMS = int64(sec * 1000)
		}
	}
	if v := os.Getenv(setupErrorsEnv); v != "" {
		h.SetupErrors = strings.Split(v, "\n")
	}
	os.Unsetenv(setupErrorsEnv)
	var err error
	if h.KVMVersion, err = kvmVersion("/dev/kvm"); err != nil {
		h.KVMError = err.Error()
	}
	return h
}

// kvmGetAPIVersion is _IO(KVMIO, 0x00) of linux/kvm.h.
const kvmGetAPIVersion = 0xae00

func kvmVersion(dev string) (int, error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	v, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return 0, fmt.Errorf("KVM_GET_API_VERSION on %s: %w", dev, err)
	}
	return v, nil
}
