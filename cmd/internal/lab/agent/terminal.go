package agent

import (
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal pair (pty(7)): near is the side of the
// program that plays the user.
func openTerminal(rows, cols uint16) (near, far *os.File, err error) {
	near, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	n, err := prepareTerminal(near, rows, cols)
	if err == nil {
		far, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	}
	if err != nil {
		near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// prepareTerminal unlocks the far side and returns its number.
func prepareTerminal(near *os.File, rows, cols uint16) (int, error) {
	var n int
	err := control(near, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		var err error
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil && rows > 0 && cols > 0 {
		err = setTerminalSize(near, rows, cols)
	}
	return n, err
}

func setTerminalSize(f *os.File, rows, cols uint16) error {
	return control(f, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// control runs fn on f's descriptor while nobody can close it.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = fn(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// terminalInput ends a terminal's input as a user does, with ^D: the terminal
// itself stays open for its output.
type terminalInput struct{ f *os.File }

const endOfInput = 4 // VEOF's default, ^D

func (t terminalInput) Write(b []byte) (int, error) { return t.f.Write(b) }

func (t terminalInput) Close() error {
	_, err := t.f.Write([]byte{endOfInput})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// terminalOutput reads what the command writes. EIO says that the last process
// on the far side is gone.
type terminalOutput struct{ f *os.File }

func (t terminalOutput) Read(b []byte) (int, error) {
	n, err := t.f.Read(b)
	if errors.Is(err, syscall.EIO) {
		err = io.EOF
	}
	return n, err
}

func (t terminalOutput) Close() error { return t.f.Close() }
