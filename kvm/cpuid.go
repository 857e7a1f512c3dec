package kvm

// CPUIDEntry is struct kvm_cpuid_entry2: one leaf, or sub-leaf, of CPUID.
type CPUIDEntry struct {
	Function uint32
	Index    uint32
	Flags    uint32
	EAX      uint32
	EBX      uint32
	ECX      uint32
	EDX      uint32
	_        [3]uint32
}

// CPUIDSignificantIndex in Flags says that the entry answers for its Index alone.
const CPUIDSignificantIndex = 1 << 0

// maxCPUIDEntries is the kernel's own bound (KVM_MAX_CPUID_ENTRIES).
const maxCPUIDEntries = 256

type cpuid2 struct {
	count   uint32
	_       uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// CPUID is what a vCPU answers to the CPUID instruction.
type CPUID []CPUIDEntry

// Find returns the entry of a leaf and sub-leaf, or nil.
func (c CPUID) Find(function, index uint32) *CPUIDEntry {
	for i := range c {
		e := &c[i]
		if e.Function == function && (e.Index == index || e.Flags&CPUIDSignificantIndex == 0) {
			return e
		}
	}
	return nil
}

// Without returns c less the entries for which drop says so.
func (c CPUID) Without(drop func(CPUIDEntry) bool) CPUID {
	kept := make(CPUID, 0, len(c))
	for _, e := range c {
		if !drop(e) {
			kept = append(kept, e)
		}
	}
	return kept
}
