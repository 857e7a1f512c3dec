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

	"tandem/lockstep"
	"tandem/vmm"
)

// consoleChunkBytes is how much typed input becomes one input of the machine at the most.
const consoleChunkBytes = 256

// console is where a guest's serial port goes.
type console struct {
	output   *vmm.ConsoleWriter
	input    io.Reader  // nil if nothing can be typed
	escape   string     // the key as it was given, "" if input is not a terminal
	terminal *term.Term // nil, or a terminal that raw mode may be in
	file     *os.File   // nil, or a file that is to be closed

	lost chan struct{} // closed when what is written reaches nobody any more; nil if that does not matter

	started sync.Once
	machine atomic.Pointer[vmm.Machine] // who gets what is typed; nil drops it
}

// openConsole opens what --console names. A terminal stays as it is until makeRaw.
func openConsole(name, escape string) (*console, error) {
	path, isFile := strings.CutPrefix(name, "file:")
	switch {
	case name == "none":
		return &console{output: vmm.NewConsoleWriter(io.Discard)}, nil
	case isFile:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return nil, fileError("--console", path, err)
		}
		return &console{output: vmm.NewConsoleWriter(file), file: file}, nil
	case name == "stdio":
		return openStdio(escape)
	}
	return nil, fmt.Errorf("--console %q is unknown: give stdio, none or file:PATH", name)
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

// makeRaw lets a terminal's keys reach the guest as they are.
func (c *console) makeRaw() error {
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
	return err
}

// restore gives the terminal back. It may be called more than once, from any goroutine.
func (c *console) restore() {
	if c.terminal != nil {
		_ = c.terminal.Restore() // of a terminal that is gone there is nothing to be restored
	}
}

// connect passes what is typed to the machine, until the machine or the input ends. A machine whose user is gone, as
// behind a pipe that was closed, is stopped.
func (c *console) connect(m *vmm.Machine) { c.feed(m, m.Stop) }

// feed passes what is typed to a machine until it is told of another one. leave is called when the user wants to leave or is
// gone; the first call's counts. nil drops what is typed.
func (c *console) feed(m *vmm.Machine, leave func()) {
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
			_ = m.Post(lockstep.Input{Kind: lockstep.KindConsole, Payload: typed}) // the machine may have ended
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
