package blk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tandem/lockstep/arbiter"
)

// retryFence is after how long storage that did not answer is asked again.
const retryFence = 100 * time.Millisecond

// errUnsure says that storage did not say who has the disk until this host gave up.
var errUnsure = errors.New("storage does not say whose the disk is")

// shared is a disk that both hosts of a pair reach, each under a path of its own. One of them holds it. The other has not
// even opened it; it opens it when it takes it over, so that nothing that it has read before can be out of date.
type shared struct {
	path string
	size int64
	// number is this host's as a holder, now or when it takes the disk over.
	number uint64
	fence  *fence
	// given is closed when nobody wants to write any more.
	given  chan struct{}
	giveUp sync.Once
	told   atomic.Bool // that storage does not answer

	mu     sync.Mutex
	file   *osFile // nil until this host has the disk
	locked bool
	fenced error // why this host has it no more
	// sureUntil and mayWriteAt are host times.
	sureUntil, mayWriteAt time.Duration
}

// IsShared tells whether an image is one that both hosts of a pair reach.
func IsShared(image Image) bool { return sharedOf(image) != nil }

func sharedOf(image Image) *shared {
	if t, ok := image.(*Tracked); ok {
		image = t.Image
	}
	s, _ := image.(*shared)
	return s
}

// Acquire makes this host the one that has a shared disk. ErrFenced says that another has taken it. Storage that does not answer
// is no error: the disk's requests wait for it.
func Acquire(image Image) error {
	s := sharedOf(image)
	if s == nil {
		return nil
	}
	asked := make(chan error, 1)
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		asked <- s.acquire()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), fenceTimeout)
	defer cancel()
	select {
	case err := <-asked:
		if errors.Is(err, ErrFenced) {
			return fmt.Errorf("disk %s: %w", s.path, err)
		}
	case <-ctx.Done():
	}
	return nil
}

// fenceFolder returns where the fence of a shared disk is.
func fenceFolder(o Options) (string, error) {
	info, err := os.Stat(o.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("disk %s: there is no such file", o.Path)
	case err != nil:
		return "", fmt.Errorf("disk %s: %w", o.Path, errors.Unwrap(err))
	case o.Fence != "":
		return o.Fence, nil
	case isBlockDevice(info):
		return "", fmt.Errorf("disk %s: a block device has no place for its fence beside it: name a folder on storage that both hosts have with fence=FOLDER", o.Path)
	}
	path, err := filepath.EvalSymlinks(o.Path)
	if err != nil {
		return "", fmt.Errorf("disk %s: %w", o.Path, err)
	}
	return path + fenceSuffix, nil
}

// openShared opens a disk that both hosts reach, and takes it from whoever had it before.
func openShared(o Options) (*shared, error) {
	folder, err := fenceFolder(o)
	if err != nil {
		return nil, err
	}
	f, err := openFile(o.Path, sharedWrite)
	if err != nil {
		return nil, err
	}
	s, err := shareFile(o, f, folder)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("disk %s: %w", o.Path, err)
	}
	return s, nil
}

func shareFile(o Options, f *osFile, folder string) (*shared, error) {
	if err := lockFile(f.File, unix.LOCK_EX); err != nil {
		return nil, err
	}
	size, err := f.size()
	if err == nil {
		err = checkSize(size)
	}
	if err == nil {
		err = f.checkComplete()
	}
	if err != nil {
		return nil, err
	}
	s := &shared{path: o.Path, size: size, given: make(chan struct{}), locked: true}
	if s.fence, err = createFence(folder); err != nil {
		return nil, fmt.Errorf("its fence %s: %w", folder, err)
	}
	last, err := s.fence.latest()
	if err == nil {
		s.number = last + 1
		err = s.fence.take(s.number)
	}
	if err != nil {
		return nil, fmt.Errorf("its fence %s: %w", folder, err)
	}
	s.have(f)
	return s, nil
}

// openSharedReplica is what a host that follows has of a shared disk: the means to take it over.
func openSharedReplica(o Options, form Form) (*shared, error) {
	folder, err := fenceFolder(o)
	if err != nil {
		return nil, err
	}
	f, err := openFile(o.Path, sharedRead)
	if err != nil {
		return nil, err
	}
	size, err := f.size()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("disk %s: %w", o.Path, err)
	}
	other := func(format string, args ...any) (*shared, error) {
		return nil, fmt.Errorf("disk %s: it is not the file that the primary has: %s; name that one, on storage that both hosts have",
			o.Path, fmt.Sprintf(format, args...))
	}
	if size != form.Size {
		return other("%d bytes here, %d there", size, form.Size)
	}
	fence, err := openFence(folder)
	switch {
	case errors.Is(err, arbiter.ErrWrongArbiter):
		return other("%s is not what the primary has made beside it", folder)
	case err != nil:
		return nil, fmt.Errorf("disk %s: its fence %s: %w", o.Path, folder, err)
	case fence.identity != form.Identity:
		return other("%s belongs to another disk", folder)
	}
	if err := fence.check(form.Number); err != nil {
		return nil, fmt.Errorf("disk %s: the primary does not have it any more: %w", o.Path, err)
	}
	return &shared{path: o.Path, size: size, number: form.Number + 1, fence: fence, given: make(chan struct{})}, nil
}

// have says that f is the disk, of which this host is the holder. The caller has the lock, or the only reference.
func (s *shared) have(f *osFile) {
	f.dropCache()
	s.file = f
	s.mayWriteAt = hostTime() + graceOfHolder
}

// acquire opens the disk and takes it. The caller holds the lock.
func (s *shared) acquire() error {
	if s.file != nil || s.fenced != nil {
		return s.fenced
	}
	if err := s.fence.take(s.number); err != nil {
		return s.note(err)
	}
	f, err := openFile(s.path, sharedWrite)
	if err != nil {
		return err
	}
	size, err := f.size()
	if err == nil && size != s.size {
		err = fmt.Errorf("it has %d bytes now, not %d", size, s.size)
	}
	if err != nil {
		f.Close()
		return err
	}
	s.have(f)
	s.lock()
	return nil
}

// lock locks the file, against a program that would run another guest on it. A predecessor that stands still, or whose server has
// not noticed that it is gone, may still have the lock: it is tried again later.
func (s *shared) lock() {
	if !s.locked {
		s.locked = lockFile(s.file.File, unix.LOCK_EX) == nil
	}
}

// note remembers that this host has been fenced.
func (s *shared) note(err error) error {
	if errors.Is(err, ErrFenced) && s.fenced == nil {
		s.fenced = err
	}
	return err
}

// look returns the file if this host may write to it now, or how long to wait before that is asked again.
func (s *shared) look() (*osFile, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.acquire(); err != nil {
		return nil, retryFence, err
	}
	now := hostTime()
	if early := s.mayWriteAt - now; early > 0 {
		return nil, early, nil
	}
	if now < s.sureUntil {
		return s.file, 0, nil
	}
	if err := s.fence.check(s.number); err != nil {
		return nil, retryFence, s.note(err)
	}
	if took := hostTime() - now; took > maxAnswer {
		return nil, retryFence, fmt.Errorf("storage took %v to say whose the disk is, more than %v", took, maxAnswer)
	}
	s.sureUntil = now + sureFor
	s.lock()
	return s.file, 0, nil
}

// mine waits until this host may write, and returns the file.
func (s *shared) mine() (*osFile, error) {
	for {
		began := hostTime()
		f, wait, err := s.look()
		if f != nil && hostTime()-began > maxAnswer {
			continue // this host stood still after it looked
		}
		if f != nil || errors.Is(err, ErrFenced) {
			return f, err
		}
		if err != nil && !s.told.Swap(true) {
			slog.Warn("storage does not say whether this host has a shared disk; what the guest writes waits for that", "disk", s.path, "cause", err)
		}
		select {
		case <-s.given:
			return nil, errors.Join(errUnsure, err)
		case <-time.After(wait):
		}
	}
}

// interrupt lets those go that wait to write.
func (s *shared) interrupt() { s.giveUp.Do(func() { close(s.given) }) }

// ReadAt implements File. Only what is in the log of this host's own guest, or was before this host had the disk, can be
// there, so that it need not wait for writes of a predecessor.
func (s *shared) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	f := s.file
	s.mu.Unlock()
	if f == nil {
		var err error
		if f, err = s.mine(); err != nil {
			return 0, err
		}
	}
	return f.ReadAt(p, off)
}

// WriteAt implements File. What it has written is stable.
func (s *shared) WriteAt(p []byte, off int64) (int, error) {
	f, err := s.mine()
	if err != nil {
		return 0, err
	}
	return f.WriteAt(p, off)
}

// Zero implements File. The zeros are stable.
func (s *shared) Zero(off, n int64, punch bool) error {
	f, err := s.mine()
	if err != nil {
		return err
	}
	if err := f.Zero(off, n, punch); err != nil {
		return err
	}
	return f.Sync()
}

// Sync implements File.
func (s *shared) Sync() error {
	s.mu.Lock()
	f := s.file
	s.mu.Unlock()
	if f == nil {
		return nil // nothing was written
	}
	return f.Sync()
}

// Close implements File.
func (s *shared) Close() error {
	s.interrupt()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *shared) Size() int64    { return s.size }
func (s *shared) ReadOnly() bool { return false }

func (s *shared) form() (Form, error) {
	return Form{Kind: Shared, Size: s.size, Identity: s.fence.identity, Number: s.number}, nil
}

// dropCache forgets what this host has read of f: another may have written since. Nothing of it is yet to be written.
func (f *osFile) dropCache() {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // it is advice
	if info, err := f.Stat(); err == nil && isBlockDevice(info) {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0) // for the right to it; opening a device that nobody had open does as much
	}
}
