// Guestwork runs in a guest and does what busybox can't: reads the time-stamp counter, faults, handles signals.
package main

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// rdtsc and rdtscp read the time-stamp counter; the latter gives IA32_TSC_AUX too.
func rdtsc() uint64
func rdtscp() (tsc uint64, aux uint32)

// cli clears the interrupt flag, which a program may not: #GP with error code 0, as an rdtsc that is forbidden.
func cli()

func main() {
	if len(os.Args) < 2 {
		fail("usage: guestwork tsc|rdtscp|fault|signals [N]")
	}
	n := 1000
	if len(os.Args) > 2 {
		n, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "tsc":
		readTSC(n)
	case "fault":
		fault()
	case "cli":
		cli()
	case "signals":
		signals(n)
	default:
		fail("no work " + os.Args[1])
	}
}

func fail(format string, args ...any) {
	fmt.Printf("FAILED: "+format+"\n", args...)
	os.Exit(1)
}

// readTSC reads the counter n times by both instructions, and compares it with the kernel's clock, of which it must be ns:
// the guest's processor runs at 1 GHz.
func readTSC(n int) {
	sum := md5.New()
	start, first := time.Now(), rdtsc()
	last := first
	for i := range n {
		now, aux := rdtsc(), uint32(0)
		if i%2 == 1 {
			now, aux = rdtscp()
		}
		if now < last || aux != 0 {
			fail("reading %d is %d after %d, processor %d", i, now, last, aux)
		}
		last = now
		_ = binary.Write(sum, binary.LittleEndian, now)
	}
	counted, passed := time.Duration(last-first), time.Since(start)
	if off := counted - passed; off > 50*time.Millisecond || off < -50*time.Millisecond-passed/10 {
		fail("the counter has counted %v, the clock %v", counted, passed)
	}
	fmt.Printf("tsc: %d readings in %v, md5 %x\n", n, counted, sum.Sum(nil))
}

// fault runs a child that does what no program may, and looks at how it ends.
func fault() {
	out, err := exec.Command("/proc/self/exe", "cli").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "SIGSEGV") {
		fail("the child ended with %v: %s", err, out)
	}
	fmt.Println("fault: the child got SIGSEGV")
}

// signalPatience is how long signals may take that are sent every ms: a program that computes on a busy host gets its timer
// late.
const signalPatience = 2 * time.Minute

// signals sends itself pairs of signals, one every ms, and computes until n signals have been handled.
func signals(n int) {
	caught := make(chan os.Signal, 64)
	signal.Notify(caught, syscall.SIGALRM, syscall.SIGUSR1)
	ticker := time.NewTicker(time.Millisecond)
	go func() {
		for range ticker.C {
			_ = syscall.Kill(os.Getpid(), syscall.SIGUSR1)
			_ = syscall.Kill(os.Getpid(), syscall.SIGALRM)
		}
	}()
	x, got := uint64(1), 0
	for end := time.Now().Add(signalPatience); got < n && time.Now().Before(end); {
		for range 1000 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		select {
		case <-caught:
			got++
		default:
		}
	}
	if got < n {
		fail("%d signals came in %v", got, signalPatience)
	}
	fmt.Printf("signals: %d handled, computed %x\n", got, x)
}
