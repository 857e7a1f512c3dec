package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"tandem/kvm"
)

// runLimit ends a probe whose guest does not come back: the longest takes some milliseconds on the slowest host.
const runLimit = 2 * time.Second

// errStuck says that a probe's guest did not end within runLimit.
var errStuck = errors.New("the guest did not come back")

// guest is a machine of a few pages for probes. It belongs to one goroutine, locked to its thread.
type guest struct {
	vm     *kvm.VM
	memory *kvm.Memory
	vcpu   *kvm.VCPU
	limit  time.Duration // how long the guest may run until its next exit
}

// end is how a probe's guest came out of KVM_RUN.
type end struct {
	exit kvm.Exit
	regs kvm.Regs
	// vector is the interrupt or exception at whose stub the guest halted, or -1.
	vector int
	// from is where the guest was when that was delivered, and user whether that was user code.
	from uint64
	user bool
}

// newGuest makes a machine whose CPUID is the given leaves.
func newGuest(system *kvm.System, leaves kvm.CPUID) (*guest, error) {
	g := &guest{limit: runLimit}
	if err := g.create(system, leaves); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (g *guest) create(system *kvm.System, leaves kvm.CPUID) error {
	var err error
	if g.vm, err = system.CreateVM(); err != nil {
		return err
	}
	if err := g.vm.SetTSS(); err != nil {
		return err
	}
	if g.memory, err = kvm.NewMemory([]kvm.Region{{Base: 0, Bytes: ramBytes}}); err != nil {
		return err
	}
	if err := systemTables(g.memory); err != nil {
		return err
	}
	if err := g.vm.SetMemory(g.memory, false); err != nil {
		return err
	}
	if g.vcpu, err = g.vm.CreateVCPU(0); err != nil {
		return err
	}
	return g.vcpu.SetCPUID(leaves)
}

func (g *guest) close() error {
	var errs []error
	if g.vcpu != nil {
		errs = append(errs, g.vcpu.Close())
	}
	if g.vm != nil {
		errs = append(errs, g.vm.Close())
	}
	if g.memory != nil {
		errs = append(errs, g.memory.Close())
	}
	return errors.Join(errs...)
}

// start is the state in which a program begins.
type start struct {
	cpl    uint8  // 0 or 3
	cr4    uint64 // bits beyond those that are always set
	rflags uint64 // bits beyond the fixed one
	rcx    uint64 // a counter, for the programs that loop
}

// load puts a program in place, and the vCPU at its first instruction.
func (g *guest) load(p program, s start) error {
	rip, rsp := uint64(kernelAddr), uint64(kernelRSP)
	if s.cpl == 3 {
		rip, rsp = userAddr, userRSP
	}
	if err := g.memory.WriteAt([]byte(p.code), rip); err != nil {
		return err
	}
	var sregs kvm.Sregs
	if err := g.vcpu.Sregs(&sregs); err != nil {
		return err
	}
	longMode(&sregs, s.cpl, s.cr4)
	if err := g.vcpu.SetSregs(&sregs); err != nil {
		return err
	}
	return g.vcpu.SetRegs(&kvm.Regs{
		RIP: rip, RSP: rsp, RCX: s.rcx, RDI: dataAddr, RFLAGS: rflagsFixed | s.rflags,
	})
}

// run enters the guest until it exits by itself, and reads where it stands.
func (g *guest) run() (end, error) {
	e := end{vector: -1}
	if err := g.enter(&e.exit); err != nil {
		return e, err
	}
	if err := g.vcpu.Regs(&e.regs); err != nil {
		return e, err
	}
	if at := e.regs.RIP - stubsAddr; e.exit.Reason == kvm.ReasonHLT && at < 256*stubBytes {
		e.vector = int(at / stubBytes)
		return e, g.readFrame(&e)
	}
	return e, nil
}

// errorCodes are the exceptions that push an error code (SDM vol. 3 §6.13).
const errorCodes = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21

// readFrame reads the interrupted RIP and CS off the guest's stack (SDM vol. 3 §6.14.2).
func (g *guest) readFrame(e *end) error {
	at := e.regs.RSP
	if e.vector < 32 && errorCodes>>e.vector&1 != 0 {
		at += 8
	}
	var frame [16]byte
	if err := g.memory.ReadAt(frame[:], at); err != nil {
		return err
	}
	e.from = binary.LittleEndian.Uint64(frame[:])
	e.user = frame[8]&3 == 3
	return nil
}

// enter runs the guest until an exit that is its own doing.
func (g *guest) enter(exit *kvm.Exit) error {
	var late atomic.Bool
	alarm := time.AfterFunc(g.limit, func() {
		late.Store(true)
		g.vcpu.Kick()
	})
	defer alarm.Stop()
	for {
		if err := g.vcpu.Run(exit); err != nil {
			return err
		}
		if exit.Reason != kvm.ReasonInterrupted {
			return nil
		}
		g.vcpu.ClearKick()
		if late.Load() {
			return errStuck
		}
	}
}

// execute loads a program and runs it to its next exit.
func (g *guest) execute(p program, s start) (end, error) {
	if err := g.load(p, s); err != nil {
		return end{vector: -1}, err
	}
	return g.run()
}

// halted tells whether the guest came to an HLT of its own, not to that of a vector's stub.
func (e end) halted() bool { return e.exit.Reason == kvm.ReasonHLT && e.vector < 0 }

// String says how the guest ended, for a person.
func (e end) String() string {
	switch {
	case e.vector >= 0:
		return fmt.Sprintf("%s at %#x", vectorName(e.vector), e.from)
	case e.exit.Reason == kvm.ReasonInternalError:
		if code := e.exit.Internal.Instruction(); len(code) > 0 {
			return fmt.Sprintf("KVM gave up on % x", code)
		}
		return fmt.Sprintf("KVM gave up at %#x", e.regs.RIP)
	case e.exit.Reason == kvm.ReasonIO:
		return "port I/O" // whether RIP has passed the instruction differs between hosts
	case e.exit.Reason == kvm.ReasonShutdown:
		return "triple fault"
	case e.exit.Reason == kvm.ReasonFailEntry:
		return fmt.Sprintf("the processor refused to enter the guest (%#x)", e.exit.Fail.HardwareReason)
	}
	return fmt.Sprintf("exit %v at %#x", e.exit.Reason, e.regs.RIP)
}

// Vectors of exceptions (SDM vol. 3 §6.3.1).
const (
	vectorBP = 3
	vectorUD = 6
	vectorGP = 13
)

var exceptionNames = map[int]string{1: "#DB", 3: "#BP", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF"}

func vectorName(v int) string {
	if name, ok := exceptionNames[v]; ok {
		return name
	}
	return fmt.Sprintf("vector %#x", v)
}
