package pair

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var writeGolden = flag.Bool("write-golden", false, "write the golden messages of a new version of the protocol")

const goldenFile = "testdata/version2.hex"

func allMessages() []Message {
	d := func(b byte) (d Digest) {
		for i := range d {
			d[i] = b
		}
		return d
	}
	return []Message{
		&Hello{Identity: Identity{d(1), d(2), d(3), d(4), RuleVerified}, Condition: Running, Owner: "hosta-1", Replica: d(5), ReplicaBytes: 1 << 33},
		&Refuse{Reason: RefusedCPUID, Text: "other model"},
		&SyncBegin{Sync: 7, Replica: d(6), DiskBytes: 4096},
		&Pages{Sync: 7, Round: 2, Data: []byte("pages")},
		&Disk{Sync: 7, Through: 1 << 40, Data: []byte("block")},
		&RoundEnd{Sync: 7, Round: 3, Final: true, Sequence: 99},
		&Ready{Sync: 7},
		&Records{First: 100, Count: 2, Released: 90, Frame: []byte("frame")},
		&Ack{Received: 101, Verified: 100},
		&Beat{Released: 100},
		&Diverged{Sequence: 101, Text: "rip"},
		&Bye{Text: "the guest powered off"},
		&Ask{Sync: 7, Realm: Disks, Count: MaxAsk, First: 1 << 41, Key: [KeyBytes]byte{9, 8, 7}},
		&Sums{Sync: 7, Realm: Memory, First: 1 << 20, Sums: []byte("a sum of a page.another one here")},
	}
}

func TestMessagesComeBack(t *testing.T) {
	for _, m := range allMessages() {
		term, got, err := Decode(Encode(nil, 42, m))
		if err != nil || term != 42 || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: term %d, %+v, %v", m, term, got, err)
		}
	}
}

// Hosts of the same version must understand each other for ever.
func TestGoldenMessages(t *testing.T) {
	var lines []string
	for _, m := range allMessages() {
		lines = append(lines, hex.EncodeToString(Encode(nil, 42, m)))
	}
	text := strings.Join(lines, "\n") + "\n"
	if *writeGolden {
		if err := os.WriteFile(goldenFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the messages' bytes have changed:\n%s", text)
	}
}

func TestDecodeRefusesDamage(t *testing.T) {
	for _, m := range allMessages() {
		good := Encode(nil, 42, m)
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if _, got, err := Decode(bad); err == nil {
					t.Fatalf("%T with bit %d of byte %d changed is %+v", m, bit, i, got)
				}
			}
		}
		for n := range good {
			if _, _, err := Decode(good[:n]); err == nil {
				t.Fatalf("%T cut to %d of %d bytes decodes", m, n, len(good))
			}
		}
	}
}

func TestDecodeRefusesBodies(t *testing.T) {
	for _, c := range []struct {
		name string
		t    Type
		body []byte
	}{
		{"ack that verifies more than it has", TypeAck, words([]uint32{1, 0, 2, 0})},
		{"records from 0", TypeRecords, make([]byte, 24)},
		{"no records", TypeRecords, words([]uint32{1, 0, 0, 0, 0, 0})},
		{"flags of a round's end", TypeRoundEnd, words([]uint32{1, 0, 1, 2, 0, 0})},
		{"reserved bytes of pages", TypePages, words([]uint32{1, 0, 1, 1})},
		{"no reason", TypeRefuse, make([]byte, 8)},
		{"text too long", TypeBye, make([]byte, MaxText+1)},
		{"text that is no UTF-8", TypeBye, []byte{0xff}},
		{"a short hello", TypeHello, make([]byte, 175)},
		{"a type that is no more", 12, nil},
		{"a question for nothing", TypeAsk, append(words([]uint32{1, 0, 1, 0, 0, 0}), make([]byte, KeyBytes)...)},
		{"a question for too much", TypeAsk, append(words([]uint32{1, 0, 1, MaxAsk + 1, 0, 0}), make([]byte, KeyBytes)...)},
		{"a question of no realm", TypeAsk, append(words([]uint32{1, 0, 3, 1, 0, 0}), make([]byte, KeyBytes)...)},
		{"reserved bytes of a question", TypeAsk, append(words([]uint32{1, 0, 0x101, 1, 0, 0}), make([]byte, KeyBytes)...)},
		{"a question beyond all", TypeAsk, append(words([]uint32{1, 0, 1, 1, 0, 1 << 31}), make([]byte, KeyBytes)...)},
		{"sums of no realm", TypeSums, make([]byte, 24)},
		{"reserved bytes of sums", TypeSums, words([]uint32{1, 0, 1, 1, 0, 0})},
		{"half a sum", TypeSums, append(words([]uint32{1, 0, 1, 0, 0, 0}), make([]byte, SumBytes/2)...)},
		{"too many sums", TypeSums, append(words([]uint32{1, 0, 1, 0, 0, 0}), make([]byte, (MaxAsk+1)*SumBytes)...)},
		{"a longer beat", TypeBeat, make([]byte, 9)},
	} {
		if m, err := decodeBody(c.t, c.body); err == nil {
			t.Errorf("%s: decodes to %+v", c.name, m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range allMessages() {
		p := Encode(nil, 42, m)
		f.Add(p[6], p[HeaderBytes:])
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		if kind == 0 || kind > byte(TypeSums) {
			Decode(body)
			return
		}
		m, err := decodeBody(Type(kind), body)
		if err != nil {
			return
		}
		if again := Encode(nil, 1, m); !bytes.Equal(again[HeaderBytes:], body) {
			t.Errorf("%x decodes to %+v, which is %x", body, m, again[HeaderBytes:])
		}
		// A peer sends what it likes in any state: nothing of it may panic.
		for _, n := range inEveryState() {
			n.Step(Received{Conn: n.conn, Term: n.term, Message: m})
		}
	})
}

// inEveryState returns nodes with a peer in the states that have one.
func inEveryState() []*Node {
	c := DefaultConfig()
	c.Owner, c.Identity.Rule = "self", RuleVerified
	made := func(role Role, events ...Event) *Node {
		c.Role = role
		n := New(c)
		for _, e := range events {
			n.Step(e)
		}
		return n
	}
	peer := func(condition Condition, term uint64) []Event {
		return []Event{Connected{1}, Received{1, term, &Hello{Identity: c.Identity, Condition: condition, Owner: "peer"}}}
	}
	alone := []Event{Tick{0}, Arbitrated{Term: 1, Outcome: Won}}
	syncing := append(append([]Event{}, alone...), peer(Waiting, 0)...)
	cut := append(append([]Event{}, syncing...), RoundSent{1, 1, 0}, DisksSent{1}, Cut{1, 10})
	protected := append(append([]Event{}, cut...), Received{1, 1, &Ready{1}}, Logged{11, 5, nil})
	joining := peer(Running, 1)
	following := append(append([]Event{}, joining...), Received{1, 1, &SyncBegin{Sync: 1}})
	applying := append(append([]Event{}, following...), Received{1, 1, &RoundEnd{Sync: 1, Round: 1, Final: true, Sequence: 10}})
	ready := append(append([]Event{}, applying...), StateApplied{1}, Received{1, 1, &Records{First: 11, Count: 5}}, Executed{12})
	return []*Node{
		made(Primary, append(append([]Event{}, alone...), Connected{1})...), made(Primary, syncing...), made(Primary, cut...),
		made(Primary, protected...), made(Backup, Connected{1}), made(Backup, joining...), made(Backup, following...),
		made(Backup, applying...), made(Backup, ready...), made(Backup, append(ready, Disconnected{1}, FoundDivergence{13, "rip"})...),
	}
}

func TestInEveryState(t *testing.T) {
	want := []State{Alone, Syncing, Syncing, Protected, Joining, Joining, Syncing, Syncing, Protected, Contending}
	for i, n := range inEveryState() {
		if n.state != want[i] || (n.conn == 1) != (n.state != Contending) {
			t.Errorf("node %d is %v with connection %d, not %v", i, n.state, n.conn, want[i])
		}
	}
}
