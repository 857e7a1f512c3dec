package vmm

import "encoding/binary"

// Bits of a page table entry (SDM vol. 3 §4.5.4).
const (
	ptePresent = 1 << 0
	pteLarge   = 1 << 7
	pteAddress = 0x000ffffffffff000
)

// walk translates a linear address by the guest's four-level page tables, as the processor would for a read by the kernel
// without SMAP, but without setting accessed bits. KVM_TRANSLATE is no help for a user's address while the vCPU is at
// CPL 0.
func (m *Machine) walk(linear, cr3 uint64) (gpa uint64, ok bool) {
	table := cr3 & pteAddress
	for shift := uint(39); ; shift -= 9 {
		var raw [8]byte
		if m.memory.ReadAt(raw[:], table+(linear>>shift&0x1ff)*8) != nil {
			return 0, false
		}
		entry := binary.LittleEndian.Uint64(raw[:])
		if entry&ptePresent == 0 {
			return 0, false
		}
		offset := uint64(1)<<shift - 1
		if shift == 12 || shift < 39 && entry&pteLarge != 0 {
			return entry&pteAddress&^offset | linear&offset, true
		}
		table = entry & pteAddress
	}
}

// readLinear fills p from a linear address, page by page, and tells whether all of it is mapped RAM.
func (m *Machine) readLinear(p []byte, linear, cr3 uint64) bool {
	for len(p) > 0 {
		n := min(uint64(len(p)), 4096-linear&0xfff)
		gpa, ok := m.walk(linear, cr3)
		if !ok || m.memory.ReadAt(p[:n], gpa) != nil {
			return false
		}
		p, linear = p[n:], linear+n
	}
	return true
}
