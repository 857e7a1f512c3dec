package kvm

import "fmt"

// The methods of this file read and write one register set each. The I/O of the last exit must be complete (see
// [VCPU.Complete]) before RIP or the special registers are written.

func transfer[T any](c *VCPU, op string, req uint, p *T) error {
	_, err := ioctlPtr(c.fd, op, req, p)
	return err
}

// Regs reads the general registers.
func (c *VCPU) Regs(r *Regs) error { return transfer(c, "KVM_GET_REGS", ioGetRegs, r) }

// SetRegs writes the general registers.
func (c *VCPU) SetRegs(r *Regs) error { return transfer(c, "KVM_SET_REGS", ioSetRegs, r) }

// Sregs reads segments and control registers.
func (c *VCPU) Sregs(r *Sregs) error { return transfer(c, "KVM_GET_SREGS", ioGetSregs, r) }

// SetSregs writes segments and control registers. A bit set in InterruptBitmap injects that vector.
func (c *VCPU) SetSregs(r *Sregs) error { return transfer(c, "KVM_SET_SREGS", ioSetSregs, r) }

// FPU reads the x87 and SSE registers.
func (c *VCPU) FPU(r *FPU) error { return transfer(c, "KVM_GET_FPU", ioGetFPU, r) }

// SetFPU writes the x87 and SSE registers.
func (c *VCPU) SetFPU(r *FPU) error { return transfer(c, "KVM_SET_FPU", ioSetFPU, r) }

// XSave reads the extended state.
func (c *VCPU) XSave(r *XSave) error { return transfer(c, "KVM_GET_XSAVE", ioGetXSave, r) }

// SetXSave writes the extended state.
func (c *VCPU) SetXSave(r *XSave) error { return transfer(c, "KVM_SET_XSAVE", ioSetXSave, r) }

// XCRs reads the extended control registers.
func (c *VCPU) XCRs(r *XCRs) error { return transfer(c, "KVM_GET_XCRS", ioGetXCRs, r) }

// SetXCRs writes the extended control registers.
func (c *VCPU) SetXCRs(r *XCRs) error { return transfer(c, "KVM_SET_XCRS", ioSetXCRs, r) }

// Events reads the pending events.
func (c *VCPU) Events(r *VCPUEvents) error {
	return transfer(c, "KVM_GET_VCPU_EVENTS", ioGetVCPUEvents, r)
}

// SetEvents writes the pending events.
func (c *VCPU) SetEvents(r *VCPUEvents) error {
	return transfer(c, "KVM_SET_VCPU_EVENTS", ioSetVCPUEvents, r)
}

// DebugRegs reads the guest's debug registers.
func (c *VCPU) DebugRegs(r *DebugRegs) error {
	return transfer(c, "KVM_GET_DEBUGREGS", ioGetDebugRegs, r)
}

// SetDebugRegs writes the guest's debug registers.
func (c *VCPU) SetDebugRegs(r *DebugRegs) error {
	return transfer(c, "KVM_SET_DEBUGREGS", ioSetDebugRegs, r)
}

// MPState reads whether the processor runs or waits.
func (c *VCPU) MPState(r *MPState) error { return transfer(c, "KVM_GET_MP_STATE", ioGetMPState, r) }

// SetMPState writes whether the processor runs or waits.
func (c *VCPU) SetMPState(r *MPState) error { return transfer(c, "KVM_SET_MP_STATE", ioSetMPState, r) }

// SetGuestDebug sets up single steps and breakpoints of the VMM's own.
func (c *VCPU) SetGuestDebug(d *GuestDebug) error {
	return transfer(c, "KVM_SET_GUEST_DEBUG", ioSetGuestDebug, d)
}

// Translate walks the guest's page tables for a linear address, at the processor's present privilege: a user address may
// fail at CPL 0 under SMAP.
func (c *VCPU) Translate(linear uint64) (Translation, error) {
	t := Translation{Linear: linear}
	return t, transfer(c, "KVM_TRANSLATE", ioTranslate, &t)
}

// MSRs reads the MSRs named by the entries' Index into their Data.
func (c *VCPU) MSRs(entries []MSR) error {
	buf, err := msrBuffer(entries)
	if err != nil {
		return err
	}
	n, err := ioctlPtr(c.fd, "KVM_GET_MSRS", ioGetMSRs, buf)
	if err != nil {
		return err
	}
	copy(entries, buf.entries[:n])
	return msrShort("KVM_GET_MSRS", entries, n)
}

// SetMSRs writes MSRs, in order.
func (c *VCPU) SetMSRs(entries []MSR) error {
	buf, err := msrBuffer(entries)
	if err != nil {
		return err
	}
	n, err := ioctlPtr(c.fd, "KVM_SET_MSRS", ioSetMSRs, buf)
	if err != nil {
		return err
	}
	return msrShort("KVM_SET_MSRS", entries, n)
}

func msrBuffer(entries []MSR) (*msrs, error) {
	if len(entries) > maxMSRs {
		return nil, fmt.Errorf("kvm: %d MSRs in one call, more than %d", len(entries), maxMSRs)
	}
	buf := &msrs{count: uint32(len(entries))}
	copy(buf.entries[:], entries)
	return buf, nil
}

// msrShort turns the kernel's count of MSRs done into an error that names the first that was not.
func msrShort(op string, entries []MSR, done int) error {
	if done >= len(entries) {
		return nil
	}
	return &OpError{Op: op, Err: fmt.Errorf("MSR %#x is refused", entries[done].Index)}
}

// SetCPUID sets what the guest's CPUID instruction answers. It must precede the first Run.
func (c *VCPU) SetCPUID(leaves CPUID) error {
	if len(leaves) > maxCPUIDEntries {
		return fmt.Errorf("kvm: %d CPUID entries, more than %d", len(leaves), maxCPUIDEntries)
	}
	buf := &cpuid2{count: uint32(len(leaves))}
	copy(buf.entries[:], leaves)
	return transfer(c, "KVM_SET_CPUID2", ioSetCPUID2, buf)
}

// CPUID reads back what the guest's CPUID instruction answers.
func (c *VCPU) CPUID() (CPUID, error) {
	buf := &cpuid2{count: maxCPUIDEntries}
	if err := transfer(c, "KVM_GET_CPUID2", ioGetCPUID2, buf); err != nil {
		return nil, err
	}
	return append(CPUID(nil), buf.entries[:buf.count]...), nil
}
