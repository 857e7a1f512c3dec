package boot

import "encoding/binary"

// Entry is the state of the processor at the kernel's first instruction (boot.rst, "64-bit Boot Protocol"). Registers that it
// does not name are zero but for RFLAGS, whose bit 1 is always set. Interrupts are off.
type Entry struct {
	RIP uint64
	RSI uint64 // boot_params
	RSP uint64

	CR0  uint64
	CR3  uint64
	CR4  uint64
	EFER uint64

	GDTBase  uint64
	GDTLimit uint16

	// CodeSelector is for CS: base 0, limit 4 GiB, 64-bit, execute and read, ring 0. DataSelector is for DS, ES, SS, FS and GS:
	// base 0, limit 4 GiB, read and write, ring 0.
	CodeSelector uint16
	DataSelector uint16
}

// Control register bits (SDM vol. 3 §2.5) and EFER bits (§2.2.1).
const (
	cr0PE   = 1 << 0
	cr0ET   = 1 << 4
	cr0PG   = 1 << 31
	cr4PAE  = 1 << 5
	eferLME = 1 << 8
	eferLMA = 1 << 10
)

// The selectors that boot.rst prescribes (__BOOT_CS, __BOOT_DS), and their flat descriptors (SDM vol. 3 §3.4.5).
const (
	codeSelector = 0x10
	dataSelector = 0x18

	codeDescriptor = 0x00af9b000000ffff // present, ring 0, execute and read, accessed, 64-bit
	dataDescriptor = 0x00cf93000000ffff // present, ring 0, read and write, accessed
)

// entryState describes the processor for a loaded kernel.
func entryState(k *Kernel) Entry {
	return Entry{
		RIP:          k.Entry,
		RSI:          bootParamsAddr,
		RSP:          stackTop,
		CR0:          cr0PE | cr0ET | cr0PG,
		CR3:          pageTablesAddr,
		CR4:          cr4PAE,
		EFER:         eferLME | eferLMA,
		GDTBase:      gdtAddr,
		GDTLimit:     uint16(len(gdt()) - 1),
		CodeSelector: codeSelector,
		DataSelector: dataSelector,
	}
}

func gdt() []byte {
	table := make([]byte, dataSelector+8)
	binary.LittleEndian.PutUint64(table[codeSelector:], codeDescriptor)
	binary.LittleEndian.PutUint64(table[dataSelector:], dataDescriptor)
	return table
}

// Page table entry bits (SDM vol. 3 §4.5.4). Accessed and dirty are set beforehand, so that the processor has no reason to
// write to these pages.
const (
	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteAccessed = 1 << 5
	pteDirty    = 1 << 6
	pteHuge     = 1 << 7

	hugePageBytes    = 2 << 20
	pteCount         = 512
	identityMapBytes = 4 << 30
)

// pageTables maps the first 4 GiB onto themselves: one PML4, one page directory pointer table, four page directories, in
// that order from pageTablesAddr on.
func pageTables() []byte {
	const directories = identityMapBytes / hugePageBytes / pteCount
	le := binary.LittleEndian
	tables := make([]byte, 0, (2+directories)*pageBytes)

	const link = ptePresent | pteWritable | pteAccessed
	pml4 := make([]byte, pageBytes)
	le.PutUint64(pml4, pageTablesAddr+pageBytes|link)
	pdpt := make([]byte, pageBytes)
	for i := range directories {
		le.PutUint64(pdpt[8*i:], uint64(pageTablesAddr+(2+i)*pageBytes)|link)
	}
	tables = append(append(tables, pml4...), pdpt...)
	for addr := uint64(0); addr < identityMapBytes; addr += hugePageBytes {
		tables = le.AppendUint64(tables, addr|link|pteDirty|pteHuge)
	}
	return tables
}
