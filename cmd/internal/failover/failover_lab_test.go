package failover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"tandem/cmd/internal/imapload"
	"tandem/cmd/internal/redischeck"
	"tandem/vmm/protect"
)

const (
	// labTimeout bounds all tests of this package that boot hosts, on a busy machine, and killTimeout each kill beyond the
	// usual number.
	labTimeout  = 30 * time.Minute
	killTimeout = 2 * time.Minute
	// killsEnv says how often the guest's process is killed under Redis, and seedEnv when. The tests are content with few;
	// what the project claims was measured with 50.
	killsEnv     = "TANDEM_KILLS"
	seedEnv      = "TANDEM_SEED"
	defaultKills = 3
	// redisThink leaves the emulated guest room: a state transfer gives way to it.
	redisThink = 300 * time.Millisecond
	// detect is longer than usual: another test's load on this machine keeps an emulated host silent for that long.
	detect = "1s"
)

// scene is a pair on which one test plays after the other.
type scene struct {
	*Pair
	ctx     context.Context
	primary *Side
	check   *redischeck.Check
	runs    int
}

// TestLabFailover boots two hosts, once for all that is tried on them.
func TestLabFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("boots emulated hosts: not with -short")
	}
	more := max(number(t, killsEnv, defaultKills)-defaultKills, 0)
	ctx, cancel := context.WithTimeout(t.Context(), labTimeout+time.Duration(more)*killTimeout)
	t.Cleanup(cancel)
	p, err := Open(ctx, Config{Image: testImage(ctx, t), Log: os.Stderr, Flags: []string{"--detect", detect}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &scene{Pair: p, ctx: ctx}
	s.begin(t)
	play := func(name string, test func(t *testing.T)) {
		if !t.Failed() { // a pair that went wrong tells nothing about the next test
			t.Run(name, test)
		}
	}
	play("kills under Redis", s.testKills)
	play("backup dies", s.testBackupDies)
	play("attacks", s.testAttacks)
	play("partition, file arbiter", s.testPartition)
	play("loss of each host under IMAP", s.testHosts)
	play("partition, etcd", s.testPartitionEtcd)
	if t.Failed() {
		t.Log(p.said())
	}
}

// begin starts the guest on h1 with its backup on h2.
func (s *scene) begin(t *testing.T) {
	t.Helper()
	s.primary = s.Sides[0]
	s.must(t, s.primary.Run(s.ctx))
	s.must(t, s.AwaitServers(s.ctx))
	s.must(t, s.backup().Back(s.ctx))
	s.protected(t)
}

func (s *scene) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *scene) backup() *Side { return s.Other(s.primary) }

func (s *scene) protected(t *testing.T) *protect.Status {
	t.Helper()
	status, err := s.AwaitProtected(s.ctx, s.primary)
	s.must(t, err)
	if tr := status.LastTransfer; tr != nil {
		t.Logf("protected on %s: %d MiB in %.1f s, %d rounds, the guest stood still for %.0f ms", s.primary.Name, tr.Bytes>>20, tr.ElapsedMS/1000, tr.Round, tr.StopMS)
	}
	return status
}

// takenOver waits until the backup is the primary.
func (s *scene) takenOver(t *testing.T) {
	t.Helper()
	s.primary = s.backup()
	status, err := s.AwaitTakeover(s.ctx, s.primary)
	s.must(t, err)
	t.Logf("%s goes on after %.0f ms: %+v", s.primary.Name, status.LastFailover.TotalMS, status.LastFailover.Steps)
}

// work puts a checker on Redis, which must find nothing until the returned function was called.
func (s *scene) work(t *testing.T) (done func()) {
	t.Helper()
	s.runs++
	check, err := redischeck.Start(s.ctx, redischeck.Config{
		Dial: s.Dial, Address: RedisAddress, Clients: 6, Run: fmt.Sprintf("run%d", s.runs), Think: redisThink, Patience: 5 * time.Minute, Seed: uint64(s.runs),
	})
	s.must(t, err)
	s.check = check
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		check.Stop(ended)
	})
	return func() {
		t.Helper()
		s.answered(t)
		check.Stop(s.ctx)
		now := check.Snapshot()
		v, err := check.Verify(s.ctx)
		s.must(t, err)
		t.Logf("%d requests, %d writes acknowledged, longest pause %v", now.Requests(), v.Acknowledged, now.Longest())
		if broken := now.Broken(); len(broken) > 0 || len(v.Faults) > 0 {
			t.Errorf("broken: %q; faults: %q", broken, v.Faults)
		}
	}
}

// answered waits until each of Redis's clients has had an answer to something it asked from now on.
func (s *scene) answered(t *testing.T) {
	t.Helper()
	before := s.check.Snapshot()
	for {
		now := s.check.Snapshot()
		if broken := now.Broken(); len(broken) > 0 {
			t.Fatalf("broken: %q", broken)
		}
		waiting := 0
		for i, c := range now.Clients {
			if c.Reads+c.Writes < before.Clients[i].Reads+before.Clients[i].Writes+2 {
				waiting++
			}
		}
		if waiting == 0 {
			return
		}
		s.must(t, s.wait(s.ctx, fmt.Sprintf("%d clients of Redis are not answered", waiting)))
	}
}

// number reads a variable of the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// testKills kills the process that runs the guest, at random instants, on alternating hosts. No acknowledged write may be lost.
func (s *scene) testKills(t *testing.T) {
	kills, seed := number(t, killsEnv, defaultKills), number(t, seedEnv, 1)
	t.Logf("%d kills, seed %d", kills, seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	done := s.work(t)
	for range kills {
		s.answered(t)
		pass(s.ctx, time.Duration(random.Int64N(int64(time.Second))))
		s.must(t, s.primary.KillProcess(s.ctx))
		s.takenOver(t)
		s.must(t, s.backup().Back(s.ctx))
		s.protected(t)
	}
	done()
}

// pass lets time pass: the tests' subject is what happens at random instants.
func pass(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// testBackupDies kills the backup, and the guest goes on, then protected by the next one.
func (s *scene) testBackupDies(t *testing.T) {
	done := s.work(t)
	s.must(t, s.backup().KillProcess(s.ctx))
	status, err := s.Await(s.ctx, s.primary, "the primary does not notice that its backup died", func(st *protect.Status) bool { return st.Peer == nil })
	s.must(t, err)
	if status.Role != "primary" {
		t.Errorf("the primary is now %s, %s", status.Role, status.State)
	}
	s.answered(t)
	s.must(t, s.backup().Back(s.ctx))
	s.protected(t)
	done()
}

// testPartition cuts the hosts off from each other. One of them goes on, the other must not, and follows it later.
func (s *scene) testPartition(t *testing.T) {
	done := s.work(t)
	s.must(t, s.Part(true))
	defer s.Part(false)
	s.oneSurvivor(t)
	s.answered(t)
	s.must(t, s.Part(false))
	s.protected(t)
	done()
}

// oneSurvivor waits until one host runs the guest alone and the other has been refused, and makes it the primary.
func (s *scene) oneSurvivor(t *testing.T) {
	t.Helper()
	for {
		var alone []*Side
		states := ""
		for _, side := range s.Sides {
			st, err := side.Status(s.ctx)
			s.must(t, err)
			states += fmt.Sprintf("%s: %s, %s, term %d; ", side.Name, st.Role, st.State, st.Term)
			if st.Peer == nil && (st.State == "alone" || st.State == "live") {
				alone = append(alone, side)
			}
		}
		if len(alone) > 1 {
			t.Fatalf("both hosts run the guest: %s", states)
		}
		other := false
		if len(alone) == 1 {
			st, err := s.Other(alone[0]).Status(s.ctx)
			s.must(t, err)
			other = st.Role == "backup" || st.State == "fenced"
		}
		if other {
			t.Logf("survivor %s (%s)", alone[0].Name, states)
			s.primary = alone[0]
			return
		}
		s.must(t, s.wait(s.ctx, "no host alone runs the guest: "+states))
	}
}

// testPartitionEtcd does the same with a pair whose arbiter is etcd.
func (s *scene) testPartitionEtcd(t *testing.T) {
	spec := startEtcd(s.ctx, t, s.Pair)
	for _, side := range []*Side{s.backup(), s.primary} {
		s.must(t, side.KillProcess(s.ctx))
	}
	s.UseArbiter(spec)
	s.begin(t)
	s.testPartition(t)
	for _, side := range []*Side{s.backup(), s.primary} {
		s.must(t, side.KillProcess(s.ctx))
	}
}

// testHosts takes each host's power away while mail is stored, found and read.
func (s *scene) testHosts(t *testing.T) {
	load, err := imapload.Start(s.ctx, imapload.Config{
		Dial: s.Dial, Address: IMAPAddress, Sessions: 20, User: User, Run: "hosts", Think: 4 * time.Second, Patience: 5 * time.Minute, Seed: 1,
	})
	s.must(t, err)
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		load.Stop(ended)
	})
	for range s.Sides {
		before := load.Snapshot()
		_, err := s.awaitAnswers(s.ctx, load, &before)
		s.must(t, err)
		lost := s.primary
		loss, err := s.Lose(s.ctx, lost, load)
		s.must(t, err)
		s.primary = s.Other(lost)
		s.must(t, s.Return(s.ctx, lost, loss))
		t.Logf("%s lost: %+v; pauses: median %v, longest %v; protected after %v + %v", lost.Name, loss.Failover, Quantile(loss.Pauses, 0.5), Quantile(loss.Pauses, 1), loss.Returned, loss.Protected)
	}
	load.Stop(s.ctx)
	now := load.Snapshot()
	v, err := load.Verify(s.ctx)
	s.must(t, err)
	if now.Broken() != 0 || len(v.Faults) != 0 || v.Found != v.Acknowledged || v.Found == 0 {
		t.Errorf("%d sessions are broken, %d of %d messages found: %q; %+v", now.Broken(), v.Found, v.Acknowledged, v.Faults, now.Sessions)
	}
}
