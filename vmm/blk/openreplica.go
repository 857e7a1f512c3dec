package blk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// name is what messages call the disk.
func (o Options) name() string {
	if o.Overlay != "" {
		return o.Overlay
	}
	return o.Path
}

// openReplica opens a disk to be a replica of one with form f, whose place in the row begins at start, and marks it as
// incomplete. What it has is kept, but it is taken to be worth anything by the first from bytes of the row alone: of the rest the
// content tells.
func openReplica(o Options, f Form, start, from int64) (Image, error) {
	kept := from > start
	image, err := openForm(o, f, kept)
	if err != nil || f.rowBytes() == 0 {
		return image, err
	}
	if kept {
		err = storage(image).checkKept(from)
	}
	if err == nil {
		err = storage(image).markIncomplete(from)
	}
	if err != nil {
		image.Close()
		return nil, fmt.Errorf("disk %s: %w", o.name(), err)
	}
	return image, nil
}

func openForm(o Options, f Form, kept bool) (Image, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	switch {
	case f.Kind == Shared && !o.Shared:
		return nil, fmt.Errorf("disk %s: the primary's is one that both hosts share; add shared, and name the same file", o.name())
	case f.Kind != Shared && o.Shared:
		return nil, fmt.Errorf("disk %s: the primary's is its own; leave shared out and name a file for a replica, or make it shared there", o.Path)
	case f.Kind == Shared:
		s, err := openSharedReplica(o, f)
		if err != nil {
			return nil, err // not an Image that is a nil *shared
		}
		return s, nil
	case f.Kind == Overlay && o.Overlay == "":
		return nil, fmt.Errorf("disk %s: the primary's is an overlay; add overlay=FILE, over the same base", o.Path)
	case f.Kind != Overlay && o.Overlay != "":
		return nil, fmt.Errorf("disk %s: the primary's is no overlay; leave overlay=%s out and name a file for all of it", o.Path, o.Overlay)
	case f.Kind == Raw && o.ReadOnly:
		return nil, fmt.Errorf("disk %s: the primary's is not read-only; leave readonly out", o.Path)
	case f.Kind == Raw:
		return openRawReplica(o.Path, f.Size, kept)
	}
	base, err := openRaw(o.Path, true)
	if err != nil {
		return nil, err
	}
	image, err := openOver(base, o, f, kept)
	if err != nil {
		base.Close()
		return nil, err
	}
	return image, nil
}

// openOver opens what is not a disk of its own, once it is sure that base is what the primary has.
func openOver(base *raw, o Options, f Form, kept bool) (Image, error) {
	print, err := fingerprint(base)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", o.Path, err)
	}
	if base.Size() != f.Size || hex.EncodeToString(print[:]) != f.Base {
		return nil, fmt.Errorf("disk %s: it is not the image that the primary has (%d bytes here, %d there); copy that one to this host",
			o.Path, base.Size(), f.Size)
	}
	if f.Kind == ReadOnly {
		return base, nil
	}
	if kept {
		if _, err := os.Lstat(o.Overlay); err != nil {
			return nil, fmt.Errorf("overlay %s: %w: %w", o.Overlay, ErrNotKept, err)
		}
		return openOverlayFile(o.Overlay, o.Path, base)
	}
	replica, err := openOverlayReplica(o.Overlay, base)
	if replica != nil || err != nil {
		return replica, err
	}
	if err := emptyOverlay(o.Overlay, o.Path, base); err != nil {
		return nil, fmt.Errorf("overlay %s: %w", o.Overlay, err)
	}
	return openOverlayFile(o.Overlay, o.Path, base)
}

// openOverlayReplica opens an overlay that there is. It returns nil if there is none over this base; a file that is something else
// is an error. An overlay that is damaged, or of another base, is none.
func openOverlayReplica(path string, base Image) (Image, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	f, err := openFile(path, readWrite)
	if err != nil {
		return nil, err
	}
	if err := checkReplaceable(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("overlay %s: %w", path, err)
	}
	o, err := newOverlay(f, base)
	if err == nil {
		err = fitOverlay(f, &o.head)
	}
	if err != nil {
		f.Close()
		return nil, nil // it is made anew
	}
	return o, nil
}

// fitOverlay gives an overlay that was cut short its length again: what is not there reads as zeros.
func fitOverlay(f *osFile, h *header) error {
	size, err := f.size()
	if err != nil || size >= h.dataOffset()+h.size {
		return err
	}
	return f.Truncate(h.dataOffset() + h.size)
}

// emptyOverlay makes an overlay that exists an empty one. A file that is something else is left alone.
func emptyOverlay(path, basePath string, base Image) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f, err := openFile(path, readWrite)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkReplaceable(f); err != nil {
		return err
	}
	h, err := newHeader(basePath, base)
	if err != nil {
		return err
	}
	if err := f.markIncomplete(0); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	return writeEmpty(f.File, h)
}

// checkReplaceable refuses a file that is neither an overlay nor one that was being made.
func checkReplaceable(f *osFile) error {
	size, err := f.size()
	if err != nil || size == 0 {
		return err
	}
	p := make([]byte, min(size, headerSize))
	if _, err := f.ReadAt(p, 0); err != nil {
		return fmt.Errorf("cannot read its header: %w", err)
	}
	if _, err := decodeHeader(p); errors.Is(err, errNotOverlay) {
		return fmt.Errorf("%w; delete it, or name another file", err)
	}
	return nil
}

// openRawReplica opens a file or block device of at least size bytes, or makes a file of that size.
func openRawReplica(path string, size int64, kept bool) (Image, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if kept {
			return nil, fmt.Errorf("disk %s: %w: %w", path, ErrNotKept, err)
		}
		if err := createEmpty(path); err != nil {
			return nil, fmt.Errorf("disk %s: cannot create it: %w", path, err)
		}
	}
	f, err := openFile(path, readWrite)
	if err != nil {
		return nil, err
	}
	if err := fit(f, size); err != nil {
		f.Close()
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return &raw{f, size, false}, nil
}

func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), syncFolder(path))
}

// syncFolder makes a new file's name stable.
func syncFolder(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// fit gives an empty file its size. A file of another size is rather somebody's than a replica.
func fit(f *osFile, size int64) error {
	have, err := f.size()
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case isBlockDevice(info) && have >= size, have == size:
		return nil
	case isBlockDevice(info):
		return fmt.Errorf("the device has %d bytes, the primary's disk %d; name a larger one", have, size)
	case have != 0:
		return fmt.Errorf("the file has %d bytes, the primary's disk %d; delete it, or name another file", have, size)
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.File.Sync() // the length too
}
