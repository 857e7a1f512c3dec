package vmm

import (
	"fmt"

	"tandem/lockstep"
)

// room tells how much of a kind of input a device can take now.
func (m *Machine) room(kind lockstep.Kind, device uint8) int {
	switch kind {
	case lockstep.KindConsole:
		return m.pc.UART.Room()
	case lockstep.KindPower:
		return 1
	}
	panic(fmt.Sprintf("vmm: no device for input kind %d, device %d", kind, device))
}

// apply lets an input enter the machine.
func (m *Machine) apply(in lockstep.Input) error {
	switch in.Kind {
	case lockstep.KindTick:
		// The door has moved the clock; advance does the rest.
	case lockstep.KindConsole:
		m.pc.UART.Receive(in.Payload)
	case lockstep.KindPower:
		m.pc.PowerButton()
	case lockstep.KindDelta:
		return m.applyDelta(in.Payload)
	case lockstep.KindEnd:
		return m.replayEnded(in.Cause)
	default:
		return fmt.Errorf("the machine has no device %d for an input of kind %v", in.Device, in.Kind)
	}
	return nil
}
