package vmm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"tandem/kvm"
)

const (
	msrSysenterESP = 0x175 // IA32_SYSENTER_ESP
	msrSysenterEIP = 0x176 // IA32_SYSENTER_EIP
)

// stateMSRs are the model-specific registers that make up the vCPU's state, beside those that KVM keeps in SREGS. The
// list is explicit: what a guest of this machine can reach with the CPUID that it sees (SDM vol. 4 table 2-2). The
// time-stamp counter is not among them, since no guest of a recorded machine can read it.
var stateMSRs = [...]uint32{
	0x174, // IA32_SYSENTER_CS
	msrSysenterESP,
	msrSysenterEIP,
	0x1d9,      // IA32_DEBUGCTL
	0x277,      // IA32_PAT
	0xc0000081, // IA32_STAR
	0xc0000082, // IA32_LSTAR
	0xc0000083, // IA32_CSTAR
	0xc0000084, // IA32_FMASK
	0xc0000102, // IA32_KERNEL_GS_BASE
}

// cpuState is all of a vCPU's state, in the order in which it is restored. Its encoding is encoding/binary's, little
// endian: the fields one after the other.
type cpuState struct {
	Sregs     kvm.Sregs
	Regs      kvm.Regs
	XSave     kvm.XSave
	XCRs      kvm.XCRs
	MSRs      [len(stateMSRs)]kvm.MSR
	Events    kvm.VCPUEvents
	DebugRegs kvm.DebugRegs
	MPState   kvm.MPState
}

// captureCPU reads the vCPU's state, once the I/O of the last exit is complete.
func (m *Machine) captureCPU(s *cpuState) error {
	if err := m.vcpu.Complete(); err != nil {
		return err
	}
	if err := s.capture(m.vcpu); err != nil {
		return err
	}
	if m.amd {
		// Of these two KVM restores the low half only, which is all there is to them on AMD's processors in long mode,
		// where SYSENTER raises #UD. Whoever was restored and whoever was not must look the same.
		for i := range s.MSRs {
			if index := s.MSRs[i].Index; index == msrSysenterESP || index == msrSysenterEIP {
				s.MSRs[i].Data &= 0xffffffff
			}
		}
	}
	return nil
}

// capture reads all register sets.
func (s *cpuState) capture(c *kvm.VCPU) error {
	for i, index := range stateMSRs {
		s.MSRs[i] = kvm.MSR{Index: index}
	}
	for _, read := range []func() error{
		func() error { return c.Sregs(&s.Sregs) },
		func() error { return c.Regs(&s.Regs) },
		func() error { return c.XSave(&s.XSave) },
		func() error { return c.XCRs(&s.XCRs) },
		func() error { return c.MSRs(s.MSRs[:]) },
		func() error { return c.Events(&s.Events) },
		func() error { return c.DebugRegs(&s.DebugRegs) },
		func() error { return c.MPState(&s.MPState) },
	} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// restore makes the vCPU's state s. Pending I/O is completed first, since it would change registers afterwards; a last
// empty run makes KVM work out anew whether an interrupt can be injected.
func (s *cpuState) restore(c *kvm.VCPU) error {
	for _, write := range []func() error{
		c.Complete,
		func() error { return c.SetSregs(&s.Sregs) },
		func() error { return c.SetRegs(&s.Regs) },
		func() error { return c.SetXCRs(&s.XCRs) },
		func() error { return c.SetXSave(&s.XSave) },
		func() error { return c.SetMSRs(s.MSRs[:]) },
		func() error { return c.SetEvents(&s.Events) },
		func() error { return c.SetDebugRegs(&s.DebugRegs) },
		func() error { return c.SetMPState(&s.MPState) },
		c.Complete,
	} {
		if err := write(); err != nil {
			return fmt.Errorf("restore the vCPU: %w", err)
		}
	}
	return nil
}

// cpuStateBytes is the length of an encoded cpuState.
var cpuStateBytes = binary.Size(cpuState{})

func (s *cpuState) encode() []byte {
	buf := bytes.NewBuffer(make([]byte, 0, cpuStateBytes))
	if err := binary.Write(buf, binary.LittleEndian, s); err != nil {
		panic(fmt.Sprintf("vmm: encode the vCPU's state: %v", err))
	}
	return buf.Bytes()
}

func (s *cpuState) decode(p []byte) error {
	if len(p) != cpuStateBytes {
		return fmt.Errorf("a vCPU's state has %d bytes, not %d", cpuStateBytes, len(p))
	}
	if _, err := binary.Decode(p, binary.LittleEndian, s); err != nil {
		return err
	}
	for i, index := range stateMSRs {
		if s.MSRs[i].Index != index {
			return fmt.Errorf("MSR %d of a vCPU's state is %#x, not %#x", i, s.MSRs[i].Index, index)
		}
	}
	return nil
}
