package wire

import "fmt"

// Kind says what a record is. The numbers are part of the format: they are explicit and never changed. Those of inputs
// are the same as in package lockstep.
type Kind uint8

// The kinds of records that are inputs of the machine.
const (
	// KindClock is a sample of the guest clock that the guest could see. It exists because the host's time is what the
	// guest asks for most often, and can't be computed.
	KindClock Kind = 1
	// KindTick says that the machine's earliest timer deadline has come. It exists apart from KindClock because both
	// machines know the deadline: it needs no value, and an idle guest's log is nearly all ticks.
	KindTick Kind = 2
	// KindConsole is bytes typed at a console. It exists because people decide what they type.
	KindConsole Kind = 3
	// KindFrame is a packet received for a network device. It exists because the network decides what comes and when.
	KindFrame Kind = 4
	// KindDisk is a finished disk request. It exists because the host decides when a request is done and, by an error,
	// how; what was read is in it because the disk may be another one, or have changed, when the log is replayed.
	KindDisk Kind = 5
	// KindRandom is entropy that a device asked for. It exists because it is meant to be unpredictable.
	KindRandom Kind = 6
	// KindPower is a press of the power button. It exists because a person presses it.
	KindPower Kind = 7
)

// The kinds of records that are no inputs.
const (
	// KindDigest is the running hash of all exits up to its position. It exists to find the first difference between
	// the machine that was logged and the one that repeats it, and its registers to say what differs.
	KindDigest Kind = 8
	// KindDelta is a part of the machine's state at a forced stop, an instant between two exits that has no other name
	// than the state itself. It exists because a guest that computes without exits must get its inputs too.
	KindDelta Kind = 9
	// KindMemory is hashes of guest pages. It exists to find a difference that has not reached an exit yet.
	KindMemory Kind = 10
	// KindCheckpoint says that the machine was saved at this position, by the number in the file's name. It exists so that
	// a replay finds out where it can start.
	KindCheckpoint Kind = 11
	// KindOutput says what left the machine: where, how much and its hash. It exists so that a backup that goes live
	// knows which output needs no repeating, and a replay finds output that differs.
	KindOutput Kind = 12
	// KindEnd is the last record and says why. It exists to tell a log that is complete from one that was cut off.
	KindEnd Kind = 13
	// KindDevices is hashes of the devices' states. It exists to find a device that differs before the guest asks it
	// something, and to name it.
	KindDevices Kind = 14
)

// maxKind is the largest kind that exists.
const maxKind = KindDevices

// kindMask selects the kind in a record's head.
const kindMask = 15

var kindNames = [maxKind + 1]string{
	KindClock: "clock", KindTick: "tick", KindConsole: "console", KindFrame: "frame", KindDisk: "disk",
	KindRandom: "random", KindPower: "power", KindDigest: "digest", KindDelta: "delta", KindMemory: "memory",
	KindCheckpoint: "checkpoint", KindOutput: "output", KindEnd: "end", KindDevices: "devices",
}

func (k Kind) String() string {
	if k.valid() {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ParseKind is the reverse of String for kinds that exist.
func ParseKind(name string) (Kind, error) {
	for k := KindClock; k <= maxKind; k++ {
		if kindNames[k] == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("no kind of record is called %q", name)
}

// Kinds returns all kinds in the order of their numbers.
func Kinds() []Kind {
	all := make([]Kind, 0, maxKind)
	for k := KindClock; k <= maxKind; k++ {
		all = append(all, k)
	}
	return all
}

func (k Kind) valid() bool { return k != 0 && k <= maxKind }

// hasDevice tells whether records of the kind carry a device number.
func (k Kind) hasDevice() bool { return k >= KindConsole && k <= KindRandom || k == KindOutput }

// KindSet is a set of kinds.
type KindSet uint16

// SetOf returns the set of the given kinds.
func SetOf(kinds ...Kind) KindSet {
	var s KindSet
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

// AllKinds is the set of all kinds.
const AllKinds KindSet = 1<<(maxKind+1) - 2

// Has tells whether k is in the set.
func (s KindSet) Has(k Kind) bool { return s>>k&1 != 0 }

// Bounds on what one record holds in bytes.
const (
	// MaxConsole bounds the bytes of one console input.
	MaxConsole = 64 << 10
	// MaxPacket bounds a received packet: the largest that segmentation offload makes, and its headers.
	MaxPacket = 64<<10 + 256
	// MaxDisk bounds a disk completion: the largest transfer of a request, and its header.
	MaxDisk = 4<<20 + 64
	// MaxRandom bounds the entropy of one input.
	MaxRandom = 64 << 10
	// MaxDeltaPart bounds one part of a delta. A delta has any number of parts.
	MaxDeltaPart = 256 << 10
	// MaxMemoryPages bounds the pages that one record has hashes of.
	MaxMemoryPages = 4096
	// MaxDevices bounds the devices that one record has hashes of.
	MaxDevices = 256
	// MaxMessage bounds the message of an end.
	MaxMessage = 1024
)

// hashBytes is the size of a hash in a record.
const hashBytes = 8

// maxPayload is the largest payload of each kind.
var maxPayload = [maxKind + 1]int{
	KindConsole: MaxConsole, KindFrame: MaxPacket, KindDisk: MaxDisk, KindRandom: MaxRandom,
	KindDelta: MaxDeltaPart, KindMemory: MaxMemoryPages * hashBytes, KindEnd: MaxMessage,
	KindDevices: MaxDevices * hashBytes,
}

// MaxPayload returns the largest number of payload bytes of a record of kind k.
func (k Kind) MaxPayload() int {
	if !k.valid() {
		return 0
	}
	return maxPayload[k]
}

// maxRecordHead bounds what a record takes beside its payload: the head, a digest's time, hash and all registers.
const maxRecordHead = 10 + 1 + 10 + 8 + 3 + registerCount*10

// maxRecord bounds an encoded record.
const maxRecord = maxRecordHead + MaxDisk

// Cause says why a log ends. The numbers are part of the format: they are explicit and never changed.
type Cause uint8

const (
	// EndPowerOff is a guest that powered off.
	EndPowerOff Cause = 1
	// EndReset is a guest that reset the machine.
	EndReset Cause = 2
	// EndTripleFault is a guest that crashed.
	EndTripleFault Cause = 3
	// EndStopped is a machine that the user stopped.
	EndStopped Cause = 4
	// EndFailure is a failure of the host; the message says which.
	EndFailure Cause = 5
	// EndContinued is a machine that runs on but is logged no more, or elsewhere.
	EndContinued Cause = 6
)

const maxCause = EndContinued

func (c Cause) String() string {
	switch c {
	case EndPowerOff:
		return "the guest powered off"
	case EndReset:
		return "the guest reset the machine"
	case EndTripleFault:
		return "the guest crashed (triple fault)"
	case EndStopped:
		return "the user stopped the machine"
	case EndFailure:
		return "the host failed"
	case EndContinued:
		return "the machine runs on without this log"
	}
	return fmt.Sprintf("cause %d", uint8(c))
}
