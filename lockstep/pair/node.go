package pair

import "fmt"

// State is what a host is to the pair; the package comment has the diagram.
type State uint8

const (
	Joining State = iota + 1
	Syncing
	Protected
	Contending
	Paused
	Draining
	Live
	Alone
	Fenced
	Stopped
)

var stateNames = [...]string{
	Joining: "joining", Syncing: "syncing", Protected: "protected", Contending: "contending", Paused: "paused",
	Draining: "draining", Live: "live", Alone: "alone", Fenced: "fenced", Stopped: "stopped",
}

func (s State) String() string {
	if s >= Joining && s <= Stopped {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Role is which of the two machines a host has.
type Role uint8

const (
	// Primary is the host that is the guest, or wants to start it.
	Primary Role = iota + 1
	// Backup is the host that follows, or wants to.
	Backup
)

func (r Role) String() string {
	switch r {
	case Primary:
		return "primary"
	case Backup:
		return "backup"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Config is what a Node is made of. All fields count; DefaultConfig has the usual numbers.
type Config struct {
	Identity Identity
	// Owner names this run of the program on this host: no other run, before or after, has the name.
	Owner string
	Role  Role
	// Term is the latest term that the arbiter knows of, 0 if none. A Primary starts a guest in the term after it, which
	// takes the guest from whoever has it: the driver asks its user if that is another host.
	Term uint64
	// Replica names, on a primary, its disks and what it knows of writes to them: it has another name when writes may have
	// escaped its notice, so that no transfer is resumed over them. On a backup it is the name that an interrupted
	// transfer gave, and ReplicaBytes how far it got. The zero Digest is no name.
	Replica      Digest
	ReplicaBytes uint64

	BeatNS   int64 // between two heartbeats
	DetectNS int64 // silence on both paths after which a peer is lost
	StallNS  int64 // silence on the connection after which it is lost, whatever the second path says
	RetryNS  int64 // between two attempts at the arbiter or at the peer

	SlowLagRecords  uint64 // the guest is slowed when the backup lacks so many
	StallLagRecords uint64 // and stalled when it lacks so many
	MaxHeldOutputs  int    // or when so many outputs wait

	MaxRounds        uint32 // rounds of pre-copy before the final one
	FinalDirtyPages  uint64 // or as soon as so few pages are dirty
	AlarmDivergences uint64 // divergences from which each is an alarm

	// UnsafeWithoutArbiter lets a host that lost its peer be the guest without asking anyone: a partition makes two.
	UnsafeWithoutArbiter bool
}

// DefaultConfig returns the usual numbers, with everything else to be filled in.
func DefaultConfig() Config {
	const ms = 1_000_000
	return Config{
		BeatNS: 50 * ms, DetectNS: 300 * ms, StallNS: 3000 * ms, RetryNS: 500 * ms,
		SlowLagRecords: 20_000, StallLagRecords: 100_000, MaxHeldOutputs: 65_536,
		MaxRounds: 8, FinalDirtyPages: 1024, AlarmDivergences: 3,
	}
}

// rules are what a simulation breaks, to see that it notices.
type rules struct {
	skipArbiter, keepClaim, releaseEarly, ackEarly, lateGate bool
}

// Node is one host's part of the protocol. It has no goroutine; one at a time may call it.
type Node struct {
	c       Config
	broken  rules
	actions []Action
	nowNS   int64

	state State
	role  Role
	term  uint64 // Invariant: never falls

	// The connection.
	conn                              Conn // 0: none
	greeted                           bool // its Hello has come and was good
	heardNS, heardOnConnNS, beatNS    int64
	dialedNS, claimedNS, contendingNS int64

	// Terms.
	claim uint64 // the term that is claimed, 0: none. Invariant: above term while set

	// State transfer.
	sync      uint64
	round     uint32
	sending   bool // a round is being sent
	final     bool // the final round has begun
	applying  bool // the backup makes its machine of what it got
	disksDone bool
	dirty     uint64

	// The log. On a primary: logged, and what the backup has of it. On a backup: what it has.
	logged             uint64
	received, verified uint64 // Invariant: verified <= received <= logged on a primary
	released           uint64 // output caused by records up to here has left the machine

	// Invariant: gated from the cut on, until this host knows that it alone is the guest.
	gated bool
	held  []Output // Invariant: sequences do not fall; at most MaxHeldOutputs and what is made before a stall is felt
	pace  Speed

	diverged    bool // this backup's machine is not the guest's any more, and its peer is lost
	divergences uint64
}

// New returns a Node that is joining. It panics if the configuration can't work.
func New(c Config) *Node {
	switch {
	case c.Owner == "" || len(c.Owner) > MaxOwner, c.Role != Primary && c.Role != Backup,
		c.Identity.Rule != RuleReceived && c.Identity.Rule != RuleVerified:
		panic(fmt.Sprintf("pair: owner %q, role %d, rule %d", c.Owner, c.Role, c.Identity.Rule))
	case c.BeatNS <= 0 || c.DetectNS <= c.BeatNS || c.StallNS < c.DetectNS || c.RetryNS <= 0:
		panic(fmt.Sprintf("pair: beat %d, detect %d, stall %d, retry %d ns", c.BeatNS, c.DetectNS, c.StallNS, c.RetryNS))
	case c.SlowLagRecords == 0 || c.StallLagRecords < c.SlowLagRecords || c.MaxHeldOutputs <= 0 || c.MaxRounds == 0:
		panic("pair: a bound is zero, or lags are in the wrong order")
	}
	return &Node{c: c, state: Joining, role: c.Role, term: c.Term, pace: Full, claimedNS: -c.RetryNS, dialedNS: -c.RetryNS}
}

// Status is what a Node looks like from outside.
type Status struct {
	State              State
	Role               Role
	Term               uint64
	Conn               Conn
	Logged             uint64
	Received, Verified uint64
	Released           uint64
	HeldOutputs        int
	Pace               Speed
	Divergences        uint64
	Diverged           bool
	Round              uint32
	Gated              bool
	ReplicaBytes       uint64
}

// Status returns the Node's status.
func (n *Node) Status() Status {
	return Status{State: n.state, Role: n.role, Term: n.term, Conn: n.conn, Logged: n.logged, Received: n.received,
		Verified: n.verified, Released: n.released, HeldOutputs: len(n.held), Pace: n.pace, Divergences: n.divergences,
		Diverged: n.diverged, Round: n.round, Gated: n.gated, ReplicaBytes: n.c.ReplicaBytes}
}

// Step takes an event and returns what is to be done for it. What a peer sends never makes it panic; an event that the
// state has no place for is the driver's fault and does.
func (n *Node) Step(e Event) []Action {
	n.actions = nil
	switch e := e.(type) {
	case Tick:
		n.tick(e.NowNS)
	case Connected:
		n.connected(e.Conn)
	case Disconnected:
		if e.Conn == n.conn && n.conn != 0 {
			n.lose("its connection ended")
		}
	case Received:
		n.receive(e)
	case BeatReceived:
		n.receiveBeat(e)
	case Arbitrated:
		n.arbitrated(e)
	case Logged:
		n.log(e)
	case Output:
		n.output(e)
	case RoundSent, DisksSent, Cut, StateApplied:
		n.stepSync(e)
	case Executed, FoundDivergence:
		n.stepVerify(e)
	case Drained, TookOver, Discarded, Ended:
		n.stepEnd(e)
	default:
		panic(fmt.Sprintf("pair: an event of type %T", e))
	}
	return n.actions
}

func (n *Node) do(a ...Action) { n.actions = append(n.actions, a...) }

func (n *Node) send(m Message) { n.do(Send{Conn: n.conn, Term: n.term, Message: m}) }

func (n *Node) report(format string, args ...any) {
	n.do(Report{Text: fmt.Sprintf(format, args...)})
}

func (n *Node) alarm(format string, args ...any) {
	n.do(Report{Alarm: true, Text: fmt.Sprintf(format, args...)})
}

// isGuest tells whether this host's machine is the guest, or may be.
func (n *Node) isGuest() bool {
	switch n.state {
	case Live, Alone:
		return true
	case Syncing, Protected, Contending, Paused:
		return n.role == Primary
	}
	return false
}

// from panics unless the state is one of those given: a transition that the protocol does not have.
func (n *Node) from(to State, states ...State) {
	for _, s := range states {
		if n.state == s {
			n.report("%s in term %d: %s after %s", n.role, n.term, to, s)
			n.state = to
			return
		}
	}
	panic(fmt.Sprintf("pair: a %s that is %s can't become %s", n.role, n.state, to))
}

// becomeJoining waits for a peer that runs the guest.
func (n *Node) becomeJoining() {
	n.from(Joining, Joining, Syncing, Protected, Fenced)
	n.role = Backup
	n.hangup()
	n.endSync()
	n.claim, n.received, n.verified, n.released, n.logged = 0, 0, 0, 0, 0
	n.diverged, n.gated, n.held = false, false, nil
}

// becomeSyncing begins a state transfer.
func (n *Node) becomeSyncing() {
	n.from(Syncing, Joining, Alone)
	n.round, n.sending, n.final, n.applying, n.disksDone, n.dirty = 0, false, false, false, false, 0
}

// becomeProtected ends a state transfer: both hosts have the machine.
func (n *Node) becomeProtected() {
	n.from(Protected, Syncing)
	if n.role == Backup {
		n.c.Replica, n.c.ReplicaBytes = Digest{}, 0 // its own writes follow: it is no one's copy once the pair has parted
	}
	n.round, n.final, n.applying = 0, false, false
}

// becomeContending asks the arbiter who may be the guest from now on. Invariant: only a host from which another may
// have the whole machine, or that has it, comes here.
func (n *Node) becomeContending() {
	n.from(Contending, Syncing, Protected)
	n.hangup()
	n.endSync()
	n.contendingNS = n.nowNS
	n.claimTerm(n.term + 1)
}

// becomePaused stands still until the arbiter answers.
func (n *Node) becomePaused() {
	n.from(Paused, Contending)
	n.do(PauseGuest{})
	n.alarm("no arbiter answers: the guest is paused and nothing is lost; make the arbiter reachable")
}

// becomeDraining executes what the old primary had logged. The term is this host's.
func (n *Node) becomeDraining() {
	n.from(Draining, Contending, Paused)
	n.do(Drain{Through: n.received})
}

// becomeLive makes this host the guest.
func (n *Node) becomeLive() {
	n.from(Live, Draining)
	n.role = Primary
	n.diverged = false
	n.openGate()
	n.do(TakeOver{Term: n.term, Released: n.released})
}

// becomeAlone runs the guest without a backup.
func (n *Node) becomeAlone() {
	n.from(Alone, Joining, Syncing, Protected, Contending, Paused, Live)
	n.role = Primary
	n.endSync()
	n.diverged = false
	n.openGate()
	n.setPace(Full)
	n.do(RunGuest{})
	n.dialedNS = n.nowNS - n.c.RetryNS
}

// becomeFenced stops the guest at once: another host is it.
func (n *Node) becomeFenced(cause string) {
	n.from(Fenced, Joining, Syncing, Protected, Contending, Paused, Draining, Live, Alone)
	n.hangup()
	n.endSync()
	n.claim = 0
	n.gated = true
	n.c.Replica, n.c.ReplicaBytes = Digest{}, 0
	n.dropHeld()
	n.do(DiscardGuest{})
	n.alarm("fenced: %s", cause)
}

// becomeStopped is the end.
func (n *Node) becomeStopped() {
	n.from(Stopped, Joining, Syncing, Protected, Contending, Paused, Draining, Live, Alone, Fenced)
	n.endSync()
	n.claim = 0
	n.do(DiscardGuest{})
	n.hangup()
}

func (n *Node) stepEnd(e Event) {
	switch e := e.(type) {
	case Drained:
		n.drained(e.Sequence)
	case TookOver:
		if n.state == Live {
			n.c.Replica, n.c.ReplicaBytes = e.Replica, 0
			n.becomeAlone()
		}
	case Discarded:
		if n.state == Fenced {
			n.becomeJoining()
		}
	case Ended:
		n.end(e.Text)
	}
}

// drained goes live at the record at which the machine stands.
func (n *Node) drained(sequence uint64) {
	if n.state != Draining {
		return
	}
	if sequence < n.verified || sequence > n.received || sequence < n.received && !n.diverged {
		panic(fmt.Sprintf("pair: drained to record %d, verified are %d of %d", sequence, n.verified, n.received))
	}
	if n.diverged {
		n.alarm("goes live while diverged: of %d records it followed %d", n.received, n.verified)
	}
	n.logged = sequence
	n.released = min(n.released, sequence)
	n.becomeLive()
}

// end leaves in order. The driver of a guest that ended waits until no output is held: what still is, is dropped, because
// a peer that does not hear the farewell goes on with the guest.
func (n *Node) end(text string) {
	if n.conn != 0 && n.greeted {
		n.send(&Bye{Text: clip(text)})
	}
	n.dropHeld()
	n.becomeStopped()
}

func (n *Node) dropHeld() {
	if len(n.held) == 0 {
		return
	}
	ids := make([]uint64, len(n.held))
	for i, o := range n.held {
		ids[i] = o.ID
	}
	n.do(Drop{IDs: ids})
	n.held = nil
}
