// Package bootkvm runs a loaded image on this machine's /dev/kvm, for tests: it shows that what boot.Load describes is what a
// processor accepts, and that a rewritten instruction comes out where the rewriter says.
package bootkvm

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"tandem/boot"
	"tandem/kvm"
)

// Access is a port access of the guest, with its registers at that moment.
type Access struct {
	Port  uint16
	Write bool
	Data  byte // the lowest byte written
	Regs  kvm.Regs
}

const (
	memoryBytes = 64 << 20
	accessesMax = 1000
)

// Run loads k and runs it until it halts; it returns its port accesses. What a read gives is up to answer, which may be nil
// for a guest that only writes. Without a usable /dev/kvm the test is skipped.
func Run(t *testing.T, k *boot.Kernel, opt boot.Options, answer func(port uint16, data []byte)) []Access {
	t.Helper()
	vcpu := enter(t, k, opt)
	var accesses []Access
	for len(accesses) < accessesMax {
		var exit kvm.Exit
		if err := vcpu.Run(&exit); err != nil {
			t.Fatal(err)
		}
		switch exit.Reason {
		case kvm.ReasonHLT:
			return accesses
		case kvm.ReasonInterrupted:
			continue
		case kvm.ReasonIO:
		default:
			t.Fatalf("the guest stopped with %v after %d port accesses", exit.Reason, len(accesses))
		}
		access := Access{Port: exit.IO.Port, Write: exit.IO.Write, Data: exit.IO.Data[0]}
		must(t, vcpu.Regs(&access.Regs))
		accesses = append(accesses, access)
		if !exit.IO.Write {
			answer(exit.IO.Port, exit.IO.Data)
		}
	}
	t.Fatalf("the guest did not halt after %d port accesses", accessesMax)
	return nil
}

// enter builds a machine with k in it and its processor at the entry.
func enter(t *testing.T, k *boot.Kernel, opt boot.Options) *kvm.VCPU {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENODEV) {
		t.Skipf("no usable /dev/kvm: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { _ = system.Close() })
	var regions []kvm.Region
	for _, r := range boot.Layout(memoryBytes) {
		regions = append(regions, kvm.Region{Base: r.Start, Bytes: r.Size})
	}
	memory, err := kvm.NewMemory(regions)
	must(t, err)
	t.Cleanup(func() { _ = memory.Close() })
	vm, err := system.CreateVM()
	must(t, err)
	t.Cleanup(func() { _ = vm.Close() })
	must(t, vm.SetTSS())
	must(t, vm.SetMemory(memory, false))
	vcpu, err := vm.CreateVCPU(0)
	must(t, err)
	t.Cleanup(func() { _ = vcpu.Close() })
	leaves, err := system.SupportedCPUID()
	must(t, err)
	must(t, vcpu.SetCPUID(leaves))

	entry, err := boot.Load(memory, k, opt)
	must(t, err)
	setRegisters(t, vcpu, entry)
	return vcpu
}

func setRegisters(t *testing.T, vcpu *kvm.VCPU, entry boot.Entry) {
	t.Helper()
	var s kvm.Sregs
	must(t, vcpu.Sregs(&s))
	const limit, codeType, dataType = 0xffffffff, 0xb, 0x3
	s.CS = kvm.Segment{Limit: limit, Selector: entry.CodeSelector, Type: codeType, Present: 1, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: limit, Selector: entry.DataSelector, Type: dataType, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.GDT = kvm.DTable{Base: entry.GDTBase, Limit: entry.GDTLimit}
	s.CR0, s.CR3, s.CR4, s.EFER = entry.CR0, entry.CR3, entry.CR4, entry.EFER
	must(t, vcpu.SetSregs(&s))
	must(t, vcpu.SetRegs(&kvm.Regs{RIP: entry.RIP, RSI: entry.RSI, RSP: entry.RSP, RFLAGS: 2}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
