package pair

import "fmt"

// beginSync makes a backup of a peer, on the host that is the guest.
func (n *Node) beginSync(h *Hello) {
	n.becomeSyncing()
	n.sync++
	from := uint64(0)
	if h.Replica == n.c.Replica && h.Replica != (Digest{}) {
		from = h.ReplicaBytes
	}
	n.send(&SyncBegin{Sync: n.sync, Replica: n.c.Replica, DiskBytes: from})
	n.do(SendDisks{Sync: n.sync, From: from})
	n.nextRound(false)
}

func (n *Node) nextRound(final bool) {
	n.round++
	n.sending, n.final = true, final
	n.do(SendRound{Sync: n.sync, Round: n.round, Final: final})
}

// endSync forgets a state transfer that is under way.
func (n *Node) endSync() {
	if n.round > 0 || n.applying {
		n.do(AbortSync{Sync: n.sync})
	}
	n.round, n.sending, n.final, n.applying = 0, false, false, false
}

// current tells whether an event is of the transfer that is under way, not of one that was given up.
func (n *Node) current(sync uint64) bool { return n.state == Syncing && sync == n.sync }

func (n *Node) stepSync(e Event) {
	switch e := e.(type) {
	case RoundSent:
		if !n.current(e.Sync) || e.Round != n.round {
			return
		}
		n.sending, n.dirty = false, e.DirtyPages
		n.send(&RoundEnd{Sync: n.sync, Round: n.round})
		n.afterRound()
	case DisksSent:
		if !n.current(e.Sync) {
			return
		}
		n.disksDone = true
		if !n.sending && !n.final {
			n.nextRound(n.enough())
		}
	case Cut:
		n.cut(e)
	case StateApplied:
		n.stateApplied(e)
	}
}

// enough tells whether the next round may be the final one.
func (n *Node) enough() bool {
	return n.disksDone && (n.dirty <= n.c.FinalDirtyPages || n.round >= n.c.MaxRounds)
}

// afterRound sends the next one, unless only the disks are waited for.
func (n *Node) afterRound() {
	if n.enough() {
		n.nextRound(true)
	} else if n.dirty > n.c.FinalDirtyPages && n.round < n.c.MaxRounds {
		n.nextRound(false)
	}
}

// cut is the instant from which the backup's state and the log are the machine. The gate closes here, not when the
// backup is ready: from here on it may have all of the machine at any time, and win a term.
func (n *Node) cut(e Cut) {
	if !n.current(e.Sync) {
		return
	}
	if !n.final || n.gated || e.Sequence < n.logged {
		panic(fmt.Sprintf("pair: a cut at record %d of %d that was not asked for", e.Sequence, n.logged))
	}
	n.gated, n.sending = true, false
	n.logged, n.received, n.verified, n.released = e.Sequence, e.Sequence, e.Sequence, e.Sequence
	n.send(&RoundEnd{Sync: n.sync, Round: n.round, Final: true, Sequence: e.Sequence})
	n.do(RunGuest{})
}

// syncMessage takes a primary's messages of a state transfer.
func (n *Node) syncMessage(term uint64, m Message) bool {
	switch m := m.(type) {
	case *SyncBegin:
		if n.state != Joining || term < n.term {
			return false
		}
		n.term, n.sync = max(term, n.term), m.Sync
		n.c.Replica, n.c.ReplicaBytes = m.Replica, m.DiskBytes
		n.becomeSyncing()
		n.round = 1
	case *Pages:
		if !n.current(m.Sync) || n.applying {
			return false
		}
		n.do(StorePages{m})
	case *Ask:
		if !n.current(m.Sync) || n.applying {
			return false
		}
		n.do(AnswerAsk{m})
	case *Disk:
		if !n.current(m.Sync) || n.applying {
			return false
		}
		n.c.ReplicaBytes = max(n.c.ReplicaBytes, m.Through)
		n.do(StoreDisk{m})
	case *RoundEnd:
		if !n.current(m.Sync) || n.applying || m.Round != n.round {
			return false
		}
		n.round++
		if m.Final {
			n.applying = true
			n.received, n.verified, n.released = m.Sequence, m.Sequence, m.Sequence
			n.do(ApplyState{Sync: n.sync, Sequence: m.Sequence})
		}
	}
	return true
}

func (n *Node) stateApplied(e StateApplied) {
	if !n.current(e.Sync) || !n.applying {
		return
	}
	n.becomeProtected()
	n.send(&Ready{Sync: n.sync})
	n.ack()
}
