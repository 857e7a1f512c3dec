// Package devices holds the machine's devices: the buses, the legacy PC parts, and in sub-packages virtio.
//
// A device is a pure state machine. It is touched only by the goroutine that owns the machine, between two KVM_RUNs;
// it never looks at the host. Time comes from a [lockstep.Clock], inputs are handed to it by the machine, and what it
// sends out goes into a sink that it was given. Two devices of the same state that get the same accesses and the same
// inputs are, after each, of the same state.
//
// A guest's mistake (a register that does not exist, an access of the wrong width) has a fixed outcome inside the
// machine, as on the real part where that is known; it is never an error of the host.
package devices

// Handler is a device's window on a bus. Offsets are relative to where the window was attached. p has 1, 2, 4 or 8
// bytes, little-endian; a read fills all of p.
type Handler interface {
	Read(offset uint64, p []byte)
	Write(offset uint64, p []byte)
}

// Line is an interrupt line into the interrupt controller.
type Line interface {
	// Set drives the line high or low.
	Set(level bool)
}

// Timer is a device in which time makes things happen.
type Timer interface {
	// Deadline returns the guest time in ns at which the device next wants to be advanced, and false if there is none. It
	// may have passed already. A device has no deadline for what the guest can't see happen, such as an interrupt whose
	// line is high anyway; so the deadline may come and go with any access or acknowledge.
	Deadline() (int64, bool)
	// Advance makes everything happen that is due at or before now, the guest clock in ns.
	Advance(now int64)
}

// Stateful is a device whose whole state can be written and read back, for checkpoints, state transfer and the report
// of a divergence.
type Stateful interface {
	// SaveState returns the state as JSON with a fixed order of fields, so that equal states have equal bytes and a
	// difference can be named.
	SaveState() ([]byte, error)
	// LoadState replaces the state. The bytes may come from a peer or a file: an unknown field, a missing one or a value
	// that no device can have is an error, and then the device is unchanged.
	LoadState(p []byte) error
}

// Sink takes what a device sends out of the machine: console bytes, frames. The device must not touch p afterwards.
type Sink interface {
	Output(p []byte)
}

// Memory is the guest's RAM as a device that does DMA sees it. Both methods fail, without having moved any byte, when
// the range is not wholly inside RAM.
type Memory interface {
	ReadAt(p []byte, gpa uint64) error
	WriteAt(p []byte, gpa uint64) error
}
