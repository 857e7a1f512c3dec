package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
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
	if n, took := s.Saves(); n > 0 {
		fmt.Fprintf(w, "tandem: %d checkpoints, %.2f s each\n", n, took.Seconds()/float64(n))
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

// statsReport is what --stats-json writes.
type statsReport struct {
	End          string          `json:"end"` // how the guest ended, in words
	WallSeconds  float64         `json:"wall_seconds"`
	Exits        []vmm.ExitCount `json:"exits"`
	Ports        []vmm.ExitCount `json:"ports,omitempty"` // all of them, busiest first
	Interrupts   uint64          `json:"interrupts"`
	ForcedStops  uint64          `json:"forced_stops"`
	HandledExits uint64          `json:"handled_exits"`
	// HandlingNS is host time spent between two entries into the guest, on all handled exits together.
	HandlingNS int64 `json:"handling_ns"`
	// UserNS and SystemNS are the process's processor time, in which the host counts the guest's.
	UserNS          int64 `json:"user_ns"`
	SystemNS        int64 `json:"system_ns"`
	PeakResidentKiB int64 `json:"peak_resident_kib"`
}

// writeStats writes what a machine has done to a file.
func writeStats(path string, m *vmm.Machine, end vmm.Cause, wall time.Duration) error {
	s := m.Stats()
	r := statsReport{
		End: end.String(), WallSeconds: wall.Seconds(), Exits: s.Exits(), Ports: s.Ports(1 << 16), Interrupts: s.Injected(),
		HandledExits: s.Handled, HandlingNS: s.Handling.Nanoseconds(),
	}
	r.ForcedStops, _, _ = s.Stops()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return fmt.Errorf("getrusage: %w", err)
	}
	r.UserNS, r.SystemNS, r.PeakResidentKiB = usage.Utime.Nano(), usage.Stime.Nano(), usage.Maxrss
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("--stats-json: %w", err)
	}
	return nil
}
