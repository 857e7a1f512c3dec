package vmm

import (
	"encoding/binary"

	"tandem/boot"
	"tandem/boot/rewrite"
	"tandem/kvm"
)

// trapPorts are the ports to which the kernel's rdtsc, rdtscp and CR4 writes are rewritten. No PC part is there: 0xe0 and
// 0xe1 are free, and so are 0xc0 to 0xcf on a machine without a DMA controller for 16-bit devices.
var trapPorts = rewrite.Ports{RDTSC: 0xe0, RDTSCP: 0xe1, WriteCR4: 0xc0}

// Bits of CR4 and RFLAGS (SDM vol. 3 §2.5, vol. 1 §3.4.3).
const (
	cr4TSD   = 1 << 2
	rflagsTF = 1 << 8
	rflagsRF = 1 << 16
)

// vectorGP is the general-protection exception (SDM vol. 3 §6.15).
const vectorGP = 13

// idtCheckExits is after how many exits the guest's IDT is looked at again. It is a number of exits, not a time, so that
// two machines look at the same positions.
const idtCheckExits = 64

// tscTrap hides the host's time-stamp counter from the guest: what the guest reads instead is its own clock, in ns, so that
// its counter runs at 1 GHz.
type tscTrap struct {
	// handler is the guest's #GP entry, at which a breakpoint stands; 0 if none does yet.
	handler uint64
}

// Rewrite makes a kernel fit to be recorded: its own reads of the time-stamp counter and writes of CR4 become port accesses
// that the machine answers. It returns how many there were.
func Rewrite(k *boot.Kernel) (int, error) {
	sites, err := rewrite.Find(k)
	if err != nil {
		return 0, err
	}
	return len(sites), sites.Apply(trapPorts)
}

// handleTrap handles an access to one of trapPorts and tells whether it was one.
func (m *Machine) handleTrap(io *kvm.IOExit) (bool, error) {
	if io.Count != 1 || io.Size != 4 || !m.config.TrapTSC {
		return false, nil
	}
	if io.Write {
		register, ok := trapPorts.Register(io.Port)
		if !ok {
			return false, nil
		}
		return true, m.writeCR4(register)
	}
	if io.Port != uint16(trapPorts.RDTSC) && io.Port != uint16(trapPorts.RDTSCP) {
		return false, nil
	}
	tsc := uint64(m.door.Now())
	binary.LittleEndian.PutUint32(io.Data, uint32(tsc))
	regs := m.vcpu.Synced()
	regs.RDX = tsc >> 32
	if io.Port == uint16(trapPorts.RDTSCP) {
		regs.RCX = 0 // IA32_TSC_AUX: processor 0 of node 0
	}
	m.vcpu.Touch(kvm.SyncRegs)
	return true, nil
}

// writeCR4 does a write to CR4 for the guest, with TSD set: a program's rdtsc then raises #GP.
func (m *Machine) writeCR4(register uint8) error {
	value := registerByNumber(m.vcpu.Synced(), register)
	if err := m.vcpu.Complete(); err != nil {
		return err
	}
	s := &m.sregs
	if err := m.vcpu.Sregs(s); err != nil {
		return err
	}
	s.CR4 = value | cr4TSD
	return m.vcpu.SetSregs(s)
}

// registerByNumber returns a general register by the number that instructions encode (SDM vol. 2 table 2-4).
func registerByNumber(r *kvm.Regs, n uint8) uint64 {
	return [16]uint64{r.RAX, r.RCX, r.RDX, r.RBX, r.RSP, r.RBP, r.RSI, r.RDI, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15}[n]
}

// watchIDT keeps the breakpoint on the guest's #GP entry, which moves while a kernel boots.
func (m *Machine) watchIDT() error {
	if err := m.vcpu.Sregs(&m.sregs); err != nil {
		return err
	}
	handler := m.gateTarget(&m.sregs, vectorGP)
	if handler == m.tsc.handler {
		return nil
	}
	m.tsc.handler = handler
	return m.armBreakpoint()
}

// armBreakpoint puts the breakpoint where tsc.handler says, as instruction breakpoint 0 (SDM vol. 3 §17.2.4).
func (m *Machine) armBreakpoint() error {
	debug := kvm.GuestDebug{}
	if m.tsc.handler != 0 {
		debug.Control = kvm.DebugEnable | kvm.DebugUseHWBP
		debug.Debug[0] = m.tsc.handler
		debug.Debug[7] = 1<<0 | 1<<9 | 1<<10 // L0, GE and the bit that is always set; R/W0 and LEN0 of 0: execution
	}
	return m.vcpu.SetGuestDebug(&debug)
}

// gateTarget returns the entry that a vector's gate in the IDT names, or 0 if the guest has no usable one (SDM vol. 3
// §6.14.1).
func (m *Machine) gateTarget(s *kvm.Sregs, vector uint64) uint64 {
	if s.IDT.Limit < uint16(vector*16+15) {
		return 0
	}
	var gate [16]byte
	if !m.readLinear(gate[:], s.IDT.Base+vector*16, s.CR3) || gate[5]&0x80 == 0 {
		return 0
	}
	return uint64(binary.LittleEndian.Uint16(gate[0:])) | uint64(binary.LittleEndian.Uint16(gate[6:]))<<16 |
		uint64(binary.LittleEndian.Uint32(gate[8:]))<<32
}

// faultFrame is what the processor pushes for #GP in 64-bit mode (SDM vol. 3 §6.14.2), lowest address first.
type faultFrame struct {
	ErrorCode, RIP, CS, RFLAGS, RSP, SS uint64
}

// handleGP handles the guest's arrival at its #GP entry. An rdtsc or rdtscp of a user program is done for it, and it goes
// on as if nothing had been; any other #GP goes its way.
func (m *Machine) handleGP() error {
	regs := *m.vcpu.Synced()
	s := &m.sregs
	if err := m.vcpu.Sregs(s); err != nil {
		return err
	}
	var raw [48]byte
	var frame faultFrame
	if m.readLinear(raw[:], regs.RSP, s.CR3) {
		for i, field := range []*uint64{&frame.ErrorCode, &frame.RIP, &frame.CS, &frame.RFLAGS, &frame.RSP, &frame.SS} {
			*field = binary.LittleEndian.Uint64(raw[8*i:])
		}
	}
	length := 0
	if frame.CS&3 == 3 && frame.ErrorCode == 0 && frame.RFLAGS&rflagsTF == 0 {
		length = m.tscInstruction(&regs, frame.RIP, s.CR3)
	}
	if length == 0 || !m.returnToUser(s, &regs, &frame, length) {
		// RF lets the instruction at the breakpoint run (SDM vol. 3 §17.3.1.1).
		regs.RFLAGS |= rflagsRF
		return m.vcpu.SetRegs(&regs)
	}
	if err := m.vcpu.SetSregs(s); err != nil {
		return err
	}
	return m.vcpu.SetRegs(&regs)
}

// tscInstruction does the rdtsc or rdtscp at a linear address on regs and returns its length; 0 if there is none.
func (m *Machine) tscInstruction(regs *kvm.Regs, rip, cr3 uint64) int {
	var code [3]byte
	if !m.readLinear(code[:2], rip, cr3) || code[0] != 0x0f {
		return 0
	}
	length := 2
	if code[1] != 0x31 {
		if !m.readLinear(code[2:], rip+2, cr3) || code[1] != 0x01 || code[2] != 0xf9 {
			return 0
		}
		length = 3
		regs.RCX = 0
	}
	tsc := uint64(m.door.Now())
	regs.RAX, regs.RDX = tsc&0xffffffff, tsc>>32
	return length
}

// returnToUser makes s and regs what an IRETQ from the frame would, behind the instruction that faulted. It fails, having
// changed nothing that counts, if the descriptors can't be read.
func (m *Machine) returnToUser(s *kvm.Sregs, regs *kvm.Regs, frame *faultFrame, length int) bool {
	cs, okCS := m.descriptor(s, uint16(frame.CS))
	ss, okSS := m.descriptor(s, uint16(frame.SS))
	if !okCS || !okSS {
		return false
	}
	s.CS, s.SS = cs, ss
	regs.RIP, regs.RSP, regs.RFLAGS = frame.RIP+uint64(length), frame.RSP, frame.RFLAGS&^rflagsRF
	return true
}

// descriptor loads a segment from the guest's GDT (SDM vol. 3 §3.4.5).
func (m *Machine) descriptor(s *kvm.Sregs, selector uint16) (kvm.Segment, bool) {
	at := selector &^ 7
	var raw [8]byte
	if selector&4 != 0 || at == 0 || at+7 > s.GDT.Limit || !m.readLinear(raw[:], s.GDT.Base+uint64(at), s.CR3) {
		return kvm.Segment{}, false
	}
	d := binary.LittleEndian.Uint64(raw[:])
	field := func(shift, width uint) uint64 { return d >> shift & (1<<width - 1) }
	segment := kvm.Segment{
		Base: field(16, 24) | field(56, 8)<<24, Limit: uint32(field(0, 16) | field(48, 4)<<16), Selector: selector,
		Type: uint8(field(40, 4)) | 1, S: uint8(field(44, 1)), DPL: uint8(field(45, 2)), Present: uint8(field(47, 1)),
		AVL: uint8(field(52, 1)), L: uint8(field(53, 1)), DB: uint8(field(54, 1)), G: uint8(field(55, 1)),
	}
	if segment.G != 0 {
		segment.Limit = segment.Limit<<12 | 0xfff
	}
	return segment, segment.Present != 0
}
