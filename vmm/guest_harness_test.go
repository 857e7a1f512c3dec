package vmm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/boot"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/testdata/guests"
)

// guestDeadline is how long a guest may take to do what a test waits for. It is far more than any needs: it ends tests
// that would never end.
const guestDeadline = 20 * time.Second

const guestMemoryBytes = 32 << 20

// guestEpochNS is 2026-01-02 03:04:05 UTC.
const guestEpochNS = 1767323045 * int64(time.Second)

// sink keeps what a device sends out. A test may wait for it from another goroutine.
type sink struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   bytes.Buffer
}

func newSink() *sink {
	s := &sink{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *sink) Output(p []byte) {
	s.mu.Lock()
	s.bytes.Write(p)
	s.changed.Broadcast()
	s.mu.Unlock()
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes.String()
}

// await waits until the sink holds a text.
func (s *sink) await(t *testing.T, text string) {
	t.Helper()
	late := false
	alarm := time.AfterFunc(guestDeadline, func() {
		s.mu.Lock()
		late = true
		s.changed.Broadcast()
		s.mu.Unlock()
	})
	defer alarm.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !strings.Contains(s.bytes.String(), text) {
		if late {
			t.Fatalf("%q did not come; there is %q", text, s.bytes.String())
		}
		s.changed.Wait()
	}
}

// guestRun is a machine with one of the small guests, and what it says.
type guestRun struct {
	*Machine
	console, debug *sink
	ended          chan guestEnd
}

type guestEnd struct {
	cause Cause
	err   error
}

// loadGuest makes a live machine with a guest in it, ready to run.
func loadGuest(t testing.TB, image []byte, param uint64) *guestRun {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	g := &guestRun{console: newSink(), debug: newSink(), ended: make(chan guestEnd, 1)}
	g.Machine, err = New(system, Config{
		MemoryBytes: guestMemoryBytes, EpochNS: guestEpochNS, Console: g.console, Debug: g.debug,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	k, err := boot.ReadKernel(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Load(k, boot.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := g.memory.WriteAt(binary.LittleEndian.AppendUint64(nil, param), guests.ParamAddress); err != nil {
		t.Fatal(err)
	}
	g.GoLive()
	return g
}

// start runs the guest on a goroutine of its own; the test ends with wait.
func (g *guestRun) start() {
	go func() {
		cause, err := g.Run()
		g.ended <- guestEnd{cause, err}
	}()
}

// wait returns the guest's end. If it does not come the machine is stopped, and the test fails.
func (g *guestRun) wait(t *testing.T) Cause {
	t.Helper()
	select {
	case end := <-g.ended:
		if end.err != nil {
			t.Fatalf("%v; debug port %q", end.err, g.debug)
		}
		return end.cause
	case <-time.After(guestDeadline):
	}
	g.Stop()
	select {
	case <-g.ended:
		t.Fatalf("the guest did not end by itself; debug port %q, console %q", g.debug, g.console)
	case <-time.After(guestDeadline):
		panic("a machine does not stop: it can't be closed either")
	}
	return 0
}

// run starts a guest and waits for its end.
func (g *guestRun) run(t *testing.T) Cause {
	t.Helper()
	g.start()
	return g.wait(t)
}

// exits returns how often an exit of a kind came.
func (g *guestRun) exits(reason kvm.Reason) uint64 {
	for _, e := range g.Stats().Exits() {
		if e.Kind == reason.String() {
			return e.Count
		}
	}
	return 0
}

func typed(text string) lockstep.Input {
	return lockstep.Input{Kind: lockstep.KindConsole, Payload: []byte(text)}
}
