package link

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// BenchmarkFlushToAck is what output waits for on the network's side: a small message flushed, the peer's answer received.
func BenchmarkFlushToAck(b *testing.B) {
	s := newSite(b)
	primary, backup := s.join(b)
	go func() {
		for {
			if _, _, err := backup.Receive(); err != nil {
				return
			}
			if errors.Join(backup.Send(2, make([]byte, 8)), backup.Flush()) != nil {
				return
			}
		}
	}()
	payload := make([]byte, 200)
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		start := time.Now()
		if err := errors.Join(primary.Send(1, payload), primary.Flush()); err != nil {
			b.Fatal(err)
		}
		if _, _, err := primary.Receive(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "median-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

// BenchmarkThroughput sends log batches of 32 KiB one way.
func BenchmarkThroughput(b *testing.B) {
	s := newSite(b)
	primary, backup := s.join(b)
	const size = 32 << 10
	payload := make([]byte, size)
	b.SetBytes(size)
	done := make(chan error, 1)
	const last = 2
	go func() {
		for {
			kind, _, err := backup.Receive()
			if err != nil || kind == last {
				done <- err
				return
			}
		}
	}()
	for b.Loop() {
		if err := primary.Send(1, payload); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(primary.Send(last, nil), primary.Flush(), <-done); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkJoin is a whole handshake, both hosts' work.
func BenchmarkJoin(b *testing.B) {
	s := newSite(b)
	for b.Loop() {
		x, y := s.join(b)
		x.Close()
		y.Close()
	}
}
