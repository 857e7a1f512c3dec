package virtio

import (
	"bytes"
	"strings"
	"testing"
)

func TestHostileQueuesStopTheDevice(t *testing.T) {
	tests := []struct {
		name  string
		wreck func(g *guest, q *testQueue)
		want  string
	}{
		{"a cycle", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{0x1000, 16, descNext, 1})
			g.mem.desc(q.desc+16, testDesc{0x1000, 16, descNext, 0})
			q.offer(0)
		}, "more than 16 descriptors"},
		{"a head outside of the table", func(g *guest, q *testQueue) {
			q.offer(16)
		}, "descriptor 16 of 16"},
		{"a next outside of the table", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{0x1000, 16, descNext, 4000})
			q.offer(0)
		}, "descriptor 4000 of 16"},
		{"readable after writable", func(g *guest, q *testQueue) {
			q.add(buffer{0x1000, 16, false}, buffer{0x1000, 1, true}, buffer{0x1000, 1, false})
		}, "readable buffer comes after a writable"},
		{"a header outside of RAM", func(g *guest, q *testQueue) {
			q.add(buffer{ramSize - 8, 16, false}, buffer{0x1000, 1, true})
		}, "outside of RAM"},
		{"a status outside of RAM", func(g *guest, q *testQueue) {
			q.add(g.diskHeader(77, 0), buffer{ramSize, 1, true})
		}, "outside of RAM"},
		{"data to write outside of RAM", func(g *guest, q *testQueue) {
			q.add(g.diskHeader(blkOut, 0), buffer{ramSize, 512, false}, g.statusByte())
		}, "outside of RAM"},
		{"a buffer that wraps", func(g *guest, q *testQueue) {
			q.add(buffer{1<<64 - 8, 16, false}, buffer{0x1000, 1, true})
		}, "wraps"},
		{"more than 4 GiB", func(g *guest, q *testQueue) {
			q.add(g.diskHeader(blkIn, 0), buffer{0, 1<<32 - 1, true}, buffer{0, 1, true})
		}, "longer than 4 GiB"},
		{"no status", func(g *guest, q *testQueue) {
			q.add(g.diskHeader(blkIn, 0))
		}, "no header or no status"},
		{"an empty chain", func(g *guest, q *testQueue) {
			q.add(buffer{0x1000, 0, false})
		}, "no header or no status"},
		{"half a header", func(g *guest, q *testQueue) {
			q.add(buffer{0x1000, 15, false}, g.statusByte())
		}, "no header or no status"},
		{"an index that has run ahead", func(g *guest, q *testQueue) {
			g.mem.put16(q.avail+2, 17)
		}, "17 ahead, the queue has 16"},
		{"an index that goes back", func(g *guest, q *testQueue) {
			g.mem.put16(q.avail+2, 0xffff)
		}, "ahead"},
		{"an indirect table of odd size", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{0x1000, 17, descIndirect, 0})
			q.offer(0)
		}, "indirect table of 17 bytes"},
		{"an empty indirect table", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{0x1000, 0, descIndirect, 0})
			q.offer(0)
		}, "indirect table of 0 bytes"},
		{"an indirect table that wraps", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{1<<64 - 16, 32, descIndirect, 0})
			q.offer(0)
		}, "indirect table of 32 bytes"},
		{"an indirect table outside of RAM", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{ramSize, 32, descIndirect, 0})
			q.offer(0)
		}, "outside of RAM"},
		{"indirect and next", func(g *guest, q *testQueue) {
			g.mem.desc(q.desc, testDesc{0x1000, 32, descIndirect | descNext, 1})
			q.offer(0)
		}, "indirect descriptor where none is allowed"},
		{"indirect inside indirect", func(g *guest, q *testQueue) {
			g.mem.desc(0x3000, testDesc{0x3000, 16, descIndirect, 0})
			g.mem.desc(q.desc, testDesc{0x3000, 16, descIndirect, 0})
			q.offer(0)
		}, "indirect descriptor where none is allowed"},
		{"a cycle in an indirect table", func(g *guest, q *testQueue) {
			g.mem.desc(0x3000, testDesc{0x1000, 16, descNext, 0})
			g.mem.desc(q.desc, testDesc{0x3000, 16, descIndirect, 0})
			q.offer(0)
		}, "more than 16 descriptors"},
		{"a next outside of an indirect table", func(g *guest, q *testQueue) {
			g.mem.desc(0x3000, testDesc{0x1000, 16, descNext, 2})
			g.mem.desc(q.desc, testDesc{0x3000, 32, descIndirect, 0})
			q.offer(0)
		}, "descriptor 2 of 2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
				g, b, d := newDisk(t, BlkConfig{})
				attach(g, &b.Core)
				var told []string
				b.OnFailure(func(err error) { told = append(told, err.Error()) })
				g.start(featIndirect|featEventIdx, 1, 16)
				test.wreck(g, g.queues[0])
				g.notify(0)
				if !g.needsReset() || g.isr() != isrConfig {
					t.Fatal("no DEVICE_NEEDS_RESET with a configuration change interrupt")
				}
				if !strings.Contains(b.Failure(), test.want) || len(told) != 1 || told[0] != b.Failure() {
					t.Errorf("failure %q, told %q, want one about %q", b.Failure(), told, test.want)
				}
				// Nothing moves any more, and nothing comes out.
				before := bytes.Clone(g.mem)
				g.notify(0)
				if len(d.waiting) != 0 || !bytes.Equal(before, g.mem) || g.line.level {
					t.Error("a stopped device goes on")
				}
				// A reset makes it work again.
				g.start(0, 1, 16)
				status := g.statusByte()
				g.queues[0].add(g.diskHeader(77, 0), status)
				g.queues[0].kick(1)
				if b.Failure() != "" || g.mem[status.addr] != 2 {
					t.Errorf("after a reset: status %d, failure %q", g.mem[status.addr], b.Failure())
				}
			})
		})
	}
}

func TestIndirectAfterDirectDescriptors(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(featIndirect, 1, 16)
	q := g.queues[0]
	header, data, status := g.diskHeader(blkIn, 9), g.bytes(512, true), g.statusByte()
	table := g.alloc(32)
	// The table's second entry is its last in the chain; the write flag of the one that names it means nothing (§2.7.5.3.2).
	g.mem.desc(table, descriptor(data, true, 1))
	g.mem.desc(table+16, descriptor(status, false, 0))
	g.mem.desc(q.desc, descriptor(header, true, 1))
	g.mem.desc(q.desc+16, testDesc{table, 32, descIndirect | descWrite, 0})
	q.chains[0] = []uint16{0, 1}
	q.offer(0)
	q.kick(1)
	if len(d.waiting) != 1 || d.waiting[0].Sector != 9 || d.waiting[0].Sectors != 1 {
		t.Fatalf("requests %+v, failure %q", d.waiting, b.Failure())
	}
}

func TestAnswerOutsideOfRAMStopsTheDevice(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.start(0, 1, 16)
	g.queues[0].add(g.diskHeader(blkIn, 9), buffer{ramSize - 256, 512, true}, g.statusByte())
	g.queues[0].kick(1)
	if err := b.Complete(d.do(0)); err != nil {
		t.Fatal(err)
	}
	if !g.needsReset() || !strings.Contains(b.Failure(), "outside of RAM") {
		t.Errorf("failure %q", b.Failure())
	}
}

func TestRingsOutsideOfRAM(t *testing.T) {
	parts := []string{"descriptor table", "available ring", "used ring"}
	for i, part := range parts {
		t.Run(part, func(t *testing.T) {
			g, b, _ := newDisk(t, BlkConfig{})
			g.registers = onPCI(g, &b.Core)
			g.setStatus(1 | 2)
			g.setFeature(1, 1)
			g.setStatus(1 | 2 | 8)
			addrs := [3]uint64{0x10000, 0x11000, 0x12000}
			addrs[i] = ramSize
			g.mem.put16(0x11000+2, 1)
			g.mem.desc(0x10000, descriptor(g.diskHeader(77, 0), true, 1))
			g.mem.desc(0x10010, descriptor(g.statusByte(), false, 0))
			g.setupQueue(0, 16, addrs[0], addrs[1], addrs[2])
			g.setStatus(1 | 2 | 8 | 4)
			if !g.needsReset() || !strings.Contains(b.Failure(), "outside of RAM") {
				t.Errorf("failure %q", b.Failure())
			}
		})
	}
}

func TestQueueRegistersOfALiveQueue(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, b, _ := newDisk(t, BlkConfig{})
		attach(g, &b.Core)
		g.start(0, 1, 16)
		before := b.queues[0]
		g.setupQueue(0, 64, 0, 0, 0)
		after := b.queues[0]
		if before.size != after.size || before.desc != after.desc || before.avail != after.avail ||
			before.used != after.used || !after.ready {
			t.Errorf("the queue changed from %+v to %+v", before, after)
		}
		// A queue that does not exist has no registers.
		if g.queueMax(1) != 0 {
			t.Error("queue 1 exists")
		}
		g.setupQueue(1, 16, 0, 0, 0)
		g.notify(1)
		g.notify(0xffff)
		if b.Failure() != "" {
			t.Error(b.Failure())
		}
	})
}

func TestImpossibleQueues(t *testing.T) {
	tests := []struct {
		name              string
		size              uint16
		desc, avail, used uint64
	}{
		{"size 0", 0, 0x1000, 0x2000, 0x3000},
		{"size 3", 3, 0x1000, 0x2000, 0x3000},
		{"size too large", 512, 0x1000, 0x2000, 0x3000},
		{"misaligned table", 16, 0x1008, 0x2000, 0x3000},
		{"misaligned driver area", 16, 0x1000, 0x2001, 0x3000},
		{"misaligned device area", 16, 0x1000, 0x2000, 0x3002},
		{"wrapping table", 16, 1<<64 - 16, 0x2000, 0x3000},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
				g, b, _ := newDisk(t, BlkConfig{})
				attach(g, &b.Core)
				g.setStatus(1 | 2)
				g.setFeature(1, 1)
				g.setStatus(1 | 2 | 8)
				g.setupQueue(0, test.size, test.desc, test.avail, test.used)
				if !g.needsReset() || b.queues[0].ready {
					t.Error("the queue was taken")
				}
			})
		})
	}
}

func TestFeatureNegotiation(t *testing.T) {
	tests := []struct {
		name     string
		features uint64
		ok       bool
	}{
		{"version 1 alone", featVersion1, true},
		{"without version 1", featIndirect, false},
		{"one that was not offered", featVersion1 | 1<<40, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
				g, b, _ := newDisk(t, BlkConfig{})
				attach(g, &b.Core)
				g.setFeature(0, uint32(test.features))
				g.setFeature(1, uint32(test.features>>32))
				g.setFeature(2, 0xffffffff) // there are no such bits
				g.setStatus(1 | 2 | 8)
				if got := g.status()&8 != 0; got != test.ok {
					t.Errorf("FEATURES_OK is %v", got)
				}
				g.setStatus(1 | 2 | 8 | 4)
				if b.Running() != test.ok {
					t.Errorf("running is %v", b.Running())
				}
				if g.feature(2) != 0 {
					t.Error("features beyond 63 were offered")
				}
				// Settled features do not change.
				g.setFeature(0, 0xffffffff)
				if test.ok && b.driverFeatures != test.features {
					t.Errorf("features are %#x", b.driverFeatures)
				}
			})
		})
	}
}

func TestNothingMovesBeforeDriverOK(t *testing.T) {
	g, b, d := newDisk(t, BlkConfig{})
	g.registers = onPCI(g, &b.Core)
	g.setStatus(1 | 2)
	g.setFeature(1, 1)
	g.setStatus(1 | 2 | 8)
	q := g.newQueue(0, 16)
	q.add(g.diskHeader(blkFlushRequest, 0), g.statusByte())
	g.notify(0)
	if len(d.waiting) != 0 {
		t.Fatal("a buffer was used before DRIVER_OK")
	}
	g.setStatus(1 | 2 | 8 | 4)
	if len(d.waiting) != 1 {
		t.Error("what was made available before DRIVER_OK was lost")
	}
}

// TestConfigurationAccess reaches the registers through the configuration space (§4.1.4.9).
func TestConfigurationAccess(t *testing.T) {
	g, b, _ := newDisk(t, BlkConfig{})
	r := onPCI(g, &b.Core).(*pciRegisters)
	at := r.config32(0x34)
	for r.config32(at)>>24 != capPCI {
		if at = r.config32(at) >> 8 & 0xfc; at == 0 {
			t.Fatal("no such capability")
		}
	}
	access := func(bar, offset, width uint32) {
		r.setConfig32(at+4, bar)
		r.setConfig32(at+8, offset)
		r.setConfig32(at+12, width)
	}
	access(barMemory, regStatus, 1)
	r.setConfig32(at+16, 3)
	if got := r.config32(at + 16); got != 3 || r.status() != 3 {
		t.Errorf("status reads as %#x here and %#x there", got, r.status())
	}
	access(barMemory, deviceOffset, 4)
	if got := r.config32(at + 16); got != testSectors {
		t.Errorf("capacity reads as %d", got)
	}
	b.setISR(isrConfig)
	access(barPorts, isrOffset, 1)
	if got := r.config32(at + 16); got != isrConfig || g.line.level {
		t.Errorf("interrupt status reads as %d", got)
	}
	tests := []struct {
		name               string
		bar, offset, width uint32
	}{
		{"no width", barMemory, regStatus, 0},
		{"odd width", barMemory, regStatus, 3},
		{"too wide", barMemory, 0, 8},
		{"not aligned", barMemory, 1, 4},
		{"beyond the BAR", barMemory, memorySize, 4},
		{"no such BAR", 2, 0, 4},
	}
	for _, test := range tests {
		access(test.bar, test.offset, test.width)
		before := saved(t, b)
		r.setConfig32(at+16, 0xffffffff)
		if got := r.config32(at + 16); got != 0 || saved(t, b) != before {
			t.Errorf("%s: reads as %#x, or the device has changed", test.name, got)
		}
	}
}

func TestMMIORegisters(t *testing.T) {
	g, b, _ := newDisk(t, BlkConfig{})
	r := onMMIO(g, &b.Core).(mmioRegisters)
	tests := []struct {
		name   string
		offset uint64
		want   uint32
	}{
		{"device", mmioDeviceID, idBlk}, {"vendor", mmioVendorID, 0x1af4}, {"queue size", mmioQueueSizeMax, diskQueueSize},
		{"ready", mmioQueueReady, 0}, {"shared memory length", mmioSharedLenLow, 0xffffffff}, {"nothing", 0x1c, 0},
		{"write-only", mmioQueueNotify, 0}, {"generation", mmioGeneration, 0},
	}
	for _, test := range tests {
		if got := r.read(test.offset); got != test.want {
			t.Errorf("%s is %#x, want %#x", test.name, got, test.want)
		}
	}
	// A queue can be taken back before the device runs, and not after.
	g.registers = r
	g.setStatus(3)
	g.setFeature(1, 1)
	g.setStatus(11)
	g.setupQueue(0, 16, 0x1000, 0x2000, 0x3000)
	r.write(mmioQueueReady, 0)
	if r.read(mmioQueueReady) != 0 {
		t.Error("the queue stays ready")
	}
	g.start(0, 1, 16)
	r.write(mmioQueueReady, 0)
	if r.read(mmioQueueReady) != 1 {
		t.Error("a queue of a running device was taken away")
	}
	// Accesses of another width do nothing.
	r.h.Write(mmioStatus, []byte{0})
	p := []byte{1, 1}
	if r.h.Read(mmioMagic, p); r.status() != 15 || p[0] != 0 {
		t.Errorf("status %d, magic %x", r.status(), p)
	}
	r.write(mmioStatus, 0x100)
	if r.status() != 15 {
		t.Error("a status of more than 8 bits was taken")
	}
}
