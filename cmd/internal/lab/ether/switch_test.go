package ether

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// manualClock stands still until it is advanced.
type manualClock struct {
	mu      sync.Mutex
	now     time.Time
	waiters []waiter
	waiting chan struct{} // gets one for each call of After
}

type waiter struct {
	at time.Time
	ch chan time.Time
}

func newManualClock() *manualClock {
	return &manualClock{now: time.Unix(1000, 0), waiting: make(chan struct{}, 1000)}
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waiters = append(c.waiters, waiter{c.now.Add(d), ch})
	c.waiting <- struct{}{}
	return ch
}

func (c *manualClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool {
		if w.at.After(c.now) {
			return false
		}
		w.ch <- c.now
		return true
	})
}

const testTimeout = 30 * time.Second

// bench is a switch with ports a, b, c, each behind which one host sends.
type bench struct {
	t     *testing.T
	clock *manualClock
	s     *Switch
	ports map[string]*Port
	got   map[string]chan []byte
}

func newBench(t *testing.T, seed uint64, names ...string) *bench {
	t.Helper()
	b := &bench{t: t, clock: newManualClock(), ports: map[string]*Port{}, got: map[string]chan []byte{}}
	b.s = NewSwitch(b.clock, seed)
	t.Cleanup(b.s.Close)
	for _, n := range names {
		p, err := b.s.Attach(n)
		if err != nil {
			t.Fatal(err)
		}
		ch := make(chan []byte, 10000)
		b.ports[n], b.got[n] = p, ch
		go func() {
			for {
				f, err := p.ReadFrame()
				if err != nil {
					close(ch)
					return
				}
				ch <- f
			}
		}()
	}
	return b
}

// frame makes a frame between the hosts behind two ports; "*" is broadcast.
func frame(from, to, text string) []byte {
	hw := func(n string) []byte {
		if n == "*" {
			return bytes.Repeat([]byte{0xff}, 6)
		}
		return []byte{0x52, 0x54, 0, 0, 0, n[0]}
	}
	return slices.Concat(hw(to), hw(from), []byte{0x88, 0xb5}, []byte(text))
}

func (b *bench) send(from, to, text string) {
	b.t.Helper()
	if err := b.ports[from].WriteFrame(frame(from, to, text)); err != nil {
		b.t.Fatal(err)
	}
}

// expect waits for the texts of the frames that a port gets, in order.
func (b *bench) expect(port string, texts ...string) {
	b.t.Helper()
	for _, want := range texts {
		select {
		case f := <-b.got[port]:
			if got := string(f[minFrameBytes:]); got != want {
				b.t.Fatalf("%s got %q, want %q", port, got, want)
			}
		case <-time.After(testTimeout):
			b.t.Fatalf("%s didn't get %q", port, want)
		}
	}
}

// expectNothingBefore checks that a port's next frame is the marker, which is
// sent after all that must not arrive.
func (b *bench) expectNothingBefore(from, port, marker string) {
	b.t.Helper()
	b.send(from, port, marker)
	b.expect(port, marker)
}

func (b *bench) learnAll() {
	b.t.Helper()
	for _, n := range []string{"a", "b", "c"} {
		b.send(n, "*", "hello from "+n)
		for _, o := range []string{"a", "b", "c"} {
			if o != n {
				b.expect(o, "hello from "+n)
			}
		}
	}
}

func TestLearning(t *testing.T) {
	b := newBench(t, 1, "a", "b", "c")
	b.send("a", "b", "1") // unknown: flooded
	b.expect("b", "1")
	b.expect("c", "1")
	b.send("b", "a", "2") // known
	b.expect("a", "2")
	b.send("a", "b", "3")
	b.expect("b", "3")
	b.send("c", "*", "4")
	b.expect("a", "4")
	b.expect("b", "4") // and c saw neither 2 nor 3 nor its own
	b.send("a", "c", "5")
	b.expect("c", "5")
	// a's host moves to port c: frames for it follow.
	if err := b.ports["c"].WriteFrame(frame("a", "*", "moved")); err != nil {
		t.Fatal(err)
	}
	b.expect("a", "moved")
	b.expect("b", "moved")
	b.send("b", "a", "6")
	b.expect("c", "6")
	// Closing the port forgets what was behind it: flooded again.
	b.ports["c"].Close()
	b.send("b", "a", "7")
	b.expect("a", "7")
}

func TestFramesOfImpossibleSizesAreLost(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	for _, n := range []int{0, 1, minFrameBytes - 1, MaxFrameBytes + 1} {
		if err := b.ports["a"].WriteFrame(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	big := frame("a", "b", strings.Repeat("x", MaxFrameBytes-minFrameBytes))
	if err := b.ports["a"].WriteFrame(big); err != nil {
		t.Fatal(err)
	}
	b.expect("b", string(big[minFrameBytes:]))
}

func TestSenderMayReuseItsBuffer(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	if err := b.s.SetPair("a", "b", Link{Delay: time.Second}); err != nil {
		t.Fatal(err)
	}
	f := frame("a", "b", "before")
	if err := b.ports["a"].WriteFrame(f); err != nil {
		t.Fatal(err)
	}
	copy(f[minFrameBytes:], "after!")
	b.clock.advance(time.Second)
	b.expect("b", "before")
}

func TestCut(t *testing.T) {
	cut := Link{Cut: true}
	tests := []struct {
		name string
		set  func(*Switch) error
		// which directions still pass
		ab, ba, ac, ca bool
	}{
		{"pair", func(s *Switch) error { return s.SetPair("a", "b", cut) }, false, false, true, true},
		{"one way", func(s *Switch) error { return s.SetOneWay("a", "b", cut) }, false, true, true, true},
		{"port", func(s *Switch) error { return s.SetPort("a", cut) }, false, false, false, false},
		{"other port", func(s *Switch) error { return s.SetPort("c", cut) }, true, true, false, false},
		{"healed", func(s *Switch) error {
			err := errors.Join(s.SetPort("a", cut), s.SetPair("a", "b", cut))
			s.Heal()
			return err
		}, true, true, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, 1, "a", "b", "c")
			b.learnAll()
			if err := tt.set(b.s); err != nil {
				t.Fatal(err)
			}
			lost := map[string]uint64{}
			for _, d := range []struct {
				from, to string
				passes   bool
			}{{"a", "b", tt.ab}, {"b", "a", tt.ba}, {"a", "c", tt.ac}, {"c", "a", tt.ca}} {
				b.send(d.from, d.to, "x")
				if d.passes {
					b.expect(d.to, "x")
				} else {
					lost[d.to]++
				}
			}
			b.s.Heal()
			for _, n := range []string{"a", "b", "c"} {
				from := "b"
				if n == "b" {
					from = "a"
				}
				b.expectNothingBefore(from, n, "healed")
				if got := b.ports[n].Counters().CutFrames; got != lost[n] {
					t.Errorf("%s counts %d frames cut, want %d", n, got, lost[n])
				}
			}
		})
	}
}

func TestDelay(t *testing.T) {
	b := newBench(t, 1, "a", "b", "c")
	b.learnAll()
	if err := errors.Join(b.s.SetPair("a", "b", Link{Delay: 50 * time.Millisecond}),
		b.s.SetPort("a", Link{Delay: 10 * time.Millisecond})); err != nil {
		t.Fatal(err)
	}
	b.send("a", "b", "slow") // due at 60 ms
	<-b.clock.waiting
	b.send("c", "b", "quick") // overtakes it
	b.expect("b", "quick")
	b.clock.advance(59 * time.Millisecond)
	b.expectNothingBefore("c", "b", "not yet")
	b.clock.advance(time.Millisecond)
	b.expect("b", "slow")
}

func TestDelayKeepsOrder(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	if err := b.s.SetPair("a", "b", Link{Delay: time.Second}); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		b.send("a", "b", want[i])
	}
	b.clock.advance(time.Second)
	b.expect("b", want...)
}

func TestRate(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	// A frame of 1000 bytes takes 8 ms at 1 Mbit/s.
	if err := b.s.SetOneWay("a", "b", Link{RateBitsPerSecond: 1e6}); err != nil {
		t.Fatal(err)
	}
	body := func(i int) string { return fmt.Sprint(i) + strings.Repeat("x", 1000-minFrameBytes-1) }
	for i := range 3 {
		b.send("a", "b", body(i))
	}
	for i := range 3 {
		<-b.clock.waiting
		b.clock.advance(7 * time.Millisecond)
		select {
		case f := <-b.got["b"]:
			t.Fatalf("frame %q came early", f[minFrameBytes])
		default:
		}
		b.clock.advance(time.Millisecond)
		b.expect("b", body(i))
	}
	b.send("b", "a", "not limited")
	b.expect("a", "not limited")
}

func TestDropIsSeeded(t *testing.T) {
	run := func(seed uint64, noise bool) string {
		b := newBench(t, seed, "a", "b", "c")
		b.learnAll()
		if err := errors.Join(b.s.SetPair("a", "b", Link{Drop: 0.3}), b.s.SetPair("c", "b", Link{Drop: 0.3})); err != nil {
			t.Fatal(err)
		}
		const frames = 1000
		for i := range frames {
			b.send("a", "b", fmt.Sprint(i))
			if noise {
				b.send("c", "b", "noise")
			}
		}
		b.s.Heal()
		b.send("a", "b", "end")
		var got []string
		for f := range b.got["b"] {
			text := string(f[minFrameBytes:])
			if text == "end" {
				break
			}
			if text != "noise" {
				got = append(got, text)
			}
		}
		if len(got) < 600 || len(got) > 800 {
			t.Errorf("seed %d: %d of %d frames passed a link that drops 30 %%", seed, len(got), frames)
		}
		if dropped := b.ports["b"].Counters().DroppedFrames; !noise && dropped != uint64(frames-len(got)) {
			t.Errorf("counted %d drops of %d", dropped, frames-len(got))
		}
		return strings.Join(got, " ")
	}
	first := run(7, false)
	if run(7, false) != first {
		t.Error("one seed gave two sequences")
	}
	if run(7, true) != first {
		t.Error("traffic of another port shifted the sequence")
	}
	if run(8, false) == first {
		t.Error("two seeds gave one sequence")
	}
}

// TestFrozenReaderLosesOnlyItsOwn fills the queue of a port that nobody reads.
func TestFrozenReaderLosesOnlyItsOwn(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	frozen, err := b.s.Attach("frozen")
	if err != nil {
		t.Fatal(err)
	}
	const extra = 10
	for i := range queueFrames + extra {
		b.send("a", "*", fmt.Sprint(i))
		b.expect("b", fmt.Sprint(i))
	}
	// One frame may have left the queue to wait for a reader.
	if lost := frozen.Counters().OverflowFrames; lost != extra && lost != extra-1 {
		t.Errorf("%d frames were lost, want %d or one less", lost, extra)
	}
	if lost := b.ports["b"].Counters().OverflowFrames; lost != 0 {
		t.Errorf("the other port lost %d", lost)
	}
}

func TestCounters(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	b.send("a", "b", "12")
	b.send("a", "b", "3456")
	b.expect("b", "12", "3456")
	if got, want := b.ports["a"].Counters(), (Counters{SentFrames: 2, SentBytes: 2*minFrameBytes + 6}); got != want {
		t.Errorf("a: %+v, want %+v", got, want)
	}
	if got, want := b.ports["b"].Counters(), (Counters{ReceivedFrames: 2, ReceivedBytes: 2*minFrameBytes + 6}); got != want {
		t.Errorf("b: %+v, want %+v", got, want)
	}
}

func TestPortsAndLinksAreListed(t *testing.T) {
	b := newBench(t, 1, "a", "b")
	l := Link{Drop: 0.5, Delay: time.Second, RateBitsPerSecond: 9}
	if err := errors.Join(b.s.SetPort("b", l), b.s.SetOneWay("b", "a", l)); err != nil {
		t.Fatal(err)
	}
	ports := b.s.Ports()
	if len(ports) != 2 || ports[0].Name != "a" || ports[0].Link != (Link{}) || ports[1].Link != l {
		t.Errorf("ports are %+v", ports)
	}
	if p := b.s.Pairs(); len(p) != 1 || p[0] != (PairState{"b", "a", l}) {
		t.Errorf("pairs are %+v", p)
	}
	if b.s.PortLink("b") != l || b.s.PairLink("b", "a") != l || b.s.PairLink("a", "b") != (Link{}) || b.s.PortLink("a") != (Link{}) {
		t.Error("links are not what was set")
	}
}

func TestRefused(t *testing.T) {
	s := NewSwitch(newManualClock(), 1)
	for _, l := range []Link{{Drop: -0.1}, {Drop: 1.1}, {Delay: -1}, {RateBitsPerSecond: -1}} {
		if s.SetPort("a", l) == nil || s.SetPair("a", "b", l) == nil || s.SetOneWay("a", "b", l) == nil {
			t.Errorf("%+v was taken", l)
		}
	}
	if err := s.SetPair("a", "a", Link{}); err == nil {
		t.Error("a link from a port to itself was taken")
	}
	p, err := s.Attach("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attach("a"); err == nil {
		t.Error("a name was taken twice")
	}
	p.Close()
	if err := p.WriteFrame(make([]byte, 60)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a closed port takes frames: %v", err)
	}
	if _, err := p.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("a closed port gives %v", err)
	}
	if _, err := s.Attach("a"); err != nil {
		t.Errorf("a name that is free again: %v", err)
	}
	s.Close()
	if _, err := s.Attach("b"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed switch takes ports: %v", err)
	}
}
