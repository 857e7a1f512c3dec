package pair

// Action is what a Node tells its host to do; one of the types below. Actions are done in their order.
type Action interface{ action() }

// Send sends a message on a connection, at once.
type Send struct {
	Conn    Conn
	Term    uint64
	Message Message
}

// SendBeat sends a heartbeat on the second path.
type SendBeat struct {
	Conn Conn
	Term uint64
	Beat Beat
}

// Dial connects to the configured peer, if there is one.
type Dial struct{}

// Hangup ends a connection when what was sent on it has gone, or at once if it does not go.
type Hangup struct{ Conn Conn }

// Arbitrate claims a term for an owner. Arbitrated ends it; it may be asked again before that.
type Arbitrate struct {
	Term  uint64
	Owner string
}

// SendDisks sends the replica's blocks from an offset on, in the background and in their order, and before them what was
// written below the offset since Config.Replica got its name. DisksSent ends it.
type SendDisks struct {
	Sync uint64
	From uint64
}

// SendRound sends all pages (round 1) or those dirtied since. If Final, the guest is stopped first and Cut ends it, else
// RoundSent does.
type SendRound struct {
	Sync  uint64
	Round uint32
	Final bool
}

// AbortSync ends a state transfer. A replica keeps what it has.
type AbortSync struct{ Sync uint64 }

// AnswerAsk tells the primary the sums of what this host has in hand. The driver sends the answer, a Sums, itself; each
// question has one, and those of a realm come in the order of the questions.
type AnswerAsk struct{ Ask *Ask }

// TakeSums takes an answer to a question that the driver has sent.
type TakeSums struct{ Sums *Sums }

// StorePages keeps a part of the state.
type StorePages struct{ Pages *Pages }

// StoreDisk writes a part of the replica. It must be written when the action is done.
type StoreDisk struct{ Disk *Disk }

// ApplyState makes this host's machine of what was stored. StateApplied ends it.
type ApplyState struct {
	Sync     uint64
	Sequence uint64
}

// StoreRecords keeps records in memory, to be executed. What must be kept is kept when this action is done.
type StoreRecords struct{ Records *Records }

// Release lets outputs go, in this order.
type Release struct{ IDs []uint64 }

// Drop forgets outputs that were held: another host is the guest.
type Drop struct{ IDs []uint64 }

// Pace sets how fast the guest may run.
type Pace struct{ Pace Speed }

// Speed is how fast the guest may run.
type Speed uint8

const (
	Full Speed = iota + 1
	Slow
	Stalled
)

// RunGuest starts the guest, or lets it go on.
type RunGuest struct{}

// PauseGuest stops the guest and keeps it.
type PauseGuest struct{}

// DiscardGuest stops the guest at once and forgets it. On a fenced host Discarded ends it. Its memory may be kept in hand for
// the next transfer: it is nobody's machine any more.
type DiscardGuest struct{}

// Drain executes the records that are stored, up to Through, or to where they can be followed. Drained ends it.
type Drain struct{ Through uint64 }

// TakeOver makes this host the guest: network, storage, time. Output caused by records after Released may not have left
// the old host and is sent again. TookOver ends it.
type TakeOver struct {
	Term     uint64
	Released uint64
}

// Report is something that people should know.
type Report struct {
	Alarm bool
	Text  string
}

func (Send) action()         {}
func (SendBeat) action()     {}
func (Dial) action()         {}
func (Hangup) action()       {}
func (Arbitrate) action()    {}
func (SendDisks) action()    {}
func (SendRound) action()    {}
func (AbortSync) action()    {}
func (AnswerAsk) action()    {}
func (TakeSums) action()     {}
func (StorePages) action()   {}
func (StoreDisk) action()    {}
func (ApplyState) action()   {}
func (StoreRecords) action() {}
func (Release) action()      {}
func (Drop) action()         {}
func (Pace) action()         {}
func (RunGuest) action()     {}
func (PauseGuest) action()   {}
func (DiscardGuest) action() {}
func (Drain) action()        {}
func (TakeOver) action()     {}
func (Report) action()       {}
