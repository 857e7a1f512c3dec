package vmm

import "tandem/kvm"

// The highest leaves that a guest is told of. Beyond them stand topology, thermal, performance and hypervisor leaves,
// which differ between hosts or change by themselves.
const (
	maxBasicLeaf    = 0xd
	maxExtendedLeaf = 0x80000008
)

// leafMask clears bits of one leaf. A sub-leaf of -1 is for all of them.
type leafMask struct {
	leaf                           uint32
	index                          int
	clearA, clearB, clearC, clearD uint32
	setA, setB, setC, setD         uint32
	hides                          string
}

// bit names a bit of a CPUID register.
func bit(numbers ...int) uint32 {
	v := uint32(0)
	for _, n := range numbers {
		v |= 1 << n
	}
	return v
}

// leafMasks is what the guest must not see, since it would let it read something that a peer cannot reproduce (the
// time-stamp counter, the random number generator), that this machine does not have (APIC, MTRR, machine check), or that
// the interpreter of instructions in KVM or a digest of the state cannot follow (SDM vol. 2A, CPUID; APM vol. 3 appendix E).
var leafMasks = []leafMask{
	{leaf: 1, clearA: 0, clearB: 0xffff0000, setB: 1 << 16,
		clearC: bit(2, 3, 5, 6, 7, 8, 11, 15, 18, 21, 24, 30, 31),
		clearD: bit(4, 7, 9, 12, 14, 18, 21, 22, 28, 29, 31),
		hides:  "DTES64 MONITOR VMX SMX EST TM2 SDBG PDCM DCA x2APIC TSC-deadline RDRAND hypervisor; TSC MCE APIC MTRR MCA PSN DS ACPI HTT TM PBE; APIC id, logical processors"},
	{leaf: 4, index: -1, clearA: 0xffffc000,
		hides: "processors that share a cache: one vCPU stands alone"},
	{leaf: 7, index: 0,
		clearB: bit(1, 2, 4, 11, 12, 14, 15, 16, 17, 18, 21, 22, 25, 26, 27, 28, 30, 31),
		clearC: ^uint32(0),
		clearD: ^bit(4),
		hides:  "TSC_ADJUST SGX HLE RTM PQM MPX PQE AVX-512 RDSEED PT; WAITPKG RDPID LA57 and what came later; all of EDX but FSRM"},
	{leaf: 0xd, index: 0, clearA: ^uint32(7), clearD: ^uint32(0),
		hides: "extended state beyond x87, SSE and AVX"},
	{leaf: 0xd, index: 1, clearA: ^uint32(0), clearB: ^uint32(0), clearC: ^uint32(0), clearD: ^uint32(0),
		hides: "XSAVEOPT XSAVEC XGETBV1 XSAVES XFD: what they write depends on what the processor remembers"},
	{leaf: 0x80000001,
		clearC: bit(2, 3, 9, 10, 12, 13, 15, 17, 19, 22, 23, 24, 26, 27, 28, 29),
		clearD: bit(4, 7, 9, 12, 14, 27),
		hides:  "SVM ExtApic OSVW IBS SKINIT WDT LWP TCE NodeId topology PerfCtr PerfTsc MWAITX; TSC MCE APIC MTRR MCA RDTSCP"},
	{leaf: 0x80000007, clearA: ^uint32(0), clearB: ^uint32(0), clearC: ^uint32(0), clearD: ^uint32(0),
		hides: "invariant TSC and power management"},
	{leaf: 0x80000008, clearB: ^uint32(0), clearC: ^uint32(0), clearD: ^uint32(0),
		hides: "speculation control MSRs, which are not in the state that a peer is given; core counts"},
}

// GuestCPUID returns what a guest's processor on this host says that it is. Hosts of a pair must have it alike.
func GuestCPUID(system *kvm.System) (kvm.CPUID, error) {
	supported, err := system.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	return guestCPUID(supported), nil
}

// guestCPUID returns what the guest sees of a host that supports the given leaves. It is a pure function: two hosts that
// give the same leaves give the same guest.
func guestCPUID(supported kvm.CPUID) kvm.CPUID {
	leaves := supported.Without(func(e kvm.CPUIDEntry) bool { return hiddenLeaf(e.Function, e.Index) })
	for i := range leaves {
		e := &leaves[i]
		clampLeafCount(e)
		for _, m := range leafMasks {
			if m.leaf == e.Function && (m.index < 0 || uint32(m.index) == e.Index) {
				m.apply(e)
			}
		}
	}
	sizeXSave(leaves)
	return leaves
}

func (m *leafMask) apply(e *kvm.CPUIDEntry) {
	e.EAX = e.EAX&^m.clearA | m.setA
	e.EBX = e.EBX&^m.clearB | m.setB
	e.ECX = e.ECX&^m.clearC | m.setC
	e.EDX = e.EDX&^m.clearD | m.setD
}

// hiddenLeaf tells the leaves that the guest gets no answer for: MONITOR, thermal and power, direct cache access,
// performance counters, topology, the sub-leaves of hidden extended state, everything of a hypervisor's, and all that
// lies beyond the highest leaf.
func hiddenLeaf(function, index uint32) bool {
	switch {
	case function == 5, function == 6, function == 9, function == 0xa, function == 0xb:
		return true
	case function == 7:
		return index > 0
	case function == 0xd:
		return index > 2
	case function < 0x80000000:
		return function > maxBasicLeaf
	}
	return function > maxExtendedLeaf
}

func clampLeafCount(e *kvm.CPUIDEntry) {
	switch e.Function {
	case 0:
		e.EAX = min(e.EAX, maxBasicLeaf)
	case 0x80000000:
		e.EAX = min(e.EAX, maxExtendedLeaf)
	}
}

// The size of the XSAVE area in bytes, standard format, up to and including SSE and AVX (SDM vol. 1 §13.4).
const (
	xsaveLegacyBytes = 576
	xsaveAVXBytes    = 832
)

// sizeXSave makes leaf 0xd's sizes those of the state that is left.
func sizeXSave(leaves kvm.CPUID) {
	e := leaves.Find(0xd, 0)
	if e == nil {
		return
	}
	size := uint32(xsaveLegacyBytes)
	if e.EAX&bit(2) != 0 {
		size = xsaveAVXBytes
	}
	e.EBX, e.ECX = size, size
}

// isAMD tells whether leaf 0 says AuthenticAMD.
func isAMD(leaves kvm.CPUID) bool {
	e := leaves.Find(0, 0)
	return e != nil && e.EBX == 0x68747541 && e.EDX == 0x69746e65 && e.ECX == 0x444d4163
}
