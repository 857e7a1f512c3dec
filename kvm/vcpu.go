package kvm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sets of registers that KVM_RUN can bring along in the run area, sparing a system call each.
const (
	SyncRegs   = 1 << 0
	SyncSregs  = 1 << 1
	SyncEvents = 1 << 2
)

// kickSignal interrupts KVM_RUN. Go's runtime has a handler for SIGURG and takes one it did not send for nothing, so it
// needs none of ours.
const kickSignal = unix.SIGURG

// VCPU is a virtual processor. It belongs to the thread that runs it; only Kick may be called from others.
type VCPU struct {
	fd   int
	area []byte
	run  *runPage

	// thread is the id of the thread that runs the vCPU, or 0. Invariant: while it is not 0 the run area is mapped.
	thread atomic.Int32
	// kicked is what immediate_exit was last asked to be by Kick and ClearKick, whatever Complete does with the flag.
	kicked atomic.Bool
	// closing excludes Kick from Close.
	closing sync.RWMutex
	closed  bool
}

func newVCPU(fd int, area []byte) *VCPU {
	return &VCPU{fd: fd, area: area, run: runPageOf(area)}
}

// Close releases the processor.
func (c *VCPU) Close() error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return errors.Join(opError("munmap", unix.Munmap(c.area)), opError("close", unix.Close(c.fd)))
}

// Adopt makes the calling thread the one that runs the vCPU from now on, and that kicks go to. Without it that is the first
// that calls Run.
func (c *VCPU) Adopt() { c.thread.Store(int32(unix.Gettid())) }

// Run enters the guest until the next exit and decodes it into e. A signal or a kick is ReasonInterrupted, not an
// error.
func (c *VCPU) Run(e *Exit) error {
	if c.thread.Load() == 0 {
		c.thread.Store(int32(unix.Gettid()))
	}
	if errno := runOnce(c.fd); errno != 0 {
		if errno == unix.EINTR || errno == unix.EAGAIN {
			e.Reason = ReasonInterrupted
			return nil
		}
		return opError("KVM_RUN", errno)
	}
	return c.decode(e)
}

// Complete finishes the I/O of the last exit without running the guest, so that registers can be read and written
// wholesale.
func (c *VCPU) Complete() error {
	c.run.setImmediateExit(true)
	errno := runOnce(c.fd)
	c.run.setImmediateExit(false)
	if c.kicked.Load() {
		c.run.setImmediateExit(true)
	}
	if errno == unix.EINTR {
		return nil
	}
	if errno == 0 {
		return &OpError{Op: "KVM_RUN with immediate_exit", Err: fmt.Errorf("ran the guest (exit %v)", Reason(c.run.exitReason))}
	}
	return opError("KVM_RUN with immediate_exit", errno)
}

func (c *VCPU) decode(e *Exit) error {
	e.Reason = Reason(c.run.exitReason)
	switch e.Reason {
	case ReasonIO:
		return c.decodeIO(e)
	case ReasonMMIO:
		m := c.run.mmio()
		if m.length == 0 || m.length > uint32(len(m.data)) {
			return &OpError{Op: "KVM_RUN", Err: fmt.Errorf("MMIO of %d bytes", m.length)}
		}
		e.MMIO = MMIOExit{Write: m.isWrite != 0, Address: m.physAddr, Data: m.data[:m.length]}
	case ReasonDebug:
		d := c.run.debug()
		e.Debug = DebugExit{Exception: d.exception, PC: d.pc, DR6: d.dr6, DR7: d.dr7}
	case ReasonFailEntry:
		f := c.run.fail()
		e.Fail = FailEntryExit{HardwareReason: f.hardwareReason, CPU: f.cpu}
	case ReasonInternalError:
		i := c.run.internal()
		e.Internal = InternalErrorExit{Suberror: i.suberror, Data: append([]uint64(nil), i.data[:min(i.count, 16)]...)}
	case ReasonSystemEvent:
		e.System = SystemEventExit{Type: c.run.system().kind}
	}
	return nil
}

func (c *VCPU) decodeIO(e *Exit) error {
	io := c.run.io()
	length := uint64(io.size) * uint64(io.count)
	if io.dataOffset > uint64(len(c.area)) || length > uint64(len(c.area))-io.dataOffset {
		return &OpError{Op: "KVM_RUN", Err: fmt.Errorf("port data %#x+%#x outside the run area", io.dataOffset, length)}
	}
	e.IO = IOExit{Write: io.direction == 1, Port: io.port, Size: io.size, Count: io.count,
		Data: c.area[io.dataOffset : io.dataOffset+length]}
	return nil
}

// Kick makes the present or next Run come back as ReasonInterrupted. The flag is set before the signal is sent: a vCPU
// that is about to enter the guest sees the flag, one that is inside gets the signal. The flag stays until ClearKick.
func (c *VCPU) Kick() {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.closed {
		return
	}
	c.kicked.Store(true)
	c.run.setImmediateExit(true)
	if tid := c.thread.Load(); tid != 0 {
		// A thread that has ended is not in the guest: whoever runs the vCPU next adopts it, and sees the flag.
		_ = unix.Tgkill(unix.Getpid(), int(tid), kickSignal)
	}
}

// ClearKick takes back the flag of Kick. Look for what the kick was about after this, not before, and none is lost.
func (c *VCPU) ClearKick() {
	// It is the flag that decides, not kicked: between a Kick's two stores this may have cleared the first already, and
	// a flag left behind then would keep the guest from ever running again.
	if c.run.immediateExitSet() {
		c.kicked.Store(false)
		c.run.setImmediateExit(false)
	}
}

// ReadyForInterrupt tells, as of the last exit, whether KVM_INTERRUPT may inject now. Both flags are needed: without an
// interrupt controller in the kernel, injection does not look at IF.
func (c *VCPU) ReadyForInterrupt() bool {
	return c.run.readyForInterruptInjection != 0 && c.run.ifFlag != 0
}

// InterruptsEnabled is RFLAGS.IF as of the last exit.
func (c *VCPU) InterruptsEnabled() bool { return c.run.ifFlag != 0 }

// RequestInterruptWindow asks for, or no longer for, a ReasonIRQWindowOpen exit as soon as an interrupt can be injected.
func (c *VCPU) RequestInterruptWindow(on bool) { c.run.setInterruptWindow(on) }

// Interrupt injects an external interrupt (KVM_INTERRUPT) on the next entry.
func (c *VCPU) Interrupt(vector uint8) error {
	_, err := ioctlPtr(c.fd, "KVM_INTERRUPT", ioInterrupt, &interrupt{irq: uint32(vector)})
	return err
}

// SetSync says which register sets every exit brings along in the run area, as a sum of SyncRegs, SyncSregs, SyncEvents.
func (c *VCPU) SetSync(sets uint64) { c.run.validRegs = sets }

// Synced returns the general registers as the last exit brought them (SyncRegs). They may be changed; Touch makes the
// next entry take them.
func (c *VCPU) Synced() *Regs { return &c.run.sync.regs }

// SyncedSregs returns the special registers as the last exit brought them (SyncSregs).
func (c *VCPU) SyncedSregs() *Sregs { return &c.run.sync.sregs }

// SyncedEvents returns the pending events as the last exit brought them (SyncEvents).
func (c *VCPU) SyncedEvents() *VCPUEvents { return &c.run.sync.events }

// Touch makes the next entry load the given synced sets. The kernel never clears the interrupt bitmap of the synced
// SREGS, so that a write-back would inject an interrupt of the past again: it is cleared here.
func (c *VCPU) Touch(sets uint64) {
	if sets&SyncSregs != 0 {
		c.run.sync.sregs.InterruptBitmap = [4]uint64{}
	}
	c.run.dirtyRegs |= sets
}
