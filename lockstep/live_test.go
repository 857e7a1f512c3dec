package lockstep

import (
	"testing"
	"time"
)

// A host that was away for 10 s brings its guest's clock to the present in steps that a counter of 24 bits survives.
func TestClockComesBackInSteps(t *testing.T) {
	l := NewLive(0, func() {})
	defer l.Close()
	l.start = time.Now().Add(-10 * time.Second)
	const tick = 10_000_000
	deadline, seen := int64(tick), int64(0)
	for position := Position(1); seen < 10_000_000_000; position++ {
		if position > 100 {
			t.Fatalf("after %d exits the clock is at %d ns", position, seen)
		}
		l.At(position)
		w := Waiting{Deadline: deadline, Armed: true}
		for l.Pending(); ; {
			in, ok := l.Next(w)
			if !ok {
				break
			}
			if in.Kind != KindTick && in.Kind != KindClock {
				t.Fatalf("an input of kind %v", in.Kind)
			}
			deadline = max(deadline, l.Time()) + tick
			w.Deadline = deadline
		}
		now := l.Now() // what the guest's tick handler reads
		if now-seen > 2*maxStepNS {
			t.Fatalf("the guest sees its clock move by %d ns", now-seen)
		}
		seen = now
	}
}

// Frames that come while the guest runs make it exit once, and enter it at one position.
func TestBurstKicksOnce(t *testing.T) {
	kicks := 0
	l := NewLive(0, func() { kicks++ })
	defer l.Close()
	l.At(1)
	if l.Pending() {
		t.Fatal("something is pending at a new door")
	}
	const burst = 64
	for range burst {
		if !l.Offer(Input{Kind: KindFrame}) {
			t.Fatal("a frame is refused")
		}
	}
	w := Waiting{Room: func(Kind, uint8, []byte) int { return 1 }}
	taken := 0
	for _, ok := l.Next(w); ok; _, ok = l.Next(w) {
		taken++
	}
	if kicks != 1 || taken != burst || l.Pending() {
		t.Errorf("%d frames kicked the guest %d times, and %d of them entered it", burst, kicks, taken)
	}
}
