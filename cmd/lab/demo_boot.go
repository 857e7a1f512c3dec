package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/labrun"
)

// bootDemoTimeout bounds the scripted demonstration where nobody watches.
const bootDemoTimeout = 10 * time.Minute

// bootDemo shows one boot.
type bootDemo struct {
	engine *labrun.Engine
	out    io.Writer
}

// statsName is the engine's file that tandem writes its statistics to.
const statsName = "stats.json"

func runCommandLine(e *labrun.Engine) []string {
	return []string{
		e.Tandem(), "run", "--kernel", e.Kernel(), "--initrd", e.Initrd(), "--memory", labrun.GuestMemory,
		"--cmdline", "quiet", "--stats-json", e.Path(statsName),
	}
}

// dialogue is what is typed in the scripted demonstration, and what must come back.
var dialogue = []struct{ typed, answer string }{
	{"uname -a\n", "\r\nLinux "},
	{"echo the answer is $((6 * 7))\n", "\r\nthe answer is 42\r\n"},
	{"poweroff -f\n", ""},
}

func (d *bootDemo) scripted(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootDemoTimeout, fmt.Errorf("not done after %v", bootDemoTimeout))
	defer cancel()
	start := time.Now()
	s, err := d.engine.Start(ctx, labrun.Options{Mirror: d.out}, runCommandLine(d.engine)...)
	if err != nil {
		return err
	}
	if err := s.Out.Await(ctx, labrun.Prompt); err != nil {
		return fmt.Errorf("the guest did not come to its shell: %w; tandem said: %s", err, s.Err)
	}
	toShell := time.Since(start)
	for i, step := range dialogue {
		if i > 0 {
			if err := s.Out.Await(ctx, labrun.Prompt); err != nil {
				return err
			}
		}
		if err := s.Type(step.typed); err != nil {
			return err
		}
		if err := s.Out.Await(ctx, step.answer); err != nil {
			return fmt.Errorf("the guest's answer to %q is wrong: %w", strings.TrimSpace(step.typed), err)
		}
	}
	status, err := s.Status()
	if err != nil {
		return err
	}
	fmt.Fprint(d.out, "\r\n", s.Err.String())
	if err := d.summary(ctx, toShell, status); err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("tandem ended with status %d, not 0", status)
	}
	return nil
}

// interactive gives the user the guest's shell.
func (d *bootDemo) interactive(ctx context.Context) error {
	fmt.Fprintln(d.out, "Type \"poweroff -f\" to power the guest off, or press ^A x to leave it.")
	start := time.Now()
	watch := &promptWatch{w: os.Stdout, start: start}
	err := attachTerminal(ctx, d.engine.Client, agent.Cmd{Args: runCommandLine(d.engine), Stdin: os.Stdin, Stdout: watch, Stderr: os.Stderr})
	var exit *agent.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	status := 0
	if exit != nil {
		status = exit.ShellCode()
	}
	if err := d.summary(ctx, watch.shell, status); err != nil {
		return err
	}
	return expectedEnd(status)
}

// Statuses of tandem that a user at the shell can bring about: power-off, reboot, leaving.
func expectedEnd(status int) error {
	switch status {
	case 0, 10, 12:
		return nil
	}
	return fmt.Errorf("tandem ended with status %d", status)
}

// promptWatch notes when the guest's first prompt passes by.
type promptWatch struct {
	w     io.Writer
	start time.Time
	seen  []byte
	shell time.Duration // 0 until then
}

func (p *promptWatch) Write(b []byte) (int, error) {
	if p.shell == 0 {
		p.seen = append(p.seen, b...)
		if bytes.Contains(p.seen, []byte(labrun.Prompt)) {
			p.shell, p.seen = time.Since(p.start), nil
		}
	}
	return p.w.Write(b)
}

// runStats is what is used of the file that tandem run --stats-json writes.
type runStats struct {
	End          string      `json:"end"`
	Exits        []kindCount `json:"exits"`
	Interrupts   uint64      `json:"interrupts"`
	HandledExits uint64      `json:"handled_exits"`
	HandlingNS   int64       `json:"handling_ns"`
}

type kindCount struct {
	Kind  string `json:"kind"`
	Count uint64 `json:"count"`
}

func readStats(ctx context.Context, e *labrun.Engine) (*runStats, error) {
	var text bytes.Buffer
	if _, err := e.Get(ctx, e.Path(statsName), &text); err != nil {
		return nil, fmt.Errorf("tandem's statistics: %w", err)
	}
	var s runStats
	if err := json.Unmarshal(text.Bytes(), &s); err != nil {
		return nil, fmt.Errorf("tandem's statistics: %w", err)
	}
	return &s, nil
}

func (s *runStats) exits() string {
	var b strings.Builder
	for _, e := range s.Exits {
		fmt.Fprintf(&b, "%s %d, ", e.Kind, e.Count)
	}
	fmt.Fprintf(&b, "interrupts given %d", s.Interrupts)
	return b.String()
}

func (d *bootDemo) summary(ctx context.Context, toShell time.Duration, status int) error {
	stats, err := readStats(ctx, d.engine)
	if err != nil {
		return fmt.Errorf("tandem ended with status %d: %w", status, err)
	}
	shell := "the guest's shell did not come"
	if toShell > 0 {
		shell = fmt.Sprintf("%.2f s from start to the guest's shell", toShell.Seconds())
	}
	fmt.Fprintf(d.out, "\nengine   %s\nboot     %s\nexits    %s\nend      %s, exit status %d\n",
		d.engine.Reason, shell, stats.exits(), stats.End, status)
	return nil
}
