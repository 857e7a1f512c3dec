// Package lockstep holds what makes two machines one: the inputs of a machine, the door through which they enter, and
// the log of them.
//
// A uniprocessor guest is a deterministic machine apart from its inputs. Every input enters through a [Door], which is
// owned by the goroutine that owns the machine (the vCPU's) and is used by it between two KVM_RUNs only. Devices see
// of the door just its [Clock]; they are handed their inputs by the machine.
//
// The package imports neither kvm nor devices nor vmm: it knows positions, kinds and bytes.
package lockstep

// Position names a point in the guest's instruction stream: the number of exits that the guest itself has caused
// (port I/O, MMIO, HLT, interrupt window, debug trap). Exits that the host causes are not counted.
type Position uint64

// Kind says what an input is. The values are those of the log and of the wire: they are explicit and never renumbered.
type Kind uint8

const (
	// KindClock is a sample of the guest clock that the guest could see. Payload: none in memory, Input.Time holds the
	// value in ns. It exists because reading a clock is the commonest input of all.
	KindClock Kind = 1
	// KindTick says that the earliest timer deadline of the machine has come. No payload: the clock moves to that
	// deadline, which both machines know. It exists apart from KindClock because a tick without a value costs two bytes.
	KindTick Kind = 2
	// KindConsole is bytes typed at console Device.
	KindConsole Kind = 3
	// KindFrame is an Ethernet frame received for network device Device.
	KindFrame Kind = 4
	// KindDisk is a finished request of disk Device. The payload's layout is that of package devices/virtio.
	KindDisk Kind = 5
	// KindRandom is bytes of entropy that device Device asked for.
	KindRandom Kind = 6
	// KindPower is a press of the power button: the guest is asked to shut down. No payload.
	KindPower Kind = 7
)

// Input is one thing that enters the machine from outside.
type Input struct {
	Kind Kind
	// Device is the index of the device among those of its kind.
	Device uint8
	// Time is the guest clock in ns, for KindClock alone.
	Time int64
	// Payload is the input's bytes; the device must not keep the slice.
	Payload []byte
}

// Clock is the guest's time as devices see it.
type Clock interface {
	// Now returns the guest clock in ns since the guest was started. It is sampled at most once an exit, never steps
	// back, and may be called only while an exit or an input is being handled.
	Now() int64
}
