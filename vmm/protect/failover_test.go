package protect

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"tandem/lockstep/pair"
)

// A guest is typed at while its host is killed, again and again; each time the other host goes on with it. Everything
// whose echo was seen is there, and what comes afterwards follows it.
func TestGuestOutlivesItsHosts(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			const alphabet = "abcdefghijklmnopqrstuvwxyz"
			random := rand.New(rand.NewPCG(uint64(rule), 9))
			p := newPair(t, rule)
			backup := p.start(t, 1, "")
			guest := p.start(t, 0, "uart-echo", backup.listen)
			guest.out.text(t, "ready\n")
			for life := range 4 {
				backup.errs.text(t, "state backup protected")
				guest.errs.text(t, "state primary protected")
				from := len(guest.out.String())
				n := random.IntN(len(alphabet))
				guest.typed(t, alphabet[:n])
				seen := random.IntN(n + 1)
				guest.out.text(t, strings.ToUpper(alphabet[:seen]))
				guest.kill()
				echo := guest.out.String()[from:]
				if !strings.HasPrefix(strings.ToUpper(alphabet[:n]), echo) {
					t.Fatalf("life %d: the guest was typed %q and said %q", life, alphabet[:n], echo)
				}
				backup.errs.text(t, "state primary alone")
				backup.typed(t, "*")
				backup.out.text(t, "*")
				if said := backup.out.String(); !strings.HasSuffix(strings.ToUpper(alphabet[:n])+"*", said) && !strings.HasPrefix(said, "ready") {
					// What it says again must be what the guest that died would have said.
					tail := strings.TrimSuffix(said, "*")
					if !strings.Contains(strings.ToUpper(alphabet[:n]), tail) {
						t.Errorf("life %d: of %q, with %q seen, the new host says %q", life, alphabet[:n], echo, said)
					}
				}
				guest = backup
				backup = p.start(t, life%2, "", guest.listen)
			}
		})
	}
}

// The backup's host dies: the guest does not notice, and a new backup protects it again.
func TestGuestOutlivesItsBackup(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	first := p.start(t, 1, "")
	guest := p.start(t, 0, "uart-echo", first.listen)
	first.errs.text(t, "state backup protected")
	guest.typed(t, "abc")
	guest.out.text(t, "ABC")
	first.kill()
	guest.typed(t, "def")
	guest.out.text(t, "DEF")
	guest.errs.text(t, "state primary alone term 2")
	second := p.start(t, 1, "", guest.listen)
	second.errs.text(t, "state backup protected")
	guest.typed(t, "ghi")
	guest.out.text(t, "GHI")
	guest.kill()
	second.errs.text(t, "state primary alone")
	second.typed(t, "jkl\x04")
	second.out.text(t, "JKL")
	second.errs.text(t, "ended: the guest powered off")
}

// A host that stood still while the other took over is fenced when it goes on, says nothing more, and becomes the backup.
func TestFrozenHostIsFenced(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	p.fill = 8 << 20
	guest, backup := p.protect(t, "uart-echo")
	guest.typed(t, "abc")
	guest.out.text(t, "ABC")
	if err := guest.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	backup.errs.text(t, "state primary alone term 2")
	guest.typed(t, "never") // read when it goes on
	backup.typed(t, "def")
	backup.out.text(t, "DEF")
	if err := guest.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	guest.errs.text(t, "fenced: another host has the guest")
	guest.errs.text(t, "state backup protected term 2")
	if sent, all := delta(t, backup, "the backup was brought up to date", 1); all < 8 || sent > 0.5 {
		t.Errorf("%.1f MiB of %.1f MiB were sent to a host that had the guest", sent, all)
	}
	if said := guest.out.String(); strings.Contains(said, "N") {
		t.Errorf("the host that was fenced said %q", said)
	}
	backup.kill()
	guest.errs.text(t, "state primary alone term 3")
	guest.typed(t, "xyz\x04")
	guest.out.text(t, "XYZ")
}

// A guest that ends by itself ends both hosts' parts in the same way.
func TestGuestEndsOnBothHosts(t *testing.T) {
	for guest, words := range map[string]string{"uart-echo": "powered off", "reset-i8042": "reset the machine"} {
		p := newPair(t, pair.RuleReceived)
		backup := p.start(t, 1, "")
		primary := p.start(t, 0, guest, backup.listen)
		if guest == "uart-echo" {
			backup.errs.text(t, "state backup protected")
			primary.typed(t, "\x04")
			backup.errs.text(t, "ended: the guest "+words)
		}
		primary.errs.text(t, "ended: the guest "+words)
	}
}

// A primary that is told to leave hands its guest over.
func TestPrimaryHandsOver(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	primary, backup := p.protect(t, "uart-echo")
	primary.typed(t, "abc")
	primary.out.text(t, "ABC")
	if err := primary.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	primary.errs.text(t, "ended: stopped by the VMM")
	backup.errs.text(t, "state primary alone term 2")
	backup.typed(t, "def\x04")
	backup.out.text(t, "DEF")
	backup.errs.text(t, "ended: the guest powered off")
}

// A backup whose machine becomes another one says so, is brought up to date while the guest runs, and can then take over.
func TestDivergedBackupIsHealed(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, rule)
			p.fill = 8 << 20
			p.rawDisks(t)
			backup := p.startBroken(t, 1, 1, "")
			guest := p.start(t, 0, "uart-echo", backup.listen)
			backup.errs.text(t, "state backup protected")
			guest.out.text(t, "ready\n")
			backup.errs.text(t, "broken")
			guest.typed(t, "abc")
			guest.out.text(t, "ABC")
			backup.errs.text(t, "differs from the log")
			guest.errs.text(t, "the backup diverged")
			backup.errs.await(t, "protection again", func(said string) bool {
				return strings.Count(said, "state backup protected") == 2
			})
			if sent, all := delta(t, guest, "the backup's divergence is healed", 1); all < 16 || sent > 0.5 {
				t.Errorf("%.1f MiB of %.1f MiB were sent to heal it", sent, all)
			}
			guest.typed(t, "def")
			guest.out.text(t, "ABCDEF")
			sameMemory(t, guest, backup)
			guest.kill()
			backup.errs.text(t, "state primary alone")
			backup.typed(t, "ghi\x04")
			backup.out.text(t, "GHI")
			backup.errs.text(t, "ended: the guest powered off")
			p.mustHave(t, filling(diskBytes))
		})
	}
}

// What a transfer that broke off has brought of the memory is not sent again.
func TestTransferThatBreaksOffGoesOn(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	p.fill = 8 << 20
	backup := p.start(t, 1, "")
	guest := p.start(t, 0, "uart-echo", cutting(t, backup.listen, 4<<20))
	backup.errs.text(t, "state backup protected")
	if sent, all := delta(t, guest, "the backup was brought up to date", 1); all < 8 || sent > all-1 {
		t.Errorf("%.1f MiB of %.1f MiB were sent after a break", sent, all)
	}
	sameMemory(t, guest, backup)
	guest.kill()
	backup.errs.text(t, "state primary alone")
	backup.typed(t, "abc")
	backup.out.text(t, "ABC")
}

// cutting returns an address that leads to another: the first connection to it breaks when so many bytes have gone that way.
func cutting(t *testing.T, to string, bytes int64) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for limit := bytes; ; limit = 1 << 62 {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			on, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				return
			}
			go func() { _, _ = io.Copy(from, on) }()
			go func() {
				_, _ = io.CopyN(on, from, limit)
				_, _ = from.Close(), on.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// Each divergence is told and healed by what differs; from the third on it is an alarm.
func TestRepeatedDivergenceIsAnAlarm(t *testing.T) {
	const times = 3
	p := newPair(t, pair.RuleVerified)
	p.fill = 8 << 20
	backup := p.startBroken(t, 1, times, "")
	guest := p.start(t, 0, "uart-echo", backup.listen)
	guest.out.text(t, "ready\n")
	for n := range times {
		protected := func(said string) bool { return strings.Count(said, "state backup protected") == n+1 }
		backup.errs.await(t, "protection", protected)
		backup.errs.await(t, "a broken machine", func(said string) bool { return strings.Count(said, "broken") == n+1 })
		guest.typed(t, "a")
		guest.errs.text(t, fmt.Sprintf("(divergence %d)", n+1))
		if sent, all := delta(t, guest, "the backup's divergence is healed", n+1); all < 8 || sent > 0.5 {
			t.Errorf("%.1f MiB of %.1f MiB were sent to heal it", sent, all)
		}
	}
	for line := range strings.SplitSeq(guest.errs.String(), "\n") {
		if strings.Contains(line, "the backup diverged") && strings.Contains(line, "WARN") != strings.Contains(line, "(divergence 3)") {
			t.Errorf("%q", line)
		}
	}
	backup.errs.await(t, "protection", func(said string) bool { return strings.Count(said, "state backup protected") == times+1 })
	sameMemory(t, guest, backup)
	guest.kill()
	backup.typed(t, "xyz")
	backup.out.text(t, "XYZ")
	backup.typed(t, "\x04")
	backup.errs.text(t, "ended: the guest powered off")
}

// A backup whose machine has stopped to move parts from its primary, which must not wait for it for ever, and is healed.
func TestHungBackupParts(t *testing.T) {
	for name, rule := range map[string]pair.Rule{"received": pair.RuleReceived, "verified": pair.RuleVerified} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it is spent waiting
			p := newPair(t, rule)
			p.hang = true
			backup := p.startBroken(t, 1, 1, "")
			guest := p.start(t, 0, "uart-echo", backup.listen)
			guest.out.text(t, "ready\n")
			backup.errs.text(t, "broken")
			guest.typed(t, "abc")
			guest.errs.text(t, "its machine has not moved")
			guest.out.text(t, "ABC")
			backup.errs.await(t, "protection again", func(said string) bool {
				return strings.Count(said, "state backup protected") == 2
			})
			guest.kill()
			backup.errs.text(t, "state primary alone")
			backup.typed(t, "def\x04")
			backup.out.text(t, "DEF")
			backup.errs.text(t, "ended: the guest powered off")
		})
	}
}

// Hosts that dial each other at the same time agree on one connection.
func TestHostsDialEachOther(t *testing.T) {
	for range 5 {
		p := newPair(t, pair.RuleReceived)
		p.beat(t)
		guest, backup := p.protect(t, "uart-echo")
		for life := range 3 {
			backup.kill()
			guest.errs.text(t, fmt.Sprintf("state primary alone term %d", life+2))
			backup = p.startAt(t, 1, 0, backup.listen, "", guest.listen) // where the guest's host dials
			backup.errs.text(t, "state backup protected")
		}
		for _, h := range []*process{guest, backup} {
			if said := h.errs.String(); strings.Contains(said, "refused this host") || strings.Contains(said, "refused the peer") {
				t.Error("a host refused the other")
			}
			if strings.Contains(h.errs.String(), "no second path") {
				t.Error("a host has no second path")
			}
		}
		guest.kill()
		backup.errs.text(t, "state primary alone")
	}
}

// A host that lost its guest and is told to run it again, as by whatever starts it at boot, does not take it from the host
// that has its data, unless it is told so.
func TestGuestIsNotStartedAnewElsewhere(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	guest, backup := p.protect(t, "uart-echo")
	guest.kill()
	backup.errs.text(t, "state primary alone term 2")
	again := p.start(t, 0, "uart-echo", backup.listen)
	again.errs.text(t, "another host had the guest last")
	<-again.ended
	backup.typed(t, "abc")
	backup.out.text(t, "ABC")
	p.take = true
	taker := p.start(t, 0, "uart-echo", backup.listen)
	taker.errs.text(t, "state primary protected term 3")
	backup.errs.text(t, "fenced")
}

// A host that can't run its guest any more leaves it to the backup, as if it had died.
func TestGuestOutlivesItsHostsFailure(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	guest, backup := p.protect(t, "uart-echo")
	guest.typed(t, "abc")
	guest.out.text(t, "ABC")
	if err := guest.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	guest.errs.text(t, "no vCPU")
	guest.typed(t, "x")
	guest.errs.text(t, "failed: ")
	backup.errs.text(t, "state primary alone term 2")
	backup.typed(t, "def\x04")
	backup.out.text(t, "DEF")
	backup.errs.text(t, "ended: the guest powered off")
}

// A backup that is told to leave while its primary is lost does so when it is clear who has the guest, which it may be.
func TestBackupLeavesWhenItIsDecided(t *testing.T) {
	p := newPair(t, pair.RuleReceived)
	guest, backup := p.protect(t, "uart-echo")
	guest.typed(t, "abc")
	guest.out.text(t, "ABC")
	away := p.arbiter + ".away"
	if err := os.Rename(p.arbiter, away); err != nil {
		t.Fatal(err)
	}
	guest.kill()
	backup.errs.text(t, "no arbiter answers")
	if err := backup.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, p.arbiter); err != nil {
		t.Fatal(err)
	}
	backup.errs.text(t, "ended: stopped by the VMM")
	if !strings.Contains(backup.errs.String(), "alone after live") {
		t.Error("the guest was lost")
	}
}

// A host can leave while the machine of a primary that has left still follows the log's rest.
func TestHostLeavesBesideAParting(t *testing.T) {
	h := &Host{}
	r := &replica{host: h, pages: newFeed(func(int) {}), disks: newFeedOfParts(func(int) {}), gone: make(chan struct{})}
	h.parting = r
	h.abandon()
	select {
	case <-r.gone:
	default:
		t.Error("the machine was not let go")
	}
}
