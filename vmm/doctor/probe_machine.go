package doctor

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tandem/kvm"
)

// capability is one of KVM_CHECK_EXTENSION, with the least value that is enough.
type capability struct {
	number int
	least  int
	name   string
}

// neededCapabilities are those of a virtual machine; CapSyncRegs' value is a set of which general registers are bit 0.
var neededCapabilities = []capability{
	{kvm.CapUserMemory, 1, "USER_MEMORY"},
	{kvm.CapDestroyMemoryRegion, 1, "DESTROY_MEMORY_REGION_WORKS"},
	{kvm.CapSetTSSAddr, 1, "SET_TSS_ADDR"},
	{kvm.CapExtCPUID, 1, "EXT_CPUID"},
	{kvm.CapMPState, 1, "MP_STATE"},
	{kvm.CapSyncMMU, 1, "SYNC_MMU"},
	{kvm.CapSetGuestDebug, 1, "SET_GUEST_DEBUG"},
	{kvm.CapVCPUEvents, 1, "VCPU_EVENTS"},
	{kvm.CapDebugRegs, 1, "DEBUGREGS"},
	{kvm.CapXSave, 1, "XSAVE"},
	{kvm.CapXCRs, 1, "XCRS"},
	{kvm.CapSyncRegs, 1, "SYNC_REGS"},
	{kvm.CapImmediateExit, 1, "IMMEDIATE_EXIT"},
}

func lookCapabilities(x *examination) (finding, error) {
	var absent []string
	for _, c := range neededCapabilities {
		value, err := x.system.Capability(c.number)
		if err != nil {
			return finding{}, err
		}
		if value < c.least {
			absent = append(absent, "KVM_CAP_"+c.name)
		}
	}
	if len(absent) > 0 {
		return lacking("%s", strings.Join(absent, ", ")), nil
	}
	return found("API 12, all %d that are needed", len(neededCapabilities)), nil
}

func lookMemorySlots(x *examination) (finding, error) {
	const needed = 2
	slots, err := x.system.Capability(kvm.CapNrMemslots)
	if err != nil {
		return finding{}, err
	}
	f := found("%d", slots)
	if slots < needed {
		f = lacking("%d, fewer than %d", slots, needed)
	}
	f.value, f.unit = float64(slots), "slots"
	return f, nil
}

func lookLongMode(x *examination) (finding, error) {
	return x.expect(countDown, start{rcx: 100}, func(e end) finding {
		if !e.halted() || e.regs.RCX != 0 {
			return lacking("%v", e)
		}
		return found("a loop ran to its HLT")
	})
}

func lookExceptions(x *examination) (finding, error) {
	return x.expect(undefined, start{}, func(e end) finding {
		if e.vector != vectorUD || e.from != kernelAddr {
			return lacking("UD2: %v", e)
		}
		return found("UD2 raises #UD")
	})
}

func lookPortIO(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.execute(portOut, start{})
		if err != nil {
			return finding{}, err
		}
		io := e.exit.IO
		if e.exit.Reason != kvm.ReasonIO || !io.Write || io.Port != 0xf4 || len(io.Data) != 1 || io.Data[0] != 0x5a {
			return lacking("OUT: %v", e), nil
		}
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		if e.exit.Reason != kvm.ReasonIO || e.exit.IO.Write || len(e.exit.IO.Data) != 4 {
			return lacking("IN: %v", e), nil
		}
		binary.LittleEndian.PutUint32(e.exit.IO.Data, 0x11223344)
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		if !e.halted() || e.regs.RAX != 0x11223344 {
			return lacking("IN gave %#x: %v", e.regs.RAX, e), nil
		}
		return found("OUT and IN come out and go on"), nil
	})
}

func lookMMIO(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.execute(accessMMIO, start{})
		if err != nil {
			return finding{}, err
		}
		m := e.exit.MMIO
		if e.exit.Reason != kvm.ReasonMMIO || !m.Write || m.Address != mmioAddr || len(m.Data) != 8 || m.Data[0] != 0x44 {
			return lacking("write: %v", e), nil
		}
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		m = e.exit.MMIO
		if e.exit.Reason != kvm.ReasonMMIO || m.Write || m.Address != mmioAddr+8 || len(m.Data) != 4 {
			return lacking("read: %v", e), nil
		}
		binary.LittleEndian.PutUint32(m.Data, 0x55667788)
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		if !e.halted() || e.regs.RAX != 0x55667788 {
			return lacking("a read gave %#x: %v", e.regs.RAX, e), nil
		}
		return found("8-byte write and 4-byte read"), nil
	})
}

// lookSyncRegs changes a register by way of the run area alone.
func lookSyncRegs(x *examination) (finding, error) {
	const magic = 0x5aa55aa5
	return x.with(func(g *guest) (finding, error) {
		g.vcpu.SetSync(kvm.SyncRegs | kvm.SyncSregs)
		e, err := g.execute(haltMove, start{rcx: magic})
		if err != nil {
			return finding{}, err
		}
		if !e.halted() || g.vcpu.Synced().RCX != magic || g.vcpu.SyncedSregs().CR3 != pml4Addr {
			return lacking("not read: %v", e), nil
		}
		g.vcpu.Synced().RAX = magic
		g.vcpu.Touch(kvm.SyncRegs)
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		if e.regs.RBX != magic {
			return lacking("not written: %v", e), nil
		}
		return found("read and written"), nil
	})
}

// baseline is what a 64-bit distribution kernel demands of a processor before it says a word
// (arch/x86/include/asm/required-features.h).
var baseline = []struct {
	name string
	bit  cpuidBit
}{
	{"FPU", cpuidBit{1, edx, 0}}, {"PSE", cpuidBit{1, edx, 3}}, {"MSR", cpuidBit{1, edx, 5}}, {"PAE", cpuidBit{1, edx, 6}},
	{"CX8", cpuidBit{1, edx, 8}}, {"PGE", cpuidBit{1, edx, 13}}, {"CMOV", cpuidBit{1, edx, 15}}, {"FXSR", cpuidBit{1, edx, 24}},
	{"SSE", cpuidBit{1, edx, 25}}, {"SSE2", cpuidBit{1, edx, 26}}, {"SYSCALL", cpuidBit{0x80000001, edx, 11}},
	{"NX", cpuidBit{0x80000001, edx, 20}}, {"LM", cpuidBit{0x80000001, edx, 29}},
}

func lookCPU(x *examination) (finding, error) {
	var absent []string
	for _, b := range baseline {
		if !b.bit.in(x.leaves) {
			absent = append(absent, b.name)
		}
	}
	if len(absent) > 0 {
		return lacking("CPUID offers no %s", strings.Join(absent, ", ")), nil
	}
	return found("all in the CPUID that KVM offers, %d entries", len(x.leaves)), nil
}

// leastSpeed is the instructions a second below which Linux's boot, a few thousand million instructions, takes minutes.
const leastSpeed = 10e6

func lookSpeed(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		perSecond, err := g.speed()
		if err != nil {
			return finding{}, err
		}
		f := found("%s", rate(perSecond))
		if perSecond < leastSpeed {
			f = lacking("%s: guest code is interpreted, not executed", rate(perSecond))
		}
		f.value, f.unit = perSecond, "instructions/s"
		return f, nil
	})
}

// loopInstructions is how many instructions countDown executes an iteration.
const loopInstructions = 2

// speed measures instructions a second in a counted loop, as long as it takes to make the way in and out negligible. The
// shortest of some runs counts: the others were disturbed by the host, which faults in pages at first.
func (g *guest) speed() (float64, error) {
	const long, runs = 2 * time.Millisecond, 3
	for n := uint64(1000); ; n *= 8 {
		shortest := time.Duration(math.MaxInt64)
		for range runs {
			took, err := g.timeLoop(n)
			if err != nil {
				return 0, err
			}
			shortest = min(shortest, took)
		}
		if shortest >= long {
			return float64(n) * loopInstructions / shortest.Seconds(), nil
		}
	}
}

func (g *guest) timeLoop(n uint64) (time.Duration, error) {
	if err := g.load(countDown, start{rcx: n}); err != nil {
		return 0, err
	}
	var exit kvm.Exit
	before := time.Now()
	err := g.enter(&exit)
	took := time.Since(before)
	if err == nil && exit.Reason != kvm.ReasonHLT {
		err = fmt.Errorf("the loop came to exit %v", exit.Reason)
	}
	return took, err
}

func rate(perSecond float64) string {
	switch {
	case perSecond >= 10e9:
		return fmt.Sprintf("%.0f G instructions/s", perSecond/1e9)
	case perSecond >= 1e9:
		return fmt.Sprintf("%.1f G instructions/s", perSecond/1e9)
	case perSecond >= 10e6:
		return fmt.Sprintf("%.0f M instructions/s", perSecond/1e6)
	}
	return fmt.Sprintf("%.1f M instructions/s", perSecond/1e6)
}

// lookInstructions runs all in one program, and if that fails each by itself, since one that is missing leaves the vCPU
// where it is.
func lookInstructions(x *examination) (finding, error) {
	all, starts := x.joined()
	var absent []string
	whole, err := x.expect(all, start{cr4: x.cr4()}, judgeHalt)
	if err == nil && whole.verdict != OK {
		absent, err = x.tryEach()
	}
	if err != nil {
		return finding{}, err
	}
	trap, err := x.expect(breakpoint.alone(), start{}, func(e end) finding {
		if e.vector != vectorBP {
			return lacking("%v", e)
		}
		return found("")
	})
	if err != nil {
		return finding{}, err
	}
	if trap.verdict != OK {
		absent = append(absent, breakpoint.name)
	}
	tried := len(starts) + 1
	switch {
	case len(absent) > 0:
		return lacking("%s (%d of %d)", strings.Join(absent, ", "), len(absent), tried), nil
	case whole.verdict != OK:
		return lacking("each works alone, but together they end with: %s", whole.detail), nil
	}
	return found("all %d that were tried", tried), nil
}

func judgeHalt(e end) finding {
	if !e.halted() {
		return lacking("%v", e)
	}
	return found("")
}

// tryEach returns the names of the instructions that fail.
func (x *examination) tryEach() ([]string, error) {
	var absent []string
	for _, i := range instructions {
		if !i.offered.in(x.leaves) {
			continue
		}
		f, err := x.expect(i.alone(), start{cr4: x.cr4()}, func(e end) finding { return finding{detail: i.fault(e)} })
		if err != nil {
			return nil, err
		}
		if f.detail != "" {
			absent = append(absent, f.detail)
		}
	}
	return absent, nil
}

// fault names the instruction if it did not lead to the HLT behind it: missing, or raising an exception.
func (i *instruction) fault(e end) string {
	switch {
	case e.halted():
		return ""
	case e.vector >= 0:
		return fmt.Sprintf("%s (%s)", i.name, vectorName(e.vector))
	}
	return i.name
}

// cr4 is the bits that instructions need, as far as CPUID offers them: a bit that is not offered may not be set.
func (x *examination) cr4() uint64 {
	cr4 := uint64(0)
	if (cpuidBit{1, ecx, 26}).in(x.leaves) {
		cr4 |= cr4OSXSAVE
	}
	if (cpuidBit{7, ebx, 0}).in(x.leaves) {
		cr4 |= cr4FSGSBASE
	}
	return cr4
}

func lookXSaveSize(x *examination) (finding, error) {
	e := x.leaves.Find(0xd, 0)
	if e == nil {
		return found("x87 and SSE, no XSAVE"), nil
	}
	f := found("%d bytes at most, components %#x", e.ECX, uint64(e.EDX)<<32|uint64(e.EAX))
	f.value, f.unit = float64(e.ECX), "bytes"
	return f, nil
}

// lookExitCost measures the median of a few rounds, since another process may take the processor in one of them.
func lookExitCost(x *examination) (finding, error) {
	const rounds, exits = 5, 20
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(portLoop, start{rcx: rounds*exits + 1}); err != nil {
			return finding{}, err
		}
		var exit kvm.Exit
		if err := g.enter(&exit); err != nil {
			return finding{}, err
		}
		var took []time.Duration
		for range rounds {
			before := time.Now()
			for range exits {
				if err := g.enter(&exit); err != nil {
					return finding{}, err
				}
			}
			took = append(took, time.Since(before))
		}
		if exit.Reason != kvm.ReasonIO {
			return lacking("the loop came to exit %v", exit.Reason), nil
		}
		slices.Sort(took)
		each := float64(took[rounds/2].Nanoseconds()) / exits / 1e3
		f := found("%.1f µs there and back", each)
		f.value, f.unit = each, "µs"
		return f, nil
	})
}
