package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/kvm"
	"tandem/lockstep"
)

// explain adds to a divergence what the guest was doing and what came last from the log. Other errors it returns as they are.
func (m *Machine) explain(err error) error {
	var d *lockstep.Divergence
	if !errors.As(err, &d) {
		return err
	}
	if d.Guest == "" {
		d.Guest = m.doing()
	}
	if replayer, ok := m.door.(*lockstep.Replayer); ok && len(d.Recent) == 0 {
		d.Recent = replayer.Recent()
	}
	return err
}

// doing tells at which instruction the guest is, by its registers as they were at the last exit, and what that exit was.
func (m *Machine) doing() string {
	if m.position == 0 {
		return "not begun"
	}
	text := fmt.Sprintf("RIP %#x, %s", m.vcpu.Synced().RIP, exitText(&m.exit))
	if m.pc.PIC.Pending() {
		text += interruptWaits
	}
	return text
}

// interruptWaits is said of a guest that has an interrupt coming as soon as it can take one: when that is the host decides,
// if it interprets guest code.
const interruptWaits = ", an interrupt waits"

// exitText describes an exit.
func exitText(e *kvm.Exit) string {
	switch e.Reason {
	case kvm.ReasonIO:
		return accessText("port", uint64(e.IO.Port), int(e.IO.Size), int(e.IO.Count), e.IO.Write, e.IO.Data)
	case kvm.ReasonMMIO:
		return accessText("address", e.MMIO.Address, len(e.MMIO.Data), 1, e.MMIO.Write, e.MMIO.Data)
	}
	return e.Reason.String()
}

// accessText describes an access to a device. The data of a read is what it was answered.
func accessText(space string, at uint64, size, count int, write bool, data []byte) string {
	verb, arrow := "reads", "answered"
	if write {
		verb, arrow = "writes", "value"
	}
	value := fmt.Sprintf("% x", data[:min(len(data), maxListed)])
	if count == 1 && len(data) == size && size <= 8 {
		var padded [8]byte
		copy(padded[:], data)
		value = fmt.Sprintf("%#x", binary.LittleEndian.Uint64(padded[:]))
	}
	return fmt.Sprintf("%s %d × %d bytes at %s %#x, %s %s", verb, count, size, space, at, arrow, value)
}

// endsAsLogged checks that a guest that has ended by itself, while it followed a log, was to end there and in that way.
func (m *Machine) endsAsLogged() error {
	replayer, ok := m.door.(*lockstep.Replayer)
	if !ok || m.ended == 0 || m.ended == CauseLogEnd {
		return nil
	}
	cause, err := replayer.End()
	if err != nil {
		return m.explain(err)
	}
	m.logEnd = cause
	if want := endCauses[m.ended]; cause != want {
		return m.explain(&lockstep.Divergence{Position: m.position, What: fmt.Sprintf("%v, but the log says: %v", m.ended, cause)})
	}
	return nil
}
