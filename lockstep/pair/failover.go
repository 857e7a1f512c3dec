package pair

// tick sends heartbeats, finds losses and repeats what nobody answered.
func (n *Node) tick(nowNS int64) {
	if nowNS < n.nowNS {
		panic("pair: time steps back")
	}
	n.nowNS = nowNS
	if n.conn != 0 {
		switch {
		case nowNS-n.heardNS > n.c.DetectNS:
			n.lose("it is silent on both paths")
		case nowNS-n.heardOnConnNS > n.c.StallNS:
			n.lose("its connection is silent")
		case nowNS-n.beatNS >= n.c.BeatNS:
			n.beatNS = nowNS
			b := Beat{Released: n.released}
			n.send(&b)
			n.do(SendBeat{Conn: n.conn, Term: n.term, Beat: b})
		}
	}
	switch n.state {
	case Joining:
		if n.role == Primary && nowNS-n.claimedNS >= n.c.RetryNS {
			n.claimTerm(n.term + 1)
		}
	case Contending, Paused:
		if nowNS-n.claimedNS >= n.c.RetryNS {
			n.claimTerm(n.claim)
		}
		if n.state == Contending && nowNS-n.contendingNS >= n.c.RetryNS*2 {
			n.becomePaused()
		}
	case Alone:
		if n.conn == 0 && nowNS-n.dialedNS >= n.c.RetryNS {
			n.dialedNS = nowNS
			n.do(Dial{})
		}
	}
}

// receiveBeat takes a heartbeat of the second path.
func (n *Node) receiveBeat(e BeatReceived) {
	if e.Conn != n.conn || n.conn == 0 || !n.greeted || e.Term != n.term {
		return
	}
	n.heardNS = n.nowNS
	n.learnReleased(e.Beat.Released)
}

// lose parts from the peer, for whatever reason. A host that has, or whose peer may have, the whole machine asks the
// arbiter; nobody else may claim a term.
func (n *Node) lose(cause string) {
	if n.conn == 0 {
		return
	}
	n.report("lost the peer: %s", cause)
	switch {
	case n.broken.keepClaim && n.isGuest() && n.gated:
		n.hangup()
		n.becomeAlone()
	case n.state == Protected, n.state == Syncing && n.gated:
		n.becomeContending()
	case n.state == Syncing && n.role == Primary:
		n.hangup()
		n.becomeAlone()
	case n.state == Syncing:
		n.do(DiscardGuest{})
		n.becomeJoining()
	default:
		n.hangup()
	}
}

func (n *Node) claimTerm(term uint64) {
	n.claim, n.claimedNS = term, n.nowNS
	if n.c.UnsafeWithoutArbiter || n.broken.skipArbiter {
		n.alarm("term %d is taken without an arbiter: if the peer lives, there are two guests now", term)
		n.won()
		return
	}
	n.do(Arbitrate{Term: term, Owner: n.c.Owner})
}

// arbitrated takes the arbiter's answer to the claim that stands; answers to older ones mean nothing any more.
func (n *Node) arbitrated(e Arbitrated) {
	if n.claim == 0 || e.Term != n.claim {
		return
	}
	switch e.Outcome {
	case Won:
		n.won()
	case Lost:
		n.term = max(n.term, e.Latest, e.Term)
		n.becomeFenced("another host has the guest by the arbiter's word")
	case NoAnswer:
		if n.state == Contending {
			n.becomePaused()
		}
	default:
		panic("pair: an outcome that does not exist")
	}
}

// won makes the claim's term this host's. Elsewhere a term only follows what another host has won.
func (n *Node) won() {
	n.term, n.claim = n.claim, 0
	if n.role == Primary {
		n.becomeAlone()
	} else {
		n.becomeDraining()
	}
}
