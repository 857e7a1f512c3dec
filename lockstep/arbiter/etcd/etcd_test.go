package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/lockstep/arbiter"
)

const guest = "mail"

// patience bounds waiting for the server.
const patience = 60 * time.Second

// build compiles the server once for this run of the tests. The go command keeps what it compiled.
var build = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "tandem-etcd-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "etcd")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join("testdata", "server")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building etcd: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if built {
		if path, err := build(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(status)
}

// built tells that a test asked for the server.
var built bool

// server is an etcd of one member, which a test can kill and start again.
type server struct {
	path, data, client, peer string
	process                  *exec.Cmd
	log                      *os.File
}

func startServer(t testing.TB) *server {
	t.Helper()
	built = true
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{path: path, data: filepath.Join(dir, "data"), client: freeAddress(t), peer: freeAddress(t), log: log}
	s.start(t)
	t.Cleanup(func() { s.kill(); log.Close() })
	return s
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func (s *server) start(t testing.TB) {
	t.Helper()
	s.process = exec.Command(s.path, "--name", "one", "--data-dir", s.data,
		"--listen-client-urls", s.client, "--advertise-client-urls", s.client, "--listen-peer-urls", s.peer,
		"--initial-advertise-peer-urls", s.peer, "--initial-cluster", "one="+s.peer, "--log-level", "error")
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill is SIGKILL: the server writes nothing more.
func (s *server) kill() {
	s.process.Process.Kill()
	s.process.Wait()
}

func (s *server) open(t testing.TB) *Arbiter {
	t.Helper()
	a, err := Open(Config{Endpoints: []string{s.client}}, guest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// answer asks until the server gives one.
func answer[T any](t testing.TB, s *server, ask func(context.Context) (T, error)) T {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		v, err := ask(ctx)
		cancel()
		if err == nil {
			return v
		}
		if !errors.Is(err, arbiter.ErrUnreachable) || time.Now().After(deadline) {
			text, _ := os.ReadFile(s.log.Name())
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

func TestEtcdGivesATermOnce(t *testing.T) {
	s := startServer(t)
	a, b := s.open(t), s.open(t)
	if h := answer(t, s, a.Latest); h != (arbiter.Holder{}) {
		t.Errorf("before any claim: %+v", h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tests := []struct {
		by     *Arbiter
		owner  string
		term   uint64
		won    bool
		holder string
		at     uint64
	}{
		{a, "a", 1, true, "a", 1},
		{b, "b", 1, false, "a", 1},
		{a, "a", 1, true, "a", 1},
		{b, "b", 2, true, "b", 2},
		{a, "a", 1, false, "b", 2},
		{a, "a", 9, true, "a", 9},
		{b, "b", 5, false, "a", 9},
	}
	for _, tt := range tests {
		won, h, err := tt.by.TestAndSet(ctx, tt.term, tt.owner)
		if err != nil || won != tt.won || h.Owner != tt.holder || h.Term != tt.at {
			t.Errorf("%s claims %d: %v, %+v, %v", tt.owner, tt.term, won, h, err)
		}
	}
	ia, errA := a.Identity(ctx)
	ib, errB := b.Identity(ctx)
	if ia != ib || !strings.HasSuffix(ia, "/"+guest) || errA != nil || errB != nil {
		t.Errorf("identities %q, %q, %v, %v", ia, ib, errA, errB)
	}
	if _, _, err := a.TestAndSet(ctx, 0, "a"); err == nil {
		t.Error("term 0")
	}
	if _, err := a.client.Put(ctx, a.claimKey(), "hostile"); err != nil {
		t.Fatal(err)
	}
	if won, _, err := a.TestAndSet(ctx, 10, "a"); won || !errors.Is(err, arbiter.ErrCorrupt) {
		t.Errorf("a hostile value: %v, %v", won, err)
	}
}

func TestEtcdRace(t *testing.T) {
	s := startServer(t)
	claimants := []*Arbiter{s.open(t), s.open(t)}
	answer(t, s, claimants[0].Latest)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for term := uint64(1); term <= 300; term++ {
		var won [2]bool
		var holders [2]string
		var errs [2]error
		var racing sync.WaitGroup
		for i, a := range claimants {
			racing.Go(func() {
				var h arbiter.Holder
				won[i], h, errs[i] = a.TestAndSet(ctx, term, fmt.Sprint("racer-", i))
				holders[i] = h.Owner
			})
		}
		racing.Wait()
		if errors.Join(errs[:]...) != nil || won[0] == won[1] || holders[0] != holders[1] {
			t.Fatalf("term %d: won %v, holders %v, %v", term, won, holders, errs)
		}
	}
}

// TestEtcdDies: a dead server is unreachable, not a lost term; what it gave before it was killed holds after.
func TestEtcdDies(t *testing.T) {
	s := startServer(t)
	a, b := s.open(t), s.open(t)
	claim := func(by *Arbiter, term uint64, owner string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			won, _, err := by.TestAndSet(ctx, term, owner)
			return won, err
		}
	}
	if !answer(t, s, claim(a, 1, "a")) {
		t.Fatal("the first claim is lost")
	}
	s.kill()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		won, _, err := b.TestAndSet(ctx, 2, "b")
		cancel()
		if won || !errors.Is(err, arbiter.ErrUnreachable) || errors.Is(err, arbiter.ErrCorrupt) {
			t.Errorf("dead: %v, %v", won, err)
		}
	}
	s.start(t)
	if answer(t, s, claim(b, 1, "b")) {
		t.Error("a term was given again after the server's death")
	}
	if !answer(t, s, claim(b, 2, "b")) {
		t.Error("the next term is lost")
	}
	if answer(t, s, claim(a, 1, "a")) {
		t.Error("the loser of term 2 keeps term 1")
	}
}

// TestPresence: a mark is kept while its owner is there, and goes with it, while the claim stays.
func TestPresence(t *testing.T) {
	s := startServer(t)
	a, b := s.open(t), s.open(t)
	answer(t, s, a.Latest)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if won, _, err := a.TestAndSet(ctx, 1, "a"); !won || err != nil {
		t.Fatal(won, err)
	}
	if here, err := b.Present(ctx, "a"); here || err != nil {
		t.Errorf("before: %v, %v", here, err)
	}
	announcing, leave := context.WithCancel(ctx)
	over, err := a.Announce(announcing, "a", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if here, err := b.Present(ctx, "a"); !here || err != nil {
		t.Errorf("announced: %v, %v", here, err)
	}
	leave()
	<-over
	for deadline := time.Now().Add(patience); ; {
		here, err := b.Present(ctx, "a")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the mark stays: %v", err)
		}
		if !here {
			break
		}
	}
	if h, err := b.Latest(ctx); err != nil || h.Owner != "a" {
		t.Errorf("the claim went too: %+v, %v", h, err)
	}
}

// TestTwoClusters: clusters of equal settings are two arbiters, and one whose data is gone is not the one of before.
func TestTwoClusters(t *testing.T) {
	s := startServer(t)
	a := s.open(t)
	first := answer(t, s, a.Identity)
	claim := func(ctx context.Context) (bool, error) {
		won, _, err := a.TestAndSet(ctx, 1, "a")
		return won, err
	}
	if !answer(t, s, claim) {
		t.Fatal("the first claim is lost")
	}
	s.kill()
	if err := os.RemoveAll(s.data); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	if second := answer(t, s, s.open(t).Identity); second == first {
		t.Errorf("both are %q", second)
	}
	won := false
	err := arbiter.ErrUnreachable
	for deadline := time.Now().Add(patience); errors.Is(err, arbiter.ErrUnreachable) && time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		won, err = claim(ctx)
		cancel()
	}
	if won || !errors.Is(err, arbiter.ErrWrongArbiter) {
		t.Errorf("a cluster that lost its data: %v, %v", won, err)
	}
	if _, err := a.Identity(t.Context()); !errors.Is(err, arbiter.ErrWrongArbiter) {
		t.Errorf("its identity: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	a, err := Open(Config{Endpoints: []string{freeAddress(t)}}, guest)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Latest(ctx); !errors.Is(err, arbiter.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(Config{Endpoints: []string{"http://127.0.0.1:1"}}, "../x"); err == nil {
		t.Error("a guest of that name")
	}
}

// BenchmarkEtcdClaim is a claim that wins, on a cluster of one member on this host.
func BenchmarkEtcdClaim(b *testing.B) {
	s := startServer(b)
	a := s.open(b)
	answer(b, s, a.Latest)
	for term := uint64(1); b.Loop(); term++ {
		if won, _, err := a.TestAndSet(b.Context(), term, "a"); !won || err != nil {
			b.Fatal(won, err)
		}
	}
}
