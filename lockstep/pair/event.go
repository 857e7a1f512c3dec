package pair

// Conn names a connection to a peer on this host: 1, 2, 3, … as they come up.
type Conn uint64

// Event is what a host tells its Node; one of the types below.
type Event interface{ event() }

// Tick is the passing of time. NowNS is monotonic.
type Tick struct{ NowNS int64 }

// Connected says that a peer with a key of the pair is connected.
type Connected struct{ Conn Conn }

// Disconnected says that a connection has ended.
type Disconnected struct{ Conn Conn }

// Received is a message from a connection, with the term in its header. A message on a connection that the Node has left
// is ignored.
type Received struct {
	Conn    Conn
	Term    uint64
	Message Message
}

// BeatReceived is a heartbeat on the second path, whose keys are the connection's.
type BeatReceived struct {
	Conn Conn
	Term uint64
	Beat Beat
}

// Outcome is what came of a claim.
type Outcome uint8

const (
	Won Outcome = iota + 1
	Lost
	NoAnswer
)

// Arbitrated is the end of an Arbitrate.
type Arbitrated struct {
	Term    uint64
	Outcome Outcome
	// Latest is the highest term that the arbiter knows, if it answered.
	Latest uint64
}

// Logged says that the guest's log has grown, on the host that is the guest.
type Logged struct {
	First uint64
	Count uint32
	Frame []byte
}

// Output says that the guest wants to send something, caused by all records up to Sequence. IDs are the driver's.
type Output struct{ ID, Sequence uint64 }

// RoundSent says that the pages of a round are sent, and how many are dirty again.
type RoundSent struct {
	Sync       uint64
	Round      uint32
	DirtyPages uint64
}

// DisksSent says that the replica's blocks are sent; what is written from now on goes with the final round.
type DisksSent struct{ Sync uint64 }

// Cut says that the final round is sent: the guest stands still, at record Sequence.
type Cut struct {
	Sync     uint64
	Sequence uint64
}

// StateApplied says that this backup's machine is what the final round made it, replica included.
type StateApplied struct{ Sync uint64 }

// Executed says that this backup has executed records up to Sequence with equal digests.
type Executed struct{ Sequence uint64 }

// FoundDivergence says that this backup's digest differs at a record, or that it can't follow for another reason. The record
// may be the one behind the last that has come.
type FoundDivergence struct {
	Sequence uint64
	Text     string
}

// Drained says that the backup's machine stands at a record: the last one that it received or, if it diverged, the last
// one that it could follow.
type Drained struct{ Sequence uint64 }

// TookOver says that network and storage are this host's. Replica is the name of its disks, as Config's.
type TookOver struct{ Replica Digest }

// Discarded says that the machine of a fenced host is gone. In another state it is ignored.
type Discarded struct{}

// Ended says that the guest has ended, or that the user ends this host's part.
type Ended struct{ Text string }

func (Tick) event()            {}
func (Connected) event()       {}
func (Disconnected) event()    {}
func (Received) event()        {}
func (BeatReceived) event()    {}
func (Arbitrated) event()      {}
func (Logged) event()          {}
func (Output) event()          {}
func (RoundSent) event()       {}
func (DisksSent) event()       {}
func (Cut) event()             {}
func (StateApplied) event()    {}
func (Executed) event()        {}
func (FoundDivergence) event() {}
func (Drained) event()         {}
func (TookOver) event()        {}
func (Discarded) event()       {}
func (Ended) event()           {}
