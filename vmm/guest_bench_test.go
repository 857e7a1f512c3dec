package vmm

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tandem/testdata/guests"
)

// threadTime returns the processor time that the calling thread has used in user space, and altogether.
func threadTime(tb testing.TB, who int) (user, all time.Duration) {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		tb.Fatal(err)
	}
	user = time.Duration(u.Utime.Nano())
	return user, user + time.Duration(u.Stime.Nano())
}

// BenchmarkPortExit measures a port write there and back: ns/op is the whole round trip, user-ns/exit what of it the
// thread spent in user space (from getrusage, which on some kernels counts in ticks).
func BenchmarkPortExit(b *testing.B) {
	g := loadGuest(b, guests.Image("port-loop"), uint64(b.N))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, _ := threadTime(b, unix.RUSAGE_THREAD)
	b.ResetTimer()
	if cause, err := g.Run(); err != nil || cause != CauseHalt {
		b.Fatal(cause, err)
	}
	b.StopTimer()
	after, _ := threadTime(b, unix.RUSAGE_THREAD)
	b.ReportMetric(float64(after-before)/float64(b.N), "user-ns/exit")
}

// BenchmarkPortExitHandling measures what Config.MeasureHandling measures: from the return of KVM_RUN to the exit's
// being handled. What of it is the two readings of the clock is told apart: where the host's clock source is slow, that
// is nearly all.
func BenchmarkPortExitHandling(b *testing.B) {
	g := loadGuest(b, guests.Image("port-loop"), uint64(b.N))
	g.config.MeasureHandling = true
	b.ResetTimer()
	if cause, err := g.Run(); err != nil || cause != CauseHalt {
		b.Fatal(cause, err)
	}
	b.StopTimer()
	s := g.Stats()
	b.ReportMetric(float64(s.Handling)/float64(s.Handled), "handling-ns/exit")
	b.ReportMetric(float64(clockCost()), "of-it-clock-ns/exit")
}

// clockCost is what MeasureHandling sees when there is nothing to handle.
func clockCost() time.Duration {
	const readings = 1000
	var sum time.Duration
	for range readings {
		sum += time.Since(time.Now())
	}
	return sum / readings
}

// BenchmarkIdle measures the processor time of a whole process whose guest halts between ticks at 100 Hz: the idle
// guest's cost, as a part of one core.
func BenchmarkIdle(b *testing.B) {
	const window = time.Second
	g := loadGuest(b, guests.Image("idle"), 0)
	g.start()
	var used time.Duration
	b.ResetTimer()
	for range b.N {
		_, before := threadTime(b, unix.RUSAGE_SELF)
		<-time.After(window)
		_, after := threadTime(b, unix.RUSAGE_SELF)
		used += after - before
	}
	b.StopTimer()
	g.Stop()
	if end := <-g.ended; end.err != nil || end.cause != CauseStopped {
		b.Fatal(end)
	}
	b.ReportMetric(100*used.Seconds()/(float64(b.N)*window.Seconds()), "%core")
	b.ReportMetric(float64(g.Stats().Injected())/float64(b.N), "ticks/op")
}
