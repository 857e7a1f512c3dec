package doctor

import (
	"time"

	"tandem/kvm"
)

// probeVector is the interrupt that probes inject: the first that is not an exception.
const probeVector = 0x20

// lookInterrupt wakes a guest that halted with interrupts on.
func lookInterrupt(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.execute(enableHalt, start{})
		if err != nil {
			return finding{}, err
		}
		if !e.halted() {
			return lacking("STI, HLT: %v", e), nil
		}
		if !g.vcpu.ReadyForInterrupt() {
			return lacking("a guest that halted with interrupts on is said not to be ready for one"), nil
		}
		return g.interrupt(found("KVM_INTERRUPT wakes a halted guest"))
	})
}

// interrupt injects the probe's vector, and returns good if the guest then stands at its stub.
func (g *guest) interrupt(good finding) (finding, error) {
	if err := g.vcpu.Interrupt(probeVector); err != nil {
		return finding{}, err
	}
	e, err := g.run()
	if err != nil {
		return finding{}, err
	}
	if e.vector != probeVector {
		return lacking("not delivered: %v", e), nil
	}
	return good, nil
}

// lookInterruptWindow asks for the window while interrupts are off, and expects it behind the shadow of STI: there the
// guest counts, and so shows how late the window is.
func lookInterruptWindow(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.execute(openWindow, start{})
		if err != nil {
			return finding{}, err
		}
		if e.exit.Reason != kvm.ReasonIO || g.vcpu.ReadyForInterrupt() {
			return lacking("with interrupts off: %v", e), nil
		}
		g.vcpu.RequestInterruptWindow(true)
		if e, err = g.run(); err != nil {
			return finding{}, err
		}
		g.vcpu.RequestInterruptWindow(false)
		if e.exit.Reason != kvm.ReasonIRQWindowOpen || !g.vcpu.ReadyForInterrupt() {
			return lacking("after STI: %v", e), nil
		}
		if late := e.regs.RCX; late > 1 {
			return g.interrupt(found("opens %d instructions late, and takes an interrupt", late*loopInstructions))
		}
		return g.interrupt(found("opens after STI, and takes an interrupt"))
	})
}

// lookUserInterrupt interrupts a user program that never leaves by itself.
func lookUserInterrupt(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(spin, start{cpl: 3, rflags: rflagsIF}); err != nil {
			return finding{}, err
		}
		// Entering without running makes KVM say whether it is ready.
		if err := g.vcpu.Complete(); err != nil {
			return finding{}, err
		}
		if !g.vcpu.ReadyForInterrupt() {
			return lacking("user code with interrupts on is said not to be ready for one"), nil
		}
		return g.interrupt(found("reach the kernel's handler"))
	})
}

func lookImmediateExit(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(countDown, start{rcx: 5}); err != nil {
			return finding{}, err
		}
		if err := g.vcpu.Complete(); err != nil {
			return lacking("%v", err), nil
		}
		var regs kvm.Regs
		if err := g.vcpu.Regs(&regs); err != nil {
			return finding{}, err
		}
		if regs.RIP != kernelAddr || regs.RCX != 5 {
			return lacking("the guest ran to %#x", regs.RIP), nil
		}
		return found("enters and leaves without running the guest"), nil
	})
}

// lookKick has another thread get a guest out that would not come by itself.
func lookKick(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		if err := g.load(spin, start{}); err != nil {
			return finding{}, err
		}
		defer g.vcpu.ClearKick()
		var kickedAt time.Time
		kicked := make(chan struct{})
		time.AfterFunc(time.Millisecond, func() {
			kickedAt = time.Now()
			g.vcpu.Kick()
			close(kicked)
		})
		var exit kvm.Exit
		for {
			if err := g.vcpu.Run(&exit); err != nil {
				return finding{}, err
			}
			if exit.Reason != kvm.ReasonInterrupted {
				return lacking("the loop came to exit %v", exit.Reason), nil
			}
			select {
			case <-kicked:
				took := time.Since(kickedAt)
				return found("%d µs after the signal", took.Microseconds()), nil
			default: // another signal of the host's: the Go runtime's
			}
		}
	})
}
