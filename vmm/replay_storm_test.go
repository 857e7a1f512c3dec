package vmm

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"tandem/testdata/guests"
)

// storm kicks a machine's vCPU out of the guest, again and again, until the function that it returns is called: signals
// that mean nothing must leave no trace, wherever they hit. That function returns how many there were. The first has come
// when storm returns, so that a machine that is started then is hit once at least.
func storm(m *Machine) (end func() uint64) {
	var done atomic.Bool
	var kicks atomic.Uint64
	var stormers sync.WaitGroup
	for range 2 {
		stormers.Go(func() {
			for !done.Load() {
				m.vcpu.Kick()
				kicks.Add(1)
				runtime.Gosched()
			}
		})
	}
	for kicks.Load() == 0 { // on a busy machine a short guest might be over before the first one comes
		runtime.Gosched()
	}
	return func() uint64 {
		done.Store(true)
		stormers.Wait()
		return kicks.Load()
	}
}

// TestReplayInAStorm records and replays under a storm of signals, in all four combinations.
func TestReplayInAStorm(t *testing.T) {
	for i, weather := range []struct {
		name           string
		record, replay bool
	}{
		{name: "calm"}, {name: "while replaying", replay: true}, {name: "while recording", record: true},
		{name: "while both", record: true, replay: true},
	} {
		for seed := uint64(200 + 2*i); seed < uint64(202+2*i); seed++ {
			t.Run(fmt.Sprintf("%s, seed %d", weather.name, seed), func(t *testing.T) {
				options := everyExit
				if seed%2 == 0 {
					options = forced
				}
				r := recordGuest(t, guests.Random(seed, 1000), 0, options)
				end := func() uint64 { return 0 }
				if weather.record {
					end = storm(r.Machine)
				}
				r.record(t)
				if kicks := end(); weather.record && (kicks == 0 || r.Stats().interrupted == 0) {
					t.Errorf("%d kicks, %d interrupted runs: no storm", kicks, r.Stats().interrupted)
				}
				g := openGuest(t, r.dir, 0)
				end = func() uint64 { return 0 }
				if weather.replay {
					end = storm(g.Machine)
				}
				g.mustEqual(t, r, 0)
				if kicks := end(); weather.replay && (kicks == 0 || g.Stats().interrupted == 0) {
					t.Errorf("%d kicks, %d interrupted runs: no storm", kicks, g.Stats().interrupted)
				}
			})
		}
	}
}
