package blk

import (
	"bytes"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/vmm/blk/blktest"
	"tandem/vmm/sums"
)

// told asks replicas as a transfer's peer would, through what a test makes of the answer.
type told struct {
	t      testing.TB
	of     *Replicas
	key    sums.Key
	open   [][2]int64
	asked  int64 // blocks
	most   int
	answer func([]sums.Sum) []sums.Sum
}

func (a *told) Ask(first uint64, count int) error {
	if count < 1 || count > askBlocks {
		a.t.Errorf("a question for %d sums", count)
	}
	a.open = append(a.open, [2]int64{int64(first), int64(count)})
	a.asked += int64(count)
	a.most = max(a.most, len(a.open))
	return nil
}

func (a *told) Answer() ([]sums.Sum, error) {
	q := a.open[0]
	a.open = a.open[1:]
	s, err := a.of.Sums(a.key, q[0], int(q[1]))
	if a.answer != nil {
		s = a.answer(s)
	}
	return s, err
}

// compared begins a transfer that compares.
func compared(t testing.TB, r *Row, to *Replicas, from int64) (*Transfer, *told) {
	t.Helper()
	transfer := r.Begin(from)
	a := &told{t: t, of: to, key: sums.NewKey()}
	transfer.Compare(a.key, a)
	return transfer, a
}

// junk makes a replica's file of size bytes with other content.
func junk(t testing.TB, random *rand.Rand, path string, size int64) {
	t.Helper()
	p := make([]byte, size)
	random.Read(p)
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A replica of before gets what has changed since, and nothing else.
func TestOldReplicaGetsTheDifference(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	base := imageFile(t, "base", 3<<20+512)
	r, disks := row(t,
		open(t, Options{Path: imageFile(t, "raw", 5<<20+512)}),
		open(t, Options{Path: base, ReadOnly: true}),
		open(t, Options{Path: base, Overlay: filepath.Join(t.TempDir(), "overlay")}))
	p := make([]byte, 1<<20)
	random.Read(p)
	write(t, disks[2], 512<<10, p)
	folder := t.TempDir()
	there := []Options{{Path: filepath.Join(folder, "raw")}, {Path: base}, {Path: base, Overlay: filepath.Join(folder, "overlay")}}
	same := func(step string, images []Image) {
		t.Helper()
		for i, d := range disks {
			if want, got := all(t, d), all(t, images[i]); !bytes.Equal(want, got) {
				t.Fatalf("%s: disk %d differs at byte %d", step, i+1, firstDifference(want, got))
			}
			if err := images[i].Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	to := replicas(t, r, 0, there...)
	transfer, a := compared(t, r, to, 0)
	same("first", finish(t, transfer, to))
	whole, had := transfer.Content()
	if had != 0 || whole < 6<<20 || a.asked > 2*sums.Ahead*askBlocks {
		t.Fatalf("of nothing, %d bytes are the same, %d were sent, %d sums asked for", had, whole, a.asked)
	}

	// The replicas go another way, and the disks too.
	write(t, disks[0], 100, []byte("new"))
	write(t, disks[0], 5<<20+500, []byte("end"))
	write(t, disks[2], 3<<20, []byte("new"))
	replica := open(t, there[0])
	write(t, replica, 2<<20, []byte("other"))
	if err := replica.Close(); err != nil {
		t.Fatal(err)
	}
	replica = open(t, there[2])
	write(t, replica, 100, []byte("where the other has its base"))
	write(t, replica, 600<<10, []byte("where the other has its own"))
	if err := replica.Close(); err != nil {
		t.Fatal(err)
	}
	to = replicas(t, r, 0, there...)
	transfer, a = compared(t, r, to, 0)
	same("again", finish(t, transfer, to))
	if sent, had := transfer.Content(); sent > 6*chunk || had < whole-6*chunk || a.most > sums.Ahead {
		t.Errorf("%d bytes were sent, %d were the same, of %d; %d questions at once", sent, had, whole, a.most)
	}
}

// Whatever lies where a replica is made, and whatever its sums are said to be, and while the guest writes, the replica is the disk.
func TestComparedReplicaOfADiskInUse(t *testing.T) {
	for seed := range int64(12) {
		random := rand.New(rand.NewSource(seed))
		base := sparse(t, random, 3<<20+512)
		rawSize := int64(512 * (1 + random.Intn(16000)))
		rawPath := sparse(t, random, rawSize)
		r, disks := row(t,
			open(t, Options{Path: rawPath}),
			open(t, Options{Path: base, Overlay: filepath.Join(t.TempDir(), "overlay")}))
		folder := t.TempDir()
		there := []Options{{Path: filepath.Join(folder, "raw")}, {Path: base, Overlay: filepath.Join(folder, "overlay")}}
		switch seed % 3 {
		case 0:
			junk(t, random, there[0].Path, rawSize)
		case 1: // much of it is the same
			if err := os.WriteFile(there[0].Path, all(t, disks[0]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		old := open(t, there[1])
		for range 5 {
			p := make([]byte, 1+random.Intn(100<<10))
			random.Read(p)
			off := random.Int63n(3<<20 - int64(len(p)))
			write(t, old, off, p)
			if random.Intn(2) == 0 {
				write(t, disks[1], off, p)
			}
		}
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		guests := []*guest{newGuest(t, random, disks[0]), newGuest(t, random, disks[1])}
		step := func() {
			for _, g := range guests {
				g.step(random.Intn(10))
			}
		}
		to := replicas(t, r, 0, there...)
		transfer, a := compared(t, r, to, 0)
		lies := seed%4 == 3
		lie := func(s []sums.Sum) []sums.Sum {
			for i := range s {
				if random.Intn(2) == 0 {
					random.Read(s[i][:])
				}
			}
			return s[:random.Intn(len(s)+1)]
		}
		if lies {
			a.answer = lie
		}
		for range random.Intn(40) {
			pump(t, transfer, to, 1+random.Intn(3))
			step()
			if random.Intn(8) == 0 {
				from := transfer.Progress()
				if err := to.Close(); err != nil {
					t.Fatal(err)
				}
				step()
				to = replicas(t, r, from, there...)
				transfer, a = compared(t, r, to, from)
				if lies {
					a.answer = lie
				}
			}
		}
		for _, g := range guests {
			for len(g.open) > 0 {
				g.end()
			}
		}
		images := finish(t, transfer, to)
		for i, g := range guests {
			if want, got := all(t, disks[i]), all(t, images[i]); !bytes.Equal(want, got) {
				t.Fatalf("seed %d: disk %d differs at byte %d", seed, i+1, firstDifference(want, got))
			}
			if err := g.server.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Of a large disk with little in it, little is asked.
func TestAskingSkipsHoles(t *testing.T) {
	const size = 1 << 40
	files := []string{filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "replica")}
	for _, path := range files {
		if err := os.WriteFile(path, []byte("begin"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Skipf("no sparse file of %d bytes here: %v", int64(size), err)
		}
	}
	image := open(t, Options{Path: files[0]})
	write(t, image, 5<<30, []byte("here"))
	write(t, image, size-512, []byte("end"))
	r, _ := row(t, image)
	to := replicas(t, r, 0, Options{Path: files[1]})
	transfer, a := compared(t, r, to, 0)
	for pump(t, transfer, to, 100) {
	}
	images, err := to.Finish()
	if err != nil {
		t.Fatal(err)
	}
	defer images[0].Close()
	for off, want := range map[int64]string{0: "begin", 5 << 30: "here", size - 512: "end\x00\x00"} {
		if got := read(t, images[0], off, 5); !strings.HasPrefix(string(got), want) {
			t.Errorf("at %d: %q", off, got)
		}
	}
	if sent, had := transfer.Content(); a.asked > 8 || sent > 4*chunk || had == 0 {
		t.Errorf("%d blocks were asked for, %d bytes sent, %d were the same", a.asked, sent, had)
	}
}

// A primary is refused that says of a block that it is as it is here, which this host has told nothing of or that has changed since,
// and one that asks for what there is not.
func TestReplicasRefuseWhatTheyHaveNotTold(t *testing.T) {
	same := appendPartHeader(nil, partSame, chunk, chunk)
	data := append(appendPartHeader(nil, partData, chunk+512, 512), make([]byte, 512)...)
	for _, c := range []struct {
		name  string
		parts [][]byte
		asked bool
		ok    bool
	}{
		{"told", [][]byte{same}, true, true},
		{"not told", [][]byte{same}, false, false},
		{"changed since", [][]byte{data, same}, true, false},
		{"made zero since", [][]byte{appendPartHeader(nil, partZeros, 0, 3*chunk), same}, true, false},
		{"more than was told", [][]byte{appendPartHeader(nil, partSame, chunk, 2*chunk)}, true, false},
	} {
		path := imageFile(t, "replica", 4*chunk)
		to, err := OpenReplicas([]Options{{Path: path}}, []Form{{Kind: Raw, Size: 4 * chunk}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c.asked {
			if s, err := to.Sums(sums.Key{}, chunk, 1); err != nil || len(s) != 1 {
				t.Fatalf("%d sums, %v", len(s), err)
			}
		}
		for _, p := range c.parts {
			if err := to.Store(p); err != nil {
				t.Fatal(err)
			}
		}
		for _, q := range [][2]int64{{512, 1}, {4 * chunk, 1}, {0, 5}, {-chunk, 1}, {1 << 62, 1}} {
			if s, err := to.Sums(sums.Key{}, q[0], int(q[1])); err == nil {
				t.Errorf("%d sums of %v", len(s), q)
			}
		}
		images, err := to.Finish()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, i := range images {
			i.Close()
		}
		if s, err := to.Sums(sums.Key{}, chunk, 1); len(s) != 0 || err != nil {
			t.Errorf("%d sums behind the end, %v", len(s), err)
		}
	}
}

// What can't be read of a replica is sent.
func TestSumsOfWhatCannotBeRead(t *testing.T) {
	d := blktest.New(4 * chunk)
	d.Fail = func(op blktest.Op, off, _ int64) error {
		if op == blktest.Read && off >= 2*chunk {
			return errors.New("a bad sector")
		}
		return nil
	}
	r := &Replicas{forms: []Form{{Kind: Raw, Size: 4 * chunk}}, starts: []int64{0}, size: 4 * chunk}
	r.add(d)
	if s, err := r.Sums(sums.Key{}, 0, 4); err != nil || len(s) != 2 {
		t.Errorf("%d sums, %v", len(s), err)
	}
}

// An overlay that is damaged or of another base is made anew; a file that is none is left alone.
func TestWhatLiesWhereAnOverlayIsMade(t *testing.T) {
	base := imageFile(t, "base", 1<<20)
	r, disks := row(t, open(t, Options{Path: base, Overlay: filepath.Join(t.TempDir(), "overlay")}))
	write(t, disks[0], 0, bytes.Repeat([]byte("content "), 20000))
	good := func(path string) {
		image := open(t, Options{Path: base, Overlay: path})
		write(t, image, 0, all(t, disks[0])[:160000])
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		make    func(path string)
		had     bool
		refused bool
	}{
		{"a replica", good, true, false},
		{"one that was not completed", func(path string) {
			good(path)
			f, err := openFile(path, readWrite)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.markIncomplete(0), f.Close()); err != nil {
				t.Fatal(err)
			}
		}, true, false},
		{"a damaged map", func(path string) {
			good(path)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("damage"), headerSize+100); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}, false, false},
		{"cut short", func(path string) {
			good(path)
			if err := os.Truncate(path, headerSize+mapSector+3*clusterSize); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		{"of another base", func(path string) {
			image := open(t, Options{Path: imageFile(t, "other", 2<<20), Overlay: path})
			write(t, image, 0, []byte("other"))
			if err := image.Close(); err != nil {
				t.Fatal(err)
			}
		}, false, false},
		{"somebody's file", func(path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("mine "), 5000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "overlay")
			c.make(path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			to, err := OpenReplicas([]Options{{Path: base, Overlay: path}}, r.Forms(), 0)
			if (err != nil) != c.refused {
				t.Fatal(err)
			}
			if c.refused {
				if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
					t.Errorf("it was changed, %v", err)
				}
				return
			}
			transfer, _ := compared(t, r, to, 0)
			images := finish(t, transfer, to)
			if !bytes.Equal(all(t, images[0]), all(t, disks[0])) {
				t.Error("the replica differs")
			}
			if _, had := transfer.Content(); (had > 0) != c.had {
				t.Errorf("%d bytes were the same", had)
			}
		})
	}
}
