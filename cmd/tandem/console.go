package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pkg/term"
	"golang.org/x/sys/unix"

	"tandem/devices/virtio"
	"tandem/lockstep"
	"tandem/vmm"
)

// consoleChunkBytes is how much typed input becomes one input of the machine at the most.
const consoleChunkBytes = 256

// What consoles go to, beside files: the terminal, or whatever standard input and output are; and nothing.
const (
	consoleStdio = "stdio"
	consoleNone  = "none"
)

// console is where a console of a guest's goes: its serial port, or its virtio console.
type console struct {
	device   uint8    // as inputs name it
	virtio   *console // of a serial port's: where the virtio console goes, nil if the flags give none
	output   *vmm.ConsoleWriter
	input    io.Reader  // nil if nothing can be typed
	escape   string     // the key as it was given, "" if input is not a terminal
	terminal *term.Term // nil, or a terminal that raw mode may be in
	file     *os.File   // nil, or a file that is to be closed

	lost chan struct{} // closed when what is written reaches nobody any more; nil if that does not matter

	started sync.Once
	machine atomic.Pointer[vmm.Machine] // who gets what is typed; nil drops it
}

// openConsoles opens what --console and --virtio-console name; the latter may be empty.
func openConsoles(serial, virtio, escape string) (*console, error) {
	if serial == virtio && serial != consoleNone {
		return nil, fmt.Errorf("--console and --virtio-console both go to %s: give one of them none or a file of its own", serial)
	}
	c, err := openConsole("--console", serial, escape)
	if err != nil || virtio == "" {
		return c, err
	}
	if c.virtio, err = openConsole("--virtio-console", virtio, escape); err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.virtio.device = vmm.VirtioConsoleDevice
	return c, nil
}

// openConsole opens what a flag names. A terminal stays as it is until makeRaw.
func openConsole(flag, name, escape string) (*console, error) {
	path, isFile := strings.CutPrefix(name, "file:")
	switch {
	case name == consoleNone:
		return &console{output: vmm.NewConsoleWriter(io.Discard)}, nil
	case isFile:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return nil, fileError(flag, path, err)
		}
		return &console{output: vmm.NewConsoleWriter(file), file: file}, nil
	case name == consoleStdio:
		return openStdio(escape)
	}
	return nil, fmt.Errorf("%s %q is unknown: give stdio, none or file:PATH", flag, name)
}

func openStdio(escape string) (*console, error) {
	if _, err := parseEscape(escape); err != nil {
		return nil, err
	}
	signal.Ignore(unix.SIGPIPE) // it would end this program with the terminal in raw mode
	out := &lossyWriter{w: os.Stdout, lost: make(chan struct{})}
	c := &console{output: vmm.NewConsoleWriter(out), input: os.Stdin, lost: out.lost}
	if !isTerminal(os.Stdin) {
		return c, nil
	}
	t, err := term.Open("/dev/stdin")
	if err != nil {
		return nil, fmt.Errorf("open the terminal: %w", err)
	}
	c.terminal, c.escape = t, escape
	return c, nil
}

// onTerminal tells whether a console of the guest's is on a terminal.
func (c *console) onTerminal() bool {
	return c.terminal != nil || c.virtio != nil && c.virtio.onTerminal()
}

// makeRaw lets a terminal's keys reach the guest as they are.
func (c *console) makeRaw() error {
	if c.virtio != nil {
		if err := c.virtio.makeRaw(); err != nil {
			return err
		}
	}
	if c.terminal == nil {
		return nil
	}
	if err := term.RawMode(c.terminal); err != nil {
		return fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	fmt.Fprintf(os.Stderr, "tandem: press %s x to leave\r\n", c.escape)
	return nil
}

// lossyWriter tells of the first write that fails.
type lossyWriter struct {
	w    io.Writer
	lost chan struct{}
	err  error
}

func (l *lossyWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil && l.err == nil {
		l.err = err
		close(l.lost)
	}
	return n, err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// parseEscape reads a control key in the manner ^A.
func parseEscape(s string) (byte, error) {
	if len(s) == 2 && s[0] == '^' && s[1] >= '@' && s[1] <= '_' {
		return s[1] - '@', nil
	}
	return 0, fmt.Errorf("--escape %q is not a control key: give ^A to ^_", s)
}

// configure gives a machine that is made here its consoles.
func (c *console) configure(config *vmm.Config) {
	config.Console, config.Debug = c.output, c.output
	if v := c.virtio; v != nil {
		config.VirtioConsole = &vmm.VirtioConsole{ConsoleConfig: v.size(), Out: v.output}
	}
}

// complete gives a machine that was made elsewhere what is behind its consoles here. A virtio console that the flags don't
// name is not shown.
func (c *console) complete(config *vmm.Config) error {
	config.Console, config.Debug = c.output, c.output
	v := c.virtio
	if v == nil {
		return nil
	}
	if config.VirtioConsole == nil {
		return errors.New("the guest has no virtio console: leave --virtio-console out")
	}
	config.VirtioConsole.Out = v.output
	return nil
}

// size is what a virtio console tells its guest: how large the terminal is as the guest starts, if there is one. Older Linux
// drivers look only when it changes, which it never does.
func (c *console) size() virtio.ConsoleConfig {
	if c.terminal == nil {
		return virtio.ConsoleConfig{}
	}
	w, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return virtio.ConsoleConfig{}
	}
	return virtio.ConsoleConfig{Columns: w.Col, Rows: w.Row}
}

// close writes what is left and gives the terminal back as it was.
func (c *console) close() error {
	err := c.output.Close()
	if err != nil {
		err = fmt.Errorf("write the guest's console: %w", err)
	}
	c.restore()
	if c.file != nil {
		err = errors.Join(err, c.file.Close())
	}
	if c.virtio != nil {
		err = errors.Join(err, c.virtio.close())
	}
	return err
}

// restore gives the terminal back. It may be called more than once, from any goroutine.
func (c *console) restore() {
	if c.terminal != nil {
		_ = c.terminal.Restore() // of a terminal that is gone there is nothing to be restored
	}
	if c.virtio != nil {
		c.virtio.restore()
	}
}

// connect passes what is typed to the machine, until the machine or the input ends. A machine whose user is gone, as
// behind a pipe that was closed, is stopped.
func (c *console) connect(m *vmm.Machine) { c.feed(m, m.Stop) }

// feed passes what is typed to a machine until it is told of another one. leave is called when the user wants to leave or is
// gone; the first call's counts. nil drops what is typed.
func (c *console) feed(m *vmm.Machine, leave func()) {
	if c.virtio != nil {
		c.virtio.feed(m, leave)
	}
	c.machine.Store(m)
	c.started.Do(func() {
		if c.lost != nil {
			go func() {
				<-c.lost
				leave()
			}()
		}
		if c.input != nil {
			go c.read(leave)
		}
	})
}

// read passes input on until it ends.
func (c *console) read(leave func()) {
	var keys escapeFilter
	if c.terminal != nil {
		keys.key, _ = parseEscape(c.escape) // it was checked when the console was opened
	}
	buffer := make([]byte, consoleChunkBytes)
	for {
		n, err := c.input.Read(buffer)
		typed, wantsOut := keys.filter(buffer[:n])
		if m := c.machine.Load(); m != nil && len(typed) > 0 {
			_ = m.Post(lockstep.Input{Kind: lockstep.KindConsole, Device: c.device, Payload: typed}) // the machine may have ended
		}
		if wantsOut {
			leave()
		}
		if err != nil {
			return
		}
	}
}

// escapeFilter takes the escape key and what follows it out of typed input.
type escapeFilter struct {
	key     byte // 0: nothing is special
	pending bool // the last byte was the key
}

// filter returns the bytes for the guest, in a slice of their own, and whether the user wants to leave.
func (f *escapeFilter) filter(p []byte) (typed []byte, leave bool) {
	for _, b := range p {
		switch {
		case f.pending && b == 'x':
			return typed, true
		case f.pending, f.key == 0 || b != f.key:
			f.pending = false
			typed = append(typed, b)
		default:
			f.pending = true
		}
	}
	return typed, false
}
