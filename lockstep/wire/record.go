package wire

import "encoding/binary"

// registerCount is how many registers a digest's image has.
const registerCount = 18

// Registers is the image of a vCPU's general registers in a digest, in the order of [RegisterNames]. The order is part of
// the format.
type Registers [registerCount]uint64

// RegisterNames names the registers of an image.
var RegisterNames = [registerCount]string{
	"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
}

// Record is one entry of the log. Which fields mean something depends on Kind; the others are zero.
type Record struct {
	// Sequence is the record's number in the log: 1, 2, 3, … An encoder does not look at it.
	Sequence uint64
	// Position is the guest's exit at which the record stands. It never falls from a record to the next.
	Position uint64
	Kind     Kind
	// Device is the index of the device among those of its kind: KindConsole to KindRandom, KindOutput.
	Device uint8
	// Of says what a KindOutput is: KindConsole, KindFrame or KindDisk.
	Of Kind
	// Cause says why the log ends: KindEnd.
	Cause Cause
	// Last says that a KindDelta is the last part of its delta.
	Last bool
	// Time is the guest clock in ns: KindClock, KindDigest, KindCheckpoint, KindEnd. It never falls from a record that
	// has it to the next.
	Time int64
	// Hash is the running hash of a KindDigest, or the hash of a KindOutput's bytes.
	Hash uint64
	// Number is a KindMemory's first page or a KindCheckpoint's number.
	Number uint64
	// Length is the number of bytes of a KindOutput.
	Length uint64
	// Registers is the image of a KindDigest, or nil.
	Registers *Registers
	// Payload is the input's bytes, the delta's part, a KindMemory's or KindDevices' hashes or a KindEnd's message. From a decoder it is
	// a part of the frame and ends with that.
	Payload []byte
}

// hasTime tells whether records of the kind carry a time.
func (k Kind) hasTime() bool {
	return k == KindClock || k == KindDigest || k == KindCheckpoint || k == KindEnd
}

// PageHashes returns how many hashes a KindMemory or KindDevices has.
func (r *Record) PageHashes() int { return len(r.Payload) / hashBytes }

// PageHash returns the hash of page Number+i, of a KindMemory, or of device i, of a KindDevices.
func (r *Record) PageHash(i int) uint64 {
	return binary.LittleEndian.Uint64(r.Payload[i*hashBytes:])
}

// AppendPageHash appends a hash to the payload of a KindMemory or KindDevices.
func AppendPageHash(payload []byte, hash uint64) []byte {
	return binary.LittleEndian.AppendUint64(payload, hash)
}

// Base is where in a log a frame's first record stands.
type Base struct {
	// Sequence is the first record's number.
	Sequence uint64
	// Position and Time are those of the records before.
	Position uint64
	Time     int64
}

// Flags of a KindDigest.
const (
	digestRegisters = 1 << 0
	digestWhole     = 1 << 1
)

// Flags of a KindDelta.
const deltaLast = 1 << 0
