package arbiter

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// storage is what File asks of a file system, in steps that can fail one by one.
type storage interface {
	// Create makes a new file; it fails with fs.ErrExist if there is one.
	Create(path string) (storedFile, error)
	// Link gives a file a second name; it fails with fs.ErrExist if that is taken. This is the atomic step.
	Link(from, to string) error
	Remove(path string) error
	Mkdir(path string) error
	// SyncDir makes the names in a folder outlive a loss of power.
	SyncDir(path string) error
	// ReadFile reads a file of at most limit bytes.
	ReadFile(path string, limit int) ([]byte, error)
	// Names lists a folder; it fails if it has more than limit entries.
	Names(path string, limit int) ([]string, error)
}

type storedFile interface {
	Write(b []byte) (int, error)
	Sync() error
	Close() error
}

var errTooLarge = errors.New("it is larger than it can be")

// hostStorage is the host's file system.
type hostStorage struct{}

func (hostStorage) Create(path string) (storedFile, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}
func (hostStorage) Link(from, to string) error { return os.Link(from, to) }
func (hostStorage) Remove(path string) error   { return os.Remove(path) }
func (hostStorage) Mkdir(path string) error    { return os.Mkdir(path, 0o755) }

func (hostStorage) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (hostStorage) ReadFile(path string, limit int) ([]byte, error) {
	// A hostile folder may hold a pipe, which would block, or a link to elsewhere.
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errTooLarge}
	}
	return b, nil
}

func (hostStorage) Names(path string, limit int) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(limit + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(names) > limit {
		return nil, &fs.PathError{Op: "list", Path: path, Err: errTooLarge}
	}
	return names, nil
}
