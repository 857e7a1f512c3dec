package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// TestReplayCheckpoints records guests with checkpoints and replays from each of them to the same end.
func TestReplayCheckpoints(t *testing.T) {
	tests := []struct {
		name  string
		image []byte
		param uint64
		least int
	}{
		{"ticks", guests.Image("pit-tick"), 200, 1},
		// How many these make before they end depends on how fast the host writes: perhaps none but number 0.
		{"random", guests.Random(300, 4000), 0, 0},
		{"random, forced stops", guests.Random(302, 4000), 0, 0},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			options := everyExit
			if i == 2 {
				options = forced
			}
			options.CheckpointEvery = 4 * time.Millisecond
			r := recordGuest(t, test.image, test.param, options)
			r.record(t)
			marks := count(records(t, r.dir), wire.KindCheckpoint)
			if marks < test.least {
				t.Errorf("%d checkpoints, fewer than %d", marks, test.least)
			}
			for n := range uint64(marks + 1) {
				mustEqual(t, r, n)
			}
		})
	}
}

// TestReplayUntilAndLive replays to a position or a guest time and lets the guest live on from there: it must end as the
// guest does.
func TestReplayUntilAndLive(t *testing.T) {
	r := recordGuest(t, guests.Image("pit-tick"), 40, everyExit)
	r.record(t)
	for _, stop := range []struct {
		exit uint64
		time int64
	}{{exit: 1}, {exit: 17}, {exit: uint64(r.Position()) / 2}, {time: r.Time() / 2}} {
		g := openGuest(t, r.dir, 0)
		g.StopAt(lockstep.Position(stop.exit), stop.time)
		err := g.runToError(t)
		if err != nil {
			t.Fatal(err)
		}
		if stop.exit != 0 && uint64(g.Position()) != stop.exit || stop.time != 0 && g.Time() < stop.time {
			t.Errorf("stopped at exit %d, %d ns; wanted %+v", g.Position(), g.Time(), stop)
		}
		if g.Position() >= r.Position() {
			t.Error("there is nothing left to live for")
		}
		g.GoLive()
		if cause := g.run(t); cause != CauseHalt {
			t.Errorf("live: %v", cause)
		}
		var ticks, pm uint64
		if _, err := fmt.Sscanf(g.debug.String(), "ticks %x pm %x\n", &ticks, &pm); err != nil || ticks < 40 {
			t.Errorf("live: %q (%v)", g.debug, err)
		}
	}
}

// TestReplayTypedLive lets a guest that is typed at live on from the end of its log, and goes on typing.
func TestReplayTypedLive(t *testing.T) {
	r := recordGuest(t, guests.Image("uart-echo"), 0, everyExit)
	r.start()
	r.debug.await(t, "ready\n")
	if err := r.Post(typed("before ")); err != nil {
		t.Fatal(err)
	}
	r.console.await(t, "BEFORE ")
	r.Stop()
	r.finish(t)
	g := openGuest(t, r.dir, 0)
	if err := g.runToError(t); err != nil {
		t.Fatal(err)
	}
	if err := g.Post(typed("x")); !errors.Is(err, ErrReplaying) {
		t.Errorf("typing at a replay: %v", err)
	}
	g.GoLive()
	g.start()
	if err := g.Post(typed("after\x04")); err != nil {
		t.Fatal(err)
	}
	if cause := g.wait(t); cause != CauseHalt {
		t.Error(cause)
	}
	if got := g.console.String(); got != "BEFORE AFTER" {
		t.Errorf("console %q", got)
	}
}

// TestSavedIsRestored stops guests at positions all over their lives, saves them, makes other machines of what was saved,
// compares everything.
func TestSavedIsRestored(t *testing.T) {
	for _, name := range append(guests.Names(), "random") {
		t.Run(name, func(t *testing.T) {
			for _, position := range []uint64{0, 1, 2, 5, 13, 34, 89} {
				if neverGetsTo(name, position) {
					continue
				}
				image := guests.Random(400+position, 600)
				if name != "random" {
					image = guests.Image(name)
				}
				testSaved(t, image, position)
			}
		})
	}
}

// neverGetsTo tells whether a guest causes so few exits by itself.
func neverGetsTo(name string, position uint64) bool {
	switch name {
	case "compute", "sleep", "writer":
		return position > 8
	case "uart-echo":
		return position > 20
	}
	return false
}

func testSaved(t *testing.T, image []byte, position uint64) {
	t.Helper()
	g := loadGuest(t, image, 8)
	attach(t, g.Machine)
	if position > 0 {
		g.StopAt(lockstep.Position(position), 0)
		g.run(t)
	}
	path := filepath.Join(t.TempDir(), "saved")
	base := wire.Base{Sequence: 7, Position: uint64(g.Position()), Time: g.Time()}
	if err := g.SaveFile(path, 3, base); err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, place := loadSaved(t, saved)
	if place.Number != 3 || place.Base != base {
		t.Errorf("saved at %+v of checkpoint %d, not at %+v", place.Base, place.Number, base)
	}
	if d := differences(t, g.Machine, other.Machine); len(d) > 0 {
		t.Errorf("at exit %d what is restored differs:\n%s", g.Position(), strings.Join(d, "\n"))
	}
}

// loadSaved makes a machine of a checkpoint's bytes.
func loadSaved(t testing.TB, saved []byte) (*guestRun, wire.Checkpoint) {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	r := bytes.NewReader(saved)
	place, err := wire.ReadCheckpoint(r)
	if err != nil {
		t.Fatal(err)
	}
	config, err := ConfigOf(&place.Header)
	if err != nil {
		t.Fatal(err)
	}
	g := &guestRun{console: newSink(), debug: newSink(), ended: make(chan guestEnd, 1)}
	config.Console, config.Debug = g.console, g.debug
	if g.Machine, err = New(system, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	attach(t, g.Machine)
	if err := g.LoadSaved(r); err != nil {
		t.Fatal(err)
	}
	return g, place
}

func differences(t testing.TB, a, b *Machine) []string {
	t.Helper()
	x, err := a.Final()
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Final()
	if err != nil {
		t.Fatal(err)
	}
	return x.Differences(y)
}
