package pair

import "strings"

// Version is the version of the protocol. A change that an old host would misread gives it another number.
const Version = 2

// Type says what a message is. The numbers are part of the format: they are explicit and never changed.
type Type uint8

const (
	// TypeHello says who a host is. It exists so that two hosts that could not be one machine part before they begin.
	TypeHello Type = 1
	// TypeRefuse says why a host will not go on. It exists so that the other side's user reads the cause, by name.
	TypeRefuse Type = 2
	// TypeSyncBegin begins a state transfer. It exists to give the backup its term and to say where the disks go on.
	TypeSyncBegin Type = 3
	// TypePages is a part of the machine's state. It exists because the state is larger than a message.
	TypePages Type = 4
	// TypeDisk is a part of a disk's replica. It exists apart from pages because it can be resumed.
	TypeDisk Type = 5
	// TypeRoundEnd ends a round of pages. It exists to mark the final round, and the record at which it was cut.
	TypeRoundEnd Type = 6
	// TypeReady says that the backup is the machine as of the cut. It exists to begin protection.
	TypeReady Type = 7
	// TypeRecords is a frame of the log.
	TypeRecords Type = 8
	// TypeAck says how far the backup is. It exists to let output go.
	TypeAck Type = 9
	// TypeBeat says that a host is alive. It exists because an idle guest logs nothing.
	TypeBeat Type = 10
	// TypeDiverged says that the backup's machine is another one, and that the backup leaves: it will claim no term, and joins
	// again to be brought up to date. It exists so that the divergence is counted, and nobody takes it for a death.
	TypeDiverged Type = 11
	// 12 was the type of a message of version 1.

	// TypeBye ends the pair in order: its sender will claim no term. It exists so that nobody takes an orderly end for a
	// death.
	TypeBye Type = 13
	// TypeAsk asks a backup for sums of what it has in hand: memory of a machine, or disks, of before the transfer. It exists
	// so that only what differs is sent.
	TypeAsk Type = 14
	// TypeSums answers it.
	TypeSums Type = 15
)

// Bounds of messages, in bytes.
const (
	// MaxBody bounds a message's body: a frame of the log or a part of the state, and its head.
	MaxBody = 9 << 20
	// MaxText bounds a text for people.
	MaxText = 1024
	// MaxOwner bounds a host's name.
	MaxOwner = 64
	// MaxAsk bounds how many sums are asked for at once.
	MaxAsk = 4096
	// SumBytes is the size of a sum.
	SumBytes = 16
	// KeyBytes is the size of the key of sums.
	KeyBytes = 16
)

// Digest is a SHA-256 that names something: equal digests, equal things.
type Digest [32]byte

// Condition says in a Hello what a host is. The numbers are part of the format.
type Condition uint8

const (
	// Waiting is a host without a machine, that would be a backup.
	Waiting Condition = 1
	// Running is a host that is the guest.
	Running Condition = 2
)

// Reason says why a host refuses another. The numbers are part of the format.
type Reason uint8

const (
	RefusedMachine       Reason = 1 // the machines' fingerprints differ
	RefusedCPUID         Reason = 2 // the processors differ
	RefusedConfiguration Reason = 3 // the configurations differ
	RefusedArbiter       Reason = 4 // they ask different arbiters
	RefusedRule          Reason = 5 // they release output by different rules
	RefusedSelf          Reason = 6 // the peer is this very run of the program
	RefusedTerm          Reason = 7 // the peer's term is old
	RefusedTwoLive       Reason = 8 // both are the guest in the same term
	RefusedBusy          Reason = 9 // there is a peer already
	RefusedProtocol      Reason = 10
)

var reasonTexts = [...]string{
	RefusedMachine: "the machines differ (fingerprint)", RefusedCPUID: "the processors differ (CPUID)",
	RefusedConfiguration: "the configurations differ", RefusedArbiter: "the hosts name different arbiters",
	RefusedRule: "the hosts release output by different rules", RefusedSelf: "the peer is this host itself",
	RefusedTerm: "the peer's term is old", RefusedTwoLive: "both hosts run the guest in the same term",
	RefusedBusy: "there is a peer already", RefusedProtocol: "the peer breaks the protocol",
}

func (r Reason) valid() bool { return r >= RefusedMachine && r <= RefusedProtocol }

func (r Reason) String() string {
	if r.valid() {
		return reasonTexts[r]
	}
	return "an unknown reason"
}

// Rule says when output may go. The numbers are part of the format.
type Rule uint8

const (
	// RuleReceived lets output go when the backup has the records that led to it in memory.
	RuleReceived Rule = 1
	// RuleVerified lets output go when the backup has executed them too, with equal digests.
	RuleVerified Rule = 2
)

// Identity is what two hosts of a pair must have alike.
type Identity struct {
	Machine       Digest
	CPUID         Digest
	Configuration Digest
	Arbiter       Digest
	Rule          Rule
}

// Message is one of the types below.
type Message interface{ Type() Type }

// Hello: see TypeHello.
type Hello struct {
	Identity  Identity
	Condition Condition
	// Owner names this run of the program on this host.
	Owner string
	// Replica names the disks that a replica was begun of, and ReplicaBytes how far it is whole.
	Replica      Digest
	ReplicaBytes uint64
}

// Refuse: see TypeRefuse.
type Refuse struct {
	Reason Reason
	Text   string
}

// SyncBegin: see TypeSyncBegin.
type SyncBegin struct {
	Sync      uint64
	Replica   Digest
	DiskBytes uint64 // the replica goes on from here
}

// Pages: see TypePages.
type Pages struct {
	Sync  uint64
	Round uint32
	Data  []byte
}

// Disk: see TypeDisk.
type Disk struct {
	Sync    uint64
	Through uint64 // how many bytes of the row of all disks the replica has, in their order, with this part
	Data    []byte
}

// RoundEnd: see TypeRoundEnd.
type RoundEnd struct {
	Sync  uint64
	Round uint32
	Final bool
	// Sequence is the last record that is in the state already, if Final.
	Sequence uint64
}

// Ready: see TypeReady.
type Ready struct{ Sync uint64 }

// Records: see TypeRecords.
type Records struct {
	First    uint64 // sequence number of the first record
	Count    uint32 // at least 1
	Released uint64 // output caused by records up to this one has left the primary
	Frame    []byte // as package wire writes it
}

// Last returns the sequence number of the last record.
func (r *Records) Last() uint64 { return r.First + uint64(r.Count) - 1 }

// Ack: see TypeAck.
type Ack struct{ Received, Verified uint64 } // Invariant: Verified <= Received

// Beat: see TypeBeat.
type Beat struct{ Released uint64 }

// Diverged: see TypeDiverged.
type Diverged struct {
	Sequence uint64 // the first record whose digest differs
	Text     string
}

// Realm is what sums are of. The numbers are part of the format.
type Realm uint8

const (
	// Memory is the guest's RAM: a sum is of a page of 4 KiB, and First is the number of one.
	Memory Realm = 1
	// Disks is the row of the guest's disks: a sum is of a block of 64 KiB, which is shorter at the end of a disk, and First is
	// where the first begins in the row, in bytes. All blocks are of one disk.
	Disks Realm = 2
)

func (r Realm) valid() bool { return r == Memory || r == Disks }

// Ask: see TypeAsk.
type Ask struct {
	Sync  uint64
	Realm Realm
	Count uint32 // 1 to MaxAsk
	First uint64
	// Key makes the sums ones that nobody could foresee; it is the same in all asks of a transfer.
	Key [KeyBytes]byte
}

// Sums: see TypeSums.
type Sums struct {
	Sync  uint64
	Realm Realm
	First uint64 // as asked
	// Sums are those of the first pieces that were asked for, SumBytes each; none if the backup has nothing there.
	Sums []byte
}

// Bye: see TypeBye.
type Bye struct{ Text string }

func (*Hello) Type() Type     { return TypeHello }
func (*Refuse) Type() Type    { return TypeRefuse }
func (*SyncBegin) Type() Type { return TypeSyncBegin }
func (*Pages) Type() Type     { return TypePages }
func (*Disk) Type() Type      { return TypeDisk }
func (*RoundEnd) Type() Type  { return TypeRoundEnd }
func (*Ready) Type() Type     { return TypeReady }
func (*Records) Type() Type   { return TypeRecords }
func (*Ack) Type() Type       { return TypeAck }
func (*Beat) Type() Type      { return TypeBeat }
func (*Diverged) Type() Type  { return TypeDiverged }
func (*Bye) Type() Type       { return TypeBye }
func (*Ask) Type() Type       { return TypeAsk }
func (*Sums) Type() Type      { return TypeSums }

// clip makes any text one that a message can carry.
func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), MaxText)], "") }
