package blk

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/devices/virtio"
	"tandem/vmm/blk/blktest"
)

// all returns an image's content.
func all(t testing.TB, image Image) []byte { return read(t, image, 0, int(image.Size())) }

// row returns the row of tracked images, and those.
func row(t testing.TB, images ...Image) (*Row, []*Tracked) {
	t.Helper()
	var disks []*Tracked
	for _, i := range images {
		disks = append(disks, Track(i))
	}
	r, err := NewRow(disks)
	if err != nil {
		t.Fatal(err)
	}
	return r, disks
}

// replicas opens replicas of a row.
func replicas(t testing.TB, r *Row, from int64, options ...Options) *Replicas {
	t.Helper()
	to, err := OpenReplicas(options, r.Forms(), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	return to
}

// pump sends up to n parts and reports whether something is left.
func pump(t testing.TB, from *Transfer, to *Replicas, n int) bool {
	t.Helper()
	var buffer []byte
	for range n {
		p, err := from.Next(buffer[:0])
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return false
		}
		if len(p) > MaxPart {
			t.Fatalf("a part of %d bytes", len(p))
		}
		if err := to.Store(p); err != nil {
			t.Fatal(err)
		}
		buffer = p
	}
	return true
}

// finish sends what is left, and returns the images.
func finish(t testing.TB, from *Transfer, to *Replicas) []Image {
	t.Helper()
	for pump(t, from, to, 100) {
	}
	images, err := to.Finish()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, i := range images {
			i.Close()
		}
	})
	if done, total := to.Done(); done != total {
		t.Errorf("%d of %d bytes are done", done, total)
	}
	return images
}

// sparse makes an image file of size bytes with some data between holes.
func sparse(t testing.TB, random *rand.Rand, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		p := make([]byte, 1+random.Intn(200<<10))
		if random.Intn(4) > 0 { // else stored zeros
			random.Read(p)
		}
		p = p[:min(int64(len(p)), size)]
		if _, err := f.WriteAt(p, random.Int63n(size-int64(len(p))+1)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// guest submits random requests to a server and ends each.
type guest struct {
	t       testing.TB
	random  *rand.Rand
	server  *Server
	done    *collector
	sectors uint64
	id      uint64
	open    map[uint64]virtio.DiskRequest
}

func newGuest(t testing.TB, random *rand.Rand, image Image) *guest {
	s, c, _ := newServer(t, image)
	return &guest{t: t, random: random, server: s, done: c, sectors: uint64(image.Size() / 512), open: map[uint64]virtio.DiskRequest{}}
}

// request makes a request at random.
func (g *guest) request() virtio.DiskRequest {
	g.id++
	sector := g.random.Uint64() % g.sectors
	if g.random.Intn(2) == 0 {
		sector %= min(64, g.sectors) // where requests overlap
	}
	r := virtio.DiskRequest{ID: g.id, Sector: sector, Sectors: min(1+g.random.Uint64()%64, g.sectors-sector)}
	switch g.random.Intn(10) {
	case 0:
		return virtio.DiskRequest{ID: g.id, Op: virtio.DiskFlush}
	case 1:
		r.Op = virtio.DiskDiscard
	case 2:
		r.Op, r.Unmap = virtio.DiskWriteZeroes, g.random.Intn(2) == 0
	case 3, 4:
		r.Op = virtio.DiskRead
	default:
		r.Op, r.Data = virtio.DiskWrite, make([]byte, r.Sectors*512)
		g.random.Read(r.Data)
	}
	return r
}

// step submits n requests and leaves some of them in flight.
func (g *guest) step(n int) {
	for range n {
		r := g.request()
		g.open[r.ID] = r
		g.server.Submit(r)
		for len(g.open) > 20 {
			g.end()
		}
	}
}

// end takes a completion.
func (g *guest) end() virtio.DiskCompletion {
	c := <-g.done.ch
	if c.Status != virtio.DiskOK {
		g.t.Errorf("request %d failed", c.ID)
	}
	delete(g.open, c.ID)
	return c
}

// pending returns what is in flight, in the order of submission.
func (g *guest) pending() []virtio.DiskRequest {
	var p []virtio.DiskRequest
	for id := uint64(1); id <= g.id; id++ {
		if r, ok := g.open[id]; ok {
			p = append(p, r)
		}
	}
	return p
}

// TestReplicaOfADiskInUse transfers disks while guests write to them, breaks off and goes on, cuts with requests in
// flight, which the replica does itself, and expects the same content.
func TestReplicaOfADiskInUse(t *testing.T) {
	for seed := range int64(12) {
		random := rand.New(rand.NewSource(seed))
		base := sparse(t, random, 3<<20+512)
		rawSize := int64(512 * (1 + random.Intn(8000)))
		r, disks := row(t,
			open(t, Options{Path: sparse(t, random, rawSize)}),
			open(t, Options{Path: base, ReadOnly: true}),
			open(t, Options{Path: base, Overlay: filepath.Join(t.TempDir(), "overlay")}))
		folder := t.TempDir()
		there := []Options{{Path: filepath.Join(folder, "raw")}, {Path: base}, {Path: base, Overlay: filepath.Join(folder, "overlay")}}

		guests := []*guest{newGuest(t, random, disks[0]), newGuest(t, random, disks[2])}
		step := func() {
			for _, g := range guests {
				g.step(random.Intn(20))
			}
		}
		step()
		transfer := r.Begin(0)
		to := replicas(t, r, 0, there...)
		for range random.Intn(30) { // a guest that stands still early only stands longer
			pump(t, transfer, to, 1+random.Intn(4))
			step()
			if random.Intn(8) == 0 {
				// What was sent last is lost on its way, and its progress with it.
				from := transfer.Progress()
				if _, err := transfer.Next(nil); err != nil {
					t.Fatal(err)
				}
				if err := to.Close(); err != nil {
					t.Fatal(err)
				}
				step()
				transfer, to = r.Begin(from), replicas(t, r, from, there...)
			}
		}
		var pending [][]virtio.DiskRequest
		for _, g := range guests {
			pending = append(pending, g.pending())
		}
		images := finish(t, transfer, to)
		for i, g := range guests {
			image := images[2*i]
			f := NewFollower("replica", image, slog.New(slog.DiscardHandler))
			for _, q := range pending[i] {
				f.Submit(q)
			}
			settle(f)
			for len(g.open) > 0 {
				g.end()
			}
			if want, got := all(t, disks[2*i]), all(t, image); !bytes.Equal(want, got) {
				t.Fatalf("seed %d: disk %d differs at byte %d", seed, 2*i+1, firstDifference(want, got))
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if err := g.server.Close(); err != nil {
				t.Fatal(err)
			}
		}
		again := open(t, there[2])
		if !bytes.Equal(all(t, images[1]), all(t, disks[1])) {
			t.Error("the read-only disks differ")
		}
		if again.Size() != disks[2].Size() {
			t.Error("the overlay that was closed is another one")
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestTransferSkipsWhatReadsAsZeros sends a large disk with little in it.
func TestTransferSkipsWhatReadsAsZeros(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 40
	if err := os.Truncate(path, size); err != nil {
		t.Skipf("no sparse file of %d bytes here: %v", int64(size), err)
	}
	image := open(t, Options{Path: path})
	write(t, image, 5<<30, []byte("here"))
	write(t, image, size-512, []byte("end"))
	write(t, image, 6<<30, make([]byte, 2<<20)) // stored zeros
	r, _ := row(t, image)
	there := filepath.Join(t.TempDir(), "replica")
	// The file that the replica is made in had something else.
	if err := os.WriteFile(there, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(there, size); err != nil {
		t.Fatal(err)
	}
	transfer, to := r.Begin(0), replicas(t, r, 0, Options{Path: there})
	sent := 0
	for {
		p, err := transfer.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			break
		}
		sent += len(p)
		if err := to.Store(p); err != nil {
			t.Fatal(err)
		}
	}
	if sent > 1<<20 {
		t.Errorf("%d bytes were sent", sent)
	}
	images, err := to.Finish()
	if err != nil {
		t.Fatal(err)
	}
	defer images[0].Close()
	for off, want := range map[int64]string{0: "\x00\x00\x00\x00", 5 << 30: "here", size - 512: "end\x00", 6 << 30: "\x00\x00\x00\x00"} {
		if got := read(t, images[0], off, 4); string(got) != want {
			t.Errorf("at %d: %q", off, got)
		}
	}
}

// TestMarks holds a write back in the image while its mark is taken: it leaves another one.
func TestMarks(t *testing.T) {
	d := blktest.New(4 * chunk)
	reached, gate := make(chan struct{}), make(chan struct{})
	r, disks := row(t, d)
	transfer := r.Begin(0)
	to := replicas(t, r, 0, Options{Path: filepath.Join(t.TempDir(), "replica")})
	d.Fail = func(op blktest.Op, off, _ int64) error {
		if op == blktest.Write {
			close(reached)
			<-gate
		}
		return nil
	}
	ended := make(chan error)
	go func() {
		_, err := disks[0].WriteAt([]byte("late"), 3*chunk)
		ended <- err
	}()
	<-reached
	if pump(t, transfer, to, 100) {
		t.Fatal("there is no end")
	}
	close(gate)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if transfer.Left() != chunk {
		t.Errorf("%d bytes are left, want %d", transfer.Left(), chunk)
	}
	if got := finish(t, transfer, to); string(read(t, got[0], 3*chunk, 4)) != "late" {
		t.Error("a write that was acknowledged is not in the replica")
	}
}

// TestFailedChangesAreMarked: what a failed write has done to the disk is sent.
func TestFailedChangesAreMarked(t *testing.T) {
	d := blktest.New(64 * chunk)
	d.Fail = func(op blktest.Op, _, _ int64) error {
		if op == blktest.Read {
			return nil
		}
		return unix.EIO
	}
	_, disks := row(t, d)
	_, _ = disks[0].WriteAt(make([]byte, 512), 5*chunk)
	_ = disks[0].Zero(chunk-1, 2, true)
	_ = disks[0].Zero(63*chunk, 9*chunk, true)
	_, _ = disks[0].WriteAt(make([]byte, 512), -512)
	for c := range int64(64) {
		if want := c == 0 || c == 1 || c == 5 || c == 63; disks[0].since.take(c) != want || (disks[0].ever.next(c) == c) != want {
			t.Errorf("chunk %d is marked: %v", c, !want)
		}
	}
	if disks[0].since.n.Load() != 0 || disks[0].ever.n.Load() != 4 {
		t.Errorf("%d and %d chunks are counted", disks[0].since.n.Load(), disks[0].ever.n.Load())
	}
}

// TestEnough writes faster than it sends: rounds come to an end.
func TestEnough(t *testing.T) {
	const size = 2 * FinalBytes
	r, disks := row(t, blktest.New(size))
	random := rand.New(rand.NewSource(1))
	p := make([]byte, size)
	random.Read(p)
	transfer := r.Begin(0)
	if transfer.Enough() {
		t.Fatal("nothing of 8 MiB is enough")
	}
	parts := 0
	for ; !transfer.Enough(); parts++ {
		if _, err := transfer.Next(nil); err != nil {
			t.Fatal(err)
		}
		write(t, disks[0], 0, p)
	}
	if parts < MaxRounds*size/maxPartData || parts > (MaxRounds+4)*size/maxPartData {
		t.Errorf("%d parts were sent", parts)
	}
	if done, total := transfer.Done(); done != size || total != size {
		t.Errorf("%d of %d bytes are done", done, total)
	}
}

// TestResumeSendsOnlyWhatChanged goes on where everything has been sent.
func TestResumeSendsOnlyWhatChanged(t *testing.T) {
	r, disks := row(t, open(t, Options{Path: imageFile(t, "disk", 3<<20)}))
	there := Options{Path: filepath.Join(t.TempDir(), "replica")}
	to := replicas(t, r, 0, there)
	if pump(t, r.Begin(0), to, 100) {
		t.Fatal("there is no end")
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, disks[0], 1<<20, []byte("new"))
	to = replicas(t, r, r.Size(), there)
	transfer := r.Begin(r.Size())
	if transfer.Left() != chunk || transfer.Progress() != r.Size() {
		t.Errorf("%d bytes are left after %d", transfer.Left(), transfer.Progress())
	}
	if got := all(t, finish(t, transfer, to)[0]); !bytes.Equal(got, all(t, disks[0])) {
		t.Error("the replica differs")
	}
	other, _ := row(t, disks[0])
	if other.Name() == r.Name() {
		t.Error("two rows have the same name")
	}
}

func TestTransferTellsReadErrors(t *testing.T) {
	d := blktest.New(chunk)
	d.Fail = func(op blktest.Op, _, _ int64) error {
		if op == blktest.Read {
			return unix.EIO
		}
		return nil
	}
	r, _ := row(t, d)
	if _, err := r.Begin(0).Next(nil); !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "disk 1") {
		t.Errorf("error %v", err)
	}
}

func TestRowOfNothing(t *testing.T) {
	r, _ := row(t)
	transfer := r.Begin(7)
	if p, err := transfer.Next(nil); p != nil || err != nil || !transfer.Enough() || r.Size() != 0 {
		t.Errorf("part %x, %v", p, err)
	}
	to := replicas(t, r, 0)
	if images, err := to.Finish(); err != nil || len(images) != 0 {
		t.Errorf("%v, %v", images, err)
	}
}
