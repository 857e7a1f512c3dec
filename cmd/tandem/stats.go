package main

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"tandem/vmm"
)

// portsShown is how many of the busiest ports are listed.
const portsShown = 12

// printStats says what a machine has done.
func printStats(w io.Writer, m *vmm.Machine, wall time.Duration) {
	s := m.Stats()
	fmt.Fprintf(w, "\ntandem: ran %.2f s; exits:", wall.Seconds())
	for _, e := range s.Exits() {
		fmt.Fprintf(w, " %s %d", e.Kind, e.Count)
	}
	fmt.Fprintf(w, "; interrupts %d\n", s.Injected())
	if stops, pages, bytes := s.Stops(); stops > 0 {
		fmt.Fprintf(w, "tandem: %d forced stops, %.2f ms, %d pages and %d bytes each\n",
			stops, float64(s.StopTime().Microseconds())/1000/float64(stops), pages/stops, bytes/stops)
	}
	fmt.Fprint(w, "tandem: busiest ports:")
	for _, e := range s.Ports(portsShown) {
		fmt.Fprintf(w, " %s %d", e.Kind, e.Count)
	}
	fmt.Fprintln(w)
	if s.Handled > 0 {
		fmt.Fprintf(w, "tandem: handling %.2f µs an exit\n", float64(s.Handling.Nanoseconds())/float64(s.Handled)/1000)
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		fmt.Fprintf(w, "tandem: peak resident %d MiB\n", usage.Maxrss>>10)
	}
}
