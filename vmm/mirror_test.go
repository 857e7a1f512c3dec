package vmm

import (
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/testdata/guests"
)

// pairOfGuests is a primary and its backup on one host, joined by a TCP connection.
type pairOfGuests struct {
	primary, backup *guestRun
	mirror          *Mirror
	follower        *Follower
}

func startPair(t *testing.T, image []byte, param uint64, options lockstep.RecorderOptions) *pairOfGuests {
	t.Helper()
	p := &pairOfGuests{primary: loadGuest(t, image, param)}
	near, far := connection(t)
	followed := make(chan error, 1)
	p.backup = &guestRun{console: newSink(), debug: newSink(), ended: make(chan guestEnd, 1)}
	go func() {
		system, err := kvm.Open("/dev/kvm")
		if err == nil {
			defer system.Close()
			p.follower, err = Follow(system, far, func(c *Config) { c.Console, c.Debug = p.backup.console, p.backup.debug })
		}
		followed <- err
	}()
	var err error
	if p.mirror, err = p.primary.MirrorTo(near, options); err != nil {
		t.Fatal(err)
	}
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.mirror.Close()
		if err := p.follower.Close(); err != nil {
			t.Error(err)
		}
	})
	p.backup.Machine = p.follower.Machine
	p.primary.start()
	p.backup.start()
	return p
}

// connection returns the two ends of a TCP connection on this host.
func connection(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// A guest that runs to its end on the primary is, on the backup, the same machine then, and the backup was not heard.
func TestBackupFollowsToTheEnd(t *testing.T) {
	images := map[string][]byte{"compute": guests.Image("compute"), "pit-tick": guests.Image("pit-tick"), "rtc-irq": guests.Image("rtc-irq")}
	for name, image := range images {
		t.Run(name, func(t *testing.T) {
			p := startPair(t, image, 3, lockstep.RecorderOptions{DigestEvery: 1})
			if name == "compute" {
				p.primary.debug.await(t, "") // it has no end of its own
				p.primary.Stop()
			}
			cause := p.primary.wait(t)
			p.primary.recorder.End(endCauses[cause], "")
			p.backup.wait(t)
			was, err := p.primary.Final()
			if err != nil {
				t.Fatal(err)
			}
			is, err := p.backup.Final()
			if err != nil {
				t.Fatal(err)
			}
			if d := is.Differences(was); len(d) > 0 {
				t.Errorf("the backup differs:\n%s", strings.Join(d, "\n"))
			}
			if heard := p.backup.console.String() + p.backup.debug.String(); heard != "" {
				t.Errorf("the backup was heard: %q", heard)
			}
		})
	}
}

// The primary is lost at a random instant while somebody types. The backup goes on where it was: it has everything whose
// echo was seen.
func TestBackupGoesLive(t *testing.T) {
	const text = "abcdefghijklmnopqrstuvwxyz"
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 5))
		p := startPair(t, guests.Image("uart-echo"), 0, lockstep.RecorderOptions{})
		p.primary.debug.await(t, "ready\n")
		typedLetters := random.IntN(len(text))
		for _, letter := range text[:typedLetters] {
			if err := p.primary.Post(typed(string(letter))); err != nil {
				t.Fatal(err)
			}
		}
		seen := random.IntN(typedLetters + 1)
		p.primary.console.await(t, strings.ToUpper(text[:seen]))
		p.mirror.Close()
		p.mirror.Fence()
		p.primary.Stop()
		p.primary.wait(t)
		if cause := p.backup.wait(t); cause != CauseLogEnd || p.follower.Machine.Logged() != 0 {
			t.Fatalf("seed %d: the backup ended with %v, log %v", seed, cause, p.follower.Machine.Logged())
		}
		p.follower.GoLive()
		p.backup.start()
		if err := p.backup.Post(typed("xyz\x04")); err != nil {
			t.Fatal(err)
		}
		if cause := p.backup.wait(t); cause != CauseHalt {
			t.Fatalf("seed %d: the guest ended with %v", seed, cause)
		}
		released := p.primary.console.String()
		if !strings.HasPrefix(strings.ToUpper(text[:typedLetters]), released) || len(released) < seen {
			t.Errorf("seed %d: the primary let %q out", seed, released)
		}
		if got := p.backup.console.String(); !strings.HasSuffix(got, "XYZ") {
			t.Errorf("seed %d: the backup says %q", seed, got)
		}
	}
}
