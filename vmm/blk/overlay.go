package blk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// overlay is an image that keeps its writes apart from its base.
type overlay struct {
	file File
	base Image
	head header

	// mu is held for reading while clusters that are in the overlay are used, and for writing while one is brought in.
	mu sync.RWMutex
	// bits is the map as in the file, checksums included; those are made when a sector is written.
	bits []byte
	// dirty has the map sectors that have changed since they were last taken for writing. Invariant: a bit that is set
	// in bits and not in the file is in a dirty sector, or a running Sync has taken it.
	dirty map[int64]struct{}

	// syncing orders flushes. It is locked before mu.
	syncing sync.Mutex
}

// openOrCreateOverlay opens the overlay at path, made over basePath. A new one appears whole or not at all.
func openOrCreateOverlay(path, basePath string) (*overlay, error) {
	if path == basePath {
		return nil, fmt.Errorf("overlay %s: it cannot be its own base", path)
	}
	base, err := openRaw(basePath, true)
	if err != nil {
		return nil, err
	}
	o, err := openOverlayFile(path, basePath, base)
	if err != nil {
		base.Close()
		return nil, err
	}
	return o, nil
}

func openOverlayFile(path, basePath string, base Image) (*overlay, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		// Another guest may have made it meanwhile; then the lock decides.
		if err := createOverlay(path, basePath, base); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("overlay %s: cannot create it: %w", path, err)
		}
	}
	f, err := openFile(path, readWrite)
	if err != nil {
		return nil, err
	}
	o, err := newOverlay(f, base)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("overlay %s: %w", path, err)
	}
	return o, nil
}

// createOverlay writes an empty overlay beside path and moves it there.
func createOverlay(path, basePath string, base Image) error {
	h, err := newHeader(basePath, base)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := writeEmpty(f, h); err != nil {
		return err
	}
	// Link, unlike rename, does not replace a file that someone else has made meanwhile.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(path)
}

// newHeader returns the header of an overlay over base.
func newHeader(basePath string, base Image) (*header, error) {
	absolute, err := filepath.Abs(basePath)
	if err != nil {
		return nil, err
	}
	print, err := fingerprint(base)
	if err != nil {
		return nil, err
	}
	return &header{size: base.Size(), fingerprint: print, base: absolute}, nil
}

func writeEmpty(f *os.File, h *header) error {
	p, err := h.encode()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(p, 0); err != nil {
		return err
	}
	if err := f.Truncate(h.dataOffset() + h.size); err != nil {
		return err
	}
	return f.Sync()
}

// fingerprint tells a base from another one, or from itself after it was written to: by its size and samples spread
// evenly over it. A change between the samples goes unseen; reading all of a large image would take minutes.
func fingerprint(base Image) ([fingerprintN]byte, error) {
	const samples = 64
	hash := sha256.New()
	hash.Write(binary.LittleEndian.AppendUint64(nil, uint64(base.Size())))
	p := make([]byte, min(clusterSize, base.Size()))
	for i := range int64(samples) {
		last := base.Size() - int64(len(p))
		if _, err := base.ReadAt(p, last/(samples-1)*i); err != nil {
			return [fingerprintN]byte{}, fmt.Errorf("cannot read the base: %w", err)
		}
		hash.Write(p)
	}
	return [fingerprintN]byte(hash.Sum(nil)), nil
}

// newOverlay reads the overlay in f, which was made over base.
func newOverlay(f File, base Image) (*overlay, error) {
	p := make([]byte, headerSize)
	if _, err := f.ReadAt(p, 0); err != nil {
		return nil, fmt.Errorf("cannot read its header: %w", err)
	}
	h, err := decodeHeader(p)
	if err != nil {
		return nil, err
	}
	// The base's size bounds the size of the map before any of it is read.
	if h.size != base.Size() {
		return nil, fmt.Errorf("it was made over %s of %d bytes; the base given has %d", h.base, h.size, base.Size())
	}
	print, err := fingerprint(base)
	if err != nil {
		return nil, err
	}
	if print != h.fingerprint {
		return nil, fmt.Errorf("its base has changed since it was made over %s; restore that base, or delete the overlay", h.base)
	}
	o := &overlay{file: f, base: base, head: *h, bits: make([]byte, h.mapSectors()*mapSector), dirty: map[int64]struct{}{}}
	if _, err := f.ReadAt(o.bits, headerSize); err != nil {
		return nil, fmt.Errorf("cannot read its map: %w", err)
	}
	return o, o.checkMap()
}

func (o *overlay) checkMap() error {
	for i := range o.head.mapSectors() {
		if err := checkMapSector(i, o.bits[i*mapSector:(i+1)*mapSector]); err != nil {
			return err
		}
	}
	for c := o.head.clusters(); c < o.head.mapSectors()*mapBits; c++ {
		if o.has(c) {
			return errors.New("the overlay's map is damaged: it has clusters behind the end of the disk")
		}
	}
	return nil
}

// place returns where cluster c's bit is in the map.
func place(c int64) (at int64, bit byte) {
	in := c % mapBits
	return c/mapBits*mapSector + in/8, 1 << (in % 8)
}

// has reports whether cluster c is in the overlay.
func (o *overlay) has(c int64) bool {
	at, bit := place(c)
	return o.bits[at]&bit != 0
}

// set says that cluster c is in the overlay now.
func (o *overlay) set(c int64) {
	at, bit := place(c)
	o.bits[at] |= bit
	o.dirty[c/mapBits] = struct{}{}
}

func (o *overlay) Size() int64    { return o.head.size }
func (o *overlay) ReadOnly() bool { return false }

// span is a run of bytes whose clusters are all in the overlay, or all not.
type span struct {
	off, n int64
	mine   bool
}

// next returns the longest span at the start of n bytes from off on.
func (o *overlay) next(off, n int64) span {
	first := off / clusterSize
	s := span{off: off, mine: o.has(first)}
	c := first + 1
	for c*clusterSize < off+n && o.has(c) == s.mine {
		c++
	}
	s.n = min(c*clusterSize-off, n)
	return s
}

// errBeyond cannot come from a guest: its requests are checked against the disk's size before they get here.
var errBeyond = errors.New("beyond the end of the disk")

func (o *overlay) inside(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= o.head.size && n <= o.head.size-off
}

// ReadAt implements File.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if !o.inside(off, int64(len(p))) {
		return 0, errBeyond
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for done := int64(0); done < int64(len(p)); {
		s := o.next(off+done, int64(len(p))-done)
		var err error
		if s.mine {
			_, err = o.file.ReadAt(p[done:done+s.n], o.head.dataOffset()+s.off)
		} else {
			_, err = o.base.ReadAt(p[done:done+s.n], s.off)
		}
		if err != nil {
			return int(done), err
		}
		done += s.n
	}
	return len(p), nil
}

// WriteAt implements File.
func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	n := int64(len(p))
	if !o.inside(off, n) {
		return 0, errBeyond
	}
	err := o.change(off, n, func() error {
		_, err := o.file.WriteAt(p, o.head.dataOffset()+off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Zero implements File. Clusters of zeros are holes of the overlay's file.
func (o *overlay) Zero(off, n int64, punch bool) error {
	if !o.inside(off, n) {
		return errBeyond
	}
	return o.change(off, n, func() error { return o.file.Zero(o.head.dataOffset()+off, n, punch) })
}

// change lets write change n bytes from off on in the overlay's file, after having brought in what of their clusters
// it leaves as it was.
func (o *overlay) change(off, n int64, write func() error) error {
	if n == 0 {
		return nil
	}
	o.mu.RLock()
	if s := o.next(off, n); s.mine && s.n == n {
		defer o.mu.RUnlock()
		return write()
	}
	o.mu.RUnlock()

	o.mu.Lock()
	defer o.mu.Unlock()
	first, last := off/clusterSize, (off+n-1)/clusterSize
	if err := o.bring(first, off, n); err != nil {
		return err
	}
	if last != first {
		if err := o.bring(last, off, n); err != nil {
			return err
		}
	}
	if err := write(); err != nil {
		return err
	}
	for c := first; c <= last; c++ {
		if !o.has(c) {
			o.set(c)
		}
	}
	return nil
}

// revert gives n bytes from off on the content of the base. Clusters that are in the overlay stay there, as copies of the base's.
func (o *overlay) revert(off, n int64) error {
	if !o.inside(off, n) {
		return errBeyond
	}
	var buffer []byte
	for n > 0 {
		o.mu.RLock()
		s := o.next(off, n)
		o.mu.RUnlock()
		for done := int64(0); s.mine && done < s.n; {
			if buffer == nil {
				buffer = make([]byte, maxPartData)
			}
			p := buffer[:min(s.n-done, maxPartData)]
			if _, err := o.base.ReadAt(p, off+done); err != nil {
				return err
			}
			if _, err := o.file.WriteAt(p, o.head.dataOffset()+off+done); err != nil {
				return err
			}
			done += int64(len(p))
		}
		off, n = off+s.n, n-s.n
	}
	return nil
}

// bring copies cluster c from the base unless it is in the overlay already or n bytes from off on cover it.
func (o *overlay) bring(c, off, n int64) error {
	start := c * clusterSize
	end := min(start+clusterSize, o.head.size)
	if o.has(c) || off <= start && off+n >= end {
		return nil
	}
	p := make([]byte, end-start)
	if _, err := o.base.ReadAt(p, start); err != nil {
		return err
	}
	_, err := o.file.WriteAt(p, o.head.dataOffset()+start)
	return err
}

// Sync implements File: what was written before it is stable when it returns.
func (o *overlay) Sync() error {
	o.syncing.Lock()
	defer o.syncing.Unlock()
	changed := o.takeDirty()
	err := o.syncMap(changed)
	if err != nil {
		o.mu.Lock()
		for _, m := range changed {
			o.dirty[m.index] = struct{}{}
		}
		o.mu.Unlock()
	}
	return err
}

// mapCopy is a map sector as it was at one instant.
type mapCopy struct {
	index int64
	p     [mapSector]byte
}

// takeDirty copies the changed map sectors. Bits that are set later are not in the copies: their data may not be
// covered by the sync that follows.
func (o *overlay) takeDirty() []*mapCopy {
	o.mu.Lock()
	defer o.mu.Unlock()
	var changed []*mapCopy
	for i := range o.dirty {
		m := &mapCopy{index: i}
		copy(m.p[:mapBytes], o.bits[i*mapSector:])
		sealMapSector(i, m.p[:])
		changed = append(changed, m)
	}
	clear(o.dirty)
	return changed
}

func (o *overlay) syncMap(changed []*mapCopy) error {
	if err := o.file.Sync(); err != nil || len(changed) == 0 {
		return err
	}
	for _, m := range changed {
		if _, err := o.file.WriteAt(m.p[:], headerSize+m.index*mapSector); err != nil {
			return err
		}
	}
	return o.file.Sync()
}

// Close flushes and closes the overlay and its base.
func (o *overlay) Close() error {
	return errors.Join(o.Sync(), o.file.Close(), o.base.Close())
}

// isFull reports whether err says that the host's storage has no room.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
