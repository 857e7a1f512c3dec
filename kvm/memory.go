package kvm

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// PageBytes is the size of the pages of dirty logs and deltas.
const PageBytes = 4096

// hugePageBytes is the alignment that lets the host back guest RAM with large pages, which makes the nested page
// faults of a boot fewer by an order of magnitude.
const hugePageBytes = 2 << 20

// Region is a range of guest physical addresses that is RAM.
type Region struct {
	Base  uint64 // guest physical address, a multiple of PageBytes
	Bytes uint64 // length, a multiple of PageBytes, not 0
}

type region struct {
	base    uint64
	bytes   []byte
	mapping []byte   // what mmap returned: bytes and its alignment
	written []uint64 // one bit a page: written by the VMM since it was last asked
}

// Memory is a guest's RAM. All access by the VMM goes through its checked methods. The kernel's dirty log does not see
// the VMM's own writes, so Memory keeps a bitmap of those.
type Memory struct {
	regions []region // ascending by base, not overlapping
}

// ErrOutsideRAM says that a range of guest physical addresses is not wholly inside RAM.
var ErrOutsideRAM = errors.New("address outside guest RAM")

// NewMemory maps zeroed RAM for the regions, which must ascend and not overlap.
func NewMemory(regions []Region) (*Memory, error) {
	m := &Memory{}
	end := uint64(0)
	for _, r := range regions {
		if r.Bytes == 0 || r.Base%PageBytes != 0 || r.Bytes%PageBytes != 0 || r.Base < end || r.Base+r.Bytes < r.Base {
			_ = m.Close()
			return nil, fmt.Errorf("kvm: memory region %#x+%#x is empty, unaligned or out of order", r.Base, r.Bytes)
		}
		end = r.Base + r.Bytes
		mapped, err := mapRegion(r)
		if err != nil {
			_ = m.Close()
			return nil, err
		}
		m.regions = append(m.regions, mapped)
	}
	return m, nil
}

func mapRegion(r Region) (region, error) {
	mapping, err := unix.Mmap(-1, 0, int(r.Bytes)+hugePageBytes, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, opError(fmt.Sprintf("mmap of %d MiB of guest RAM", r.Bytes>>20), err)
	}
	skip := (hugePageBytes - (addressOf(mapping)-r.Base)%hugePageBytes) % hugePageBytes
	bytes := mapping[skip : skip+r.Bytes : skip+r.Bytes]
	// A host without transparent huge pages refuses this; the guest only runs more slowly there.
	_ = unix.Madvise(bytes, unix.MADV_HUGEPAGE)
	return region{base: r.Base, bytes: bytes, mapping: mapping, written: make([]uint64, (r.Bytes/PageBytes+63)/64)}, nil
}

// Close unmaps the RAM. The VM that used it must be closed before.
func (m *Memory) Close() error {
	var errs []error
	for _, r := range m.regions {
		errs = append(errs, opError("munmap", unix.Munmap(r.mapping)))
	}
	m.regions = nil
	return errors.Join(errs...)
}

// Has tells whether the RAM has these regions.
func (m *Memory) Has(regions []Region) bool { return slices.Equal(m.Regions(), regions) }

// Size returns the amount of RAM in bytes.
func (m *Memory) Size() uint64 {
	n := uint64(0)
	for i := range m.regions {
		n += uint64(len(m.regions[i].bytes))
	}
	return n
}

// Regions returns the regions in ascending order; slot i of the VM is region i.
func (m *Memory) Regions() []Region {
	out := make([]Region, len(m.regions))
	for i, r := range m.regions {
		out[i] = Region{Base: r.base, Bytes: uint64(len(r.bytes))}
	}
	return out
}

// RegionPages returns the number of pages of region i.
func (m *Memory) RegionPages(i int) int { return len(m.regions[i].bytes) / PageBytes }

// find returns the region that holds all n bytes at gpa.
func (m *Memory) find(gpa, n uint64) (*region, error) {
	for i := range m.regions {
		r := &m.regions[i]
		offset := gpa - r.base
		if gpa >= r.base && offset < uint64(len(r.bytes)) && n <= uint64(len(r.bytes))-offset {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: %#x+%#x", ErrOutsideRAM, gpa, n)
}

// Bytes returns n bytes of RAM at gpa, to be read and not to be written: they change when the guest runs.
func (m *Memory) Bytes(gpa, n uint64) ([]byte, error) {
	r, err := m.find(gpa, n)
	if err != nil {
		return nil, err
	}
	offset := gpa - r.base
	return r.bytes[offset : offset+n : offset+n], nil
}

// ReadAt fills p from RAM at gpa. It fails, without having moved any byte, if the range is not wholly inside RAM.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	src, err := m.Bytes(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, src)
	return nil
}

// WriteAt copies p into RAM at gpa and marks the pages as written. It fails, without having moved any byte, if the
// range is not wholly inside RAM.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	r, err := m.find(gpa, uint64(len(p)))
	if err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	offset := gpa - r.base
	copy(r.bytes[offset:], p)
	for page := offset / PageBytes; page <= (offset+uint64(len(p))-1)/PageBytes; page++ {
		r.written[page/64] |= 1 << (page % 64)
	}
	return nil
}

// TakeWritten ORs into bitmap, of the length that [VM.DirtyLog] wants, the pages of region i that WriteAt has written
// since the last call, and forgets them.
func (m *Memory) TakeWritten(i int, bitmap []uint64) {
	for w, set := range m.regions[i].written {
		bitmap[w] |= set
		m.regions[i].written[w] = 0
	}
}
