package vmm

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"tandem/testdata/guests"
)

var ticksFor = flag.Duration("ticks-for", 3*time.Second, "for how long TestTicksStayRight lets a recorded guest count ticks")

// TestTicksStayRight lets a recorded guest count the ticks of its PIT, and compares them with its clock and with the host's:
// none may be lost or come twice, however long it goes on (-ticks-for 1h).
func TestTicksStayRight(t *testing.T) {
	const (
		periodNS = 1193 * 1e9 / 1193182.0 // the guest divides the PIT's 1193182 Hz by 1193
		// late is what a busy host may be behind at the start and at the end. It does not grow with the time.
		late = 2 * time.Second
	)
	ticks := uint64(float64(ticksFor.Nanoseconds()) / periodNS)
	r := recordGuest(t, guests.Image("pit-tick"), ticks, RecordOptions{})
	start := time.Now()
	r.start()
	end := <-r.ended
	host := time.Since(start)
	if end.err != nil || end.cause != CauseHalt {
		t.Fatalf("the guest ended with %v (%v)", end.cause, end.err)
	}
	var counted, pm uint64
	if _, err := fmt.Sscanf(r.debug.String(), "ticks %x pm %x\n", &counted, &pm); err != nil {
		t.Fatalf("%q: %v", r.debug, err)
	}
	told, clock := time.Duration(float64(ticks)*periodNS), time.Duration(r.Time())
	t.Logf("%d ticks are %v, the guest's clock says %v, the host's %v", ticks, told, clock, host)
	for name, d := range map[string]time.Duration{"guest's": clock, "host's": host} {
		if d < told-time.Millisecond || d > told+late {
			t.Errorf("%d ticks tell of %v, the %s clock of %v", ticks, told, name, d)
		}
	}
	if err := r.recording.Finish(end.cause, nil); err != nil {
		t.Fatal(err)
	}
}
