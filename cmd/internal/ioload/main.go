// Command ioload gives a guest's devices work and says how long it took. Inside the guest:
//
//	ioload read|write DEVICE BYTES COUNT DEPTH   COUNT requests of BYTES at scattered places, DEPTH at a time, past the page cache
//	ioload send|receive ADDRESS BYTES            a TCP stream to or from a server, until the other side has all
//	ioload trips ADDRESS COUNT                   one byte to a server and back, COUNT times
//
// Each prints one line, "took SECONDS s". The server, on the guest's host, runs until it is killed:
//
//	ioload serve ADDRESS
//
// A guest's timers want slack, lest Go's runtime be what is measured. A thread of it watches over the others; each time the
// program has work after it had none, that thread sleeps fifty times for 20 µs before it takes longer naps. Each is a timer of
// the guest's, and where a machine's exits take long it is due again as soon as it is set: a program that is busy gets a few per
// cent of the processor then. So whoever starts ioload in a guest says before (prctl(2), PR_SET_TIMERSLACK; in a shell)
//
//	echo 100000000 >/proc/$$/timerslack_ns
//
// A client says in 9 bytes what it wants: its command's first letter, and a count as 8 bytes, little-endian.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	took, err := run(os.Args[1:])
	if err != nil {
		fmt.Printf("ioload: FAILED: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("took %.6f s\n", took.Seconds())
}

var errUsage = errors.New("want read|write DEVICE BYTES COUNT DEPTH, send|receive ADDRESS BYTES, trips ADDRESS COUNT or serve ADDRESS")

func run(args []string) (time.Duration, error) {
	if len(args) < 2 {
		return 0, errUsage
	}
	var numbers []int64
	for _, text := range args[2:] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 1 {
			return 0, fmt.Errorf("%q is not a positive number", text)
		}
		numbers = append(numbers, n)
	}
	switch what := args[0]; {
	case what == "serve" && len(numbers) == 0:
		return 0, serve(args[1])
	case (what == "send" || what == "receive" || what == "trips") && len(numbers) == 1:
		return connection(what[0], args[1], numbers[0])
	case (what == "read" || what == "write") && len(numbers) == 3:
		return disk(what == "write", args[1], numbers[0], numbers[1], numbers[2])
	}
	return 0, errUsage
}
