package pair

import "fmt"

// fromPrimary takes a message on a backup, and tells whether it has a place here.
func (n *Node) fromPrimary(term uint64, m Message) bool {
	switch m := m.(type) {
	case *SyncBegin, *Pages, *Disk, *RoundEnd, *Ask:
		return n.syncMessage(term, m)
	case *Records:
		if n.state != Protected && !(n.state == Syncing && n.applying) || m.First != n.received+1 {
			return false
		}
		n.do(StoreRecords{m})
		n.received = m.Last()
		n.learnReleased(m.Released)
		if n.state == Protected {
			n.ack()
		}
	default:
		return false
	}
	return true
}

func (n *Node) ack() {
	a := &Ack{Received: n.received, Verified: n.verified}
	if n.broken.ackEarly {
		a.Received += 3
		a.Verified = a.Received
	}
	n.send(a)
}

// learnReleased takes what the primary says has left it. It bounds what is sent again after a failover.
func (n *Node) learnReleased(sequence uint64) {
	if n.role == Backup && (n.state == Protected || n.state == Syncing && n.applying) {
		n.released = max(n.released, min(sequence, n.received))
	}
}

// fromBackup takes a message on a primary, and tells whether it has a place here.
func (n *Node) fromBackup(m Message) bool {
	switch m := m.(type) {
	case *Ready:
		if !n.current(m.Sync) || !n.gated {
			return false
		}
		n.becomeProtected()
	case *Ack:
		if n.state != Protected || (m.Received > n.logged || m.Received < n.received || m.Verified < n.verified) && !n.broken.ackEarly {
			return false
		}
		n.received, n.verified = min(m.Received, n.logged), min(m.Verified, n.logged)
		n.release()
		n.keepPace()
	case *Sums:
		if m.Sync != n.sync || n.state != Syncing && n.state != Protected {
			return false
		}
		if !n.gated { // else nobody waits for it any more
			n.do(TakeSums{m})
		}
	case *Diverged:
		if n.state != Protected || m.Sequence <= n.verified || m.Sequence-1 > n.logged {
			return false
		}
		n.divergences++
		r := Report{Alarm: n.divergences >= n.c.AlarmDivergences}
		r.Text = fmt.Sprintf("the backup diverged at record %d (divergence %d): %q: healing it", m.Sequence, n.divergences, m.Text)
		n.do(r)
		n.hangup()
		n.becomeAlone() // as after a farewell, the backup claims nothing
	default:
		return false
	}
	return true
}

// log takes the guest's log. Where no backup may have the machine it is only counted.
func (n *Node) log(e Logged) {
	if !n.isGuest() {
		if n.state == Fenced || n.state == Stopped {
			return // the guest's goroutine has not heard of it yet
		}
		panic(fmt.Sprintf("pair: a %s that is %s logs", n.role, n.state))
	}
	if e.Count == 0 || e.First != n.logged+1 && n.gated {
		panic(fmt.Sprintf("pair: %d records from %d are logged behind record %d", e.Count, e.First, n.logged))
	}
	n.logged = e.First + uint64(e.Count) - 1
	if n.gated && n.conn != 0 {
		n.send(&Records{First: e.First, Count: e.Count, Released: n.released, Frame: e.Frame})
		n.keepPace()
	}
}

func (n *Node) output(o Output) {
	if n.state == Fenced || n.state == Stopped {
		n.do(Drop{IDs: []uint64{o.ID}})
		return
	}
	if !n.isGuest() {
		panic(fmt.Sprintf("pair: a %s that is %s makes output", n.role, n.state))
	}
	if o.Sequence > n.logged || len(n.held) > 0 && o.Sequence < n.held[len(n.held)-1].Sequence {
		panic(fmt.Sprintf("pair: output caused by record %d of %d", o.Sequence, n.logged))
	}
	n.held = append(n.held, o)
	n.release()
	n.keepPace()
}

// release lets go what the rule allows: the only place from which output leaves while a backup may have the machine.
func (n *Node) release() {
	limit := n.received
	switch {
	case !n.gated || n.broken.releaseEarly || n.broken.lateGate && n.state == Syncing:
		limit = n.logged
	case n.c.Identity.Rule == RuleVerified:
		limit = n.verified
	}
	var ids []uint64
	for len(n.held) > 0 && n.held[0].Sequence <= limit {
		ids = append(ids, n.held[0].ID)
		n.released = max(n.released, n.held[0].Sequence)
		n.held = n.held[1:]
	}
	if len(ids) > 0 {
		n.do(Release{IDs: ids})
	}
}

func (n *Node) openGate() {
	n.gated = false
	n.release()
}

// keepPace slows and stalls the guest by how far the backup lags, and by how much output waits. It goes on when half of
// that is left, so that it does not flutter. With either rule it is execution that must not lag: a failover waits for it.
func (n *Node) keepPace() {
	if !n.gated {
		n.setPace(Full)
		return
	}
	lag, held := n.logged-n.verified, len(n.held)
	switch {
	case lag >= n.c.StallLagRecords || held >= n.c.MaxHeldOutputs:
		n.setPace(Stalled)
	case n.pace == Stalled && (lag > n.c.StallLagRecords/2 || held > n.c.MaxHeldOutputs/2):
	case lag >= n.c.SlowLagRecords:
		n.setPace(Slow)
	case n.pace == Slow && lag > n.c.SlowLagRecords/2:
	default:
		n.setPace(Full)
	}
}

func (n *Node) setPace(s Speed) {
	if n.pace != s {
		n.pace = s
		n.do(Pace{s})
	}
}

func (n *Node) stepVerify(e Event) {
	switch e := e.(type) {
	case Executed:
		n.executed(e.Sequence)
	case FoundDivergence:
		if n.role != Backup || n.state != Protected && n.state != Contending && n.state != Paused && n.state != Draining {
			return
		}
		if e.Sequence <= n.verified || e.Sequence-1 > n.received || n.diverged {
			panic(fmt.Sprintf("pair: a divergence at record %d, verified are %d of %d", e.Sequence, n.verified, n.received))
		}
		n.divergences++
		if n.state != Protected {
			n.diverged = true // this machine may be all that is left of the guest
			return
		}
		n.send(&Diverged{Sequence: e.Sequence, Text: clip(e.Text)})
		n.do(DiscardGuest{})
		n.becomeJoining()
	}
}

func (n *Node) executed(sequence uint64) {
	if n.role != Backup || n.state == Joining || n.state == Fenced || n.state == Stopped {
		return
	}
	if sequence > n.received || sequence < n.verified {
		panic(fmt.Sprintf("pair: executed to record %d, verified are %d of %d", sequence, n.verified, n.received))
	}
	if n.diverged {
		return // a diverged machine verifies nothing
	}
	n.verified = sequence
	if n.state == Protected {
		n.ack()
	}
}
