package vmm

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
	"tandem/vmm/doctor"
)

// recordedGuest is a guest that is being recorded or has been.
type recordedGuest struct {
	*guestRun
	dir       string
	recording *Recording
	cause     Cause // how it ended
}

// recordGuest makes a machine with a guest in it that is recorded into a new folder, ready to run.
func recordGuest(t testing.TB, image []byte, param uint64, options RecordOptions) *recordedGuest {
	t.Helper()
	g := loadGuest(t, image, param)
	attach(t, g.Machine)
	r := &recordedGuest{guestRun: g, dir: filepath.Join(t.TempDir(), "recording")}
	recording, err := g.RecordTo(r.dir, options)
	if err != nil {
		t.Fatal(err)
	}
	r.recording = recording
	return r
}

// attach gives a machine the device that the guest "mmio" wants. It has no state that is saved.
func attach(t testing.TB, m *Machine) {
	t.Helper()
	if err := m.pc.MMIO.Attach(guests.MMIODevice, kvm.PageBytes, &storage{}); err != nil {
		t.Fatal(err)
	}
}

// finish waits for the guest's end and ends the recording.
func (r *recordedGuest) finish(t *testing.T) Cause {
	t.Helper()
	r.cause = r.wait(t)
	if err := r.recording.Finish(r.cause, nil); err != nil {
		t.Fatal(err)
	}
	return r.cause
}

// record runs the guest to its end.
func (r *recordedGuest) record(t *testing.T) Cause {
	t.Helper()
	r.start()
	return r.finish(t)
}

// awaitLook waits until the machine has looked for what was posted.
func (r *recordedGuest) awaitLook(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(guestDeadline); !r.live.Looked(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the machine does not look for its inputs")
		}
	}
}

// replayedGuest is a machine that follows a recording.
type replayedGuest struct {
	*guestRun
	playback *Playback
}

// openGuest makes a machine that follows a recording from a checkpoint on, ready to run.
func openGuest(t testing.TB, dir string, checkpoint uint64) *replayedGuest {
	t.Helper()
	g := openBare(t, dir, checkpoint)
	attach(t, g.Machine)
	return g
}

// openBare is openGuest without the device that the guest "mmio" wants.
func openBare(t testing.TB, dir string, checkpoint uint64) *replayedGuest {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	g := &guestRun{console: newSink(), debug: newSink(), ended: make(chan guestEnd, 1)}
	p, err := OpenRecording(system, dir, checkpoint, func(c *Config) { c.Console, c.Debug = g.console, g.debug })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	g.Machine = p.Machine
	return &replayedGuest{guestRun: g, playback: p}
}

// lateWindows tells whether this host's KVM may open the interrupt window some instructions late, by a number that
// differs from run to run. One that interprets guest code does; one that can run Linux does not.
func lateWindows(t testing.TB) bool {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	_, ok := doctor.CanRunLinux(system)
	return !ok
}

// mustEqual replays a recording from a checkpoint and fails if a digest differs, or anything at the end, or if the replay
// shows something else to the world. A recording that has a digest of each exit may diverge where an interrupt waits for a
// window that the host opens late, and nowhere else; it returns false then.
func mustEqual(t *testing.T, recorded *recordedGuest, checkpoint uint64) (equal bool) {
	t.Helper()
	g := openGuest(t, recorded.dir, checkpoint)
	return g.mustEqual(t, recorded, checkpoint)
}

func (g *replayedGuest) mustEqual(t *testing.T, recorded *recordedGuest, checkpoint uint64) (equal bool) {
	t.Helper()
	err := g.runToError(t)
	var d *lockstep.Divergence
	if errors.As(err, &d) && strings.HasSuffix(d.Guest, interruptWaits) && lateWindows(t) {
		t.Logf("exit %d of %d: this host opened the interrupt window at another instruction", d.Position, recorded.Position())
		return false
	}
	if err != nil {
		t.Fatalf("from checkpoint %d: %v", checkpoint, err)
	}
	differences, err := g.playback.Compare()
	if err != nil {
		t.Fatalf("from checkpoint %d: %v", checkpoint, err)
	}
	if len(differences) > 0 {
		t.Errorf("from checkpoint %d: the replay differs:\n%s", checkpoint, strings.Join(differences, "\n"))
	}
	if g.Position() != recorded.Position() || g.Time() != recorded.Time() {
		t.Errorf("replayed to exit %d, %d ns; recorded to exit %d, %d ns", g.Position(), g.Time(), recorded.Position(), recorded.Time())
	}
	// From a checkpoint on, what was sent before it is not sent again.
	for _, out := range []struct {
		name         string
		first, again string
	}{{"console", recorded.console.String(), g.console.String()}, {"debug port", recorded.debug.String(), g.debug.String()}} {
		if !strings.HasSuffix(out.first, out.again) || checkpoint == 0 && out.first != out.again {
			t.Errorf("from checkpoint %d: %s %q, recorded %q", checkpoint, out.name, out.again, out.first)
		}
	}
	if got, want := g.Logged(), endCauses[recorded.cause]; got != want {
		t.Errorf("the log says: %v, not: %v", got, want)
	}
	return true
}

// runToError runs the machine and returns the error with which Run ends, nil if it does not.
func (g *guestRun) runToError(t *testing.T) error {
	t.Helper()
	g.start()
	select {
	case end := <-g.ended:
		return end.err
	case <-time.After(guestDeadline):
		g.Stop()
		<-g.ended
		t.Fatal("the machine did not end")
	}
	return nil
}

// diverges runs the machine, which must leave the log's way, and returns how.
func (g *guestRun) diverges(t *testing.T) *lockstep.Divergence {
	t.Helper()
	err := g.runToError(t)
	var d *lockstep.Divergence
	if !errors.As(err, &d) {
		t.Fatalf("no divergence but %v", err)
	}
	return d
}

// records returns all records of a recording's log, and how reading them ended.
func records(t testing.TB, dir string) []wire.Record {
	t.Helper()
	file, err := os.Open(filepath.Join(dir, wire.LogName))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, err := wire.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []wire.Record
	for {
		var r wire.Record
		if err := reader.Next(&r); err != nil {
			return all
		}
		r.Payload = append([]byte(nil), r.Payload...)
		if r.Registers != nil {
			registers := *r.Registers
			r.Registers = &registers
		}
		all = append(all, r)
	}
}

// count returns how many records are of a kind.
func count(all []wire.Record, kind wire.Kind) int {
	n := 0
	for i := range all {
		if all[i].Kind == kind {
			n++
		}
	}
	return n
}
