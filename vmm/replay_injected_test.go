package vmm

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// These tests break determinism on purpose, in one place each, and expect that it is found by the next check and named.

// checkedEvery is after how many exits a recording with the options checked is compared.
const checkedEvery = 8

var checked = RecordOptions{
	RecorderOptions: lockstep.RecorderOptions{DigestEvery: checkedEvery}, VerifyEvery: checkedEvery, DevicesEvery: checkedEvery,
}

// nextCheck returns the position of the first record of a kind behind a position.
func nextCheck(t *testing.T, all []wire.Record, kind wire.Kind, after lockstep.Position) lockstep.Position {
	t.Helper()
	for i := range all {
		if all[i].Kind == kind && all[i].Position > uint64(after) {
			return lockstep.Position(all[i].Position)
		}
	}
	t.Fatalf("there is no %v behind exit %d", kind, after)
	return 0
}

// expect fails if a divergence is later than a position or its text lacks something.
func expect(t *testing.T, d *lockstep.Divergence, by lockstep.Position, words ...string) {
	t.Helper()
	if d.Position > by {
		t.Errorf("found at exit %d only, not by exit %d", d.Position, by)
	}
	for _, w := range append(words, fmt.Sprintf("at exit %d", d.Position), "the guest: RIP 0x", "last records: ") {
		if !strings.Contains(d.Error(), w) {
			t.Errorf("no %q in: %v", w, d)
		}
	}
}

// recordTicks records a guest with a tick that halts between.
func recordTicks(t *testing.T, options RecordOptions) (*recordedGuest, []wire.Record) {
	t.Helper()
	r := recordGuest(t, guests.Image("pit-tick"), 40, options)
	r.record(t)
	return r, records(t, r.dir)
}

// replayTo replays a recording to a position.
func replayTo(t *testing.T, dir string, p lockstep.Position) *replayedGuest {
	t.Helper()
	g := openGuest(t, dir, 0)
	g.StopAt(p, 0)
	if err := g.runToError(t); err != nil {
		t.Fatal(err)
	}
	g.StopAt(0, 0)
	return g
}

// liar is a device that gives one wrong answer.
type liar struct {
	storage
	reads, lie int
}

func (l *liar) Read(offset uint64, p []byte) {
	l.storage.Read(offset, p)
	if l.reads++; l.reads == l.lie {
		p[0] ^= 0x10
	}
}

func TestInjectedLie(t *testing.T) {
	r := recordGuest(t, guests.Image("mmio"), 0, everyExit)
	r.record(t)
	for lie := 1; lie <= 3; lie++ {
		t.Run(fmt.Sprintf("answer %d", lie), func(t *testing.T) {
			g := openBare(t, r.dir, 0)
			if err := g.pc.MMIO.Attach(guests.MMIODevice, kvm.PageBytes, &liar{lie: lie}); err != nil {
				t.Fatal(err)
			}
			d := g.diverges(t)
			expect(t, d, 4+lockstep.Position(lie)+1, "digest of all exits", "rcx is 0x")
			t.Log(d)
		})
	}
}

func TestInjectedDeviceState(t *testing.T) {
	r, all := recordTicks(t, checked)
	at := r.Position() / 2
	g := replayTo(t, r.dir, at)
	for _, part := range g.parts() {
		if part.Name != "uart" {
			continue
		}
		state, err := part.SaveState()
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(state, []byte(`"scr":0`), []byte(`"scr":1`), 1)
		if bytes.Equal(state, changed) {
			t.Fatalf("no scratch register in %s", state)
		}
		if err := part.LoadState(changed); err != nil {
			t.Fatal(err)
		}
	}
	d := g.diverges(t)
	expect(t, d, nextCheck(t, all, wire.KindDevices, at), "device uart", `"scr":1`)
	t.Log(d)
}

// flip flips a bit of guest memory.
func flip(t *testing.T, m *Machine, gpa uint64) {
	t.Helper()
	p, err := m.memory.Bytes(gpa, 1)
	if err != nil {
		t.Fatal(err)
	}
	p[0] ^= 1
}

func TestInjectedBit(t *testing.T) {
	r, all := recordTicks(t, checked)
	at := r.Position() / 2
	t.Run("in memory that the guest writes", func(t *testing.T) {
		const stack = 0x102000 // every tick is pushed at its end
		g := replayTo(t, r.dir, at)
		flip(t, g.Machine, stack)
		d := g.diverges(t)
		expect(t, d, nextCheck(t, all, wire.KindMemory, at), fmt.Sprintf("page %#x", stack))
		t.Log(d)
	})
	t.Run("in memory that nobody looks at", func(t *testing.T) {
		const unused = guestMemoryBytes - kvm.PageBytes
		g := replayTo(t, r.dir, at)
		flip(t, g.Machine, unused)
		if err := g.runToError(t); err != nil {
			t.Fatal(err)
		}
		d, err := g.playback.Compare()
		if want := fmt.Sprintf("page %#x: zero in the other", unused); err != nil || len(d) != 1 || d[0] != want {
			t.Errorf("%q, %v; want %q", d, err, want)
		}
	})
}

// listed is a log that a test has in memory.
type listed struct{ records []wire.Record }

func (l *listed) Next(r *wire.Record) error {
	if len(l.records) == 0 {
		return io.EOF
	}
	*r, l.records = l.records[0], l.records[1:]
	return nil
}

// injury is a way to break a log at record i.
type injury struct {
	name string
	// fatal says that it can't be harmless.
	fatal  bool
	injure func(all []wire.Record, i int) []wire.Record
}

var injuries = []injury{
	{"dropped", true, func(all []wire.Record, i int) []wire.Record { return slices.Delete(all, i, i+1) }},
	{"duplicated", false, func(all []wire.Record, i int) []wire.Record { return slices.Insert(all, i, all[i]) }},
	{"an exit later", false, func(all []wire.Record, i int) []wire.Record {
		all[i].Position++
		return all
	}},
	{"changed", false, func(all []wire.Record, i int) []wire.Record {
		switch r := &all[i]; r.Kind {
		case wire.KindClock:
			r.Time += 1000 // more than three counts of the PM timer
		case wire.KindConsole:
			r.Payload = append([]byte(nil), r.Payload...)
			r.Payload[0] ^= 1
		case wire.KindTick:
			r.Kind = wire.KindPower
		case wire.KindEnd:
			r.Cause = wire.EndTripleFault
		case wire.KindDigest, wire.KindMemory, wire.KindDevices:
			r.Hash, r.Payload = ^r.Hash, bytes.Repeat([]byte{1}, len(r.Payload))
		}
		return all
	}},
}

// TestInjectedIntoLog injures logs, a record at a time. A replay of an injured log must fail by the next check, or else be
// equal in everything: the guest did not look at the clock that was changed, or looked at its input later anyway.
func TestInjectedIntoLog(t *testing.T) {
	ticks, _ := recordTicks(t, checked)
	echo := recordGuest(t, guests.Image("uart-echo"), 0, checked)
	echo.start()
	echo.debug.await(t, "ready\n")
	for _, text := range []string{"hello", " world", "\x04"} {
		if err := echo.Post(typed(text)); err != nil {
			t.Fatal(err)
		}
	}
	echo.finish(t)
	for name, r := range map[string]*recordedGuest{"ticks": ticks, "echo": echo} {
		all := records(t, r.dir)
		for _, how := range injuries {
			t.Run(name+", "+how.name, func(t *testing.T) {
				found, harmless := 0, 0
				for i := range all {
					if i%max(1, len(all)/24) != 0 && i != len(all)-1 || how.spares(all[i].Kind) {
						continue
					}
					if testInjured(t, r, all, i, how) {
						found++
					} else if harmless++; how.fatal {
						t.Errorf("%v: nobody noticed", &all[i])
					}
				}
				t.Logf("%d found, %d harmless", found, harmless)
				if found == 0 {
					t.Errorf("none is found, %d are harmless", harmless)
				}
			})
		}
	}
}

// spares tells whether records of a kind are not injured in this way: a check less is no loss, nor is one made twice.
func (how *injury) spares(kind wire.Kind) bool {
	switch kind {
	case wire.KindDigest, wire.KindMemory, wire.KindDevices:
		return how.name != "changed"
	case wire.KindEnd:
		return how.name == "duplicated"
	}
	return false
}

// testInjured replays a log with record i injured and tells whether that was found.
func testInjured(t *testing.T, r *recordedGuest, all []wire.Record, i int, how injury) (found bool) {
	t.Helper()
	victim := all[i]
	g := openGuest(t, r.dir, 0)
	g.Replay(&listed{how.injure(slices.Clone(all), i)})
	err := g.runToError(t)
	if err == nil {
		var differences []string
		if differences, err = g.playback.Compare(); err == nil && len(differences) == 0 {
			if g.console.String() != r.console.String() || g.debug.String() != r.debug.String() {
				t.Errorf("%v %s: the guest says something else, and nobody noticed", &victim, how.name)
			}
			return false
		}
	}
	if by := lockstep.Position(victim.Position) + 2*checkedEvery; g.Position() > by {
		t.Errorf("%v %s: found at exit %d, %v", &victim, how.name, g.Position(), err)
	}
	return true
}
