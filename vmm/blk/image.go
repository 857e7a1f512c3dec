package blk

import (
	"fmt"

	"tandem/devices/virtio"
)

// Image is a disk's content.
type Image interface {
	File
	// Size is the disk's size in bytes, a multiple of 512. It never changes.
	Size() int64
	ReadOnly() bool
}

// Options say what a disk is made of.
type Options struct {
	// Path is a raw image file or a block device.
	Path     string
	ReadOnly bool
	// Overlay, if not empty, is a file that takes the guest's writes in place of Path, which is then only read and may be
	// shared. It is created if it does not exist.
	Overlay string
	// Shared says that both hosts of a pair reach the disk, each under a path of its own: it is one disk, not two replicas.
	Shared bool
	// Fence is the folder, on storage that both hosts have, that says which of them may write to a shared disk. If it is
	// empty, it is Path with ".tandem" behind it, which a block device can't have.
	Fence string
}

// Check refuses what makes no sense.
func (o Options) Check() error {
	switch {
	case o.Overlay != "" && o.ReadOnly:
		return fmt.Errorf("disk %s: a read-only disk has no use for overlay %s; leave one of them out", o.Path, o.Overlay)
	case o.Shared && o.Overlay != "":
		return fmt.Errorf("disk %s: an overlay is its host's own, so the disk can't be shared; leave overlay=%s or shared out", o.Path, o.Overlay)
	case o.Shared && o.ReadOnly:
		return fmt.Errorf("disk %s: nobody writes to a read-only disk, so both hosts can have it as it is; leave shared out", o.Path)
	case o.Fence != "" && !o.Shared:
		return fmt.Errorf("disk %s: fence=%s is for a shared disk; add shared, or leave it out", o.Path, o.Fence)
	}
	return nil
}

// Open opens and locks a disk. Its errors name the file, the cause and what to do.
func Open(o Options) (Image, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Shared {
		s, err := openShared(o)
		if err != nil {
			return nil, err // not an Image that is a nil *shared
		}
		return s, nil
	}
	image, err := openAny(o)
	if err != nil {
		return nil, err
	}
	if err := storage(image).checkComplete(); err != nil {
		image.Close()
		return nil, fmt.Errorf("disk %s: %w", o.name(), err)
	}
	return image, nil
}

// openAny opens a disk, complete or not.
func openAny(o Options) (Image, error) {
	if o.Overlay != "" {
		return openOrCreateOverlay(o.Overlay, o.Path)
	}
	return openRaw(o.Path, o.ReadOnly)
}

// raw is an image whose bytes are the disk's.
type raw struct {
	File
	size     int64
	readOnly bool
}

func openRaw(path string, ro bool) (*raw, error) {
	a := readWrite
	if ro {
		a = readOnly
	}
	f, err := openFile(path, a)
	if err != nil {
		return nil, err
	}
	size, err := f.size()
	if err == nil {
		err = checkSize(size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return &raw{f, size, ro}, nil
}

func checkSize(size int64) error {
	if size == 0 {
		return fmt.Errorf("it is empty; give it a size with: truncate -s SIZE FILE")
	}
	if size%virtio.SectorSize != 0 {
		return fmt.Errorf("its size of %d bytes is not a multiple of %d; pad it with: truncate -s %%%d FILE",
			size, virtio.SectorSize, virtio.SectorSize)
	}
	return nil
}

func (r *raw) Size() int64    { return r.size }
func (r *raw) ReadOnly() bool { return r.readOnly }
