package pair

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts print into them")

// scene is what a script plays in: hosts by name, and what they have sent and nobody has received.
type scene struct {
	nodes map[string]*Node
	sent  []letter
	out   strings.Builder
}

type letter struct {
	to string
	e  Received
}

var other = map[string]string{"a": "b", "b": "a"}

// TestScripts plays testdata/*.txt: commands, a line "----", and what they print, up to an empty line.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := scene{nodes: map[string]*Node{}}
			var got strings.Builder
			for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
				commands, _, _ := strings.Cut(block, "\n----")
				s.out.Reset()
				for line := range strings.SplitSeq(commands, "\n") {
					if !strings.HasPrefix(line, "#") {
						s.play(t, strings.Fields(line))
					}
				}
				fmt.Fprintf(&got, "%s\n----\n%s\n", strings.TrimSpace(commands), s.out.String())
			}
			result := strings.TrimSpace(got.String()) + "\n"
			if *rewrite {
				if err := os.WriteFile(file, []byte(result), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if result != string(text) {
				t.Errorf("the script now prints:\n%s", result)
			}
		})
	}
}

func (s *scene) play(t *testing.T, f []string) {
	t.Helper()
	who, num := "", func(i int) uint64 {
		v, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			t.Fatalf("%v: %v", f, err)
		}
		return v
	}
	if len(f) > 1 {
		who = f[1]
	}
	n := s.nodes[who]
	switch f[0] {
	case "new":
		s.nodes[who] = New(s.config(t, who, f[2:]))
	case "connect": // connect WHO CONN
		s.step(who, Connected{Conn(num(2))})
	case "disconnect":
		s.step(who, Disconnected{Conn(num(2))})
	case "deliver":
		s.deliver()
	case "lose":
		s.sent = nil
	case "protect": // a becomes the guest at record N, b its backup
		s.protect(num(1))
	case "tick": // tick WHO MS
		s.step(who, Tick{int64(num(2)) * msNS})
	case "beat":
		s.step(who, BeatReceived{n.conn, n.term, Beat{}})
	case "won":
		s.step(who, Arbitrated{n.claim, Won, n.claim})
	case "lost":
		s.step(who, Arbitrated{n.claim, Lost, n.claim})
	case "noanswer":
		s.step(who, Arbitrated{n.claim, NoAnswer, 0})
	case "round":
		s.step(who, RoundSent{n.sync, n.round, num(2)})
	case "disks":
		s.step(who, DisksSent{n.sync})
	case "cut":
		s.step(who, Cut{n.sync, num(2)})
	case "applied":
		s.step(who, StateApplied{n.sync})
	case "log": // log WHO FIRST COUNT
		s.step(who, Logged{num(2), uint32(num(3)), nil})
	case "output": // output WHO ID SEQUENCE
		s.step(who, Output{num(2), num(3)})
	case "executed":
		s.step(who, Executed{num(2)})
	case "diverged":
		s.step(who, FoundDivergence{num(2), "rip differs"})
	case "ask": // ask WHO FIRST COUNT: a question of its primary's
		s.step(who, Received{n.conn, n.term, &Ask{Sync: n.sync, Realm: Memory, First: num(2), Count: uint32(num(3))}})
	case "sums": // sums WHO FIRST COUNT: an answer of its backup's
		s.step(who, Received{n.conn, n.term, &Sums{Sync: n.sync, Realm: Memory, First: num(2), Sums: make([]byte, num(3)*SumBytes)}})
	case "drained":
		s.step(who, Drained{num(2)})
	case "tookover":
		s.step(who, TookOver{Digest{2}})
	case "discarded":
		s.step(who, Discarded{})
	case "end":
		s.step(who, Ended{"the user said so"})
	case "forge": // forge WHO TERM: records out of nowhere, of a term
		s.step(who, Received{n.conn, num(2), &Records{First: n.received + 1, Count: 1}})
	case "disk": // disk WHO THROUGH BYTES
		s.step(who, Received{n.conn, n.term, &Disk{Sync: n.sync, Through: num(2), Data: make([]byte, num(3))}})
	case "status":
		st := n.Status()
		fmt.Fprintf(&s.out, "%s: %v %v, term %d, logged %d, received %d, verified %d, released %d, held %d\n",
			who, st.Role, st.State, st.Term, st.Logged, st.Received, st.Verified, st.Released, st.HeldOutputs)
	default:
		t.Fatalf("no command %q", f)
	}
}

func (s *scene) config(t *testing.T, who string, options []string) Config {
	c := DefaultConfig()
	c.Owner, c.Role, c.Identity.Rule = who, Backup, RuleReceived
	c.SlowLagRecords, c.StallLagRecords = 10, 20
	c.Replica = Digest{1}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		v, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "primary":
			c.Role = Primary
		case "backup":
		case "owner":
			c.Owner = value
		case "term":
			c.Term = v
		case "verified":
			c.Identity.Rule = RuleVerified
		case "unsafe":
			c.UnsafeWithoutArbiter = true
		case "cpuid":
			c.Identity.CPUID[0] = byte(v)
		case "replica":
			c.ReplicaBytes = v
		case "noreplica":
			c.Replica = Digest{}
		default:
			t.Fatalf("no option %q", o)
		}
	}
	return c
}

func (s *scene) step(who string, e Event) {
	for _, a := range s.nodes[who].Step(e) {
		send, ok := a.(Send)
		if !ok {
			text := fmt.Sprintf("%T%+v", a, a)
			switch r := a.(type) {
			case StoreDisk:
				text = fmt.Sprintf("StoreDisk: %d bytes, then whole through %d", len(r.Disk.Data), r.Disk.Through)
			case AnswerAsk:
				text = fmt.Sprintf("AnswerAsk: %d from %d", r.Ask.Count, r.Ask.First)
			case TakeSums:
				text = fmt.Sprintf("TakeSums: %d bytes from %d", len(r.Sums.Sums), r.Sums.First)
			case StoreRecords:
				text = "StoreRecords: " + messageText(r.Records)
			case Report:
				text = map[bool]string{false: "report: ", true: "ALARM: "}[r.Alarm] + r.Text
			}
			fmt.Fprintf(&s.out, "%s: %s\n", who, strings.TrimPrefix(text, "pair."))
			continue
		}
		fmt.Fprintf(&s.out, "%s: send in term %d: %s\n", who, send.Term, messageText(send.Message))
		s.sent = append(s.sent, letter{other[who], Received{send.Conn, send.Term, send.Message}})
	}
}

func messageText(m Message) string {
	if h, ok := m.(*Hello); ok {
		return fmt.Sprintf("Hello{Owner:%s Condition:%d ReplicaBytes:%d}", h.Owner, h.Condition, h.ReplicaBytes)
	}
	text := strings.Replace(fmt.Sprintf("%T%+v", m, m), fmt.Sprint(Digest{1}), "1", 1)
	text = strings.Replace(text, fmt.Sprint(Digest{2}), "2", 1)
	return strings.TrimPrefix(text, "*pair.")
}

func (s *scene) deliver() {
	for len(s.sent) > 0 {
		l := s.sent[0]
		s.sent = s.sent[1:]
		s.step(l.to, l.e)
	}
}

func (s *scene) protect(sequence uint64) {
	before := s.out.String()
	s.step("a", Tick{0})
	s.step("b", Tick{0})
	s.step("a", Arbitrated{s.nodes["a"].claim, Won, s.nodes["a"].claim})
	s.step("a", Connected{1})
	s.step("b", Connected{1})
	s.deliver()
	s.step("a", DisksSent{1})
	s.step("a", RoundSent{1, 1, 0})
	s.step("a", Cut{1, sequence})
	s.deliver()
	s.step("b", StateApplied{1})
	s.deliver()
	s.out.Reset()
	fmt.Fprintf(&s.out, "%sa: %v, b: %v\n", before, s.nodes["a"].state, s.nodes["b"].state)
}
