package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/labrun"
)

const (
	bootTimeout = 5 * time.Minute
	// idleWindow is for how long an idle guest's processor time is counted.
	idleWindow = 10 * time.Second
	// tickSeconds is the unit of times in /proc/PID/stat: USER_HZ is 100 on every x86 Linux.
	tickSeconds = 0.01
)

// bootSample is what one boot showed.
type bootSample struct {
	toInit, toShell float64 // seconds from the start of tandem
	residentMiB     float64 // of tandem without its guest's RAM
	guestMiB        float64 // of the guest's RAM
	idlePercent     float64 // of a core, with the guest at its shell
	stats           *runStats
}

// benchBoot boots Debian's kernel and says what it costs.
func benchBoot(ctx context.Context, e *labrun.Engine, o benchOptions) error {
	fmt.Fprintf(o.out, "boot: Debian's kernel %s with %s; %s\n", e.Artifacts.Release, labrun.GuestMemory, e.Reason)
	var samples []*bootSample
	for i := range o.runs {
		s, err := bootOnce(ctx, e)
		if err != nil {
			return err
		}
		samples = append(samples, s)
		fmt.Fprintf(o.out, "  run %d: init marker after %.2f s, shell after %.2f s; resident %.1f MiB beside %.1f MiB of guest RAM; idle %.2f %% of a core; handling %.2f µs an exit\n",
			i+1, s.toInit, s.toShell, s.residentMiB, s.guestMiB, s.idlePercent, s.handlingUS())
		fmt.Fprintf(o.out, "         exits: %s\n", s.stats.exits())
	}
	of := func(value func(*bootSample) float64) float64 {
		var all []float64
		for _, s := range samples {
			all = append(all, value(s))
		}
		return median(all)
	}
	fmt.Fprintf(o.out, "  median time to init marker      %.2f s\n", of(func(s *bootSample) float64 { return s.toInit }))
	fmt.Fprintf(o.out, "  median time to shell            %.2f s\n", of(func(s *bootSample) float64 { return s.toShell }))
	fmt.Fprintf(o.out, "  median resident beside the RAM  %.1f MiB (Rss of all of tandem's mappings but its guest's RAM, /proc/PID/smaps)\n",
		of(func(s *bootSample) float64 { return s.residentMiB }))
	fmt.Fprintf(o.out, "  median cost of an idle guest    %.2f %% of a core (user and system time of tandem in %v at the shell)\n",
		of(func(s *bootSample) float64 { return s.idlePercent }), idleWindow)
	fmt.Fprintf(o.out, "  median user space per exit      %.2f µs (host time on handling an exit, readings of the clock included)\n", of((*bootSample).handlingUS))
	if !e.Native {
		fmt.Fprintln(o.out, "  The lab's host is emulated, some 30 times slower than hardware: times per exit and the idle cost are its own.\n"+
			"  On this machine itself, with small guests: go test -short -run '^$' -bench 'PortExit|Idle' ./vmm")
	}
	return o.other.bench(ctx, e, o)
}

func (s *bootSample) handlingUS() float64 {
	if s.stats.HandledExits == 0 {
		return 0
	}
	return float64(s.stats.HandlingNS) / float64(s.stats.HandledExits) / 1000
}

// bootOnce boots to the shell, looks at tandem while the guest idles there, and powers off.
func bootOnce(ctx context.Context, e *labrun.Engine) (*bootSample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not done after %v", bootTimeout))
	defer cancel()
	start := time.Now()
	run, err := e.Start(ctx, labrun.Options{}, runCommandLine(e)...)
	if err != nil {
		return nil, err
	}
	s := &bootSample{}
	if err := run.Out.Await(ctx, labrun.InitMarker); err != nil {
		return nil, fmt.Errorf("%w; tandem said: %s", err, run.Err)
	}
	s.toInit = time.Since(start).Seconds()
	if err := run.Out.Await(ctx, labrun.Prompt); err != nil {
		return nil, err
	}
	s.toShell = time.Since(start).Seconds()
	if s.idlePercent, err = idleCost(ctx, e, run.PID()); err != nil {
		return nil, err
	}
	if s.residentMiB, s.guestMiB, err = resident(ctx, e, run.PID()); err != nil {
		return nil, err
	}
	if err := run.Type("poweroff -f\n"); err != nil {
		return nil, err
	}
	status, err := run.Status()
	if err != nil {
		return nil, err
	}
	if status != 0 {
		return nil, fmt.Errorf("tandem ended with status %d: %s", status, run.Err)
	}
	s.stats, err = readStats(ctx, e)
	return s, err
}

// procFile reads a file of a process where the engine runs.
func procFile(ctx context.Context, e *labrun.Engine, pid int, name string) (string, error) {
	var text bytes.Buffer
	_, err := e.Get(ctx, fmt.Sprintf("/proc/%d/%s", pid, name), &text)
	return text.String(), err
}

// idleCost returns how much of a core a process uses while nothing happens.
func idleCost(ctx context.Context, e *labrun.Engine, pid int) (percent float64, err error) {
	before, err := processorTicks(ctx, e, pid)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	select {
	case <-time.After(idleWindow):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := processorTicks(ctx, e, pid)
	return 100 * float64(after-before) * tickSeconds / time.Since(start).Seconds(), err
}

// processorTicks returns a process's user and system time (proc(5), /proc/pid/stat, fields 14 and 15).
func processorTicks(ctx context.Context, e *labrun.Engine, pid int) (uint64, error) {
	text, err := procFile(ctx, e, pid, "stat")
	if err != nil {
		return 0, err
	}
	return parseTicks(text)
}

func parseTicks(stat string) (uint64, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from field 3 on
	const user, system = 14 - 3, 15 - 3
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/PID/stat is %q", stat)
	}
	u, err1 := strconv.ParseUint(fields[user], 10, 64)
	k, err2 := strconv.ParseUint(fields[system], 10, 64)
	return u + k, errors.Join(err1, err2)
}

// resident returns what a tandem process has in memory, without its guest's RAM, and that.
func resident(ctx context.Context, e *labrun.Engine, pid int) (ownMiB, guestMiB float64, err error) {
	text, err := procFile(ctx, e, pid, "smaps")
	if err != nil {
		return 0, 0, err
	}
	return parseSmaps(text, labrun.GuestMemoryBytes>>10)
}

// parseSmaps adds up a process's mappings (proc(5), /proc/pid/smaps). The guest's RAM is the one mapping of its size.
func parseSmaps(text string, guestKiB uint64) (ownMiB, guestMiB float64, err error) {
	var size, own, guest uint64
	found := false
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "Size" && name != "Rss" {
			continue
		}
		value, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("/proc/PID/smaps: %w", err)
		case name == "Size":
			size = value
		case size == guestKiB:
			guest, found = guest+value, true
		default:
			own += value
		}
	}
	if !found {
		return 0, 0, fmt.Errorf("/proc/PID/smaps has no mapping of %d KiB, the guest's RAM", guestKiB)
	}
	return float64(own) / 1024, float64(guest) / 1024, nil
}

// otherVMM is another VMM to compare with; the zero value is none.
type otherVMM struct {
	program string // of this machine
	rest    string // the command line behind it, with its {...}
}

// otherName is the engine's file that the other VMM is.
const otherName = "other-vmm"

func parseOther(command string) (otherVMM, error) {
	program, rest, _ := strings.Cut(strings.TrimSpace(command), " ")
	if program == "" {
		return otherVMM{}, nil
	}
	if _, err := os.Stat(program); err != nil {
		return otherVMM{}, fmt.Errorf("--other: %w: its first word must be a program's path", err)
	}
	return otherVMM{program, rest}, nil
}

func (v otherVMM) files() map[string]string {
	if v.program == "" {
		return nil
	}
	return map[string]string{otherName: v.program}
}

// bench boots the same guest with the other VMM.
func (v otherVMM) bench(ctx context.Context, e *labrun.Engine, o benchOptions) error {
	if v.program == "" {
		return nil
	}
	fill := strings.NewReplacer("{kernel}", e.Kernel(), "{initrd}", e.Initrd(),
		"{memory}", strconv.Itoa(labrun.GuestMemoryBytes>>20), "{cmdline}", "console=ttyS0 quiet")
	command := e.Path(otherName) + " " + fill.Replace(v.rest)
	var times []float64
	for range o.runs {
		t, err := v.bootOnce(ctx, e, command)
		if err != nil {
			return err
		}
		times = append(times, t)
	}
	fmt.Fprintf(o.out, "  %s: median time to init marker %.2f s of %.2f\n", v.program, median(times), times)
	return nil
}

func (v otherVMM) bootOnce(ctx context.Context, e *labrun.Engine, command string) (float64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not done after %v", bootTimeout))
	defer cancel() // ends the command, too
	start := time.Now()
	run, err := e.Start(ctx, labrun.Options{Mirror: io.Discard}, "sh", "-c", "exec "+command)
	if err != nil {
		return 0, err
	}
	if err := run.Out.Await(ctx, labrun.InitMarker); err != nil {
		return 0, fmt.Errorf("%s: %w; it said: %s", v.program, err, run.Err)
	}
	seconds := time.Since(start).Seconds()
	cancel()
	var exit *agent.ExitError
	if err := run.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, context.Canceled) {
		return 0, err
	}
	return seconds, nil
}
