package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// RunDir returns the folder for what lives no longer than a lab: sockets and
// console logs. It is this user's alone, and short, since a socket's path must
// be.
func RunDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "tandem-lab-"+strconv.Itoa(os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("making a folder for running labs: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.IsDir() || st.Mode().Perm() != 0o700 || int(sys.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s isn't a folder of this user's alone (mode 0700): remove it", dir)
	}
	return dir, nil
}

const (
	workPrefix = "work-"
	lockName   = "lock"
)

// newWorkDir makes a folder for one lab. A lock in it, held as long as this
// process lives, tells it from those that dead processes left, which are
// removed on this occasion.
func newWorkDir(run string) (dir string, release func(), err error) {
	unlock, err := lockFile(filepath.Join(run, lockName), func() {})
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	sweep(run)
	dir, err = os.MkdirTemp(run, workPrefix)
	if err != nil {
		return "", nil, fmt.Errorf("making a folder for the lab: %w", err)
	}
	release, err = lockFile(filepath.Join(dir, lockName), func() {})
	if err != nil {
		return "", nil, err
	}
	return dir, release, nil
}

// sweep removes the work folders that no process holds. What can't be removed
// is left for the next time.
func sweep(run string) {
	dirs, _ := filepath.Glob(filepath.Join(run, workPrefix+"*"))
	for _, d := range dirs {
		f, err := os.OpenFile(filepath.Join(d, lockName), os.O_RDWR, 0)
		if err == nil && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(d)
		}
		if err == nil {
			f.Close()
		}
	}
}
