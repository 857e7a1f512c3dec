package boot

import "encoding/binary"

const (
	pageBytes = 4096

	// PCIHoleStart and PCIHoleEnd bound the physical addresses below 4 GiB that are never RAM, kept for device registers.
	PCIHoleStart = 3 << 30
	PCIHoleEnd   = 4 << 30

	// The PC's own hole: RAM ends below 640 KiB, where a BIOS would keep its extended data area, and goes on at 1 MiB.
	lowRAMEnd    = 0x9fc00
	highRAMStart = 0x100000
)

// Where Load puts what is not the kernel's; see the package comment.
const (
	gdtAddr        = 0x1000
	bootParamsAddr = 0x2000
	pageTablesAddr = 0x3000
	stackTop       = 0xa000
	setupDataAddr  = 0xa000
	cmdlineAddr    = 0xb000

	cmdlineRoomBytes = lowRAMEnd - cmdlineAddr
	seedMaxBytes     = cmdlineAddr - setupDataAddr - setupDataHeaderBytes
)

// Region is a range of guest-physical addresses that is backed by RAM.
type Region struct {
	Start uint64
	Size  uint64 // bytes, a whole number of pages
}

// Layout returns where a guest's RAM stands, in ascending order: from 0 up to the PCI hole, and what is left from 4 GiB on. A
// part of a page at the end of memoryBytes is dropped. The ranges are what to make memory slots of; the guest is told of less
// (the e820 map leaves out 640 KiB to 1 MiB).
func Layout(memoryBytes uint64) []Region {
	memoryBytes -= memoryBytes % pageBytes
	low := min(memoryBytes, PCIHoleStart)
	if low == 0 {
		return nil
	}
	regions := []Region{{Start: 0, Size: low}}
	if memoryBytes > low {
		regions = append(regions, Region{Start: PCIHoleEnd, Size: memoryBytes - low})
	}
	return regions
}

// e820 entry types (ACPI 6.5 §15).
const (
	e820RAM      = 1
	e820Reserved = 2

	e820EntryBytes = 20 // address (8), size (8), type (4)
)

// e820 returns the memory map for a guest of that size as boot_params holds it, and the number of entries.
func e820(regions []Region) (table []byte, entries int) {
	add := func(start, end uint64, kind uint32) {
		if end <= start {
			return
		}
		table = binary.LittleEndian.AppendUint64(table, start)
		table = binary.LittleEndian.AppendUint64(table, end-start)
		table = binary.LittleEndian.AppendUint32(table, kind)
		entries++
	}
	add(0, lowRAMEnd, e820RAM)
	add(lowRAMEnd, highRAMStart, e820Reserved)
	for _, r := range regions {
		add(max(r.Start, highRAMStart), r.Start+r.Size, e820RAM)
	}
	return table, entries
}
