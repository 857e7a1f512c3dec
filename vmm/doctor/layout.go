package doctor

import (
	"encoding/binary"

	"tandem/kvm"
)

// Where things stand in a probe's RAM. All of it is one region from 0 on, identity mapped in 2 MiB pages that user code
// may use too: a probe is about the processor, not about protection.
const (
	gdtAddr    = 0x1000
	idtAddr    = 0x2000
	tssAddr    = 0x3000
	pml4Addr   = 0x4000
	pdptAddr   = 0x5000
	pdAddr     = 0x6000
	stubsAddr  = 0x8000 // one stub a vector: where the guest stands when that vector was delivered
	kernelAddr = 0x10000
	userAddr   = 0x20000
	kernelRSP  = 0x40000
	userRSP    = 0x50000
	dataAddr   = 0x60000 // 64-byte aligned room for operands
	ramBytes   = 1 << 20
	mmioAddr   = 0x180000 // mapped by the page tables, no RAM behind it

	stubBytes = 16
)

// Selectors of the probe's GDT, in the order that SYSCALL and SYSRET want (SDM vol. 3 §5.8.8).
const (
	kernelCodeSelector = 0x08
	kernelDataSelector = 0x10
	userDataSelector   = 0x18 | 3
	userCodeSelector   = 0x20 | 3
	tssSelector        = 0x28
)

// hltStub is the code at each vector's entry: it stops there, so that RIP names the vector.
var hltStub = []byte{
	0xf4,       // hlt
	0xeb, 0xfd, // jmp back to it
}

// systemTables writes GDT, IDT, TSS, page tables and stubs.
func systemTables(m *kvm.Memory) error {
	parts := []struct {
		gpa  uint64
		data []byte
	}{
		{gdtAddr, gdt()}, {idtAddr, idt()}, {tssAddr, tss()}, {stubsAddr, stubs()},
		{pml4Addr, quadwords(pdptAddr | 7)},
		{pdptAddr, quadwords(pdAddr | 7)},
		{pdAddr, quadwords(0x80 | 0x60 | 7)}, // huge, dirty, accessed, user, writable, present: the first 2 MiB
	}
	for _, p := range parts {
		if err := m.WriteAt(p.data, p.gpa); err != nil {
			return err
		}
	}
	return nil
}

func quadwords(values ...uint64) []byte {
	out := make([]byte, 0, 8*len(values))
	for _, v := range values {
		out = binary.LittleEndian.AppendUint64(out, v)
	}
	return out
}

// gdt holds the descriptors (SDM vol. 3 §3.4.5) for the selectors above; the TSS's takes two entries (§7.2.3).
func gdt() []byte {
	const tssLimit = 0x67
	return quadwords(
		0,
		0x00af9b000000ffff, // kernel code, 64-bit
		0x00cf93000000ffff, // kernel data
		0x00cff3000000ffff, // user data
		0x00affb000000ffff, // user code, 64-bit
		0x00008b0000000000|tssAddr<<16|tssLimit, 0,
	)
}

// idt points each vector at its stub through an interrupt gate (SDM vol. 3 §6.14.1) that user code may call.
func idt() []byte {
	const gate = 0xee00 // present, DPL 3, 64-bit interrupt gate
	out := make([]byte, 0, 256*16)
	for v := range uint64(256) {
		to := stubsAddr + v*stubBytes
		out = append(out, quadwords(to&0xffff|kernelCodeSelector<<16|gate<<32|to>>16<<48, 0)...)
	}
	return out
}

// tss gives interrupts from user code their stack (SDM vol. 3 §7.7).
func tss() []byte {
	out := make([]byte, 0x68)
	binary.LittleEndian.PutUint64(out[4:], kernelRSP)
	binary.LittleEndian.PutUint16(out[0x66:], 0x68) // no I/O permission map
	return out
}

func stubs() []byte {
	out := make([]byte, 256*stubBytes)
	for v := range 256 {
		copy(out[v*stubBytes:], hltStub)
	}
	return out
}

// Control register bits (SDM vol. 3 §2.5) and EFER bits (§2.2.1).
const (
	cr0PE = 1 << 0
	cr0MP = 1 << 1
	cr0ET = 1 << 4
	cr0NE = 1 << 5
	cr0WP = 1 << 16
	cr0PG = 1 << 31

	cr4TSD        = 1 << 2
	cr4PAE        = 1 << 5
	cr4OSFXSR     = 1 << 9
	cr4OSXMMEXCPT = 1 << 10
	cr4FSGSBASE   = 1 << 16
	cr4OSXSAVE    = 1 << 18

	eferSCE = 1 << 0
	eferLME = 1 << 8
	eferLMA = 1 << 10

	rflagsFixed = 1 << 1
	rflagsIF    = 1 << 9
)

// longMode sets the registers for 64-bit code at the given privilege level.
func longMode(s *kvm.Sregs, cpl uint8, cr4 uint64) {
	code := kvm.Segment{Limit: 0xffffffff, Selector: kernelCodeSelector, Type: 0xb, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: kernelDataSelector, Type: 0x3, Present: 1, S: 1, DB: 1, G: 1}
	if cpl == 3 {
		code.Selector, code.DPL = userCodeSelector, 3
		data.Selector, data.DPL = userDataSelector, 3
	}
	s.CS = code
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.TR = kvm.Segment{Base: tssAddr, Limit: 0x67, Selector: tssSelector, Type: 0xb, Present: 1}
	s.LDT = kvm.Segment{Unusable: 1}
	s.GDT = kvm.DTable{Base: gdtAddr, Limit: uint16(len(gdt()) - 1)}
	s.IDT = kvm.DTable{Base: idtAddr, Limit: 256*16 - 1}
	s.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0PG
	s.CR3 = pml4Addr
	s.CR4 = cr4PAE | cr4OSFXSR | cr4OSXMMEXCPT | cr4
	s.EFER = eferLME | eferLMA | eferSCE
	s.InterruptBitmap = [4]uint64{}
}
