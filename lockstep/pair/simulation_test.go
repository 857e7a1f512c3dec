package pair

import (
	"flag"
	"testing"
	"time"
)

var (
	seeds     = flag.Int("pair.seeds", 600, "how many worlds the simulation makes")
	firstSeed = flag.Uint64("pair.seed", 0, "the first world's seed; 0 takes one from the clock")
)

const (
	chaosNS = 12_000 * msNS
	calmNS  = 15_000 * msNS
)

func start(t *testing.T) uint64 {
	if *firstSeed != 0 {
		return *firstSeed
	}
	return uint64(time.Now().UnixNano())
}

func TestSimulation(t *testing.T) {
	first := start(t)
	t.Logf("seeds from %d: repeat one with -pair.seed N -pair.seeds 1", first)
	var sum world
	for i := range uint64(*seeds) {
		rule := RuleReceived
		if (first+i)%2 == 0 {
			rule = RuleVerified
		}
		w := newWorld(first+i, rule, rules{})
		if failed := w.run(chaosNS, calmNS); failed != "" {
			t.Fatalf("seed %d: %s", first+i, failed)
		}
		c, s := &w.counts, &sum.counts
		s.failovers += c.failovers
		s.crashes += c.crashes
		s.divergences += c.divergences
		s.protections += c.protections
		s.restarts += c.restarts
		s.pauses += c.pauses
		s.releases += c.releases
		s.dropped += c.dropped
		s.farewells += c.farewells
		s.answers += c.answers
	}
	c := sum.counts
	t.Logf("%d worlds: %+v", *seeds, c)
	if *seeds >= 100 && (c.failovers == 0 || c.divergences == 0 || c.pauses == 0 || c.restarts == 0 || c.dropped == 0 || c.farewells == 0 || c.answers == 0) {
		t.Error("something never happened: the simulation shows nothing about it")
	}
}

// A simulation that finds nothing is worth what it would find.
func TestSimulationFindsBrokenRules(t *testing.T) {
	first := max(*firstSeed, 1) // the same worlds each time: how long a fault hides is luck
	for _, c := range []struct {
		name string
		rule Rule
		b    rules
	}{
		{"skip the arbiter", RuleReceived, rules{skipArbiter: true}},
		{"release output early", RuleReceived, rules{releaseEarly: true}},
		{"release output early, verified", RuleVerified, rules{releaseEarly: true}},
		{"acknowledge what is not held", RuleReceived, rules{ackEarly: true}},
		{"close the gate when the backup is ready", RuleReceived, rules{lateGate: true}},
		{"go alone without a claim", RuleReceived, rules{keepClaim: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range uint64(2000) {
				if failed := newWorld(first+i, c.rule, c.b).run(chaosNS, calmNS); failed != "" {
					t.Logf("found in world %d: %s", i+1, failed)
					return
				}
			}
			t.Error("2000 worlds did not find it")
		})
	}
}
