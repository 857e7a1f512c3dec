package blk

import (
	"errors"
	"fmt"
	"sync"

	"tandem/vmm/sums"
)

// Bounds of what a replica has not made stable yet, in parts and in bytes.
const (
	maxQueuedParts = 32
	syncEvery      = 64 << 20
)

// Replicas are the disks of a machine that a host gets from another.
//
// Its methods are for any goroutine.
type Replicas struct {
	images []Image
	forms  []Form
	starts []int64
	size   int64

	// told has, for each disk, the blocks whose sums were told, and that nothing was stored in since.
	told []chunkSet
	// blank says of a disk that nothing lay there.
	blank []bool
	// asking is held while sums are made, so that the images are open, and over, which it guards, says that no more are.
	asking sync.RWMutex
	over   bool

	queue   chan []byte
	written sync.WaitGroup

	// putting is held while a part is put into the queue. Invariant: closed, which it guards, says that the queue is closed.
	putting sync.Mutex
	closed  bool

	mu     sync.Mutex
	stored int64 // of the row, in order
	failed error
}

// errEnded says that a part came too late.
var errEnded = errors.New("the replica is finished or closed")

// OpenReplicas opens and locks this host's disks and makes them ready to be replicas of those of another host: files that
// don't exist are created, overlays of another base are emptied. What they had is overwritten, but where the other host has the
// same ([Replicas.Sums]). Of the row of disks the first from bytes are kept: they are what a transfer that broke off has stored
// ([Replicas.Close]), else the error is [ErrNotKept]; a from beyond the row is 0. Errors name the file, the cause and what to do.
func OpenReplicas(options []Options, forms []Form, from int64) (*Replicas, error) {
	if len(options) != len(forms) {
		return nil, fmt.Errorf("the primary's guest has %d disks, and this host has been given %d: give it as many, in the same order",
			len(forms), len(options))
	}
	total := int64(0)
	for i, f := range forms {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("disk %s: %w", options[i].name(), err)
		}
		if total += f.Size; total > maxDiskSize {
			return nil, fmt.Errorf("disk %s: the primary says that its disks up to here have %d bytes, more than there can be", options[i].name(), total)
		}
	}
	r := &Replicas{forms: forms}
	r.starts, r.size = layout(forms)
	r.stored = resumeAt(from, r.size)
	for i, f := range forms {
		image, err := openReplica(options[i], f, r.starts[i], r.stored)
		if err != nil {
			r.closeImages()
			return nil, err
		}
		r.add(image)
	}
	r.queue = make(chan []byte, maxQueuedParts)
	r.written.Go(r.write)
	return r, nil
}

// add takes the next image.
func (r *Replicas) add(image Image) {
	n := image.Size()
	e, err := extentOf(image, 0, n)
	r.images = append(r.images, image)
	r.told = append(r.told, newChunkSet((n+chunk-1)/chunk))
	r.blank = append(r.blank, err == nil && e.content != stored && e.n == n)
}

// Store takes the next part, which may be used again when it returns; it is written a little later, in the order of the
// calls, and Store waits only if too many are. An error is that of a part that is none, or of this host's disks, perhaps
// with an earlier part: the replica is of no use then.
func (r *Replicas) Store(p []byte) error {
	if _, err := decodePart(p, r.size); err != nil {
		return err
	}
	r.mu.Lock()
	failed := r.failed
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	r.putting.Lock()
	defer r.putting.Unlock()
	if r.closed {
		return errEnded
	}
	r.queue <- append([]byte(nil), p...)
	return nil
}

// write stores parts until the queue is closed.
func (r *Replicas) write() {
	unsynced := make([]int64, len(r.images))
	for bytes := range r.queue {
		if r.failed != nil { // only this goroutine sets it
			continue
		}
		p, err := decodePart(bytes, r.size)
		if err == nil {
			err = r.put(p, unsynced)
		}
		r.mu.Lock()
		r.failed = err
		if err == nil {
			r.stored = max(r.stored, p.off+p.n)
		}
		r.mu.Unlock()
	}
}

// put writes a part, which may go over the end of a disk. It syncs now and then, so that not everything is left for the
// end, when the guest's users wait for it.
func (r *Replicas) put(p part, unsynced []int64) error {
	for i, image := range r.images {
		from, to := max(p.off, r.starts[i]), min(p.off+p.n, r.starts[i]+r.forms[i].rowBytes())
		if from >= to {
			continue
		}
		err := r.touch(i, from-r.starts[i], to-r.starts[i], p.same)
		o, _ := image.(*overlay)
		switch {
		case err != nil || p.same:
		case p.based && o != nil:
			err = o.revert(from-r.starts[i], to-from)
		case p.based:
			err = errors.New("the primary sends nothing but that it is as in a base, and there is none")
		case p.data == nil:
			err = image.Zero(from-r.starts[i], to-from, true)
		default:
			_, err = image.WriteAt(p.data[from-p.off:to-p.off], from-r.starts[i])
			unsynced[i] += to - from
		}
		if err == nil && unsynced[i] >= syncEvery {
			unsynced[i] = 0
			err = image.Sync()
		}
		if err != nil {
			return replicaError(i, err)
		}
	}
	return nil
}

// touch takes note that disk i gets other content from one byte to another, or is said to have it: that is refused of blocks of which
// nothing was told, or that have got something else since.
func (r *Replicas) touch(i int, from, to int64, same bool) error {
	told := r.told[i]
	for c := from / chunk; c*chunk < to; c++ {
		if !same {
			if c = told.next(c); c < 0 || c*chunk >= to {
				return nil
			}
			told.take(c)
			continue
		}
		if told.next(c) != c {
			return errors.New("the primary says that it is as it is here, of which nothing was told")
		}
	}
	return nil
}

// Sums returns the sums, made with a key, of what lies in the replica: of count blocks of 64 KiB from the byte first of the row on,
// which is the first of a block. The last block of a disk may be shorter, and none is of two disks. There are none if nothing lies
// there, and fewer if something can't be read. An error is that of a question that no primary has.
func (r *Replicas) Sums(key sums.Key, first int64, count int) ([]sums.Sum, error) {
	r.asking.RLock()
	defer r.asking.RUnlock()
	i := r.at(first)
	switch {
	case r.over:
		return nil, nil
	case i < 0 || (first-r.starts[i])%chunk != 0 || int64(count) > (r.forms[i].Size-(first-r.starts[i])+chunk-1)/chunk:
		return nil, fmt.Errorf("the primary asks for the sums of %d blocks from %d, which there are not", count, first)
	}
	if r.blank[i] {
		return nil, nil
	}
	h := sums.NewHasher(key)
	p := make([]byte, chunk)
	zero := h.Of(p)
	out := make([]sums.Sum, 0, count)
	for off := first - r.starts[i]; len(out) < count; off += chunk {
		p := p[:min(chunk, r.forms[i].Size-off)]
		sum := zero
		if e, err := extentOf(r.images[i], off, int64(len(p))); err != nil || e.content != zeros || e.n != chunk {
			if _, err := r.images[i].ReadAt(p, off); err != nil {
				break // what can't be read may yet be written
			}
			sum = h.Of(p)
		}
		out = append(out, sum)
		r.told[i].add(off/chunk, off/chunk)
	}
	return out, nil
}

// at returns the disk that byte off of the row is in, or -1.
func (r *Replicas) at(off int64) int {
	for i, f := range r.forms {
		if off >= r.starts[i] && off < r.starts[i]+f.rowBytes() {
			return i
		}
	}
	return -1
}

func replicaError(disk int, err error) error {
	if isFull(err) {
		return fmt.Errorf("disk %d: the replica does not fit: this host's storage is full; make room: %w", disk+1, err)
	}
	return fmt.Errorf("disk %d: writing the replica: %w", disk+1, err)
}

// Done returns how much of the row of disks is stored, and its size, in bytes: for a bar.
func (r *Replicas) Done() (stored, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stored, r.size
}

// Finish makes what was stored stable and returns the images in the order of the disks. They are the caller's now, and
// Close does nothing any more. If it fails, they are closed.
func (r *Replicas) Finish() ([]Image, error) {
	if !r.end() {
		return nil, errEnded
	}
	err := r.failed
	for i, image := range r.images {
		if err == nil && r.forms[i].rowBytes() > 0 {
			err = complete(i, image)
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.closeImages())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored = r.size
	return r.images, nil
}

func complete(disk int, image Image) error {
	err := image.Sync()
	if f := storage(image); err == nil && f != nil {
		err = f.markComplete()
	}
	if err != nil {
		return replicaError(disk, err)
	}
	return nil
}

// Close writes what was taken, closes the disks and keeps what they have: up to where a transfer can go on from, if there
// was no error.
func (r *Replicas) Close() error {
	if !r.end() {
		return nil
	}
	errs := []error{r.failed}
	for _, image := range r.images {
		if f := storage(image); f != nil && !image.ReadOnly() && r.failed == nil {
			errs = append(errs, f.markIncomplete(r.stored))
		}
	}
	return errors.Join(append(errs, r.closeImages())...)
}

// end waits until everything is written, unless that was done before.
func (r *Replicas) end() bool {
	r.asking.Lock()
	r.over = true
	r.asking.Unlock()
	r.putting.Lock()
	defer r.putting.Unlock()
	if r.closed {
		return false
	}
	r.closed = true
	close(r.queue)
	r.written.Wait()
	return true
}

func (r *Replicas) closeImages() error {
	var errs []error
	for _, image := range r.images {
		errs = append(errs, image.Close())
	}
	return errors.Join(errs...)
}
