package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// childVariable makes the test's program be ioload.
const childVariable = "IOLOAD_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// BenchmarkSlack tells how often a round trip makes the program sleep, with timers as they are and with those of a guest that
// is measured.
func BenchmarkSlack(b *testing.B) {
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
			_ = answer(c) // the client says what is wrong
			c.Close()
		}
	}()
	for _, slackNS := range []int{50_000, 100_000_000} {
		b.Run(fmt.Sprintf("ns=%d", slackNS), func(b *testing.B) {
			const trips = 1000
			sleeps := int64(0)
			for b.Loop() {
				c := exec.Command("sh", "-c", `echo "$1" >/proc/self/timerslack_ns && exec "$2" trips "$3" "$4"`,
					"sh", strconv.Itoa(slackNS), os.Args[0], listener.Addr().String(), strconv.Itoa(trips))
				c.Env = append(os.Environ(), childVariable+"=1", "GOMAXPROCS=1")
				if out, err := c.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				sleeps += c.ProcessState.SysUsage().(*syscall.Rusage).Nvcsw
			}
			b.ReportMetric(float64(sleeps)/float64(b.N)/trips, "sleeps/trip")
		})
	}
}
