// Package blktest has a disk in memory for tests: it fails where it is told to, and can lose its power.
package blktest

import (
	"errors"
	"io"
	"math/rand"
	"sync"
)

// sector is what a disk writes as a whole or not at all.
const sector = 512

// Op is an operation on a disk.
type Op string

// The operations that can be made to fail.
const (
	Read  Op = "read"
	Write Op = "write"
	Zero  Op = "zero"
	Sync  Op = "sync"
	Close Op = "close"
)

// Disk is storage of a fixed size. It implements blk.Image, and may be used from many goroutines.
type Disk struct {
	// Fail, if not nil, is called before each operation with the range that it is for. What it returns, if not nil, is
	// the operation's outcome; it may also block. It must be set before the disk is used.
	Fail func(op Op, off, n int64) error

	mu sync.Mutex
	// current is what reads see, stable what survives a loss of power.
	current, stable []byte
	// loose has the sectors in which the two may differ.
	loose map[int64]struct{}
}

// New returns a disk of size bytes of zeros.
func New(size int64) *Disk {
	return &Disk{current: make([]byte, size), stable: make([]byte, size), loose: map[int64]struct{}{}}
}

// Crash returns the disk as it is after a loss of power at this instant: of the sectors written since the last Sync,
// some, chosen by r, have their new content and the others their old.
func (d *Disk) Crash(r *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := New(int64(len(d.stable)))
	copy(after.stable, d.stable)
	for i := range int64(len(d.stable)+sector-1) / sector {
		if _, ok := d.loose[i]; ok && r.Intn(2) == 0 {
			copySector(after.stable, d.current, i)
		}
	}
	copy(after.current, after.stable)
	return after
}

func copySector(to, from []byte, i int64) {
	end := min((i+1)*sector, int64(len(to)))
	copy(to[i*sector:end], from[i*sector:end])
}

// Bytes returns a copy of what reads see.
func (d *Disk) Bytes() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]byte(nil), d.current...)
}

var errOutside = errors.New("outside of the disk")

// begin lets the operation fail, and checks its range.
func (d *Disk) begin(op Op, off, n int64) error {
	if d.Fail != nil {
		if err := d.Fail(op, off, n); err != nil {
			return err
		}
	}
	if off < 0 || n < 0 || off+n > int64(len(d.current)) {
		return errOutside
	}
	return nil
}

// touch notes that n bytes from off on have changed.
func (d *Disk) touch(off, n int64) {
	for i := off / sector; i*sector < off+n; i++ {
		d.loose[i] = struct{}{}
	}
}

// ReadAt implements blk.File.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if err := d.begin(Read, off, int64(len(p))); err != nil {
		if errors.Is(err, errOutside) {
			err = io.EOF
		}
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(p, d.current[off:]), nil
}

// WriteAt implements blk.File.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.begin(Write, off, int64(len(p))); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touch(off, int64(len(p)))
	return copy(d.current[off:], p), nil
}

// Zero implements blk.File.
func (d *Disk) Zero(off, n int64, punch bool) error {
	if err := d.begin(Zero, off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touch(off, n)
	clear(d.current[off : off+n])
	return nil
}

// Sync implements blk.File.
func (d *Disk) Sync() error {
	if err := d.begin(Sync, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.loose {
		copySector(d.stable, d.current, i)
	}
	clear(d.loose)
	return nil
}

// Close implements blk.File.
func (d *Disk) Close() error { return d.begin(Close, 0, 0) }

// Size implements blk.Image.
func (d *Disk) Size() int64 { return int64(len(d.current)) }

// ReadOnly implements blk.Image.
func (d *Disk) ReadOnly() bool { return false }
