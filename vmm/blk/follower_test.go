package blk

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/devices/virtio"
	"tandem/vmm/blk/blktest"
)

func newFollower(image Image) *Server {
	return NewFollower("vda", image, slog.New(slog.DiscardHandler))
}

// settle waits until every request that was submitted is done; with a server that follows, reads are none.
func settle(s *Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.active) > 0 {
		s.following.ended.Wait()
	}
}

func writeRequest(id, sector uint64, with byte) virtio.DiskRequest {
	return virtio.DiskRequest{ID: id, Op: virtio.DiskWrite, Sector: sector, Sectors: 1, Data: bytes.Repeat([]byte{with}, 512)}
}

func completion(id uint64, status virtio.DiskStatus) []byte {
	return virtio.DiskCompletion{ID: id, Status: status}.Append(nil)
}

// shuffled makes a disk's operations end in another order each time.
func shuffled(d *blktest.Disk) *blktest.Disk {
	d.Fail = func(_ blktest.Op, off, n int64) error {
		for range (off/512 + n) % 7 {
			runtime.Gosched()
		}
		return nil
	}
	return d
}

// TestFollowerIsThePrimary follows a server until it is lost, at any request, and goes live: what was submitted is on both
// disks, and each open request is completed once.
func TestFollowerIsThePrimary(t *testing.T) {
	const sectors = 256
	for seed := range int64(40) {
		random := rand.New(rand.NewSource(seed))
		here, there := shuffled(blktest.New(sectors*512)), shuffled(blktest.New(sectors*512))
		g, f := newGuest(t, random, here), newFollower(there)
		resubmit := random.Intn(2) == 0
		for range random.Intn(400) {
			r := g.request()
			g.open[r.ID] = r
			g.server.Submit(r)
			f.Submit(r)
			for len(g.open) > 0 && random.Intn(3) > 0 || len(g.open) > 30 {
				c := g.end()
				if err := f.Await(c.Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
		}
		c := newCollector(t)
		pending := g.pending()
		if err := f.GoLive(c.done); err != nil {
			t.Fatal(err)
		}
		if resubmit {
			for _, r := range pending {
				f.Submit(r)
			}
		}
		got := c.wait(len(pending))
		for _, r := range pending {
			if d, ok := got[r.ID]; !ok || d.Status != virtio.DiskOK || r.Op == virtio.DiskRead && uint64(len(d.Data)) != r.Sectors*512 {
				t.Errorf("seed %d: %v %d, which was open: completed %v with status %d", seed, r.Op, r.ID, ok, d.Status)
			}
		}
		if err := errors.Join(g.server.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if len(c.ch) != 0 {
			t.Errorf("seed %d: %d completions too many", seed, len(c.ch))
		}
		if !bytes.Equal(here.Bytes(), there.Bytes()) {
			t.Fatalf("seed %d: the disks differ at byte %d", seed, firstDifference(here.Bytes(), there.Bytes()))
		}
	}
}

// TestAwaitWaits lets the log be ahead of this host's disk.
func TestAwaitWaits(t *testing.T) {
	d := blktest.New(64 * 512)
	gate := make(chan struct{})
	d.Fail = func(op blktest.Op, _, _ int64) error {
		if op == blktest.Write {
			<-gate
		}
		return nil
	}
	f := newFollower(d)
	f.Submit(writeRequest(1, 3, 7))
	f.Submit(virtio.DiskRequest{ID: 2, Op: virtio.DiskRead, Sectors: 1})
	for _, payload := range [][]byte{completion(2, virtio.DiskOK), completion(9, virtio.DiskOK), nil, []byte("no completion")} {
		if err := f.Await(payload); err != nil { // not one of them waits for the write
			t.Error(err)
		}
	}
	go close(gate)
	if err := f.Await(completion(1, virtio.DiskOK)); err != nil {
		t.Error(err)
	}
	if d.Bytes()[3*512] != 7 {
		t.Error("the log was not waited for")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	live, _, _ := newServer(t, blktest.New(512))
	defer live.Close()
	if err := live.Await(completion(1, virtio.DiskOK)); err != nil {
		t.Error(err)
	}
}

func TestBrokenReplica(t *testing.T) {
	tests := []struct {
		name   string
		r      virtio.DiskRequest
		status virtio.DiskStatus
		broken bool
	}{
		{"write", writeRequest(1, 0, 1), virtio.DiskOK, true},
		{"write that failed at the primary too", writeRequest(1, 0, 1), virtio.DiskIOError, false},
		{"flush", virtio.DiskRequest{ID: 1, Op: virtio.DiskFlush}, virtio.DiskOK, true},
		{"discard", virtio.DiskRequest{ID: 1, Op: virtio.DiskDiscard, Sectors: 4}, virtio.DiskOK, true},
		{"read", virtio.DiskRequest{ID: 1, Op: virtio.DiskRead, Sectors: 4}, virtio.DiskOK, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, fail := blktest.New(64*512), true
			d.Fail = func(op blktest.Op, _, _ int64) error {
				if fail {
					return unix.EIO
				}
				return nil
			}
			f := newFollower(d)
			f.Submit(test.r)
			err := f.Await(completion(1, test.status))
			if test.broken != (err != nil) || test.broken != (f.Err() != nil) {
				t.Fatalf("error %v, then %v", err, f.Err())
			}
			fail = false
			f.Submit(writeRequest(2, 0, 1))
			if again := f.Await(completion(2, virtio.DiskOK)); again != err {
				t.Errorf("error %v after %v", again, err)
			}
			live := f.GoLive(func([]byte) {})
			if test.broken && (live == nil || !errors.Is(live, unix.EIO) || !strings.Contains(live.Error(), "disk vda: the replica is broken")) ||
				!test.broken && live != nil {
				t.Errorf("going live: %v", live)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestGoLiveTellsFailures: what failed here and was not completed at the primary, the guest learns.
func TestGoLiveTellsFailures(t *testing.T) {
	d, fail := blktest.New(64*512), true
	d.Fail = func(blktest.Op, int64, int64) error {
		if fail {
			return unix.EIO
		}
		return nil
	}
	f, c := newFollower(d), newCollector(t)
	f.Submit(writeRequest(1, 0, 1))
	settle(f)
	fail = false
	if err := f.GoLive(c.done); err != nil {
		t.Fatal(err)
	}
	if got := c.wait(1)[1]; got.Status != virtio.DiskIOError {
		t.Errorf("status %d", got.Status)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// TestNothingIsDoneTwice submits a write again after a later one to the same sector.
func TestNothingIsDoneTwice(t *testing.T) {
	d := blktest.New(64 * 512)
	f, c := newFollower(d), newCollector(t)
	first, second := writeRequest(5, 0, 1), writeRequest(7, 0, 2)
	f.Submit(first)
	f.Submit(second)
	f.Submit(first)
	settle(f)
	if err := f.GoLive(c.done); err != nil {
		t.Fatal(err)
	}
	f.Submit(first)
	f.Submit(second)
	f.Submit(writeRequest(8, 1, 3))
	if got := c.wait(3); len(c.ch) != 0 || got[5].ID == 0 || got[7].ID == 0 || got[8].ID == 0 {
		t.Errorf("completions %v, and %d more", got, len(c.ch))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if p := d.Bytes(); p[0] != 2 || p[512] != 3 {
		t.Errorf("the sectors have %d and %d", p[0], p[512])
	}
}

// TestFollowingIntoATransfer makes a follower's disk the source of another replica, as a host does that took over.
func TestFollowingIntoATransfer(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	r, disks := row(t, open(t, Options{Path: sparse(t, random, 1<<20)}))
	f, g := newFollower(disks[0]), newGuest(t, random, blktest.New(1<<20))
	for range 200 {
		q := g.request()
		f.Submit(q)
	}
	settle(f)
	to := replicas(t, r, 0, Options{Path: filepath.Join(t.TempDir(), "replica")})
	if got := all(t, finish(t, r.Begin(0), to)[0]); !bytes.Equal(got, all(t, disks[0])) {
		t.Error("the replica differs")
	}
	if err := errors.Join(f.Close(), g.server.Close()); err != nil {
		t.Error(err)
	}
}
