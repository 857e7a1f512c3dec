package doctor

import (
	"fmt"
	"strings"

	"tandem/kvm"
)

// lookDirtyLog has a guest write three pages and looks for them, and for one that it did not write.
func lookDirtyLog(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.vm.SetMemory(g.memory, true); err != nil {
			return lacking("%v", err), nil
		}
		if err := g.load(dirtyPages, start{}); err != nil {
			return finding{}, err
		}
		fresh := make([]uint64, (ramBytes/kvm.PageBytes+63)/64)
		if err := g.vm.DirtyLog(0, fresh); err != nil {
			return lacking("%v", err), nil
		}
		clear(fresh)
		if e, err := g.run(); err != nil || !e.halted() {
			return lacking("%v", e), err
		}
		if err := g.vm.DirtyLog(0, fresh); err != nil {
			return finding{}, err
		}
		logged := func(gpa uint64) bool { return fresh[gpa/kvm.PageBytes/64]>>(gpa/kvm.PageBytes%64)&1 != 0 }
		for _, page := range []uint64{0x1000, 0x3000, 0x1f000} {
			if !logged(dataAddr + page) {
				return lacking("a page that the guest wrote is not in it"), nil
			}
		}
		if logged(dataAddr + 0x5000) {
			return lacking("a page that nobody wrote is in it"), nil
		}
		return found("holds what the guest wrote, and no more"), nil
	})
}

// probedMSRs are the MSRs that a Linux guest's system calls and contexts live in. SYSENTER_ESP is left out: kvm_amd
// does not keep its upper half, and no 64-bit program goes that way.
var probedMSRs = []kvm.MSR{
	{Index: 0xc0000081, Data: 0x0010000800000000}, // STAR
	{Index: 0xc0000082, Data: 0x1234560},          // LSTAR
	{Index: 0xc0000083, Data: 0x2345670},          // CSTAR
	{Index: 0xc0000084, Data: 0x700},              // FMASK
	{Index: 0xc0000100, Data: 0x3456780},          // FS base
	{Index: 0xc0000101, Data: 0x4567890},          // GS base
	{Index: 0xc0000102, Data: 0x5678900},          // kernel GS base
	{Index: 0x277, Data: 0x0007040600070406},      // PAT
}

// lookState writes and reads back every kind of state.
func lookState(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(haltOnly, start{}); err != nil {
			return finding{}, err
		}
		var sets = []struct {
			name      string
			roundTrip func(*kvm.VCPU) error
		}{
			{"FPU", roundTrip((*kvm.VCPU).FPU, (*kvm.VCPU).SetFPU)},
			{"XSAVE", roundTrip((*kvm.VCPU).XSave, (*kvm.VCPU).SetXSave)},
			{"XCRS", roundTrip((*kvm.VCPU).XCRs, (*kvm.VCPU).SetXCRs)},
			{"VCPU_EVENTS", roundTrip((*kvm.VCPU).Events, (*kvm.VCPU).SetEvents)},
			{"DEBUGREGS", roundTrip((*kvm.VCPU).DebugRegs, (*kvm.VCPU).SetDebugRegs)},
			{"MP_STATE", roundTrip((*kvm.VCPU).MPState, (*kvm.VCPU).SetMPState)},
			{"MSRs", roundTripMSRs},
		}
		var absent []string
		for _, s := range sets {
			if err := s.roundTrip(g.vcpu); err != nil {
				absent = append(absent, fmt.Sprintf("%s: %v", s.name, err))
			}
		}
		if len(absent) > 0 {
			return lacking("%s", strings.Join(absent, ", ")), nil
		}
		return found("REGS, SREGS and %d more sets", len(sets)), nil
	})
}

// roundTrip reads a set of registers, writes it, and reads it again. The set must come back the same.
func roundTrip[T comparable](get, set func(*kvm.VCPU, *T) error) func(*kvm.VCPU) error {
	return func(c *kvm.VCPU) error {
		var first, second T
		if err := get(c, &first); err != nil {
			return err
		}
		if err := set(c, &first); err != nil {
			return err
		}
		if err := get(c, &second); err != nil {
			return err
		}
		if first != second {
			return errNotKept
		}
		return nil
	}
}

func roundTripMSRs(c *kvm.VCPU) error {
	if err := c.SetMSRs(probedMSRs); err != nil {
		return err
	}
	read := make([]kvm.MSR, len(probedMSRs))
	for i, m := range probedMSRs {
		read[i].Index = m.Index
	}
	if err := c.MSRs(read); err != nil {
		return err
	}
	for i, m := range probedMSRs {
		if read[i].Data != m.Data {
			return fmt.Errorf("%#x: %w", m.Index, errNotKept)
		}
	}
	return nil
}
