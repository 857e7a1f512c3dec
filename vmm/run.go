package vmm

import (
	"fmt"
	"runtime"
	"time"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// Run runs the guest to its end and says how it ended. An error is the host's failure or an instruction that the host's
// KVM can't execute; it names where the guest stood. Run keeps its goroutine on one OS thread.
func (m *Machine) Run() (Cause, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m.vcpu.Adopt() // it may have been run before, to follow a peer
	m.vcpu.SetSync(kvm.SyncRegs)
	m.ended = 0
	m.visitors.open()
	defer m.visitors.shut()
	for {
		if err := m.takeInputs(); err != nil {
			return 0, m.explain(err)
		}
		switch {
		case m.ended != 0:
			return m.ended, nil
		case m.Stopped():
			if failure := m.failure.Load(); failure != nil {
				return 0, *failure
			}
			return CauseStopped, nil
		}
		if err := m.keepRecord(); err != nil {
			return 0, err
		}
		m.commitOutputs(m.halted)
		m.shownPosition.Store(uint64(m.position))
		m.shownTime.Store(m.time())
		m.keepPace()
		if m.visitors.receive() {
			continue // the door may be another
		}
		// From here on whatever happens kicks the vCPU. The door is asked before an interrupt is given to KVM, not after:
		// with one queued there the guest has to be entered, or the next would take its place and it would be lost, and a
		// log would have inputs behind an interrupt that a replay takes before it.
		m.inGuest.Store(true)
		if m.door.Pending() {
			m.inGuest.Store(false)
			continue
		}
		if err := m.inject(); err != nil {
			return 0, err
		}
		if m.halted {
			m.inGuest.Store(false)
			m.door.Wait(m.waiting())
			continue
		}
		if err := m.step(); err != nil {
			return 0, err
		}
	}
}

// step enters the guest until its next exit and handles that. It returns early where the machine is to look at the door
// before.
func (m *Machine) step() error {
	for {
		err := m.vcpu.Run(&m.exit)
		m.inGuest.Store(false)
		m.vcpu.ClearKick()
		if err != nil {
			return err
		}
		if m.exit.Reason != kvm.ReasonInterrupted {
			return m.completeExit()
		}
		m.stats.interrupted++
		if look, err := m.interrupted(); look || err != nil {
			return err
		}
		m.inGuest.Store(true)
	}
}

// interrupted handles a return from the guest that is not the guest's doing, and tells whether the machine is to look at
// the door.
func (m *Machine) interrupted() (look bool, err error) {
	switch m.door.Interrupted(m.inProgram) {
	case lockstep.Look:
		return true, nil
	case lockstep.Stop:
		return true, m.forcedStop()
	}
	return m.stop.Load() && m.live == nil, nil
}

// inProgram tells whether the guest is at CPL 3.
func (m *Machine) inProgram() bool {
	return m.vcpu.Sregs(&m.sregs) == nil && m.sregs.SS.DPL == 3
}

// completeExit counts an exit of the guest's and handles it.
func (m *Machine) completeExit() error {
	if m.config.MeasureHandling {
		defer m.measure(time.Now())
	}
	m.position++
	m.door.At(m.position)
	m.stats.count(&m.exit)
	if m.digested {
		m.digest.add(&m.exit, m.vcpu.Synced())
		registers := wire.Registers(registerValues(m.vcpu.Synced()))
		m.door.Exit(m.digest.sum, &registers)
	}
	if err := m.handle(&m.exit); err != nil {
		return err
	}
	if m.config.TrapTSC && m.position%idtCheckExits == 0 {
		return m.watchIDT()
	}
	return nil
}

func (m *Machine) measure(start time.Time) {
	m.stats.Handling += time.Since(start)
	m.stats.Handled++
}

// handle does what an exit asks for.
func (m *Machine) handle(e *kvm.Exit) error {
	switch e.Reason {
	case kvm.ReasonIO:
		return m.handleIO(&e.IO)
	case kvm.ReasonMMIO:
		m.handleMMIO(&e.MMIO)
	case kvm.ReasonHLT:
		m.halted = true
		if !m.vcpu.InterruptsEnabled() {
			m.ended = CauseHalt
		}
	case kvm.ReasonIRQWindowOpen:
	case kvm.ReasonDebug:
		if e.Debug.PC != m.tsc.handler {
			return m.unexpected(e)
		}
		return m.handleGP()
	case kvm.ReasonShutdown:
		m.ended = CauseTripleFault
	default:
		return m.unexpected(e)
	}
	return nil
}

// handleIO passes a port access to the bus, item by item (a string instruction has many).
func (m *Machine) handleIO(io *kvm.IOExit) error {
	if trapped, err := m.handleTrap(io); trapped || err != nil {
		return err
	}
	size := int(io.Size)
	for at := 0; at+size <= len(io.Data); at += size {
		item := io.Data[at : at+size]
		if io.Write {
			m.pc.Ports.Write(uint64(io.Port), item)
		} else {
			m.pc.Ports.Read(uint64(io.Port), item)
		}
	}
	return nil
}

func (m *Machine) handleMMIO(a *kvm.MMIOExit) {
	if a.Write {
		m.pc.MMIO.Write(a.Address, a.Data)
	} else {
		m.pc.MMIO.Read(a.Address, a.Data)
	}
}

// unexpected describes an exit that no guest can be given an answer to.
func (m *Machine) unexpected(e *kvm.Exit) error {
	regs := m.vcpu.Synced()
	at := fmt.Sprintf("at exit %d, RIP %#x", m.position, regs.RIP)
	switch e.Reason {
	case kvm.ReasonInternalError:
		if code := e.Internal.Instruction(); len(code) > 0 {
			return fmt.Errorf("this host's KVM can't execute the guest's instruction % x (%s): run `tandem doctor`, and use a host with hardware virtualisation", code, at)
		}
		return fmt.Errorf("KVM internal error %d %s (data %#x): run `tandem doctor`, and use a host with hardware virtualisation", e.Internal.Suberror, at, e.Internal.Data)
	case kvm.ReasonFailEntry:
		return fmt.Errorf("the processor refused the guest's state (reason %#x) %s", e.Fail.HardwareReason, at)
	}
	return fmt.Errorf("unexpected exit %v %s", e.Reason, at)
}

// waiting says what the machine is ready for.
func (m *Machine) waiting() lockstep.Waiting {
	w := lockstep.Waiting{Room: m.room}
	w.Deadline, w.Armed = m.deadline()
	return w
}

// deadline returns the earliest deadline of all timers.
func (m *Machine) deadline() (int64, bool) {
	earliest, armed := int64(0), false
	for _, t := range m.timers {
		if at, ok := t.Deadline(); ok && (!armed || at < earliest) {
			earliest, armed = at, true
		}
	}
	return earliest, armed
}

// takeInputs applies what the door has for the present position.
func (m *Machine) takeInputs() error {
	m.advance()
	for m.ended == 0 {
		in, ok := m.door.Next(m.waiting())
		if err := m.door.Err(); err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if err := m.apply(in); err != nil {
			return err
		}
		m.advance()
	}
	return nil
}

// advance lets everything happen that is due by the guest clock, as far as it has been sampled. No log record is needed
// for that: both machines know the clock's value.
func (m *Machine) advance() {
	now := m.door.Time()
	if at, armed := m.deadline(); !armed || at > now {
		return
	}
	for _, t := range m.timers {
		t.Advance(now)
	}
}

// inject gives the vCPU the interrupt that the PIC has for it, or asks for an exit as soon as it can take one.
func (m *Machine) inject() error {
	pending := m.pc.PIC.Pending()
	if pending && m.vcpu.ReadyForInterrupt() {
		vector := m.pc.PIC.Acknowledge()
		if err := m.vcpu.Interrupt(vector); err != nil {
			return err
		}
		m.stats.injected++
		m.halted = false
		pending = m.pc.PIC.Pending()
	}
	m.vcpu.RequestInterruptWindow(pending)
	return nil
}
