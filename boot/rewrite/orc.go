package rewrite

import (
	"encoding/binary"
	"sort"

	"tandem/boot"
)

// starts is a table of addresses at which an instruction is known to start: the kernel's .orc_unwind_ip
// (arch/x86/include/asm/orc_types.h), an array of signed 32-bit distances, each from its own place to the address it names,
// which the kernel's build sorts by address. Without such a table nothing is known.
type starts struct {
	table []byte
	virt  uint64
}

func orcTable(k *boot.Kernel) starts {
	section := k.Section(".orc_unwind_ip")
	if section == nil {
		return starts{}
	}
	return starts{table: section.Data, virt: section.Virt}
}

const startBytes = 4

func (s starts) address(i int) uint64 {
	distance := int32(binary.LittleEndian.Uint32(s.table[i*startBytes:]))
	return s.virt + uint64(i*startBytes) + uint64(int64(distance))
}

// before returns the index into the section's data of the last known start at or before index; 0 if there is none. A table
// that is not sorted makes it an earlier one, which costs time and is not wrong.
func (s starts) before(section boot.Section, index int) int {
	addr := section.Virt + uint64(index)
	n := len(s.table) / startBytes
	i := sort.Search(n, func(i int) bool { return s.address(i) > addr })
	if i == 0 {
		return 0
	}
	start := s.address(i - 1)
	if start < section.Virt {
		return 0
	}
	return int(start - section.Virt)
}
