package blk

import (
	"errors"

	"golang.org/x/sys/unix"
)

// content is what a part of an image has.
type content uint8

const (
	// stored is content that has to be read to be known.
	stored content = iota + 1
	// zeros reads as zeros.
	zeros
	// based is as in the base of the overlay.
	based
)

// extent is a run of n bytes with one content.
type extent struct {
	n int64
	content
}

// charted is an image that knows where it has what. What is written meanwhile may be in the answer or not.
type charted interface {
	// extent returns what is at off, of at most n bytes; n is not 0, and off+n inside the image.
	extent(off, n int64) (extent, error)
}

// extentOf asks image, or takes it that all is stored.
func extentOf(image Image, off, n int64) (extent, error) {
	if c, ok := image.(charted); ok {
		return c.extent(off, n)
	}
	return extent{n, stored}, nil
}

func (r *raw) extent(off, n int64) (extent, error) {
	if f, ok := r.File.(*osFile); ok {
		return f.extent(off, n)
	}
	return extent{n, stored}, nil
}

// extent asks the file system for holes. One that knows none, and a block device, have everything stored.
func (f *osFile) extent(off, n int64) (extent, error) {
	data, err := f.seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data up to the end
		return extent{n, zeros}, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP):
		return extent{n, stored}, nil
	case err != nil:
		return extent{}, err
	case data > off:
		return extent{min(n, data-off), zeros}, nil
	}
	hole, err := f.seek(off, unix.SEEK_HOLE)
	if err != nil {
		return extent{}, err
	}
	if hole <= off { // punched since
		hole = off + n
	}
	return extent{min(n, hole-off), stored}, nil
}

// seek moves the file's own position, which nothing else uses.
func (f *osFile) seek(off int64, whence int) (at int64, err error) {
	err = ignoringEINTR(func() error {
		at, err = unix.Seek(int(f.Fd()), off, whence)
		return err
	})
	return at, err
}

func (o *overlay) extent(off, n int64) (extent, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	s := o.next(off, n)
	if s.mine {
		return extent{s.n, stored}, nil
	}
	return extent{s.n, based}, nil
}
