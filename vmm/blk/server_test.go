package blk

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/devices/virtio"
	"tandem/vmm/blk/blktest"
)

// collector takes completions.
type collector struct {
	t  testing.TB
	ch chan virtio.DiskCompletion
}

func newCollector(t testing.TB) *collector {
	return &collector{t, make(chan virtio.DiskCompletion, 10000)}
}

func (c *collector) done(p []byte) {
	d, err := virtio.DecodeDiskCompletion(p)
	if err != nil {
		c.t.Error(err)
	}
	c.ch <- d
}

// wait returns n completions by their id.
func (c *collector) wait(n int) map[uint64]virtio.DiskCompletion {
	got := map[uint64]virtio.DiskCompletion{}
	for range n {
		d := <-c.ch
		if _, twice := got[d.ID]; twice {
			c.t.Fatalf("request %d was completed twice", d.ID)
		}
		got[d.ID] = d
	}
	return got
}

func newServer(t testing.TB, image Image) (*Server, *collector, *bytes.Buffer) {
	c, log := newCollector(t), &bytes.Buffer{}
	return NewServer("vda", image, slog.New(slog.NewTextHandler(log, nil)), c.done), c, log
}

// TestServerKeepsTheOrderOfOverlappingRequests gives random requests to a server and expects what doing one after the
// other gives.
func TestServerKeepsTheOrderOfOverlappingRequests(t *testing.T) {
	const sectors = 64
	for seed := range int64(10) {
		random := rand.New(rand.NewSource(seed))
		d := blktest.New(sectors * 512)
		s, c, _ := newServer(t, d)
		model := make([]byte, sectors*512)
		want := map[uint64][]byte{}
		const requests = 2000
		for id := uint64(1); id <= requests; id++ {
			sector := uint64(random.Intn(sectors))
			n := min(1+uint64(random.Intn(8)), sectors-sector)
			at := model[sector*512:][:n*512]
			r := virtio.DiskRequest{ID: id, Sector: sector, Sectors: n}
			switch random.Intn(8) {
			case 0:
				r = virtio.DiskRequest{ID: id, Op: virtio.DiskFlush}
			case 1:
				r.Op = virtio.DiskDiscard
				clear(at)
			case 2, 3, 4:
				r.Op = virtio.DiskRead
				want[id] = bytes.Clone(at)
			default:
				r.Op, r.Sync = virtio.DiskWrite, random.Intn(4) == 0
				r.Data = make([]byte, len(at))
				random.Read(r.Data)
				copy(at, r.Data)
			}
			s.Submit(r)
		}
		for id, done := range c.wait(requests) {
			if done.Status != virtio.DiskOK || !bytes.Equal(done.Data, want[id]) {
				t.Fatalf("seed %d: request %d: status %d, or it read something else", seed, id, done.Status)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.Bytes(), model) {
			t.Fatalf("seed %d: the disk has something else than the requests in their order give", seed)
		}
		if st := s.Stats(); st.Requests != requests || st.Errors != 0 || st.BytesRead == 0 || st.BytesWritten == 0 || st.Flushes == 0 {
			t.Errorf("stats %+v", st)
		}
	}
}

// TestFlushComesAfterWrites holds a write back and expects the flush behind it to wait, and a later write not to.
func TestFlushComesAfterWrites(t *testing.T) {
	d := blktest.New(64 * 512)
	gate := make(chan struct{})
	var mu sync.Mutex
	var order []blktest.Op
	d.Fail = func(op blktest.Op, off, _ int64) error {
		if op == blktest.Write && off == 0 {
			<-gate
		}
		mu.Lock()
		order = append(order, op)
		mu.Unlock()
		return nil
	}
	s, c, _ := newServer(t, d)
	s.Submit(virtio.DiskRequest{ID: 1, Op: virtio.DiskWrite, Sectors: 1, Data: make([]byte, 512)})
	s.Submit(virtio.DiskRequest{ID: 2, Op: virtio.DiskFlush})
	s.Submit(virtio.DiskRequest{ID: 3, Op: virtio.DiskWrite, Sector: 9, Sectors: 1, Data: make([]byte, 512)})
	if first := <-c.ch; first.ID != 3 {
		t.Errorf("request %d was first", first.ID)
	}
	close(gate)
	c.wait(2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []blktest.Op{blktest.Write, blktest.Write, blktest.Sync, blktest.Sync, blktest.Close}
	if len(order) != len(want) {
		t.Fatalf("operations %v", order)
	}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("operations %v, want %v", order, want)
		}
	}
}

func TestHostFaultsReachTheGuestAsIOErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		log  string
	}{
		{"I/O error", unix.EIO, "a disk request failed"},
		{"disk full", unix.ENOSPC, "storage is full"},
		{"anything else", errors.New("strange"), "strange"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := blktest.New(64 * 512)
			d.Fail = func(op blktest.Op, _, _ int64) error {
				if op == blktest.Close {
					return nil
				}
				return test.err
			}
			s, c, log := newServer(t, d)
			ops := []virtio.DiskOp{virtio.DiskRead, virtio.DiskWrite, virtio.DiskDiscard, virtio.DiskWriteZeroes, virtio.DiskFlush}
			id := uint64(0)
			for range 3 {
				for _, op := range ops {
					id++
					r := virtio.DiskRequest{ID: id, Op: op, Sectors: 1}
					if op == virtio.DiskWrite {
						r.Data = make([]byte, 512)
					}
					s.Submit(r)
				}
			}
			for id, done := range c.wait(int(id)) {
				if done.Status != virtio.DiskIOError || len(done.Data) != 0 {
					t.Errorf("request %d: status %d with %d bytes", id, done.Status, len(done.Data))
				}
			}
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), "disk vda") {
				t.Errorf("closing: %v", err)
			}
			if n := strings.Count(log.String(), "\n"); n != len(ops) || !strings.Contains(log.String(), test.log) {
				t.Errorf("%d lines in the log for %d operations:\n%s", n, len(ops), log)
			}
			if s.Stats().Errors != id {
				t.Errorf("stats %+v", s.Stats())
			}
		})
	}
}

func TestReadOnlyDiskIsNeverSynced(t *testing.T) {
	image := open(t, Options{Path: imageFile(t, "disk", 8192), ReadOnly: true})
	s, c, _ := newServer(t, image)
	s.Submit(virtio.DiskRequest{ID: 1, Op: virtio.DiskFlush})
	s.Submit(virtio.DiskRequest{ID: 2, Op: virtio.DiskRead, Sector: 2, Sectors: 1})
	got := c.wait(2)
	if got[1].Status != virtio.DiskOK || got[2].Status != virtio.DiskOK || len(got[2].Data) != 512 || got[2].Data[0] != 2 {
		t.Errorf("completions %+v", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkServerRead4K(b *testing.B) {
	image := open(b, Options{Path: imageFile(b, "disk", 1<<20)})
	s, c, _ := newServer(b, image)
	b.SetBytes(4096)
	for i := range b.N {
		s.Submit(virtio.DiskRequest{ID: uint64(i + 1), Op: virtio.DiskRead, Sector: uint64(i%256) * 8, Sectors: 8})
		<-c.ch
	}
}
