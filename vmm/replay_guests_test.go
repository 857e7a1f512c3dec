package vmm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/testdata/guests"
)

// everyExit makes a recording that is compared at each exit: registers and digest, and all memory that changed.
var everyExit = RecordOptions{RecorderOptions: lockstep.RecorderOptions{DigestEvery: 1}, VerifyEvery: 1, DevicesEvery: 1}

// forced makes inputs wait for hardly any time, so that the guest is stopped wherever it is.
var forced = RecordOptions{RecorderOptions: lockstep.RecorderOptions{
	MaxDefer: 100 * time.Microsecond, MinRun: 100 * time.Microsecond, KernelPatience: time.Nanosecond, DigestEvery: 1,
	StopCost: func() time.Duration { return 0 },
}, VerifyEvery: 1, DevicesEvery: 1}

// TestReplayGuests records every small guest that ends by itself and replays it bit for bit, twice.
func TestReplayGuests(t *testing.T) {
	tests := []struct {
		guest string
		param uint64
		cause Cause
	}{
		{"halt", 0, CauseHalt}, {"port-io", 0, CauseHalt}, {"port-loop", 500, CauseHalt}, {"mmio", 0, CauseHalt},
		{"bad-memory", 0, CauseHalt}, {"hlt-irq", 0, CauseHalt}, {"irq-window", 0, CauseHalt}, {"pmtimer", 0, CauseHalt},
		{"uart", 0, CauseHalt}, {"rtc", 0, CauseHalt}, {"rtc-irq", 0, CauseHalt}, {"pattern", 24, CauseHalt},
		{"pit-tick", 20, CauseHalt}, {"triple-fault", 0, CauseTripleFault}, {"reset-i8042", 0, CauseReset},
		{"reset-port92", 0, CauseReset}, {"reset-cf9", 0, CauseReset},
	}
	for _, test := range tests {
		t.Run(test.guest, func(t *testing.T) {
			r := recordGuest(t, guests.Image(test.guest), test.param, everyExit)
			if cause := r.record(t); cause != test.cause {
				t.Errorf("%v, not %v", cause, test.cause)
			}
			for range 2 {
				mustEqual(t, r, 0)
			}
		})
	}
}

// TestReplayTyped records a guest that is typed at.
func TestReplayTyped(t *testing.T) {
	long := strings.Repeat("the quick brown fox ", 50)
	r := recordGuest(t, guests.Image("uart-echo"), 0, everyExit)
	r.start()
	r.debug.await(t, "ready\n")
	for _, text := range []string{"hello", long[:1], long[:17], long, "\x04"} {
		if err := r.Post(typed(text)); err != nil {
			t.Fatal(err)
		}
	}
	r.finish(t)
	mustEqual(t, r, 0)
	all := records(t, r.dir)
	bytes := 0
	for i := range all {
		if all[i].Kind == wire.KindConsole {
			bytes += len(all[i].Payload)
		}
	}
	if want := len("hello") + 1 + 17 + len(long) + 1; bytes != want {
		t.Errorf("%d bytes are in the log, %d were typed", bytes, want)
	}
}

// TestReplayStopped records guests that never end, until they are stopped.
func TestReplayStopped(t *testing.T) {
	tests := []struct{ guest, when string }{{"compute", "computing\n"}, {"sleep", "sleeping\n"}, {"idle", "idle\n"}}
	for _, test := range tests {
		t.Run(test.guest, func(t *testing.T) {
			r := recordGuest(t, guests.Image(test.guest), 0, forced)
			r.start()
			r.debug.await(t, test.when)
			r.Stop()
			if cause := r.finish(t); cause != CauseStopped {
				t.Errorf("%v", cause)
			}
			mustEqual(t, r, 0)
		})
	}
}

// TestReplayForcedStops presses the power button of a guest that computes without an exit: there is no place for it to enter
// but forced stops.
func TestReplayForcedStops(t *testing.T) {
	const presses = 20
	r := recordGuest(t, guests.Image("compute"), 0, forced)
	r.start()
	r.debug.await(t, "computing\n")
	for range presses {
		if err := r.Post(lockstep.Input{Kind: lockstep.KindPower}); err != nil {
			t.Fatal(err)
		}
		r.awaitLook(t)
	}
	r.Stop()
	r.finish(t)
	all := records(t, r.dir)
	if n := count(all, wire.KindDelta); n < 2 {
		t.Errorf("%d deltas", n)
	}
	if n := count(all, wire.KindPower); n != presses {
		t.Errorf("%d inputs, %d presses", n, presses)
	}
	for range 2 {
		if !mustEqual(t, r, 0) {
			t.Error("there was an interrupt window without an interrupt")
		}
	}
}

// TestReplayRandom records random programs under a tick, some with so little patience that they are stopped where they
// have no exits, and replays them. The name of a failing test has the seed.
func TestReplayRandom(t *testing.T) {
	var stops uint64
	equal := 0
	// On a host that opens the interrupt window at random few replays get to their end, the fewer the busier it is: there are
	// more programs if none has.
	for seed := uint64(100); seed < 116 || equal == 0 && seed < 180; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			options := everyExit
			if seed%2 == 0 {
				options = forced
			}
			r := recordGuest(t, guests.Random(seed, 2000), 0, options)
			if cause := r.record(t); cause != CauseHalt {
				t.Errorf("%v", cause)
			}
			n, _, _ := r.Stats().Stops()
			stops += n
			for range 2 {
				if mustEqual(t, r, 0) {
					equal++
				}
			}
		})
	}
	t.Logf("%d forced stops; %d replays are equal to their end", stops, equal)
	if equal == 0 || stops == 0 {
		t.Errorf("%d forced stops, %d equal replays: hardly a test", stops, equal)
	}
}
