package lockstep

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tandem/lockstep/wire"
)

// These tests run in bubbles with a clock of their own, which goes on only when every goroutine waits.

// kept is a log that keeps records in memory.
type kept struct {
	records []wire.Record
	flushes int
	full    int // after so many records Append fails, if not 0
}

var errFull = errors.New("the disk is full")

func (k *kept) Append(r *wire.Record) error {
	if k.full > 0 && len(k.records) == k.full {
		return errFull
	}
	c := *r
	c.Payload = slices.Clone(r.Payload)
	if r.Registers != nil {
		image := *r.Registers
		c.Registers = &image
	}
	k.records = append(k.records, c)
	return nil
}

func (k *kept) Flush() error { k.flushes++; return nil }

func (k *kept) String() string {
	var texts []string
	for i := range k.records {
		r := &k.records[i]
		text := fmt.Sprintf("%v@%d", r.Kind, r.Position)
		if r.Kind == KindClock {
			text += fmt.Sprintf("=%d", r.Time)
		}
		if r.Kind == KindConsole || r.Kind == KindDelta {
			text += fmt.Sprintf("(%s)", r.Payload)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " ")
}

// recorder returns a door with a log, closed at the test's end, and counts its kicks with the times since its start.
func recorder(t *testing.T, options RecorderOptions) (*Recorder, *kept, *[]time.Duration) {
	t.Helper()
	log, kicks, start := &kept{}, &[]time.Duration{}, time.Now()
	var mu sync.Mutex // a kick comes from any goroutine
	options.Kick = func() {
		mu.Lock()
		defer mu.Unlock()
		*kicks = append(*kicks, time.Since(start))
	}
	r := NewRecorder(0, 0, log, options)
	t.Cleanup(r.Close)
	return r, log, kicks
}

func post(t *testing.T, l *Live, text string) {
	t.Helper()
	if err := l.Post(Input{Kind: KindConsole, Payload: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

const ms = time.Millisecond

func TestRecorderLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, log, _ := recorder(t, RecorderOptions{DigestEvery: 2})
		m := &machine{door: r}
		m.play("room:3 off at:1 exit:1")
		time.Sleep(5)
		if got := m.play("now now time all"); got != "5 5 =5 -" {
			t.Error(got)
		}
		time.Sleep(5)
		post(t, r.Live, "hello")
		if got := m.play("time all at:2 exit:2 now at:3 exit:3 all"); got != "=5 console0(hel) console0(lo) - 10 -" {
			t.Error(got)
		}
		r.Stopped([]byte("first "), false)
		r.Stopped([]byte("last"), true)
		time.Sleep(7)
		m.play("now")
		r.Checkpoint(1)
		m.play("now")
		m.play("due:20 all") // not yet
		time.Sleep(3)
		if got := m.play("all"); got != "-" {
			t.Errorf("%s: an alarm rings only when it was set by Pending or Wait", got)
		}
		if !r.Pending() {
			t.Error("the alarm is due")
		}
		if got := m.play("next time"); got != "tick =20" {
			t.Error(got)
		}
		r.End(wire.EndPowerOff, "")
		want := "clock@1=5 console@1(hel) console@1(lo) digest@2 clock@2=10 delta@3(first ) delta@3(last) clock@3=17 checkpoint@3 clock@3=17 tick@3 end@3"
		if log.String() != want {
			t.Errorf("the log has\n%s, want\n%s", log, want)
		}
		if log.flushes == 0 {
			t.Error("the end was not flushed")
		}
	})
}

// TestRecorderLeaps has a host that was away for longer than the clock may lag.
func TestRecorderLeaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, log, _ := recorder(t, RecorderOptions{})
		m := &machine{door: r}
		m.play("due:1000 at:1 next")
		time.Sleep(time.Second)
		r.Pending()
		if got := m.play("next time"); got != "clock =1000000000" {
			t.Error(got)
		}
		if log.String() != "clock@1=1000000000" {
			t.Error(log)
		}
	})
}

// TestRecorderPatience posts inputs to a guest that does not exit, and looks at when it is kicked.
func TestRecorderPatience(t *testing.T) {
	inProgram, inKernel := func() bool { return true }, func() bool { return false }
	options := RecorderOptions{MaxDefer: 2 * ms, MinRun: 10 * ms, KernelPatience: 7 * ms}
	tests := []struct {
		name string
		play func(t *testing.T, r *Recorder)
		want []time.Duration
	}{
		{"nothing comes", func(t *testing.T, r *Recorder) { time.Sleep(time.Second) }, nil},
		{"an input waits", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			time.Sleep(time.Second)
		}, []time.Duration{2 * ms}},
		{"the guest exits in time", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			time.Sleep(ms)
			(&machine{door: r}).play("room:9 at:1 all")
			time.Sleep(time.Second)
		}, nil},
		{"a second input does not hasten", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			time.Sleep(ms)
			(&machine{door: r}).play("room:9 at:1 all")
			post(t, r.Live, "y")
			time.Sleep(time.Second)
		}, []time.Duration{3 * ms}},
		{"stops have a floor between them", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			time.Sleep(3 * ms)
			if r.Interrupted(inProgram) != Stop {
				t.Error("the guest was not stopped")
			}
			r.Stopped(nil, true)
			(&machine{door: r}).play("room:9 all")
			post(t, r.Live, "y")
			time.Sleep(time.Second)
		}, []time.Duration{2 * ms, 13 * ms}},
		{"a kernel has longer", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			for _, want := range []Interruption{GoOn, GoOn, GoOn, Stop} {
				time.Sleep(2 * ms)
				synctest.Wait()
				if got := r.Interrupted(inKernel); got != want {
					t.Errorf("%v, not %v", got, want)
				}
			}
		}, []time.Duration{2 * ms, 4 * ms, 6 * ms, 8 * ms}},
		{"a stray signal", func(t *testing.T, r *Recorder) {
			post(t, r.Live, "x")
			if r.Interrupted(inProgram) != GoOn {
				t.Error("the guest was stopped before its time")
			}
			time.Sleep(time.Second)
		}, []time.Duration{2 * ms}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _, kicks := recorder(t, options)
				test.play(t, r)
				synctest.Wait()
				if !slices.Equal(*kicks, test.want) {
					t.Errorf("kicks at %v, want %v", *kicks, test.want)
				}
			})
		})
	}
}

// TestRecorderPutsOff has a stop that is dear: the input waits for several times as long as the stop would take, but not without end.
func TestRecorderPutsOff(t *testing.T) {
	tests := []struct {
		name  string
		cost  time.Duration
		kicks []time.Duration
	}{
		{"cheap", ms / 2, []time.Duration{2 * ms}},
		{"dear", 30 * ms, []time.Duration{2 * ms, putOffFactor * 30 * ms}},
		{"too dear", time.Hour, []time.Duration{2 * ms, maxPutOff}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _, kicks := recorder(t, RecorderOptions{StopCost: func() time.Duration { return test.cost }})
				begun := time.Now()
				post(t, r.Live, "x")
				for i, at := range test.kicks {
					time.Sleep(time.Until(begun.Add(at)))
					synctest.Wait()
					want := GoOn
					if i == len(test.kicks)-1 {
						want = Stop
					}
					if got := r.Interrupted(func() bool { return true }); got != want {
						t.Errorf("after %v: %v, not %v", at, got, want)
					}
				}
				if !slices.Equal(*kicks, test.kicks) {
					t.Errorf("kicks at %v, want %v", *kicks, test.kicks)
				}
			})
		})
	}
}

// TestRecorderFails has a log that can't be written: the first failure stays, and nothing more is logged.
func TestRecorderFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, log, _ := recorder(t, RecorderOptions{})
		log.full = 2
		m := &machine{door: r}
		m.play("at:1 now at:2 now")
		if r.Err() != nil {
			t.Error(r.Err())
		}
		m.play("at:3 now at:4 now")
		if !errors.Is(r.Err(), errFull) || len(log.records) != 2 {
			t.Errorf("%v, %s", r.Err(), log)
		}
	})
}

// TestLiveQueue checks order, room and bounds of the queue.
func TestLiveQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLive(0, func() {})
		for _, in := range []Input{
			{Kind: KindConsole, Payload: []byte("abc")}, {Kind: KindFrame, Device: 1, Payload: []byte("full")},
			{Kind: KindConsole, Payload: []byte("d")}, {Kind: KindFrame, Device: 1, Payload: []byte("behind")},
			{Kind: KindFrame, Device: 2, Payload: []byte("other")}, {Kind: KindDisk, Device: 9, Payload: []byte("gone")},
		} {
			if err := l.Post(in); err != nil {
				t.Fatal(err)
			}
		}
		room := 2
		waiting := Waiting{Room: func(kind Kind, device uint8, p []byte) int {
			switch {
			case kind == KindDisk:
				return -1
			case kind == KindFrame && device == 1:
				return 0
			case kind == KindConsole:
				return room
			}
			return 1
		}}
		var got []string
		for range 2 {
			in, ok := l.Next(waiting)
			got = append(got, inputText(in, ok))
			room = 0
		}
		room = 9
		for range 3 {
			in, ok := l.Next(waiting)
			got = append(got, inputText(in, ok))
		}
		if want := "console0(ab) frame2(other) console0(c) console0(d) -"; strings.Join(got, " ") != want {
			t.Errorf("%q, want %s", got, want)
		}
		offered := 0
		for l.Offer(Input{Kind: KindFrame, Device: 1}) {
			offered++
		}
		if offered != maxQueuedFrames-2 {
			t.Errorf("%d frames were taken beside the two that wait", offered)
		}
		posted := make(chan error)
		post := func(in Input) {
			for {
				if err := l.Post(in); err != nil {
					posted <- err
					return
				}
			}
		}
		go post(Input{Kind: KindConsole, Payload: []byte("x")})
		synctest.Wait()
		if l.typed != maxQueuedTyped {
			t.Errorf("%d typed inputs wait, at most %d may", l.typed, maxQueuedTyped)
		}
		// What nobody reads keeps nothing else out, and goes in again once some of it is read.
		if err := l.Post(Input{Kind: KindDisk}); err != nil {
			t.Fatal(err)
		}
		room = 1
		if in, ok := l.Next(waiting); !ok || in.Kind != KindConsole {
			t.Errorf("%s", inputText(in, ok))
		}
		synctest.Wait()
		if l.typed != maxQueuedTyped {
			t.Errorf("%d typed inputs wait after one was read", l.typed)
		}
		go post(Input{Kind: KindRandom})
		synctest.Wait()
		l.mu.Lock()
		n := len(l.queue)
		l.mu.Unlock()
		if n != maxQueuedInputs {
			t.Errorf("%d inputs wait, at most %d may", n, maxQueuedInputs)
		}
		l.Close()
		for range 2 {
			if err := <-posted; !errors.Is(err, ErrDoorClosed) {
				t.Error(err)
			}
		}
	})
}

// toy is a machine of a few integers. It does what its own state says, and nothing else but the door can change that.
type toy struct {
	door     Door
	position Position
	sum      uint64
	deadline int64
	armed    bool
}

func (m *toy) mix(words ...uint64) {
	for _, w := range words {
		h := fnv.New64a()
		fmt.Fprint(h, m.sum, w)
		m.sum = h.Sum64()
	}
}

func (m *toy) waiting() Waiting {
	return Waiting{Deadline: m.deadline, Armed: m.armed, Room: func(_ Kind, _ uint8, p []byte) int {
		return min(len(p), int(m.sum%5))
	}}
}

// exit does one exit: maybe reads the clock, maybe sets its timer, and takes its inputs.
func (m *toy) exit() (ended bool) {
	m.position++
	m.door.At(m.position)
	m.door.Exit(m.sum, &wire.Registers{m.sum})
	if m.sum%3 == 0 {
		m.mix(uint64(m.door.Now()))
	}
	if m.sum%7 == 0 {
		m.deadline, m.armed = m.door.Now()+int64(m.sum%1000)*int64(time.Microsecond), true
	}
	return m.take()
}

func (m *toy) take() (ended bool) {
	for {
		in, ok := m.door.Next(m.waiting())
		switch {
		case !ok:
			return false
		case in.Kind == KindEnd:
			return true
		case in.Kind == KindTick, in.Kind == KindClock:
			m.armed = m.deadline > m.door.Time()
			m.mix(uint64(m.door.Time()))
		case in.Kind == KindDelta:
			_, _ = fmt.Sscan(string(in.Payload), &m.sum)
		default:
			m.mix(uint64(in.Kind), uint64(in.Device))
			for _, b := range in.Payload {
				m.mix(uint64(b))
			}
		}
	}
}

// TestRecordedIsReplayed records toys in random worlds and replays them: every digest, and the end, must be the same.
func TestRecordedIsReplayed(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			r, log, _ := recorder(t, RecorderOptions{DigestEvery: 1})
			first := &toy{door: r, sum: seed}
			for range 300 {
				time.Sleep(time.Duration(rnd.IntN(1_000_000)))
				for range rnd.IntN(3) {
					kind := []Kind{KindConsole, KindFrame, KindDisk, KindRandom}[rnd.IntN(4)]
					if !r.Offer(Input{Kind: kind, Device: uint8(rnd.IntN(3)), Payload: []byte(fmt.Sprint(rnd.Uint32()))}) {
						t.Fatalf("seed %d: the queue is full", seed)
					}
				}
				r.Pending()
				first.exit()
				if rnd.IntN(10) == 0 { // the guest goes on by itself, and is stopped there
					first.mix(rnd.Uint64())
					text := fmt.Sprint(first.sum)
					r.Stopped([]byte(text[:3]), false)
					r.Stopped([]byte(text[3:]), true)
					first.take()
				}
			}
			r.End(wire.EndStopped, "")
			if r.Err() != nil {
				t.Fatalf("seed %d: %v", seed, r.Err())
			}
			again := NewReplayer(0, 0, &listed{records: log.records})
			second := &toy{door: again, sum: seed}
			for ended := false; !ended && again.Err() == nil; {
				ended = second.exit()
			}
			if again.Err() != nil || second.sum != first.sum || second.position != first.position || again.Time() != r.Time() {
				t.Fatalf("seed %d: ends at exit %d with %x, recorded %d with %x: %v", seed, second.position, second.sum, first.position, first.sum, again.Err())
			}
		})
	}
}
