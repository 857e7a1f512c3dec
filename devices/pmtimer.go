package devices

import (
	"encoding/binary"

	"tandem/lockstep"
)

// PMTimerPort is where the machine's PM timer is: Linux takes it from its command line (pmtmr=0x608) where there are no
// ACPI tables to tell.
const PMTimerPort = 0x608

// The PM timer counts at a quarter of the PC's crystal, 315/88 MHz: 63 ticks in 17600 ns.
const (
	pmTicks   = 63
	pmTicksNS = 17600
)

// pmTimerMask is the width of the counter: 24 bits (ACPI 6.5 §4.8.3.3).
const pmTimerMask = 1<<24 - 1

// PMTimer is the ACPI power management timer's register. It has no state apart from the guest clock.
type PMTimer struct {
	clock lockstep.Clock
}

// NewPMTimer returns a PM timer that shows the guest clock.
func NewPMTimer(clock lockstep.Clock) *PMTimer { return &PMTimer{clock} }

// Attach puts the register on the bus at PMTimerPort.
func (t *PMTimer) Attach(ports *Bus) error {
	return attachAll(ports, attachment{PMTimerPort, 4, t})
}

// Read implements Handler.
func (t *PMTimer) Read(offset uint64, p []byte) {
	ns := t.clock.Now()
	ticks := ns/pmTicksNS*pmTicks + ns%pmTicksNS*pmTicks/pmTicksNS
	var register [8]byte
	binary.LittleEndian.PutUint64(register[:], uint64(ticks)&pmTimerMask)
	copy(p, register[offset:])
}

// Write implements Handler: the register can't be written.
func (t *PMTimer) Write(uint64, []byte) {}
