package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/boot"
	"tandem/kvm"
	"tandem/vmm"
	"tandem/vmm/doctor"
)

// machineCmdline is what this machine's devices need a Linux kernel to know:
//
//	console=ttyS0   the console is the serial port
//	lpj=1000000     no calibration of the delay loop, which would spin on the timer without an exit
//	pmtmr=0x608     where the PM timer is, since there is no ACPI table to say so
//	acpi=off        no search for tables that are not there
//	pci=conf1       how PCI is reached, without probing
//	reboot=k        reboot through the keyboard controller at once
//	io_delay=none   no write to port 0x80 after an access to a slow device: a tenth of all exits
//	i8042.noaux, 8250.nr_uarts=1: no probing for what is not there
const machineCmdline = "console=ttyS0 lpj=1000000 pmtmr=0x608 acpi=off pci=conf1 reboot=k panic=-1 io_delay=none i8042.noaux 8250.nr_uarts=1"

// rewrittenCmdline is what a kernel is told besides if its reads of the time-stamp counter come to the machine:
//
//	randomize_kstack_offset=off   no such read at each system call: Debian's kernel draws a random stack offset from it, which
//	                              would be an exit and a record in the log
const rewrittenCmdline = "randomize_kstack_offset=off"

// seedBytes is how much entropy the kernel is given at its start.
const seedBytes = 64

// kernelFlags are the flags that say what machine a guest gets, for every command that starts one.
type kernelFlags struct {
	kernel, initrd, cmdline, memory, device string
	bareCmdline                             bool
	rewrite                                 bool // make the kernel one that can be recorded
	devices                                 deviceFlags
}

func (f *kernelFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.kernel, "kernel", "k", "", "kernel `file`: a bzImage or an ELF vmlinux (required)")
	flags.StringVarP(&f.initrd, "initrd", "i", "", "initial RAM disk `file`")
	flags.StringVarP(&f.cmdline, "cmdline", "c", "", "kernel command line, after the machine's own: "+machineCmdline)
	flags.BoolVar(&f.bareCmdline, "bare-cmdline", false, "give the kernel --cmdline alone")
	flags.StringVarP(&f.memory, "memory", "m", "256M", "guest RAM, with a unit (K, M, G)")
	flags.StringVar(&f.device, "kvm", "/dev/kvm", "KVM `device`")
	f.devices.register(cmd)
	_ = cmd.MarkFlagRequired("kernel")
}

func newRunCommand() *cobra.Command {
	var f kernelFlags
	var s session
	var p pairFlags
	cmd := &cobra.Command{
		Use:   "run --kernel FILE [flags]",
		Short: "Run a guest, with a backup if one is named",
		Long: `Run starts a kernel in a new machine, with its serial port as the console, and ends when the guest does.

With --backup the guest is protected: another host follows it (tandem backup there) and goes on with it when this one is
lost. With --guest, --listen or --control it can be protected later (tandem protect). Both need --keys and --arbiter. A
signal then ends this host's part in order, and the backup goes on with the guest at once. A host whose guest went on
elsewhere does not end: it waits as a backup. One that is started again after that must be started as one, with tandem backup:
run starts a guest anew only on the host that had it last, unless it is told to with --take-guest.

Exit status:
` + statusHelp,
		Example: `  tandem run --kernel vmlinuz --initrd initrd.img --cmdline "quiet"
  echo "uname -a; poweroff -f" | tandem run -k vmlinuz -i initrd.img
  tandem run -k vmlinuz -i initrd.img --disk mail.img --net tap,bridge=br0 \
    --guest mail --backup hostb:7400 --keys keys/a --arbiter file:/mnt/shared/tandem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.readPair(&p, cmd); err != nil {
				return usage(err)
			}
			f.rewrite = s.pair != nil
			return s.run(&f)
		},
	}
	f.register(cmd)
	s.register(cmd)
	p.register(cmd)
	p.registerBackup(cmd)
	return cmd
}

// guest is what is to be run, read and checked before anything is started.
type guest struct {
	kernel  *boot.Kernel
	options boot.Options
	memory  uint64
	devices *deviceSpec
	// rewritten says that the kernel's reads of the time-stamp counter come to the machine.
	rewritten bool
}

func (f *kernelFlags) load() (*guest, error) {
	memory, err := parseMemory(f.memory)
	if err != nil {
		return nil, usage(err)
	}
	spec, err := f.devices.read()
	if err != nil {
		return nil, usage(err)
	}
	k, err := readKernel(f.kernel)
	if err != nil {
		return nil, usage(err)
	}
	g := &guest{kernel: k, memory: memory, devices: spec}
	if f.rewrite && k.IsLinux() {
		if _, err := vmm.Rewrite(k); err != nil {
			return nil, usage(fmt.Errorf("--kernel %s: %w", f.kernel, err))
		}
		g.rewritten = true
	}
	if f.initrd != "" {
		if g.options.Initrd, err = readFile("--initrd", f.initrd, int64(memory)); err != nil {
			return nil, usage(err)
		}
	}
	g.options.Cmdline = f.cmdline
	if !f.bareCmdline {
		machine := machineCmdline
		if g.rewritten {
			machine += " " + rewrittenCmdline
		}
		g.options.Cmdline = strings.TrimSpace(strings.TrimSpace(machine+" "+spec.cmdline()) + " " + f.cmdline)
	}
	g.options.RNGSeed = make([]byte, seedBytes)
	_, err = rand.Read(g.options.RNGSeed)
	return g, err
}

// parseMemory reads a size like 256M and checks it against the host's memory.
func parseMemory(s string) (uint64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("--memory %q is not a size: give a number and a unit, like 256M or 2G", s)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	if total := info.Totalram * uint64(info.Unit); uint64(n) > total {
		return 0, fmt.Errorf("--memory %s is more than the %d MiB that this host has: give less", s, total>>20)
	}
	return uint64(n), nil
}

func readKernel(path string) (*boot.Kernel, error) {
	file, size, err := openRegular("--kernel", path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	k, err := boot.OpenKernel(file, size)
	if err != nil {
		return nil, fmt.Errorf("--kernel %s: %w", path, err)
	}
	return k, nil
}

// openRegular opens a file that a flag names and returns its size.
func openRegular(flag, path string) (*os.File, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, fileError(flag, path, err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s %s is not a regular file: name a file", flag, path)
	}
	if err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func fileError(flag, path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %s does not exist: check the path", flag, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s may not be opened by this user: check its permissions", flag, path)
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// readFile reads a whole file that a flag names, of at most limit bytes.
func readFile(flag, path string, limit int64) ([]byte, error) {
	file, size, err := openRegular(flag, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > limit {
		return nil, fmt.Errorf("%s %s has %d MiB, more than the guest's memory of %d MiB: give a smaller file or more --memory", flag, path, size>>20, limit>>20)
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(file, p); err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, path, err)
	}
	return p, nil
}

// session is one run of a guest: live, recorded or as one of a pair.
type session struct {
	console, escape string
	stats           bool
	statsJSON       string // the file to write them to, or ""
	record          string // the folder to record into, or ""
	recording       vmm.RecordOptions
	pair            *pairSpec // nil for a guest that can't be protected
}

func (s *session) register(cmd *cobra.Command) {
	registerConsole(cmd, &s.console, &s.escape)
	cmd.Flags().BoolVar(&s.stats, "stats", false, "print exits by kind and times when the guest has ended")
	cmd.Flags().StringVar(&s.statsJSON, "stats-json", "", "write exits by kind and times to this `file` when the guest has ended")
}

func registerConsole(cmd *cobra.Command, console, escape *string) {
	cmd.Flags().StringVar(console, "console", "stdio", "where the serial port goes: stdio, none, or file:`PATH` (output only)")
	cmd.Flags().StringVar(escape, "escape", "^A", "key that starts a command at a terminal console: followed by x it leaves, by itself it is sent")
}

// run runs a guest to its end.
func (s *session) run(f *kernelFlags) error {
	g, err := f.load()
	if err != nil {
		return err
	}
	system, err := kvm.Open(f.device)
	if err != nil {
		return incapable(err)
	}
	defer system.Close()
	if g.kernel.IsLinux() {
		if reason, ok := doctor.CanRunLinux(system); !ok {
			return incapable(fmt.Errorf("%s can't run Linux: %s", f.device, reason))
		}
	}
	console, err := openConsoles(s.console, f.devices.virtioConsole, s.escape)
	if err != nil {
		return usage(err)
	}
	cause, err := s.runWithConsole(system, g, console)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tandem: %v\n", cause)
	return endStatus(cause)
}

// runWithConsole closes the console whatever happens, also if this program fails: its user's terminal is in raw mode.
func (s *session) runWithConsole(system *kvm.System, g *guest, c *console) (cause vmm.Cause, err error) {
	defer closing(&err, c.close)
	if s.pair != nil {
		return s.runPrimary(system, g, c)
	}
	if err := c.makeRaw(); err != nil {
		return 0, failure(err)
	}
	return s.runMachine(system, g, c)
}

// runMachine opens the host's side of the devices and runs the guest with them. Networks end after the machine, which
// they post to.
func (s *session) runMachine(system *kvm.System, g *guest, c *console) (cause vmm.Cause, err error) {
	start := time.Now()
	devices, err := g.devices.open(slog.Default())
	if err != nil {
		return 0, usage(err)
	}
	defer closing(&err, devices.closeNetworks)
	config := vmm.Config{
		MemoryBytes: g.memory, EpochNS: start.UnixNano(), TrapTSC: g.rewritten, MeasureHandling: s.stats || s.statsJSON != "",
	}
	c.configure(&config)
	devices.configure(&config, g.devices)
	m, err := vmm.New(system, config)
	if err != nil {
		return 0, failure(err)
	}
	defer closing(&err, m.Close)
	if err := m.Load(g.kernel, g.options); err != nil {
		return 0, usage(err)
	}
	g.kernel, g.options.Initrd = nil, nil // the guest has them now
	debug.FreeOSMemory()                  // the unpacked kernel is several times what this program needs from here on
	finish := func(vmm.Cause, error) error { return nil }
	if s.record == "" {
		m.GoLive()
	} else {
		recording, err := m.RecordTo(s.record, s.recording)
		if errors.Is(err, fs.ErrExist) {
			return 0, usage(fmt.Errorf("--output: %w", err))
		}
		if err != nil {
			return 0, failure(err)
		}
		finish = recording.Finish
	}
	devices.connect(m)
	stopOnSignals(m, c)
	c.connect(m)
	cause, err = m.Run()
	if finishErr := finish(cause, err); err == nil {
		err = finishErr
	}
	if err != nil {
		return 0, failure(err)
	}
	if s.stats {
		printStats(os.Stderr, m, time.Since(start))
	}
	if s.statsJSON != "" {
		if err := writeStats(s.statsJSON, m, cause, time.Since(start)); err != nil {
			return 0, failure(err)
		}
	}
	return cause, nil
}

// closing makes the failure to close something the failure of what it was closed after: what a guest wrote may be lost.
func closing(err *error, close func() error) {
	if closeErr := close(); *err == nil && closeErr != nil {
		*err = failure(closeErr)
	}
}

// stopOnSignals makes the usual signals stop the guest, so that the terminal is put right again. A second one ends the
// program at once: the first has no effect while the guest waits for somebody to read its console.
func stopOnSignals(m *vmm.Machine, c *console) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		<-signals
		m.Stop()
		<-signals
		c.restore()
		os.Exit(statusStopped)
	}()
}
