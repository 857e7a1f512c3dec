package blk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is the storage that an image is in. A fault-injecting one stands in for it in tests.
type File interface {
	// ReadAt and WriteAt move all of p or fail.
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Zero makes n bytes read as zeros; punch says that their space may be given back.
	Zero(off, n int64, punch bool) error
	// Sync makes everything written before stable.
	Sync() error
	Close() error
}

// access is what a file is opened for.
type access int

const (
	readWrite access = iota + 1
	readOnly
	// sharedWrite writes through to storage, for other hosts to see, and does not lock.
	sharedWrite
	// sharedRead reads and does not lock.
	sharedRead
)

// osFile is a file or a block device of the host, locked.
type osFile struct {
	*os.File
	// lost is the first failure of a Sync. Linux forgets, after telling once, that pages could not be written, so no
	// later Sync can be believed.
	lost atomic.Pointer[error]
}

// openFile opens and locks path. A writer excludes everyone else, readers share.
func openFile(path string, a access) (*osFile, error) {
	flag, lock := os.O_RDWR, unix.LOCK_EX
	switch a {
	case readOnly:
		flag, lock = os.O_RDONLY, unix.LOCK_SH
	case sharedWrite:
		flag, lock = os.O_RDWR|unix.O_DSYNC, 0
	case sharedRead:
		flag, lock = os.O_RDONLY, 0
	}
	if info, err := os.Stat(path); err == nil && isBlockDevice(info) && flag&os.O_RDWR != 0 {
		flag |= unix.O_EXCL // refuses a device that the host has mounted
	}
	f, err := os.OpenFile(path, flag, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("disk %s: there is no such file", path)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("disk %s: %w; change its permissions, or attach it read-only", path, errors.Unwrap(err))
	case errors.Is(err, unix.EISDIR):
		return nil, fmt.Errorf("disk %s: it is a directory; a disk is an image file or a block device", path)
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("disk %s: this host has it in use; unmount it first", path)
	case err != nil:
		return nil, fmt.Errorf("disk %s: %w", path, errors.Unwrap(err))
	}
	if err := check(f, lock); err != nil {
		f.Close()
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return &osFile{File: f}, nil
}

// check looks at what kind of file it is, and takes the lock if it is not 0.
func check(f *os.File, lock int) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && !isBlockDevice(info) {
		return errors.New("it is neither a file nor a block device")
	}
	if lock == 0 {
		return nil
	}
	return lockFile(f, lock)
}

// lockFile takes a lock, or says who has it.
func lockFile(f *os.File, lock int) error {
	err := ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), lock|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("another guest has it in use; stop that guest, or give each its own overlay over a read-only base")
	}
	if err != nil {
		return fmt.Errorf("cannot lock it: %w", err)
	}
	return nil
}

func isBlockDevice(info fs.FileInfo) bool {
	return info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
}

// size returns the length in bytes of a file or a block device.
func (f *osFile) size() (int64, error) { return f.Seek(0, 2) }

// Sync is fdatasync: a file's length never changes under a guest, so its other metadata can wait.
func (f *osFile) Sync() error {
	if lost := f.lost.Load(); lost != nil {
		return fmt.Errorf("an earlier sync failed, and what it was to write may be lost: %w", *lost)
	}
	err := ignoringEINTR(func() error { return unix.Fdatasync(int(f.Fd())) })
	if err != nil {
		f.lost.CompareAndSwap(nil, &err)
	}
	return err
}

// zeroes is what Zero writes where the storage cannot make zeros itself.
var zeroes [1 << 20]byte

// Zero implements File. Linux makes zeros of the punched range of a block device too, or says that it can't.
func (f *osFile) Zero(off, n int64, punch bool) error {
	mode := uint32(unix.FALLOC_FL_KEEP_SIZE)
	if punch {
		mode |= unix.FALLOC_FL_PUNCH_HOLE
	} else {
		mode |= unix.FALLOC_FL_ZERO_RANGE
	}
	err := ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), mode, off, n) })
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	for n > 0 {
		p := zeroes[:min(n, int64(len(zeroes)))]
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}

// ignoringEINTR repeats a system call that a signal has cut short; the Go runtime sends itself many.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
