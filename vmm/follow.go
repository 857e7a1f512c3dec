package vmm

import (
	"log/slog"
	"time"

	"tandem/lockstep"
)

// Following says how a machine follows a peer's.
type Following struct {
	Source lockstep.Source
	// First is the number of the source's first record.
	First uint64
	// Used is called by the machine's goroutine with the number of the last record that it is done with, when it wants
	// another.
	Used func(sequence uint64)
	// Hold is called by the machine's goroutine with all output whose record has come. The primary lets it go; it is this
	// machine's to send only if the primary is lost.
	Hold func(Output)
	Log  *slog.Logger
}

// Follow gives the machine a door to a peer's log that is still being written. Run then returns CauseLogEnd when all is
// done that had come before the source ended; if Logged is 0, the peer was lost and the machine can take over.
func (m *Machine) Follow(f Following) {
	start, base := time.Now(), m.time()
	present := func() int64 { return base + int64(time.Since(start)) }
	m.follower = lockstep.NewFollower(base, m.position, f.Source, present, func(records uint64) { f.Used(f.First - 1 + records) })
	m.door = m.follower
	m.live, m.recorder, m.digested, m.follows = nil, nil, true, f.First
	m.pageReader = nil
	m.outputs.mode, m.outputs.hold = outputFollowing, f.Hold
	m.followDisks(f.Log)
}

// TakeOver makes a machine that followed a peer's, and whose Run has returned, one with a door to the world. Its clock
// goes on from the present, as if the peer's had never stopped. What waits at its outlets leaves; of the output that was
// handed over its owner takes care.
func (m *Machine) TakeOver() error {
	now := m.follower.Present()
	m.live = lockstep.NewLive(now, m.kick)
	m.door, m.follower, m.digested = m.live, nil, false
	m.stop.Store(false)
	m.freeOutputs()
	if err := m.goLiveDisks(); err != nil {
		return err
	}
	m.startBackEnds()
	return nil
}

// Followed returns the number of the last record that the machine has used. Run has returned.
func (m *Machine) Followed() uint64 { return m.follows - 1 + m.follower.Used() }

// FollowEnd checks that a guest that has ended by itself, while it followed a peer's log, was to end there and in that way.
// Run has returned.
func (m *Machine) FollowEnd() error { return m.endsAsLogged() }
