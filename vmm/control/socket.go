package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxPathBytes is how long a socket's path may be (unix(7), sun_path with its end).
const MaxPathBytes = 107

// socketMode lets the socket's user alone connect.
const socketMode = 0o600

// ErrInUse says that another program listens at the path.
var ErrInUse = errors.New("another tandem has this control socket: stop it, or name another socket")

// socket is a listening unix socket that removes its name when it is closed, if it is still its own.
type socket struct {
	net.Listener
	path string
	info fs.FileInfo
}

// listen makes a socket at a path.
func listen(path string) (*socket, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	// The folder's lock makes two programs that find the same dead socket take turns. It goes with the descriptor.
	folder, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket %s: its folder does not exist: make it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("control socket %s: lock its folder: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return bind(path)
}

// CheckPath tells whether a path can be a socket's.
func CheckPath(path string) error {
	if path == "" || len(path) > MaxPathBytes {
		return fmt.Errorf("control socket %q: a path has from 1 to %d bytes", path, MaxPathBytes)
	}
	return nil
}

// removeStale removes a socket at which nobody listens any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("it exists and is no socket: name another path")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) { // somebody listens whose queue is full, or who is not this user
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	return os.Remove(path)
}

func bind(path string) (*socket, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// The kernel gives the name the mode of the socket itself, so that there is no instant at which it has another.
		var modeErr error
		err := raw.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, modeErr)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control socket %s: %w", path, err), l.Close())
	}
	return &socket{l, path, info}, nil
}

// Close stops listening and removes the socket.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if info, statErr := os.Lstat(s.path); statErr == nil && os.SameFile(info, s.info) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}
