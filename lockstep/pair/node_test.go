package pair

import (
	"slices"
	"strings"
	"testing"
)

// protectedPair returns both ends of a pair at record 10, at time 0.
func protectedPair() (primary, backup *Node) {
	all := inEveryState()
	return all[3], all[8]
}

func TestIllegalTransitionsPanic(t *testing.T) {
	for name, do := range map[string]func(primary, backup *Node){
		"log of a backup":      func(_, backup *Node) { backup.Step(Logged{16, 1, nil}) },
		"gap in the log":       func(primary, _ *Node) { primary.Step(Logged{17, 1, nil}) },
		"output of the future": func(primary, _ *Node) { primary.Step(Output{1, 99}) },
		"executed too far":     func(_, backup *Node) { backup.Step(Executed{99}) },
		"time steps back":      func(primary, _ *Node) { primary.Step(Tick{-1}) },
		"live out of nothing":  func(primary, _ *Node) { New(primary.c).becomeLive() },
		"draining primary":     func(primary, _ *Node) { primary.becomeDraining() },
		"fenced twice":         func(primary, _ *Node) { primary.becomeFenced(""); primary.becomeFenced("") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			primary, backup := protectedPair()
			do(primary, backup)
		})
	}
}

func TestPaceFollowsLag(t *testing.T) {
	c := DefaultConfig()
	c.Owner, c.Role, c.Identity.Rule = "x", Primary, RuleReceived
	c.SlowLagRecords, c.StallLagRecords, c.MaxHeldOutputs = 10, 20, 5
	n := New(c)
	n.state, n.role, n.gated, n.conn, n.greeted = Protected, Primary, true, 1, true
	for i, step := range []struct {
		e    Event
		want Speed
	}{
		{Logged{1, 9, nil}, Full},
		{Logged{10, 1, nil}, Slow},
		{Received{1, 0, &Ack{9, 4}}, Slow},
		{Received{1, 0, &Ack{9, 5}}, Full},
		{Logged{11, 15, nil}, Stalled},
		{Received{1, 0, &Ack{24, 14}}, Stalled},
		{Received{1, 0, &Ack{24, 15}}, Slow},
		{Received{1, 0, &Ack{25, 25}}, Full},
	} {
		n.Step(step.e)
		if n.pace != step.want {
			t.Errorf("step %d: pace %d, not %d", i, n.pace, step.want)
		}
	}
	n.Step(Logged{26, 1, nil})
	for id := range uint64(5) {
		n.Step(Output{id, 26})
	}
	if n.pace != Stalled || len(n.held) != 5 {
		t.Errorf("with %d outputs held the pace is %d", len(n.held), n.pace)
	}
	actions := n.Step(Received{1, 0, &Ack{26, 26}})
	if !slices.ContainsFunc(actions, func(a Action) bool { r, ok := a.(Release); return ok && len(r.IDs) == 5 }) || n.pace != Full {
		t.Errorf("an acknowledgement does %v, pace %d", actions, n.pace)
	}
}

// A peer whose second path beats is not dead, but without a log it is no backup.
func TestLossOfOnePath(t *testing.T) {
	for _, role := range []Role{Primary, Backup} {
		n, backup := protectedPair()
		if role == Backup {
			n = backup
		}
		lost := int64(0)
		for now := int64(0); now < 10_000*msNS && lost == 0; now += 10 * msNS {
			n.Step(Tick{now})
			n.Step(BeatReceived{1, n.term, Beat{}})
			if n.state == Contending {
				lost = now
			}
		}
		if lost <= n.c.StallNS || lost > n.c.StallNS+20*msNS {
			t.Errorf("a %v noticed after %d ms that its connection is silent", role, lost/msNS)
		}
	}
}

func TestHelloNamesWhatDiffers(t *testing.T) {
	for want, change := range map[Reason]func(h *Hello){
		RefusedMachine:       func(h *Hello) { h.Identity.Machine[31]++ },
		RefusedCPUID:         func(h *Hello) { h.Identity.CPUID[31]++ },
		RefusedConfiguration: func(h *Hello) { h.Identity.Configuration[31]++ },
		RefusedArbiter:       func(h *Hello) { h.Identity.Arbiter[31]++ },
		RefusedRule:          func(h *Hello) { h.Identity.Rule = RuleReceived },
		RefusedSelf:          func(h *Hello) { h.Owner = "self" },
		RefusedTwoLive:       func(h *Hello) { h.Condition = Running },
	} {
		n := inEveryState()[0] // alone, connected, in term 1
		h := &Hello{Identity: n.c.Identity, Condition: Waiting, Owner: "peer"}
		change(h)
		actions := n.Step(Received{1, 1, h})
		if !slices.ContainsFunc(actions, func(a Action) bool {
			s, ok := a.(Send)
			r, isRefusal := s.Message.(*Refuse)
			return ok && isRefusal && r.Reason == want
		}) || n.state != Alone || n.conn != 0 {
			t.Errorf("%v: %v, and it is %v with connection %d", want, actions, n.state, n.conn)
		}
	}
}

// What a driver says for people may be long, or no UTF-8; it must not break the messages that carry it.
func TestTextsAreClipped(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("a", MaxText-1) + "é and more", "\xff\xfe broken"} {
		primary, backup := protectedPair()
		_, ending := protectedPair()
		all := append(backup.Step(FoundDivergence{13, text}), ending.Step(Ended{text})...)
		all = append(all, primary.Step(Ended{text})...)
		sent := 0
		for _, a := range all {
			if s, ok := a.(Send); ok {
				sent++
				if _, _, err := Decode(Encode(nil, s.Term, s.Message)); err != nil {
					t.Errorf("%T: %v", s.Message, err)
				}
			}
		}
		if sent != 3 {
			t.Errorf("%d messages were sent, not 3", sent)
		}
	}
}
