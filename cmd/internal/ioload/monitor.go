package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// monitorSlackNS is how much later than asked for the timers of this program may go off.
//
// Go's runtime has a thread that watches over the others. Each time the program has work after it had none, that thread sleeps
// fifty times for 20 µs before it takes longer naps. A guest sets a timer of the 8254 for each: some fifteen exits to set it,
// take its interrupt and read the clock. Where an exit takes long that is longer than the sleep, so that the timer is due
// again when it has been set, and a program that is busy gets a few per cent of the processor until the thread calms down.
// What is measured then is the runtime.
const monitorSlackNS = 100_000_000

// calmMonitor starts the program anew with that slack, unless it has it: threads inherit it, but those that run already keep
// what they have (prctl(2), PR_SET_TIMERSLACK).
func calmMonitor() error {
	runtime.LockOSThread() // the thread that has the slack is the one that starts the program
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || slack == monitorSlackNS {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, monitorSlackNS, 0, 0, 0); err != nil {
		return err
	}
	path, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("starting anew: %w", unix.Exec(path, os.Args, os.Environ()))
}
