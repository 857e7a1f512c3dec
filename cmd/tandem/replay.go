package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/vmm"
)

// replayFlags say how a recording is replayed.
type replayFlags struct {
	device          string
	from            uint64
	untilExit       uint64
	untilTime       time.Duration
	goLive, stats   bool
	console, escape string
	virtioConsole   string
}

func newReplayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay DIR [flags]",
		Short: "Run a recorded guest again, instruction for instruction",
		Long: `Replay runs the instruction stream of a recording from its log alone, compares digests on the way, and at the end all
of memory, registers and devices.

Exit status:
   0  everything is equal, or the replay has stopped where it was told to
   1  the host failed
   2  a flag is wrong, or the folder is no recording that this host can replay
   3  this host's KVM can't be used
   4  something differs: it is listed, with what the guest was doing
   5  the log is cut off or damaged, and was replayed up to its last good record
With --go-live: how the guest ended then, as for run.`,
		Example: `  tandem replay session
  tandem replay session --until-time 30s --go-live`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.replay(args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.device, "kvm", "/dev/kvm", "KVM `device`")
	flags.Uint64Var(&f.from, "from", 0, "start at this `checkpoint` of the recording; 0 is the start")
	flags.Uint64Var(&f.untilExit, "until-exit", 0, "stop at this exit `number`")
	flags.DurationVar(&f.untilTime, "until-time", 0, "stop at this guest time")
	flags.BoolVar(&f.goLive, "go-live", false, "where the replay stops, give the guest to the user at the console")
	flags.BoolVar(&f.stats, "stats", false, "print exits by kind and times at the end")
	flags.StringVar(&f.console, "console", "stdio", "where the serial port goes: stdio, none, or file:`PATH` (output only)")
	flags.StringVar(&f.virtioConsole, "virtio-console", "", "where the virtio console goes, if the guest has one: stdio, none, or file:`PATH` (output only); not shown without this flag")
	flags.StringVar(&f.escape, "escape", "^A", "key that starts a command at a terminal console")
	return cmd
}

func (f *replayFlags) replay(dir string) error {
	system, err := kvm.Open(f.device)
	if err != nil {
		return incapable(err)
	}
	defer system.Close()
	serial, virtio := f.console, f.virtioConsole
	if !f.goLive { // nothing can be typed, so the terminal stays as it is
		serial, virtio = outputOnly(serial), outputOnly(virtio)
	}
	c, err := openConsoles(serial, virtio, f.escape)
	if err != nil {
		return usage(err)
	}
	if err = c.makeRaw(); err == nil {
		err = f.play(system, dir, c)
	}
	if closeErr := c.close(); err == nil && closeErr != nil {
		err = failure(closeErr)
	}
	return err
}

// outputOnly names a console that shows the same without taking the terminal.
func outputOnly(console string) string {
	if console == consoleStdio {
		return "file:/dev/stdout"
	}
	return console
}

func (f *replayFlags) play(system *kvm.System, dir string, c *console) error {
	start := time.Now()
	var unsuited error
	p, err := vmm.OpenRecording(system, dir, f.from, func(config *vmm.Config) {
		config.MeasureHandling = f.stats
		unsuited = c.complete(config)
	})
	if err != nil {
		return usage(err)
	}
	defer p.Close()
	if unsuited != nil {
		return usage(unsuited)
	}
	m := p.Machine
	m.StopAt(lockstep.Position(f.untilExit), int64(f.untilTime))
	stopOnSignals(m, c)
	cause, err := m.Run()
	if f.stats {
		printStats(os.Stderr, m, time.Since(start))
	}
	if err != nil {
		return replayFailure(err)
	}
	if f.goLive && cause == vmm.CauseStopped {
		return f.continueLive(m, c)
	}
	if cause != vmm.CauseLogEnd && m.Stopped() {
		fmt.Fprintf(os.Stderr, "tandem: replayed up to exit %d, guest time %.6f s\n", m.Position(), float64(m.Time())/1e9)
		return nil
	}
	return compare(p)
}

// replayFailure gives the reason for which a replay ends its exit status.
func replayFailure(err error) error {
	var d *lockstep.Divergence
	switch {
	case errors.As(err, &d):
		return &statusError{statusDiverged, err}
	case errors.Is(err, lockstep.ErrLogIncomplete):
		return &statusError{statusLogIncomplete, err}
	}
	return failure(err)
}

// compare says whether the machine at the log's end is the one that was recorded.
func compare(p *vmm.Playback) error {
	differences, err := p.Compare()
	if err != nil {
		return replayFailure(err)
	}
	m := p.Machine
	if len(differences) == 0 {
		fmt.Fprintf(os.Stderr, "tandem: replayed %d exits, %.6f s of guest time: memory, registers and devices are equal to the recording's\n",
			m.Position(), float64(m.Time())/1e9)
		return nil
	}
	err = fmt.Errorf("the replay differs from the recording at the end (exit %d)", m.Position())
	for _, d := range differences {
		err = fmt.Errorf("%w\n  %s", err, d)
	}
	return &statusError{statusDiverged, err}
}

// continueLive lets the guest go on by itself.
func (f *replayFlags) continueLive(m *vmm.Machine, c *console) error {
	fmt.Fprintf(os.Stderr, "tandem: live from exit %d\r\n", m.Position())
	m.GoLive()
	c.connect(m)
	cause, err := m.Run()
	if err != nil {
		return failure(err)
	}
	fmt.Fprintf(os.Stderr, "tandem: %v\n", cause)
	return endStatus(cause)
}
