package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"strings"
	"testing"
)

// disk is a back end that does requests when it is told to.
type disk struct {
	data    []byte
	waiting []DiskRequest
}

func (d *disk) Submit(r DiskRequest) { d.waiting = append(d.waiting, r) }

// do does waiting request i and returns its completion.
func (d *disk) do(i int) []byte {
	r := d.waiting[i]
	d.waiting = append(d.waiting[:i:i], d.waiting[i+1:]...)
	c := DiskCompletion{ID: r.ID}
	at := d.data[r.Sector*SectorSize:][:r.Sectors*SectorSize]
	switch r.Op {
	case DiskRead:
		c.Data = at
	case DiskWrite:
		copy(at, r.Data)
	case DiskDiscard, DiskWriteZeroes:
		clear(at)
	}
	return c.Append(nil)
}

const testSectors = 2048

// newDisk puts a disk into a guest.
func newDisk(t testing.TB, config BlkConfig) (*guest, *Blk, *disk) {
	if config.Sectors == 0 {
		config.Sectors = testSectors
	}
	g, d := newGuest(t), &disk{data: make([]byte, config.Sectors*SectorSize)}
	b, err := NewBlk(g.mem, config, d)
	if err != nil {
		t.Fatal(err)
	}
	return g, b, d
}

// diskHeader writes struct virtio_blk_req's first part into guest memory.
func (g *guest) diskHeader(kind uint32, sector uint64) buffer {
	a := g.alloc(blkHeader)
	g.mem.put32(a, kind)
	g.mem.put32(a+4, 0)
	g.mem.put64(a+8, sector)
	return buffer{addr: a, len: blkHeader}
}

// status allocates a status byte.
func (g *guest) statusByte() buffer {
	a := g.alloc(1)
	g.mem[a] = 0xaa
	return buffer{addr: a, len: 1, write: true}
}

func (g *guest) bytes(n uint32, write bool) buffer {
	return buffer{addr: g.alloc(uint64(n)), len: n, write: write}
}

func TestBlkReadsBackWhatItWrote(t *testing.T) {
	for _, features := range []uint64{0, featIndirect, featEventIdx, featIndirect | featEventIdx | blkFlush} {
		eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
			g, b, d := newDisk(t, BlkConfig{})
			attach(g, &b.Core)
			g.start(features, 1, 16)
			q := g.queues[0]
			add := q.add
			if features&featIndirect != 0 {
				add = q.addIndirect
			}
			want := make([]byte, 3*SectorSize)
			rand.New(rand.NewSource(1)).Read(want)

			// The framing is the driver's choice (§2.7.4): header and data in odd pieces.
			header := g.diskHeader(blkOut, 7)
			data, status := g.bytes(uint32(len(want)), false), g.statusByte()
			copy(g.mem[data.addr:], want)
			add(buffer{header.addr, 5, false}, buffer{header.addr + 5, 11, false},
				buffer{data.addr, 700, false}, buffer{data.addr + 700, 836, false}, status)
			q.kick(1)
			if len(d.waiting) != 1 {
				t.Fatalf("%d requests at the back end", len(d.waiting))
			}
			r := d.waiting[0]
			if r.ID != 1 || r.Op != DiskWrite || r.Sector != 7 || r.Sectors != 3 || !bytes.Equal(r.Data, want) ||
				r.Sync != (features&blkFlush == 0) {
				t.Fatalf("request %+v", r)
			}
			if g.line.level {
				t.Fatal("interrupt before the request is done")
			}
			if err := b.Complete(d.do(0)); err != nil {
				t.Fatal(err)
			}
			if !g.line.level || g.isr() != isrQueue || g.line.level || g.isr() != 0 {
				t.Fatal("interrupt status is wrong, or did not take the line down")
			}
			if _, n := q.mustTake(); n != 1 || g.mem[status.addr] != 0 {
				t.Fatalf("write: %d bytes, status %d", n, g.mem[status.addr])
			}

			back, status := g.bytes(uint32(len(want)), true), g.statusByte()
			q.setUsedEvent(q.usedIdx)
			add(g.diskHeader(blkIn, 7), buffer{back.addr, 1000, true}, buffer{back.addr + 1000, 536, true}, status)
			q.kick(1)
			if err := b.Complete(d.do(0)); err != nil {
				t.Fatal(err)
			}
			if _, n := q.mustTake(); n != uint32(len(want))+1 || g.mem[status.addr] != 0 {
				t.Fatalf("read: %d bytes, status %d", n, g.mem[status.addr])
			}
			if !bytes.Equal(g.mem[back.addr:][:len(want)], want) {
				t.Fatal("read something else than was written")
			}
			if !g.line.level || b.Failure() != "" {
				t.Fatalf("no interrupt, or failure %q", b.Failure())
			}
		})
	}
}

func TestBlkAnswersByTheSpecification(t *testing.T) {
	clearing := func(g *guest, sector uint64, n, flags uint32) buffer {
		b := g.bytes(blkRange, false)
		g.mem.put64(b.addr, sector)
		g.mem.put32(b.addr+8, n)
		g.mem.put32(b.addr+12, flags)
		return b
	}
	tests := []struct {
		name   string
		config BlkConfig
		chain  func(g *guest) []buffer
		// status is the answer, or 0xaa if the request goes to the back end as want.
		status byte
		want   DiskRequest
	}{
		{"read beyond the end", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkIn, testSectors-1), g.bytes(1024, true)}
		}, 1, DiskRequest{}},
		{"read at a sector that wraps", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkIn, 1<<64-1), g.bytes(1024, true)}
		}, 1, DiskRequest{}},
		{"read of half a sector", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkIn, 0), g.bytes(256, true)}
		}, 1, DiskRequest{}},
		{"read of nothing", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkIn, 0)}
		}, 1, DiskRequest{}},
		{"write to a read-only disk", BlkConfig{ReadOnly: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkOut, 0), g.bytes(512, false)}
		}, 1, DiskRequest{}},
		{"unknown type", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(77, 0)}
		}, 2, DiskRequest{}},
		{"flush", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkFlushRequest, 0)}
		}, 0xaa, DiskRequest{ID: 1, Op: DiskFlush}},
		{"discard not offered", BlkConfig{}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkDiscardReq, 0), clearing(g, 0, 8, 0)}
		}, 2, DiskRequest{}},
		{"discard on a read-only disk", BlkConfig{Discard: true, ReadOnly: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkDiscardReq, 0), clearing(g, 0, 8, 0)}
		}, 1, DiskRequest{}},
		{"discard", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkDiscardReq, 0), clearing(g, 16, 8, 0)}
		}, 0xaa, DiskRequest{ID: 1, Op: DiskDiscard, Sector: 16, Sectors: 8}},
		{"discard with the unmap flag", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkDiscardReq, 0), clearing(g, 16, 8, 1)}
		}, 2, DiskRequest{}},
		{"write-zeroes with unmap", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkWriteZeroesRq, 0), clearing(g, 16, 8, 1)}
		}, 0xaa, DiskRequest{ID: 1, Op: DiskWriteZeroes, Sector: 16, Sectors: 8, Unmap: true}},
		{"write-zeroes with an unknown flag", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkWriteZeroesRq, 0), clearing(g, 16, 8, 2)}
		}, 2, DiskRequest{}},
		{"write-zeroes beyond the end", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkWriteZeroesRq, 0), clearing(g, testSectors, 1, 0)}
		}, 1, DiskRequest{}},
		{"write-zeroes in two ranges", BlkConfig{Discard: true}, func(g *guest) []buffer {
			return []buffer{g.diskHeader(blkWriteZeroesRq, 0), clearing(g, 0, 1, 0), clearing(g, 0, 1, 0)}
		}, 2, DiskRequest{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, b, d := newDisk(t, test.config)
			g.registers = onPCI(g, &b.Core)
			g.start(^uint64(0), 1, 16)
			chain, status := test.chain(g), g.statusByte()
			g.queues[0].add(append(chain, status)...)
			g.queues[0].kick(1)
			if got := g.mem[status.addr]; got != test.status {
				t.Errorf("status %d, want %d", got, test.status)
			}
			if test.want.ID == 0 {
				if len(d.waiting) != 0 {
					t.Fatalf("request %+v went out", d.waiting[0])
				}
				if g.queues[0].mustTake(); g.isr() != isrQueue {
					t.Error("no interrupt")
				}
				return
			}
			if len(d.waiting) != 1 {
				t.Fatalf("%d requests went out", len(d.waiting))
			}
			r := d.waiting[0]
			if r.ID != test.want.ID || r.Op != test.want.Op || r.Sector != test.want.Sector ||
				r.Sectors != test.want.Sectors || r.Unmap != test.want.Unmap || r.Sync {
				t.Errorf("request %+v, want %+v", r, test.want)
			}
		})
	}
}

func TestBlkIdentifies(t *testing.T) {
	g, b, _ := newDisk(t, BlkConfig{Serial: "tandem-7"})
	g.registers = onPCI(g, &b.Core)
	g.start(0, 1, 16)
	id, status := g.bytes(20, true), g.statusByte()
	g.queues[0].add(g.diskHeader(blkGetID, 0), id, status)
	g.queues[0].kick(1)
	if _, n := g.queues[0].mustTake(); n != 21 || g.mem[status.addr] != 0 {
		t.Errorf("%d bytes, status %d", n, g.mem[status.addr])
	}
	if got := string(g.mem[id.addr:][:20]); got != "tandem-7"+strings.Repeat("\x00", 12) {
		t.Errorf("serial %q", got)
	}
}

func TestBlkConfigurationSpace(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, b, _ := newDisk(t, BlkConfig{Sectors: 1 << 20, BlockSize: 512, PhysicalBlockSize: 4096, Discard: true})
		attach(g, &b.Core)
		g.start(^uint64(0), 1, 16)
		var p [blkConfigSize]byte
		for i := 0; i < len(p); i += 4 {
			g.config(uint64(i), p[i:i+4])
		}
		fields := []struct {
			name         string
			offset, size int
			want         uint64
		}{
			{"capacity", 0, 8, 1 << 20}, {"size_max", 8, 4, 32768}, {"seg_max", 12, 4, 128}, {"blk_size", 20, 4, 512},
			{"physical_block_exp", 24, 1, 3}, {"min_io_size", 26, 2, 8}, {"writeback", 32, 1, 1}, {"num_queues", 34, 2, 1},
			{"max_discard_sectors", 36, 4, MaxDiskClear}, {"max_discard_seg", 40, 4, 1}, {"discard_sector_alignment", 44, 4, 8},
			{"max_write_zeroes_sectors", 48, 4, MaxDiskClear}, {"max_write_zeroes_seg", 52, 4, 1}, {"write_zeroes_may_unmap", 56, 1, 1},
		}
		for _, f := range fields {
			var v [8]byte
			copy(v[:], p[f.offset:f.offset+f.size])
			if got := binary.LittleEndian.Uint64(v[:]); got != f.want {
				t.Errorf("%s is %d, want %d", f.name, got, f.want)
			}
		}
		// Write-through, by the writeback field: each write is stable before it is done.
		g.setConfig(32, []byte{0})
		if !b.sync() {
			t.Error("writeback 0 does not make writes stable")
		}
		g.setConfig(0, []byte{1, 2, 3, 4})
		if b.config.Sectors != 1<<20 {
			t.Error("the capacity can be written")
		}
	})
}

func TestBlkCompletesOutOfOrder(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	for i := range d.data {
		d.data[i] = byte(i / SectorSize)
	}
	g.registers = onPCI(g, &b.Core)
	g.start(featEventIdx, 1, 64)
	q := g.queues[0]
	random := rand.New(rand.NewSource(2))
	type read struct {
		sector uint64
		data   buffer
	}
	reads := map[uint16]read{}
	done := 0
	// More than 65536 requests, so that the indices wrap.
	mark := g.next
	for done < 70000 {
		if len(reads) == 0 {
			g.next = mark
		}
		added := uint16(0)
		for len(q.free) >= 3 && g.next < ramSize-4096 && random.Intn(8) != 0 {
			r := read{uint64(random.Intn(testSectors)), g.bytes(512, true)}
			reads[q.add(g.diskHeader(blkIn, r.sector), r.data, g.statusByte())] = r
			added++
		}
		q.kick(added)
		q.setUsedEvent(q.usedIdx)
		for n := random.Intn(len(d.waiting) + 1); n > 0 || g.next >= ramSize-4096 && len(d.waiting) > 0; n-- {
			if err := b.Complete(d.do(random.Intn(len(d.waiting)))); err != nil {
				t.Fatal(err)
			}
		}
		for {
			head, n, ok := q.take()
			if !ok {
				break
			}
			r, known := reads[head]
			if !known || n != 513 || g.mem[r.data.addr] != byte(r.sector) || g.mem[r.data.addr+511] != byte(r.sector) {
				t.Fatalf("request %d: chain %d of %d bytes is not what was asked for", done, head, n)
			}
			delete(reads, head)
			done++
		}
		if q.usedIdx != 0 && !g.line.level && g.mem.u16(q.used+2) != q.usedIdx {
			t.Fatal("used buffers and no interrupt")
		}
		g.isr()
	}
	if b.Failure() != "" {
		t.Fatal(b.Failure())
	}
}

func TestBlkEventIndexSavesInterrupts(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(featEventIdx, 1, 64)
	q := g.queues[0]
	for range 10 {
		q.add(g.diskHeader(blkIn, 0), g.bytes(512, true), g.statusByte())
	}
	q.kick(10)
	q.setUsedEvent(6) // the driver wants to hear of the seventh
	for i := range 10 {
		if err := b.Complete(d.do(0)); err != nil {
			t.Fatal(err)
		}
		if want := i >= 6; g.line.level != want {
			t.Fatalf("after %d completions the line is %v", i+1, g.line.level)
		}
	}
	if g.line.rises != 1 || q.kicks != 1 {
		t.Errorf("%d interrupts, %d kicks for 10 requests", g.line.rises, q.kicks)
	}
	// Without the event index the flag does the same.
	g.start(0, 1, 64)
	q = g.queues[0]
	g.mem.put16(q.avail, availNoInterrupt)
	q.add(g.diskHeader(77, 0), g.statusByte())
	q.kick(1)
	if q.mustTake(); g.line.level {
		t.Error("interrupt in spite of VIRTQ_AVAIL_F_NO_INTERRUPT")
	}
}

func TestBlkBoundsWhatIsInFlight(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	d.data = make([]byte, 64<<20)
	b.config.Sectors = 64 << 20 / SectorSize
	g.registers = onPCI(g, &b.Core)
	g.start(featEventIdx, 1, 256)
	q := g.queues[0]
	data := buffer{0, 2 << 20, true}
	for range 20 {
		q.add(g.diskHeader(blkIn, 0), data, g.statusByte())
	}
	q.kick(20)
	if want := MaxDiskInflight / int(data.len); len(d.waiting) != want {
		t.Fatalf("%d requests in flight, want %d", len(d.waiting), want)
	}
	// Each completion makes room for one more, without a notification.
	for done := 0; len(d.waiting) > 0; done++ {
		c := DiskCompletion{ID: d.waiting[0].ID, Status: DiskIOError}
		d.waiting = d.waiting[1:]
		if err := b.Complete(c.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if done > 20 {
			t.Fatal("more completions than requests")
		}
	}
	for range 20 {
		q.mustTake()
	}

	tooLong := buffer{0, 3 << 20, true}
	status := g.statusByte()
	q.add(g.diskHeader(blkIn, 0), tooLong, tooLong, status)
	q.kick(1)
	if len(d.waiting) != 0 || g.mem[status.addr] != 1 {
		t.Errorf("a read of 6 MiB: %d requests, status %d", len(d.waiting), g.mem[status.addr])
	}
}

func TestBlkResetOrphansRequests(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(featEventIdx, 1, 16)
	old := g.bytes(512, true)
	g.queues[0].add(g.diskHeader(blkIn, 1), old, g.statusByte())
	g.queues[0].add(g.diskHeader(blkFlushRequest, 1), g.statusByte())
	g.queues[0].kick(2)
	g.start(featEventIdx, 1, 16)
	if got := b.Pending(); len(got) != 2 || got[0].ID != 1 || got[1].Op != DiskFlush {
		t.Fatalf("pending after a reset: %+v", got)
	}
	status := g.statusByte()
	g.queues[0].add(g.diskHeader(blkFlushRequest, 1), status)
	g.queues[0].kick(1)
	d.data[512] = 0x55
	for range 2 {
		if err := b.Complete(d.do(0)); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := g.queues[0].take(); ok || g.mem[old.addr] != 0 || g.line.level {
			t.Fatal("the answer to a request from before the reset reached the guest")
		}
	}
	if err := b.Complete(d.do(0)); err != nil {
		t.Fatal(err)
	}
	if g.queues[0].mustTake(); g.mem[status.addr] != 0 || len(b.Pending()) != 0 {
		t.Error("the request after the reset was not done")
	}
}

func TestBlkRefusesAForeignCompletion(t *testing.T) {
	g, b, _ := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(0, 1, 16)
	g.queues[0].add(g.diskHeader(blkIn, 1), g.bytes(512, true), g.statusByte())
	g.queues[0].kick(1)
	before := saved(t, b)
	tests := []struct {
		name    string
		payload []byte
		want    string
	}{
		{"nothing", nil, "0 bytes"},
		{"unknown id", DiskCompletion{ID: 2}.Append(nil), "completion 2 answers no request"},
		{"no data", DiskCompletion{ID: 1}.Append(nil), "0 bytes of data, its read wants 512"},
		{"too much data", DiskCompletion{ID: 1, Data: make([]byte, 513)}.Append(nil), "513 bytes"},
		{"unknown status", DiskCompletion{ID: 1, Status: 3}.Append(nil), "unknown status 3"},
		{"failed with data", DiskCompletion{ID: 1, Status: 1, Data: make([]byte, 512)}.Append(nil), "failed and has 512 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := b.Complete(test.payload)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one about %q", err, test.want)
			}
			if saved(t, b) != before {
				t.Error("the device has changed")
			}
		})
	}
}

func TestBlkStateGoesOnInAnotherMachine(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{Discard: true})
	g.registers = onPCI(g, &b.Core)
	g.start(^uint64(0), 1, 16)
	q := g.queues[0]
	back := g.bytes(1024, true)
	q.addIndirect(g.diskHeader(blkIn, 3), back, g.statusByte())
	data := g.bytes(512, false)
	copy(g.mem[data.addr:], "payload")
	q.addIndirect(g.diskHeader(blkOut, 5), data, g.statusByte())
	q.addIndirect(g.diskHeader(blkFlushRequest, 0), g.statusByte())
	q.kick(3)
	state := saved(t, b)

	g2, b2, d2 := newDisk(t, BlkConfig{Discard: true})
	copy(g2.mem, g.mem)
	g2.registers = onPCI(g2, &b2.Core)
	if err := b2.LoadState([]byte(state)); err != nil {
		t.Fatal(err)
	}
	if got := saved(t, b2); got != state {
		t.Fatalf("state is\n%s\nwas\n%s", got, state)
	}
	for _, r := range b2.Pending() {
		d2.Submit(r)
	}
	for i := range d.data {
		d.data[i], d2.data[i] = byte(i), byte(i)
	}
	for range 3 {
		p, p2 := d.do(0), d2.do(0)
		if !bytes.Equal(p, p2) {
			t.Fatal("the back ends got different requests")
		}
		if err := b.Complete(p); err != nil {
			t.Fatal(err)
		}
		if err := b2.Complete(p2); err != nil {
			t.Fatal(err)
		}
	}
	if saved(t, b) != saved(t, b2) || !bytes.Equal(g.mem, g2.mem) || g.line.level != g2.line.level {
		t.Error("the machines have parted")
	}
	if string(d2.data[5*512:][:7]) != "payload" {
		t.Error("the pending write was lost")
	}
}

func TestBlkRefusesImpossibleState(t *testing.T) {
	g, b, _ := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(0, 1, 16)
	g.queues[0].add(g.diskHeader(blkIn, 1), g.bytes(512, true), g.statusByte())
	g.queues[0].kick(1)
	good := saved(t, b)
	tests := []struct{ name, old, new string }{
		{"unknown field", `{"status"`, `{"x":1,"status"`},
		{"missing field", `"isr":0,`, ``},
		{"status bit", `"status":15`, `"status":31`},
		{"features never offered", `"driver_features":4294967296`, `"driver_features":12884901888`},
		{"queue of no size", `"size":16,"ready":true`, `"size":0,"ready":true`},
		{"sector beyond the end", `"sector":1,`, `"sector":2048,`},
		{"operation", `"op":1`, `"op":9`},
		{"id from the future", `"last_id":1`, `"last_id":0`},
		{"buffers", `"len":512`, `"len":513`},
		{"data", `"data":""`, `"data":"AAAA"`},
		{"failure without the status", `"failure":""`, `"failure":"x"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bad := strings.Replace(good, test.old, test.new, 1)
			if bad == good {
				t.Fatalf("%s is not in %s", test.old, good)
			}
			if err := b.LoadState([]byte(bad)); err == nil {
				t.Error("accepted")
			}
			if saved(t, b) != good {
				t.Error("the device has changed")
			}
		})
	}
	if err := b.LoadState([]byte(good)); err != nil {
		t.Errorf("the good state: %v", err)
	}
}

func TestBlkDoesNotAllocate(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(featEventIdx|blkFlush, 1, 16)
	q := g.queues[0]
	header, data, status := g.diskHeader(blkOut, 1), g.bytes(4096, false), g.statusByte()
	done := make([]byte, DiskCompletionHeader)
	notify := []byte{0, 0}
	ports := g.registers.(*pciRegisters).bus.Ports()
	step := func() {
		q.g.mem.desc(q.desc, testDesc{header.addr, header.len, descNext, 1})
		q.g.mem.desc(q.desc+16, testDesc{data.addr, data.len, descNext, 2})
		q.g.mem.desc(q.desc+32, testDesc{status.addr, 1, descWrite, 0})
		q.offer(0)
		ports.Write(notifyOffset, notify)
		PutDiskCompletion(done, d.waiting[0].ID, DiskOK)
		d.waiting = d.waiting[:0]
		if err := b.Complete(done); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func TestBlkRefusesImpossibleConfigurations(t *testing.T) {
	tests := []struct {
		config BlkConfig
		want   string
	}{
		{BlkConfig{}, "at least one sector"},
		{BlkConfig{Sectors: 1<<54 + 1}, "too large"},
		{BlkConfig{Sectors: 8, BlockSize: 256}, "block size 256"},
		{BlkConfig{Sectors: 8, BlockSize: 1536}, "block size 1536"},
		{BlkConfig{Sectors: 8, BlockSize: 8192}, "block size 8192"},
		{BlkConfig{Sectors: 9, BlockSize: 4096}, "not a multiple"},
		{BlkConfig{Sectors: 8, BlockSize: 4096, PhysicalBlockSize: 512}, "physical block size"},
		{BlkConfig{Sectors: 8, PhysicalBlockSize: 3000}, "physical block size"},
		{BlkConfig{Sectors: 8, Serial: strings.Repeat("x", 21)}, "longer than 20"},
	}
	for _, test := range tests {
		if _, err := NewBlk(ram{}, test.config, &disk{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: error %v, want one about %q", test.config, err, test.want)
		}
	}
}

// BenchmarkBlkRequest is a read of 4 KiB from the notification to the interrupt, without the host's part.
func BenchmarkBlkRequest(b *testing.B) {
	g, dev, d := newDisk(b, BlkConfig{})
	g.registers = onPCI(g, &dev.Core)
	g.start(featEventIdx|featIndirect, 1, 256)
	q := g.queues[0]
	head := q.addIndirect(g.diskHeader(blkIn, 8), g.bytes(4096, true), g.statusByte())
	payload := make([]byte, DiskCompletionHeader+4096)
	ports := g.registers.(*pciRegisters).bus.Ports()
	b.ReportAllocs()
	for b.Loop() {
		ports.Write(notifyOffset, []byte{0, 0})
		PutDiskCompletion(payload, d.waiting[0].ID, DiskOK)
		d.waiting = d.waiting[:0]
		if err := dev.Complete(payload); err != nil {
			b.Fatal(err)
		}
		q.offer(head)
	}
}
