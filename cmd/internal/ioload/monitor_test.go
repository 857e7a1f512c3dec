package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childVariable makes the test's program be ioload, or something that is measured against it.
const childVariable = "IOLOAD_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "calm":
		main()
	case "restless":
		if _, err := run(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "slack":
		if err := calmMonitor(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		slack := make(chan int)
		go func() { // in a thread that was started later
			v, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			slack <- v
		}()
		fmt.Print(<-slack)
	default:
		os.Exit(m.Run())
	}
}

func child(kind string, args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), childVariable+"="+kind, "GOMAXPROCS=1")
	return c
}

func TestTimersHaveSlack(t *testing.T) {
	out, err := child("slack").CombinedOutput()
	if err != nil || string(out) != strconv.Itoa(monitorSlackNS) {
		t.Errorf("the slack is %s ns, %v", out, err)
	}
}

// BenchmarkMonitor tells what a round trip costs the program in sleeps, its own among them: with the runtime's monitor as it
// is, and as this program has it.
func BenchmarkMonitor(b *testing.B) {
	for _, kind := range []string{"restless", "calm"} {
		b.Run(kind, func(b *testing.B) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					_ = answer(c) // the child says what is wrong
					c.Close()
				}
			}()
			const trips = 1000
			sleeps := int64(0)
			for b.Loop() {
				c := child(kind, "trips", listener.Addr().String(), strconv.Itoa(trips))
				out, err := c.CombinedOutput()
				if err != nil {
					b.Fatal(err, strings.TrimSpace(string(out)))
				}
				sleeps += c.ProcessState.SysUsage().(*syscall.Rusage).Nvcsw
			}
			b.ReportMetric(float64(sleeps)/float64(b.N)/trips, "sleeps/trip")
		})
	}
}
