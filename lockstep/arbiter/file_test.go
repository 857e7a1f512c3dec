package arbiter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const guest = "mail"

func open(t testing.TB, folder string) *File {
	t.Helper()
	f, err := OpenFile(t.Context(), folder, guest)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func newFolder(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	if err := CreateFile(folder); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestFileGivesATermOnce(t *testing.T) {
	folder := newFolder(t)
	a, b := open(t, folder), open(t, folder)
	ctx := t.Context()
	if h, err := a.Latest(ctx); err != nil || h != (Holder{}) {
		t.Errorf("before any claim: %+v, %v", h, err)
	}
	tests := []struct {
		by     *File
		owner  string
		term   uint64
		won    bool
		holder string
		at     uint64
	}{
		{a, "a", 1, true, "a", 1},
		{b, "b", 1, false, "a", 1},
		{a, "a", 1, true, "a", 1}, // asks again
		{b, "b", 2, true, "b", 2},
		{a, "a", 2, false, "b", 2},
		{a, "a", 1, false, "b", 2}, // its old term is over
		{a, "a", 9, true, "a", 9},
		{b, "b", 5, false, "a", 9},
		{b, "b", 1<<64 - 1, true, "b", 1<<64 - 1},
	}
	for _, tt := range tests {
		won, h, err := tt.by.TestAndSet(ctx, tt.term, tt.owner)
		if err != nil || won != tt.won || h.Owner != tt.holder || h.Term != tt.at {
			t.Errorf("%s claims %d: %v, %+v, %v", tt.owner, tt.term, won, h, err)
		}
		if l, err := b.Latest(ctx); err != nil || l != h {
			t.Errorf("latest %+v, %v; the holder is %+v", l, err, h)
		}
	}
	left, err := filepath.Glob(filepath.Join(folder, guest, tempPrefix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	ia, _ := a.Identity(ctx)
	ib, _ := b.Identity(ctx)
	other, _ := open(t, newFolder(t)).Identity(ctx)
	if ia != ib || ia == other {
		t.Errorf("identities %q, %q, of another folder %q", ia, ib, other)
	}
}

func TestClaimsThatAreNotMade(t *testing.T) {
	f := open(t, newFolder(t))
	for _, tt := range []struct {
		term  uint64
		owner string
	}{{0, "a"}, {1, ""}, {1, "a b"}, {1, "a\nterm 9"}, {1, strings.Repeat("a", 65)}} {
		if won, _, err := f.TestAndSet(t.Context(), tt.term, tt.owner); won || err == nil {
			t.Errorf("term %d of %q: %v, %v", tt.term, tt.owner, won, err)
		}
	}
	for _, g := range []string{"", "..", "a/b", ".hidden"} {
		if _, err := OpenFile(t.Context(), f.folder, g); err == nil {
			t.Errorf("guest %q", g)
		}
	}
}

// TestFolderThatIsNoArbiter: storage that is not mounted must not give anyone a term.
func TestFolderThatIsNoArbiter(t *testing.T) {
	if _, err := OpenFile(t.Context(), t.TempDir(), guest); !errors.Is(err, ErrWrongArbiter) {
		t.Errorf("an empty folder: %v", err)
	}
	folder := newFolder(t)
	if err := CreateFile(folder); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	f := open(t, folder)
	mark := filepath.Join(folder, markName)
	content, err := os.ReadFile(mark)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(newFolder(t), markName))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content []byte // nil: no file
		want    error
	}{{"unmounted", nil, ErrWrongArbiter}, {"another's", other, ErrWrongArbiter}, {"hostile", []byte("x"), ErrCorrupt},
		{"back", content, nil}} {
		os.Remove(mark)
		if tt.content != nil {
			if err := os.WriteFile(mark, tt.content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if won, _, err := f.TestAndSet(t.Context(), 1, "a"); !errors.Is(err, tt.want) || won != (tt.want == nil) {
			t.Errorf("%s: %v, %v", tt.name, won, err)
		}
	}
}

func TestHostileFiles(t *testing.T) {
	mine, err := NewClaim(guest, 1, "a", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	another, _ := NewClaim("other", 1, "a", time.Unix(0, 0))
	later, _ := NewClaim(guest, 2, "a", time.Unix(0, 0))
	term1 := termPrefix + "00000000000000000001"
	tests := []struct {
		name, file string
		content    []byte
		link       string
	}{
		{"empty", term1, []byte{}, ""},
		{"torn", term1, mine.Encode()[:40], ""},
		{"changed", term1, []byte(strings.Replace(string(mine.Encode()), "owner a", "owner b", 1)), ""},
		{"longer", term1, append(mine.Encode(), '\n'), ""},
		{"huge", term1, make([]byte, 1<<20), ""},
		{"another guest's", term1, another.Encode(), ""},
		{"another term's", term1, later.Encode(), ""},
		{"link", term1, nil, "/dev/zero"},
		{"short name", termPrefix + "1", mine.Encode(), ""},
		{"no number", termPrefix + "0000000000000000000x", mine.Encode(), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := open(t, newFolder(t))
			path := filepath.Join(f.guestFolder(), tt.file)
			err := os.Mkdir(f.guestFolder(), 0o755)
			if tt.link != "" {
				err = errors.Join(err, os.Symlink(tt.link, path))
			} else {
				err = errors.Join(err, os.WriteFile(path, tt.content, 0o644))
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, term := range []uint64{1, 2} {
				if won, _, err := f.TestAndSet(t.Context(), term, "a"); won || !errors.Is(err, ErrCorrupt) {
					t.Errorf("term %d: %v, %v", term, won, err)
				}
			}
		})
	}
}

// TestDeathAtEveryStep lets a host die at each step of a claim, and its storage lose power or not. Then it comes back, a
// rival claims too, in either order: one wins, and that is the first if it was ever told so.
func TestDeathAtEveryStep(t *testing.T) {
	died := 0
	for step := 1; ; step++ {
		completed := false
		for seed := range uint64(64) {
			rng := rand.New(rand.NewPCG(seed, uint64(step)))
			completed = deathAt(t, step, rng)
			if t.Failed() {
				t.Fatalf("step %d, seed %d", step, seed)
			}
		}
		if completed {
			break
		}
		died++
	}
	if died < 11 {
		t.Errorf("a claim has %d steps only", died)
	}
}

func deathAt(t *testing.T, step int, rng *rand.Rand) (completed bool) {
	ctx := t.Context()
	d := newDisk()
	if err := createFile(&host{disk: d}, "/"); err != nil {
		t.Fatal(err)
	}
	ha := &host{disk: d}
	a, err := openFile(ctx, ha, "/", guest)
	if err != nil {
		t.Fatal(err)
	}
	ha.die, ha.after = ha.steps+step, rng.IntN(2) == 0
	told, _, err := a.TestAndSet(ctx, 1, "a")
	if err != nil && !errors.Is(err, ErrUnreachable) {
		t.Errorf("a dead host's error: %v", err)
	}
	if rng.IntN(2) == 0 {
		d.loseElectricity(rng)
	}
	ha.die = 0
	b, err := openFile(ctx, &host{disk: d}, "/", guest)
	if err != nil {
		t.Fatal(err)
	}
	var wonA, wonB bool
	claims := []func() error{
		func() (err error) { wonA, _, err = a.TestAndSet(ctx, 1, "a"); return err },
		func() (err error) { wonB, _, err = b.TestAndSet(ctx, 1, "b"); return err },
	}
	first := rng.IntN(2)
	if err := errors.Join(claims[first](), claims[1-first]()); err != nil {
		t.Error(err)
	}
	if wonA == wonB || told && !wonA {
		t.Errorf("told at first: %v; then a: %v, b: %v", told, wonA, wonB)
	}
	return told
}

// hanging is storage whose server is gone.
type hanging struct {
	storage
	gone chan struct{} // closed when it is back
}

func (h *hanging) Names(path string, limit int) ([]string, error) {
	<-h.gone
	return h.storage.Names(path, limit)
}

// TestStorageThatHangs: the caller gets an answer in time, and the term once storage is back.
func TestStorageThatHangs(t *testing.T) {
	h := &hanging{storage: hostStorage{}, gone: make(chan struct{})}
	f, err := openFile(t.Context(), h, newFolder(t), guest)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // the first hangs in storage, the others wait for it
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		won, _, err := f.TestAndSet(ctx, 1, "a")
		cancel()
		if won || !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, %v", won, err)
		}
	}
	close(h.gone)
	if won, _, err := f.TestAndSet(t.Context(), 1, "a"); !won || err != nil {
		t.Errorf("back: %v, %v", won, err)
	}
}

// racerEnv makes this test's binary a racer for the folder that it names.
const racerEnv = "TANDEM_ARBITER_RACER"

func TestMain(m *testing.M) {
	if folder := os.Getenv(racerEnv); folder != "" {
		race(folder)
		return
	}
	os.Exit(m.Run())
}

// race claims each term that it is told on standard input and answers on standard output.
func race(folder string) {
	f, err := OpenFile(context.Background(), folder, guest)
	if err != nil {
		fmt.Println(err)
		return
	}
	owner := fmt.Sprintf("racer-%d", os.Getpid())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var term uint64
		fmt.Sscan(in.Text(), &term)
		won, h, err := f.TestAndSet(context.Background(), term, owner)
		fmt.Println(won, h.Owner == owner, h.Term, err)
	}
}

// TestTwoProcessesRace: of each of a thousand terms there is exactly one winner, and the loser is told who.
func TestTwoProcessesRace(t *testing.T) {
	const terms = 1000
	folder := newFolder(t)
	type racer struct {
		in  *os.File
		out *bufio.Scanner
	}
	var racers [2]racer
	for i := range racers {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), racerEnv+"="+folder)
		cmd.Stderr = os.Stderr
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = read
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		read.Close()
		racers[i] = racer{write, bufio.NewScanner(out)}
		t.Cleanup(func() { write.Close(); cmd.Wait() })
	}
	wins := [2]int{}
	for term := 1; term <= terms; term++ {
		var answers [2]string
		var asking sync.WaitGroup
		for i, r := range racers {
			asking.Go(func() {
				fmt.Fprintln(r.in, term)
				r.out.Scan()
				answers[i] = r.out.Text()
			})
		}
		asking.Wait()
		won, lost := fmt.Sprintf("true true %d <nil>", term), fmt.Sprintf("false false %d <nil>", term)
		switch answers {
		case [2]string{won, lost}:
			wins[0]++
		case [2]string{lost, won}:
			wins[1]++
		default:
			t.Fatalf("term %d: %q", term, answers)
		}
	}
	t.Logf("wins: %v", wins)
	if h, err := open(t, folder).Latest(t.Context()); err != nil || h.Term != terms {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestUnsafeSaysYesToAll(t *testing.T) {
	var arbiter Arbiter = Unsafe{}
	for _, owner := range []string{"a", "b"} {
		if won, h, err := arbiter.TestAndSet(t.Context(), 3, owner); !won || h.Owner != owner || err != nil {
			t.Errorf("%s: %v, %+v, %v", owner, won, h, err)
		}
	}
}

func BenchmarkFileClaim(b *testing.B) {
	f := open(b, newFolder(b))
	for term := uint64(1); b.Loop(); term++ {
		if won, _, err := f.TestAndSet(b.Context(), term, "a"); !won || err != nil {
			b.Fatal(won, err)
		}
	}
}
