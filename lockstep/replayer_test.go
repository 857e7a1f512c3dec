package lockstep

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"tandem/lockstep/wire"
)

// listed is a log that a test has in memory. It ends with end, io.EOF if that is nil.
type listed struct {
	records []wire.Record
	end     error
}

func (l *listed) Next(r *wire.Record) error {
	if len(l.records) == 0 {
		if l.end != nil {
			return l.end
		}
		return io.EOF
	}
	*r, l.records = l.records[0], l.records[1:]
	return nil
}

// machine plays the part of a machine at a door: a script tells it what to do, and it tells what came of it.
type machine struct {
	door    Door
	waiting Waiting
}

// play does the steps of a script, which are separated by blanks, and returns what each said:
//
//	at:N      stand at exit N
//	now       read the clock
//	time      look at the clock without reading it
//	next      take an input
//	all       take inputs until there are no more
//	exit:H    give the digest H, with registers that are all H
//	wait      wait for an input
//	due:T     have a timer that is due at T ns; off: have none
//	room:N    have room for N
//	err       tell the door's failure
func (m *machine) play(script string) string {
	var said []string
	for step := range strings.FieldsSeq(script) {
		verb, arg, _ := strings.Cut(step, ":")
		var n int64
		_, _ = fmt.Sscan(arg, &n)
		switch verb {
		case "at":
			m.door.At(Position(n))
		case "now":
			said = append(said, fmt.Sprint(m.door.Now()))
		case "time":
			said = append(said, fmt.Sprintf("=%d", m.door.Time()))
		case "next", "all":
			for {
				in, ok := m.door.Next(m.waiting)
				said = append(said, inputText(in, ok))
				if !ok || verb == "next" || in.Kind == KindEnd {
					break
				}
			}
		case "exit":
			registers := wire.Registers{}
			for i := range registers {
				registers[i] = uint64(n)
			}
			m.door.Exit(uint64(n), &registers)
		case "wait":
			m.door.Wait(m.waiting)
		case "due":
			m.waiting.Deadline, m.waiting.Armed = n, true
		case "off":
			m.waiting.Armed = false
		case "room":
			m.waiting.Room = func(Kind, uint8, []byte) int { return int(n) }
		case "err":
			said = append(said, fmt.Sprint(m.door.Err()))
		default:
			panic("no step " + step)
		}
	}
	return strings.Join(said, " ")
}

func inputText(in Input, ok bool) string {
	if !ok {
		return "-"
	}
	text := in.Kind.String()
	if len(in.Payload) > 0 {
		text += fmt.Sprintf("%d(%s)", in.Device, in.Payload)
	}
	return text
}

func rec(kind Kind, position uint64) wire.Record { return wire.Record{Kind: kind, Position: position} }

func clock(position uint64, ns int64) wire.Record {
	return wire.Record{Kind: KindClock, Position: position, Time: ns}
}

func keys(position uint64, text string) wire.Record {
	return wire.Record{Kind: KindConsole, Position: position, Payload: []byte(text)}
}

func delta(position uint64, text string, last bool) wire.Record {
	return wire.Record{Kind: KindDelta, Position: position, Payload: []byte(text), Last: last}
}

func TestReplayer(t *testing.T) {
	digest := wire.Record{Kind: wire.KindDigest, Position: 2, Hash: 7, Registers: &wire.Registers{7, 7, 8}}
	damage := errors.New("byte 9 is wrong")
	tests := []struct {
		name   string
		log    []wire.Record
		end    error
		script string
		want   string
		fails  string // what is in the door's error; "" if it has none
	}{
		{name: "the clock is what the log says, once an exit", log: []wire.Record{clock(1, 100), clock(2, 150), rec(KindEnd, 2)},
			script: "at:1 now now all at:2 time now all", want: "100 100 - =100 150 end"},
		{name: "a tick comes at the timer's deadline", log: []wire.Record{rec(KindTick, 3), rec(KindTick, 3), rec(KindEnd, 4)},
			script: "due:500 at:3 next due:900 next time", want: "tick tick =900"},
		{name: "a tick does not turn the clock back", log: []wire.Record{clock(1, 1000), rec(KindTick, 1), rec(KindEnd, 1)},
			script: "due:500 at:1 now next time", want: "1000 tick =1000"},
		{name: "a tick without a timer", log: []wire.Record{rec(KindTick, 3)},
			script: "at:3 next", want: "-", fails: "no timer of the machine is running"},
		{name: "the clock leaps", log: []wire.Record{clock(4, 1000), rec(KindEnd, 4)},
			script: "due:10 at:4 next now time", want: "clock 1000 =1000"},
		{name: "inputs wait for their exit", log: []wire.Record{keys(2, "ab"), keys(2, "c"), rec(KindEnd, 9)},
			script: "room:5 at:1 all at:2 all at:3 all", want: "- console0(ab) console0(c) - -"},
		{name: "no room for what was taken", log: []wire.Record{keys(1, "abc")},
			script: "room:2 at:1 next", want: "-", fails: "console of 3 bytes for device 0, which has room for 2"},
		{name: "an input that was not taken", log: []wire.Record{keys(1, "abc")},
			script: "room:9 at:2 all", want: "-", fails: "the log has a console at exit 1 that the machine did not take"},
		{name: "a clock that was not read", log: []wire.Record{clock(1, 5), clock(2, 6)},
			script: "at:1 at:2 now", want: "0", fails: "the log has a clock at exit 1 that the machine did not take"},
		{name: "a clock that is read and was not", log: []wire.Record{keys(2, "x")},
			script: "at:1 now", want: "0", fails: "the machine reads the clock, the log has a console at exit 2"},
		{name: "digests are equal", log: []wire.Record{digest, rec(KindEnd, 2)}, script: "at:1 exit:3 at:2 exit:7 all", want: "end"},
		{name: "digests differ", log: []wire.Record{digest, rec(KindEnd, 2)}, script: "at:2 exit:8", fails: "rax is 0x8, was 0x7"},
		{name: "a digest that the machine does not come by", log: []wire.Record{digest}, script: "at:2 next", want: "-", fails: "did not take"},
		{name: "a halted guest without an input", log: []wire.Record{keys(2, "x")}, script: "at:1 wait", fails: "the guest is halted"},
		{name: "a delta's parts are joined", log: []wire.Record{delta(1, "one ", false), delta(1, "two", true), clock(1, 9), rec(KindEnd, 1)},
			script: "at:1 next now all", want: "delta0(one two) 9 end"},
		{name: "a delta without an end", log: []wire.Record{delta(1, "one", false), keys(1, "x")}, script: "at:1 next", want: "-", fails: "a delta without an end"},
		{name: "a delta that is cut off", log: []wire.Record{delta(1, "one", false)}, end: damage, script: "at:1 next", want: "-", fails: "can't go on behind exit 1: byte 9 is wrong"},
		{name: "a log that is damaged", log: []wire.Record{keys(1, "x")}, end: damage, script: "room:9 at:1 all at:1 all", want: "console0(x) - -", fails: "can't go on behind exit 1: byte 9 is wrong"},
		{name: "a log without an end", log: []wire.Record{keys(1, "x")}, script: "room:9 at:1 all", want: "console0(x) -", fails: "can't go on behind exit 1: EOF"},
		{name: "hashes and marks", log: []wire.Record{rec(KindMemory, 1), rec(KindDevices, 1), rec(KindCheckpoint, 1), clock(1, 3), rec(KindEnd, 1)},
			script: "at:1 next next next now all", want: "memory devices checkpoint 3 end"},
		{name: "nothing is taken behind a failure", log: []wire.Record{rec(KindTick, 1), keys(1, "x"), clock(1, 4)}, script: "room:9 at:1 all all now wait", want: "- - 0", fails: "no timer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := &machine{door: NewReplayer(0, 0, &listed{slices.Clone(test.log), test.end})}
			m.play("room:1")
			if got := m.play(test.script); got != test.want {
				t.Errorf("%s gives %q, want %q", test.script, got, test.want)
			}
			switch err := m.door.Err(); {
			case test.fails == "" && err != nil:
				t.Error(err)
			case test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)):
				t.Errorf("error %v, want %q", err, test.fails)
			}
		})
	}
}

// TestReplayerEnd has a guest end by itself where the log says, and where it does not.
func TestReplayerEnd(t *testing.T) {
	end := wire.Record{Kind: KindEnd, Position: 3, Cause: wire.EndReset}
	tests := []struct {
		name  string
		log   []wire.Record
		at    Position
		fails string
	}{
		{"there", []wire.Record{end}, 3, ""},
		{"too early", []wire.Record{end}, 2, "the guest has ended, the log goes on with a end at exit 3"},
		{"before an input", []wire.Record{keys(3, "x"), end}, 3, "the log goes on with a console"},
		{"nowhere", nil, 3, "can't go on"},
	}
	for _, test := range tests {
		r := NewReplayer(0, 0, &listed{records: test.log})
		r.At(test.at)
		cause, err := r.End()
		if test.fails == "" && (err != nil || cause != wire.EndReset) {
			t.Errorf("%s: %v, %v", test.name, cause, err)
		}
		if test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.fails)
		}
	}
}

// TestDivergenceText checks that a divergence tells all that it knows.
func TestDivergenceText(t *testing.T) {
	m := &machine{door: NewReplayer(0, 0, &listed{records: []wire.Record{
		keys(1, "a"), rec(KindPower, 2), {Kind: wire.KindDigest, Position: 3, Hash: 2, Registers: &wire.Registers{1, 1, 5}},
	}})}
	m.play("room:9 at:1 all at:2 all at:3 exit:1")
	var d *Divergence
	if !errors.As(m.door.Err(), &d) {
		t.Fatal(m.door.Err())
	}
	d.Guest = "RIP 0x1234, hlt"
	text := d.Error()
	for _, want := range []string{
		"diverged from the log at exit 3: the digest of all exits is 0x1, the log's is 0x2", "the guest: RIP 0x1234, hlt",
		"rcx is 0x1, was 0x5", "last records: console at exit 1, power at exit 2, digest at exit 3",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "rax") {
		t.Errorf("a register that is equal is named:\n%s", text)
	}
}

// FuzzReplayer plays scripts of random steps against logs of random records: a log may be anything, and a machine that
// follows it may do anything, without a panic, and behind a failure nothing enters the machine.
func FuzzReplayer(f *testing.F) {
	f.Add([]byte{1, 0, 2, 1, 9, 3, 8, 1, 7}, []byte{0, 1, 2, 2, 0, 3})
	f.Add([]byte{3, 0, 9, 1, 9, 0, 13, 4}, []byte{0, 5, 4, 3, 2, 1, 0})
	f.Fuzz(func(t *testing.T, log, steps []byte) {
		source := &listed{}
		for i := 0; i+1 < len(log); i += 2 {
			r := wire.Record{Kind: Kind(log[i] & 15), Position: uint64(log[i+1] & 7), Time: int64(int8(log[i])), Last: log[i]&16 != 0,
				Device: log[i+1], Hash: uint64(log[i]), Cause: wire.Cause(log[i+1]), Payload: log[i : i+2]}
			if log[i]&32 != 0 {
				r.Registers = &wire.Registers{uint64(log[i])}
			}
			source.records = append(source.records, r)
		}
		r := NewReplayer(0, 0, source)
		var waiting Waiting
		var position Position
		registers := wire.Registers{}
		for _, s := range steps {
			failed := r.Err()
			switch s & 7 {
			case 0:
				position++
				r.At(position)
			case 1:
				_ = r.Now()
			case 2, 3:
				waiting = Waiting{Deadline: int64(s), Armed: s&16 != 0, Room: func(Kind, uint8, []byte) int { return int(int8(s)) >> 5 }}
				if in, ok := r.Next(waiting); ok && failed != nil {
					t.Fatalf("%v enters behind %v", in.Kind, failed)
				}
			case 4:
				r.Exit(uint64(s), &registers)
			case 5:
				r.Wait(waiting)
			case 6:
				_, _ = r.End()
			case 7:
				if r.Interrupted(nil) != GoOn || r.Pending() {
					t.Fatal("a replay takes an input from the world")
				}
			}
			if failed != nil && r.Err() != failed {
				t.Fatalf("%v took the place of %v", r.Err(), failed)
			}
		}
	})
}

// TestFollowerKeepsTime has a machine follow another one from a moment after it was cut off: it goes on from the other's time,
// not from that of the cut.
func TestFollowerKeepsTime(t *testing.T) {
	source := &listed{records: []wire.Record{
		{Kind: KindClock, Position: 1, Time: 1700}, // 1,000 since the cut were 200 here
		{Kind: KindClock, Position: 2, Time: 1800}, // came late
	}}
	passed := int64(0)
	f := NewFollower(500, 0, source, func() int64 { return 500 + passed }, nil)
	for i, step := range []struct {
		position        Position
		passed, present int64
	}{
		{1, 200, 1700}, {2, 400, 1900}, {3, 1000, 2500},
	} {
		passed = step.passed
		f.At(step.position)
		f.Now()
		if got := f.Present(); got != step.present {
			t.Errorf("step %d: the present is %d, not %d", i, got, step.present)
		}
	}
}
