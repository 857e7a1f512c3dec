package vmm

import (
	"fmt"

	"tandem/lockstep"
)

// room tells how much of an input its device can take now, as lockstep.Waiting says.
func (m *Machine) room(kind lockstep.Kind, device uint8, payload []byte) int {
	switch kind {
	case lockstep.KindConsole:
		return m.consoleRoom(device)
	case lockstep.KindFrame:
		return m.frameRoom(device, payload)
	}
	return 1
}

// consoleRoom returns how many bytes a console takes now, and for one that is not there that they are to be dropped.
func (m *Machine) consoleRoom(device uint8) int {
	switch {
	case device == SerialConsole:
		return m.pc.UART.Room()
	case device == VirtioConsoleDevice && m.virtio.console != nil:
		return m.virtio.console.Room()
	}
	return -1
}

// apply lets an input enter the machine. An error says that it is none that this machine can have: the log is damaged or
// another machine's.
func (m *Machine) apply(in lockstep.Input) error {
	v := &m.virtio
	switch in.Kind {
	case lockstep.KindTick, lockstep.KindClock:
		// The door has moved the clock; advance does the rest.
		return nil
	case lockstep.KindConsole:
		switch {
		case in.Device == SerialConsole:
			m.pc.UART.Receive(in.Payload)
			return nil
		case in.Device == VirtioConsoleDevice && v.console != nil:
			v.console.Receive(in.Payload)
			return nil
		}
	case lockstep.KindPower:
		m.pc.PowerButton()
		return nil
	case lockstep.KindDisk:
		if int(in.Device) < len(v.disks) {
			if err := v.backends[in.Device].await(in.Payload); err != nil {
				return err
			}
			return v.disks[in.Device].Complete(in.Payload)
		}
	case lockstep.KindFrame:
		if int(in.Device) < len(v.nics) {
			v.nics[in.Device].Receive(in.Payload)
			return nil
		}
	case lockstep.KindRandom:
		if v.rng != nil && in.Device == 0 {
			return v.rng.Deliver(in.Payload)
		}
	case lockstep.KindDelta:
		return m.applyDelta(in.Payload)
	case lockstep.KindMemory:
		return m.checkPages(in.Number, in.Payload)
	case lockstep.KindDevices:
		return m.checkDevices(in.Payload)
	case lockstep.KindOutput:
		return m.checkOutput(in)
	case lockstep.KindCheckpoint:
		m.pageReader = nil // saving emptied the shadow
		return nil
	case lockstep.KindEnd:
		m.ended, m.logEnd = CauseLogEnd, in.Cause
		return nil
	}
	return fmt.Errorf("the machine has no device %d for an input of kind %v", in.Device, in.Kind)
}
