package vmm

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"tandem/kvm"
)

// countedReasons is one more than the highest exit reason that is counted apart.
const countedReasons = 64

// Stats counts what the machine has done. It belongs to the machine's goroutine; read it when Run has returned.
type Stats struct {
	reasons     [countedReasons]uint64
	interrupted uint64
	injected    uint64
	stops       uint64
	stopPages   uint64
	stopBytes   uint64
	stopTime    time.Duration
	saves       uint64
	saveTime    time.Duration
	ports       [1 << 16]uint32

	// Handling is host time spent between two KVM_RUNs on exits of the guest's, if Config.MeasureHandling.
	Handling time.Duration
	Handled  uint64
}

// ExitCount is a kind of exit and how often it came.
type ExitCount struct {
	Kind  string `json:"kind"`
	Count uint64 `json:"count"`
}

func (s *Stats) count(e *kvm.Exit) {
	if e.Reason < countedReasons {
		s.reasons[e.Reason]++
	}
	if e.Reason == kvm.ReasonIO {
		s.ports[e.IO.Port]++
	}
}

// Exits returns the exits by reason, most first; interrupted runs are last, since the guest does not cause them.
func (s *Stats) Exits() []ExitCount {
	var counts []ExitCount
	for reason, n := range s.reasons {
		if n > 0 {
			counts = append(counts, ExitCount{kvm.Reason(reason).String(), n})
		}
	}
	slices.SortStableFunc(counts, func(a, b ExitCount) int { return cmp.Compare(b.Count, a.Count) })
	return append(counts, ExitCount{kvm.ReasonInterrupted.String(), s.interrupted})
}

// Ports returns the n ports that were accessed most.
func (s *Stats) Ports(n int) []ExitCount {
	var counts []ExitCount
	for port, c := range s.ports {
		if c > 0 {
			counts = append(counts, ExitCount{fmt.Sprintf("%#x", port), uint64(c)})
		}
	}
	slices.SortStableFunc(counts, func(a, b ExitCount) int { return cmp.Compare(b.Count, a.Count) })
	return counts[:min(n, len(counts))]
}

// Stops returns how many forced stops there were, and while recording how many pages and bytes their deltas had.
func (s *Stats) Stops() (stops, pages, bytes uint64) { return s.stops, s.stopPages, s.stopBytes }

// StopTime returns for how long the guest stood still in forced stops.
func (s *Stats) StopTime() time.Duration { return s.stopTime }

// Injected returns how many interrupts the guest was given.
func (s *Stats) Injected() uint64 { return s.injected }

// Saves returns how many checkpoints were written to files, and for how long the guest stood still for them.
func (s *Stats) Saves() (n uint64, took time.Duration) { return s.saves, s.saveTime }
