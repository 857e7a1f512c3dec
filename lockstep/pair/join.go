package pair

import "fmt"

func (n *Node) connected(c Conn) {
	if c == 0 {
		panic("pair: a connection without a name")
	}
	if n.conn != 0 || n.state != Joining && n.state != Alone || n.state == Joining && n.role == Primary {
		n.do(Send{Conn: c, Term: n.term, Message: &Refuse{Reason: RefusedBusy, Text: "this host is " + n.state.String()}}, Hangup{c})
		return
	}
	n.conn, n.greeted = c, false
	n.heardNS, n.heardOnConnNS, n.beatNS = n.nowNS, n.nowNS, n.nowNS
	condition := Waiting
	if n.isGuest() {
		condition = Running
	}
	n.send(&Hello{Identity: n.c.Identity, Condition: condition, Owner: n.c.Owner, Replica: n.c.Replica, ReplicaBytes: n.c.ReplicaBytes})
}

func (n *Node) hangup() {
	if n.conn != 0 {
		n.do(Hangup{n.conn})
		n.conn, n.greeted = 0, false
	}
}

// refuse parts from the peer.
func (n *Node) refuse(r Reason, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.alarm("refused the peer: %s: %s", r, text)
	n.send(&Refuse{Reason: r, Text: clip(text)})
	n.lose("it was refused")
}

// receive takes a message. Whatever a peer sends, it costs no more than the peer's own place.
func (n *Node) receive(e Received) {
	if e.Conn != n.conn || n.conn == 0 {
		return
	}
	n.heardNS, n.heardOnConnNS = n.nowNS, n.nowNS
	if r, ok := e.Message.(*Refuse); ok {
		n.alarm("the peer refused this host: %s: %s", r.Reason, r.Text)
		n.lose("it refused this host")
		return
	}
	if h, ok := e.Message.(*Hello); ok {
		n.hello(e.Term, h)
		return
	}
	if _, ok := e.Message.(*Beat); ok && e.Term != n.term {
		return // from before the transfer gave the backup its term
	}
	_, begins := e.Message.(*SyncBegin)
	switch {
	case !n.greeted:
		n.refuse(RefusedProtocol, "message %d before a hello", e.Message.Type())
	case e.Term < n.term && !(n.state == Joining || n.state == Alone):
		n.refuse(RefusedTerm, "message %d of term %d, this is term %d", e.Message.Type(), e.Term, n.term)
	case e.Term != n.term && !begins && n.state != Joining && n.state != Alone:
		n.refuse(RefusedProtocol, "message %d of term %d, this is term %d", e.Message.Type(), e.Term, n.term)
	default:
		n.message(e.Term, e.Message)
	}
}

// message takes a message of a peer that is known.
func (n *Node) message(term uint64, m Message) {
	switch m := m.(type) {
	case *Beat:
		n.learnReleased(m.Released)
		return
	case *Bye:
		n.bye(m.Text)
		return
	}
	ok := false
	if n.role == Backup {
		ok = n.fromPrimary(term, m)
	} else {
		ok = n.fromBackup(m)
	}
	if !ok && n.conn != 0 {
		n.refuse(RefusedProtocol, "message %d to a %s that is %s", m.Type(), n.role, n.state)
	}
}

// hello checks that the two could be one machine. What differs is named.
func (n *Node) hello(term uint64, h *Hello) {
	own, other := n.c.Identity, h.Identity
	switch {
	case n.greeted:
		n.refuse(RefusedProtocol, "a second hello")
	case h.Owner == n.c.Owner:
		n.refuse(RefusedSelf, "both call themselves %q", h.Owner)
	case own.Machine != other.Machine:
		n.refuse(RefusedMachine, "%x here, %x there", own.Machine[:4], other.Machine[:4])
	case own.CPUID != other.CPUID:
		n.refuse(RefusedCPUID, "%x here, %x there", own.CPUID[:4], other.CPUID[:4])
	case own.Configuration != other.Configuration:
		n.refuse(RefusedConfiguration, "%x here, %x there", own.Configuration[:4], other.Configuration[:4])
	case own.Arbiter != other.Arbiter:
		n.refuse(RefusedArbiter, "%x here, %x there", own.Arbiter[:4], other.Arbiter[:4])
	case own.Rule != other.Rule:
		n.refuse(RefusedRule, "rule %d here, %d there", own.Rule, other.Rule)
	default:
		n.greeted = true
		n.meet(term, h)
	}
}

// meet decides by the terms of two hosts that could be one machine.
func (n *Node) meet(term uint64, h *Hello) {
	switch {
	case n.isGuest() && term > n.term:
		// Terms are won, never guessed: that this host's was followed by another means that it has lost the guest.
		n.term = term
		n.becomeFenced(fmt.Sprintf("%q knows of term %d", h.Owner, term))
	case n.isGuest() && h.Condition == Running && term == n.term:
		n.refuse(RefusedTwoLive, "%q runs the guest in term %d too: stop one by hand", h.Owner, term)
	case n.isGuest() && h.Condition == Running:
		n.refuse(RefusedTerm, "%q runs the guest in term %d, this is term %d", h.Owner, term, n.term)
	case n.isGuest():
		n.beginSync(h)
	case h.Condition == Running && term < n.term:
		n.refuse(RefusedTerm, "%q runs the guest in term %d, there has been term %d", h.Owner, term, n.term)
	case h.Condition != Running:
		n.report("%q has no guest either", h.Owner)
		n.lose("it has no guest")
	}
}

func (n *Node) bye(text string) {
	n.report("the peer left: %s", text)
	switch {
	case n.isGuest() && n.state != Alone:
		n.hangup()
		n.becomeAlone() // the peer will claim nothing
	case n.state == Syncing || n.state == Protected:
		n.do(DiscardGuest{})
		n.becomeJoining()
	default:
		n.hangup()
	}
}
