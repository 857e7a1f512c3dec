package doctor

import "tandem/kvm"

func lookKernelBreakpoint(x *examination) (finding, error) { return x.breakAt(start{}, kernelAddr) }

func lookUserBreakpoint(x *examination) (finding, error) { return x.breakAt(start{cpl: 3}, userAddr) }

// breakAt sets a hardware breakpoint on the second instruction of a program.
func (x *examination) breakAt(s start, base uint64) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(threeNops, s); err != nil {
			return finding{}, err
		}
		// DR7: breakpoint 0 enabled globally, on execution; bit 10 is always set (SDM vol. 3 §17.2.4).
		debug := kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugUseHWBP}
		debug.Debug[0], debug.Debug[7] = base+1, 1<<10|1<<1
		if err := g.vcpu.SetGuestDebug(&debug); err != nil {
			return finding{}, err
		}
		e, err := g.run()
		if err != nil {
			return finding{}, err
		}
		if e.exit.Reason != kvm.ReasonDebug || e.exit.Debug.PC != base+1 {
			return lacking("passed without a stop: %v", e), nil
		}
		return found("stops before the instruction"), nil
	})
}

// lookSingleStep takes two steps at each privilege level.
func lookSingleStep(x *examination) (finding, error) {
	for _, s := range []struct {
		start start
		base  uint64
	}{{start{}, kernelAddr}, {start{cpl: 3}, userAddr}} {
		f, err := x.stepFrom(s.start, s.base)
		if err != nil || f.verdict != OK {
			return f, err
		}
	}
	return found("one instruction each, at CPL 0 and 3"), nil
}

func (x *examination) stepFrom(s start, base uint64) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(threeNops, s); err != nil {
			return finding{}, err
		}
		if err := g.vcpu.SetGuestDebug(&kvm.GuestDebug{Control: kvm.DebugEnable | kvm.DebugSingleStep}); err != nil {
			return finding{}, err
		}
		for step := uint64(1); step <= 2; step++ {
			e, err := g.run()
			if err != nil {
				return finding{}, err
			}
			if e.exit.Reason != kvm.ReasonDebug || e.regs.RIP != base+step {
				return lacking("CPL %d, step %d: %v", s.cpl, step, e), nil
			}
		}
		return found(""), nil
	})
}
