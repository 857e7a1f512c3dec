package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// stopLog is a log in memory that takes a hash of all RAM at each forced stop and, as a source again, of the RAM of the
// machine that has applied it.
type stopLog struct {
	machine *Machine
	records []wire.Record
	hashes  []uint64
	// exit and stop are called at each exit and behind each forced stop, on the machine's goroutine.
	exit, stop func() error

	next     int
	again    *Machine
	repeated []uint64
}

// ramHash hashes all RAM that the guest "writer" and random programs use.
func ramHash(m *Machine) uint64 {
	digest := xxhash.New()
	for _, region := range m.memory.Regions() {
		if region.Base >= writtenBytes {
			break
		}
		content, err := m.memory.Bytes(region.Base, min(region.Bytes, writtenBytes-region.Base))
		if err != nil {
			panic(err)
		}
		_, _ = digest.Write(content)
	}
	return digest.Sum64()
}

// writtenBytes is how far these guests write, and a little more. To look at all RAM at each stop would make stops so dear
// that there are few.
const writtenBytes = 8 << 20

// Append implements lockstep.Log.
func (l *stopLog) Append(r *wire.Record) error {
	kept := *r
	kept.Payload = slices.Clone(r.Payload)
	if r.Registers != nil {
		registers := *r.Registers
		kept.Registers = &registers
	}
	l.records = append(l.records, kept)
	switch {
	case r.Kind == wire.KindDigest && l.exit != nil:
		return l.exit()
	case r.Kind == wire.KindDelta && r.Last:
		l.hashes = append(l.hashes, ramHash(l.machine))
		if l.stop != nil {
			return l.stop()
		}
	}
	return nil
}

// Flush implements lockstep.Log.
func (l *stopLog) Flush() error { return nil }

// Next implements lockstep.Source. The record before is used by then, and if it was a forced stop's, applied.
func (l *stopLog) Next(r *wire.Record) error {
	if l.next > 0 {
		if used := &l.records[l.next-1]; used.Kind == wire.KindDelta && used.Last {
			l.repeated = append(l.repeated, ramHash(l.again))
		}
	}
	if l.next == len(l.records) {
		return io.EOF
	}
	*r = l.records[l.next]
	l.next++
	return nil
}

// logStops gives a guest, not yet started, a log that looks at its forced stops.
func logStops(t *testing.T, g *guestRun, keep bool) *stopLog {
	t.Helper()
	if err := g.vm.KeepDirtyLog(keep); err != nil {
		t.Fatal(err)
	}
	if keep && !g.vm.KeepsDirtyLog() {
		t.Skip("this host's KVM can't keep a dirty log that was read (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)")
	}
	log := &stopLog{machine: g.Machine}
	g.Record(log, forced.RecorderOptions)
	return log
}

// mustRepeat has another machine follow the log, and fails if RAM differs after any forced stop.
func (l *stopLog) mustRepeat(t *testing.T, image []byte) {
	t.Helper()
	l.machine.recorder.End(wire.EndStopped, "")
	g := loadGuest(t, image, 0)
	l.again = g.Machine
	g.leaveWorld()
	g.Replay(l)
	err := g.runToError(t)
	if d := (*lockstep.Divergence)(nil); errors.As(err, &d) && strings.HasSuffix(d.Guest, interruptWaits) && lateWindows(t) {
		t.Logf("exit %d: this host opened the interrupt window at another instruction", d.Position)
	} else if err != nil {
		t.Fatal(err)
	} else if len(l.repeated) != len(l.hashes) {
		t.Errorf("%d forced stops were repeated of %d", len(l.repeated), len(l.hashes))
	}
	if n := len(l.repeated); !slices.Equal(l.hashes[:n], l.repeated) {
		t.Errorf("RAM after the forced stops: %x, replayed: %x", l.hashes[:n], l.repeated)
	}
}

// dirtyLogs are the two forms of the kernel's dirty log.
var dirtyLogs = map[string]bool{"kept log": true, "plain log": false}

// TestForcedStopsCarryAll compares all RAM of a recorded machine and of its replay after each forced stop: a page that was
// written and is not in a delta would show there. The guest writes to some pages all the time and to others rarely.
func TestForcedStopsCarryAll(t *testing.T) {
	const presses, least = 40, 10 // the guest exits before some of the stops
	for name, keep := range dirtyLogs {
		t.Run(name, func(t *testing.T) {
			g := loadGuest(t, guests.Image("writer"), 0)
			log := logStops(t, g, keep)
			runStops(t, g, presses)
			if len(log.hashes) < least {
				t.Errorf("%d forced stops", len(log.hashes))
			}
			_, pages, _ := g.Stats().Stops()
			t.Logf("%d forced stops, %d pages; %d hot at the end", len(log.hashes), pages, g.hotPages())
			if hot := g.hotPages(); hot == 0 {
				t.Error("no page is hot")
			}
			log.mustRepeat(t, guests.Image("writer"))
		})
	}
}

// runStops presses the power button of the guest "writer" again and again, and stops it.
func runStops(t *testing.T, g *guestRun, presses int) {
	t.Helper()
	g.start()
	g.debug.await(t, "writing\n")
	r := &recordedGuest{guestRun: g}
	for range presses {
		if err := g.Post(lockstep.Input{Kind: lockstep.KindPower}); err != nil {
			t.Fatal(err)
		}
		r.awaitLook(t)
	}
	g.Stop()
	if cause := g.wait(t); cause != CauseStopped {
		t.Fatal(cause)
	}
}

// hotPages returns how many pages' writes are not noticed.
func (g *guestRun) hotPages() (n int) {
	for i := range g.dirty {
		_ = eachBit(g.dirty[i].hot, func(uint64) error { n++; return nil })
	}
	return n
}

// TestForgottenAtExits is TestForcedStopsCarryAll for random programs whose pages are forgotten at every exit.
func TestForgottenAtExits(t *testing.T) {
	for name, keep := range dirtyLogs {
		for seed := uint64(300); seed < 306; seed++ {
			t.Run(fmt.Sprintf("%s, seed %d", name, seed), func(t *testing.T) {
				image := guests.Random(seed, 2000)
				g := loadGuest(t, image, 0)
				log := logStops(t, g, keep)
				log.exit = func() error { _, err := g.forget(); return err }
				if cause := g.run(t); cause != CauseHalt {
					t.Errorf("%v", cause)
				}
				t.Logf("%d forced stops in %d exits", len(log.hashes), g.Position())
				log.mustRepeat(t, image)
			})
		}
	}
}

// TestDirtyConsumers asks for written pages in a transfer's name and in that of memory's hashes, each now and then, and
// keeps a copy of RAM up to date with what each is told: it must never differ.
func TestDirtyConsumers(t *testing.T) {
	for name, keep := range dirtyLogs {
		t.Run(name, func(t *testing.T) {
			g := loadGuest(t, guests.Image("writer"), 0)
			log := logStops(t, g, keep)
			consumers := []*dirtyCopy{{take: g.takeDirty}, {take: g.takeForTransfer}}
			for _, c := range consumers {
				c.fill(t, g.memory)
			}
			turn, failure := 0, error(nil)
			log.stop = func() error {
				turn++
				// What a device writes counts as well.
				failure = errors.Join(failure, g.memory.WriteAt([]byte{byte(turn)}, uint64(0x600000+turn%7*kvm.PageBytes)))
				for i, c := range consumers {
					if turn%(2+3*i) == 0 {
						failure = errors.Join(failure, c.follow(g.memory))
					}
				}
				return nil
			}
			runStops(t, g, 20)
			if failure != nil || turn == 0 {
				t.Errorf("%d turns: %v", turn, failure)
			}
		})
	}
}

// dirtyCopy is a copy of RAM.
type dirtyCopy struct {
	take    func(slot int) ([]uint64, error)
	regions [][]byte
}

func (c *dirtyCopy) fill(t *testing.T, memory *kvm.Memory) {
	t.Helper()
	for slot, region := range memory.Regions() {
		if _, err := c.take(slot); err != nil {
			t.Fatal(err)
		}
		content, err := memory.Bytes(region.Base, min(region.Bytes, writtenBytes))
		if err != nil {
			t.Fatal(err)
		}
		c.regions = append(c.regions, bytes.Clone(content))
	}
}

// follow copies the pages that were written, and fails if others are.
func (c *dirtyCopy) follow(memory *kvm.Memory) error {
	for slot, region := range memory.Regions() {
		written, err := c.take(slot)
		if err != nil {
			return err
		}
		content, err := memory.Bytes(region.Base, min(region.Bytes, writtenBytes))
		if err != nil {
			return err
		}
		_ = eachBit(written, func(page uint64) error {
			copy(c.regions[slot][page*kvm.PageBytes:], content[page*kvm.PageBytes:(page+1)*kvm.PageBytes])
			return nil
		})
		if !bytes.Equal(content, c.regions[slot]) {
			return fmt.Errorf("a page of region %d was written, and nobody was told", slot)
		}
	}
	return nil
}
