// Package lockstep holds what makes two machines one: the inputs of a machine, the door through which they enter, and
// the log of them.
//
// A uniprocessor guest is a deterministic machine apart from its inputs. Every input enters through a [Door], which is
// owned by the goroutine that owns the machine (the vCPU's) and is used by it between two KVM_RUNs only. Devices see
// of the door just its [Clock]; they are handed their inputs by the machine.
//
// The package imports neither kvm nor devices nor vmm: it knows positions, kinds and bytes.
package lockstep

import "tandem/lockstep/wire"

// Position names a point in the guest's instruction stream: the number of exits that the guest itself has caused
// (port I/O, MMIO, HLT, interrupt window, debug trap). Exits that the host causes are not counted.
type Position uint64

// Kind says what an input is. The values are those of the log.
type Kind = wire.Kind

// The inputs that come from the world, and why each exists: see package wire.
const (
	KindClock   = wire.KindClock
	KindTick    = wire.KindTick
	KindConsole = wire.KindConsole
	KindFrame   = wire.KindFrame
	KindDisk    = wire.KindDisk
	KindRandom  = wire.KindRandom
	KindPower   = wire.KindPower
)

// What a replaying door gives beside: the machine's state at a forced stop, the hashes of pages and devices and of output to
// compare, the mark of a checkpoint, and the end of the log.
const (
	KindDelta      = wire.KindDelta
	KindMemory     = wire.KindMemory
	KindCheckpoint = wire.KindCheckpoint
	KindEnd        = wire.KindEnd
	KindDevices    = wire.KindDevices
	KindOutput     = wire.KindOutput
)

// Input is one thing that enters the machine from outside.
type Input struct {
	Kind Kind
	// Device is the index of the device among those of its kind.
	Device uint8
	// Payload is the input's bytes; the device must not keep the slice.
	Payload []byte
	// Number is the first page of a KindMemory, or a KindCheckpoint's number.
	Number uint64
	// Cause is a KindEnd's.
	Cause wire.Cause
	// Of, Length and Hash are a KindOutput's.
	Of     Kind
	Length uint64
	Hash   uint64
}

// Clock is the guest's time as devices see it.
type Clock interface {
	// Now returns the guest clock in ns since the guest was started. It is sampled at most once an exit, never steps
	// back, and may be called only while an exit or an input is being handled.
	Now() int64
}
