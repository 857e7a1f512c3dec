package virtio

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"slices"
	"testing"

	"tandem/devices"
	"tandem/devices/pci"
)

// fuzzRAM is small, so that random addresses hit something.
const fuzzRAM = 64 << 10

// fuzzMachine is a machine of one device of each kind, behind both transports, whose guest does what a fuzzer says.
type fuzzMachine struct {
	mem     ram
	bus     *pci.Bus
	windows []devices.Handler
	lines   []*line
	disk    disk
	sent    wire
	asked   asked

	blk     *Blk
	net     *Net
	rng     *Rng
	console *Console
}

func newFuzzMachine(t testing.TB) *fuzzMachine {
	m := &fuzzMachine{mem: make(ram, fuzzRAM), lines: []*line{{}, {}}}
	m.disk.data = make([]byte, 64*SectorSize)
	for i := range m.disk.data {
		m.disk.data[i] = byte(i)
	}
	m.blk = must(NewBlk(m.mem, BlkConfig{Sectors: 64, Discard: true, Serial: "fuzz"}, &m.disk))
	m.net = must(NewNet(m.mem, NetConfig{MAC: testMAC, Checksum: true, TSO: true}, &m.sent))
	m.rng = NewRng(m.mem, &m.asked)
	m.console = NewConsole(m.mem, ConsoleConfig{80, 25}, &m.sent)
	m.bus = pci.New([]pci.IRQ{{Number: 5, Line: m.lines[0]}})
	for _, c := range m.cores()[:2] {
		if err := m.bus.Add(NewPCI(c)); err != nil {
			t.Fatal(err)
		}
	}
	m.windows = []devices.Handler{m.bus, m.bus.Memory(), m.bus.Ports()}
	for _, c := range m.cores()[2:] {
		m.windows = append(m.windows, NewMMIO(c, m.lines[1]))
	}
	return m
}

func (m *fuzzMachine) cores() []*Core {
	return []*Core{&m.blk.Core, &m.net.Core, &m.rng.Core, &m.console.Core}
}

// startAll has the drivers of all devices reset and start them, with queues of 8 entries at fixed places: queue i's rings are
// in page i.
func (m *fuzzMachine) startAll(features uint64) {
	page := uint64(0)
	for _, c := range m.cores() {
		c.setStatus(0)
		c.setStatus(3)
		for sel := range uint32(2) {
			c.driverSelect = sel
			c.setFeatureWord(uint32((features | featVersion1) & c.offered() >> (32 * sel)))
		}
		c.setStatus(11)
		for i := range c.queues {
			c.queueSelect = uint16(i)
			base := page * 0x400
			c.queues[i].size = 8
			for part, a := range []uint64{base, base + 0x100, base + 0x200} {
				c.setQueueAddress(part, false, uint32(a))
			}
			c.enableQueue()
			page++
		}
		c.setStatus(15)
	}
}

// step does the first of ops. The guest's memory is written as a guest writes it, an access
// goes where a guest's would, and an input is one that the machine would let in.
func (m *fuzzMachine) step(t testing.TB, ops []byte) {
	op, a, b := ops[0], binary.LittleEndian.Uint16(ops[1:]), ops[3:7]
	switch op % 16 {
	case 0, 1: // an aligned register write
		w := m.windows[int(a>>12)%len(m.windows)]
		width := []int{1, 2, 4}[int(op>>4)%3]
		w.Write(uint64(a)&0xfff&^uint64(width-1), bytes.Clone(b[:width]))
	case 3:
		w := m.windows[int(a>>12)%len(m.windows)]
		p := make([]byte, 1<<(op>>4&3))
		w.Read(uint64(a)&0xfff, p)
	case 2, 4:
		m.request(int(a%7), a>>8, b)
	case 5, 6: // memory
		copy(m.mem[a:], b)
	case 7: // a descriptor
		at := uint64(a) &^ 15
		m.mem.desc(at, testDesc{uint64(binary.LittleEndian.Uint16(b)), uint32(b[2]) << (op >> 4), uint16(b[3] & 7), uint16(b[3] >> 5)})
	case 8: // an available index goes on by one
		at := uint64(a%8)*0x400 + 0x102
		m.mem.put16(at, m.mem.u16(at)+1)
	case 9:
		c := m.cores()[a%4]
		c.notify(uint32(b[0] % 4))
	case 10:
		if len(m.disk.waiting) > 0 {
			m.complete(t, m.blk.Complete(m.disk.do(int(a)%len(m.disk.waiting))))
		}
	case 11:
		p := packet([6]byte(append(bytes.Clone(b), 0, 0)), 14+int(a%4000))
		p[hdrFlags], p[hdrGSOType] = b[3]&3, b[2]&5
		p[hdrCsumStart], p[hdrCsumOffset] = b[0], b[1]
		if m.net.Wants(p) && m.net.CanReceive(len(p)) {
			m.net.Receive(p)
		}
	case 12:
		if len(m.asked.sizes) > 0 {
			n := m.asked.sizes[0]
			m.asked.sizes = m.asked.sizes[1:]
			m.complete(t, m.rng.Deliver(bytes.Repeat(b[:1], n)))
		}
	case 13:
		if room := m.console.Room(); room > 0 {
			m.console.Receive(bytes.Repeat(b[:1], min(room, int(a%200)+1)))
		}
	case 14:
		m.startAll(binary.LittleEndian.Uint64(append(bytes.Clone(b), byte(a), byte(a>>8), 0, 0)) | uint64(op>>4&1)<<28 | uint64(op>>5&1)<<29)
	case 15:
		m.net.Announce()
	}
}

// request makes a chain available that its device understands, in the queue whose rings are in the given page, and
// notifies. b and how say what it is.
func (m *fuzzMachine) request(page int, how uint16, b []byte) {
	at := func(i int) uint64 { return 0x8000 + 0x1000*uint64(i) }
	fill := uint64(b[3]) * 8 // where in its page a buffer starts
	var chain []buffer
	switch page {
	case 0:
		kinds := []uint32{blkIn, blkOut, blkIn, blkOut, blkFlushRequest, blkGetID, blkDiscardReq, blkWriteZeroesRq, 99}
		kind := kinds[int(b[0])%len(kinds)]
		m.mem.put32(at(0), kind)
		m.mem.put64(at(0)+8, uint64(b[1]%80))
		m.mem.put64(at(1), uint64(b[1]%80))
		m.mem.put32(at(1)+8, uint32(b[2]%32))
		m.mem.put32(at(1)+12, uint32(b[3]%16/14))
		n := uint32(b[2]%8) * SectorSize
		switch kind {
		case blkGetID:
			n = 20
		case blkDiscardReq, blkWriteZeroesRq:
			n = 16
		}
		chain = []buffer{{at(0), 16, false}, {at(1), n, kind == blkIn || kind == blkGetID}, {at(2), 1, true}}
		if kind == blkFlushRequest {
			chain = []buffer{chain[0], chain[2]}
		}
	case 1:
		chain = []buffer{{at(3) + fill, 64 + uint32(b[1])*8, true}}
	case 2:
		m.mem[at(4)+fill], m.mem[at(4)+fill+1] = b[0]&1, b[1]%8&5
		m.mem.put16(at(4)+fill+hdrGSOSize, uint16(b[1]))
		chain = []buffer{{at(4) + fill, NetHeader, false}, {at(4) + fill + NetHeader, 10 + uint32(b[2])*8, false}}
	case 3:
		m.mem[at(5)], m.mem[at(5)+1], m.mem[at(5)+2] = b[0]%4, b[1]%2, b[2]
		chain = []buffer{{at(5), 2, false}, {at(5) + 2, uint32([]byte{0, 1, 6, 8}[b[2]%4]), false}, {at(5) + 64, 1, true}}
	case 4, 5:
		chain = []buffer{{at(6) + fill, 1 + uint32(b[0]), true}}
	case 6:
		chain = []buffer{{at(6) + fill, uint32(b[0]), false}}
	}

	c, i := m.cores()[[]int{0, 1, 1, 1, 2, 3, 3}[page]], []int{0, 0, 1, 2, 0, 0, 1}[page]
	rings := uint64(page) * 0x400
	idx := m.mem.u16(rings + 0x102)
	head := idx % 2 * 4 // two places for a chain of up to 4
	table, first := rings, head
	if c.queues[i].indirect && how&1 != 0 {
		table, first = 0xf000+uint64(page)*0x80+uint64(head)*16, 0
		m.mem.desc(rings+16*uint64(head), testDesc{table, uint32(len(chain)) * 16, descIndirect, 0})
	}
	for k, buf := range chain {
		m.mem.desc(table+16*uint64(first+uint16(k)), descriptor(buf, k+1 < len(chain), first+uint16(k)+1))
	}
	m.mem.put16(rings+0x104+2*uint64(idx%8), head)
	m.mem.put16(rings+0x102, idx+1)
	if how&2 == 0 || page != 0 {
		c.notify(uint32(i))
	}
}

func (m *fuzzMachine) complete(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("an answer to a request was refused: %v", err)
	}
}

// state is everything that makes the machine what it is.
func (m *fuzzMachine) state(t testing.TB) []string {
	return []string{saved(t, m.bus), saved(t, m.blk), saved(t, m.net), saved(t, m.rng), saved(t, m.console)}
}

// FuzzTwoMachines has two machines do the same: whatever the guest does, no device panics, both have the same state,
// memory, interrupts and output at the end, though one of them is on its way replaced by a third.
func FuzzTwoMachines(f *testing.F) {
	start := []byte{14, 0, 0, 0xff, 0xff, 0xff, 0xff}
	f.Add(start)
	for seed := range int64(8) {
		f.Add(randomGuest(seed)[:7*60])
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 7*400 {
			return
		}
		compareMachines(t, ops)
	})
}

// compareMachines has two machines do ops, one of them from the middle on as another machine that has taken over its
// state, and returns the first.
func compareMachines(t testing.TB, ops []byte) *fuzzMachine {
	t.Helper()
	a, b := newFuzzMachine(t), newFuzzMachine(t)
	steps := len(ops) / 7
	for i := range steps {
		if i == steps/2 {
			b = b.takenOver(t)
		}
		a.step(t, ops[7*i:])
		b.step(t, ops[7*i:])
	}
	sa, sb := a.state(t), b.state(t)
	for i := range sa {
		if sa[i] != sb[i] {
			t.Fatalf("states differ:\n%s\n%s", sa[i], sb[i])
		}
	}
	if !bytes.Equal(a.mem, b.mem) || !bytes.Equal(a.disk.data, b.disk.data) {
		t.Fatal("memory or disk differs")
	}
	if !slices.EqualFunc(a.sent.sent, b.sent.sent, bytes.Equal) || !slices.Equal(a.asked.sizes, b.asked.sizes) {
		t.Fatal("output differs")
	}
	for i := range a.lines {
		if *a.lines[i] != *b.lines[i] {
			t.Fatal("interrupts differ")
		}
	}
	return a
}

// takenOver returns a machine that has the state of m, and of the world around it.
func (m *fuzzMachine) takenOver(t testing.TB) *fuzzMachine {
	t.Helper()
	n := newFuzzMachine(t)
	for i, s := range []devices.Stateful{n.bus, n.blk, n.net, n.rng, n.console} {
		if err := s.LoadState([]byte(m.state(t)[i])); err != nil {
			t.Fatalf("state %s: %v", m.state(t)[i], err)
		}
	}
	if !slices.Equal(n.state(t), m.state(t)) {
		t.Fatal("a loaded state is another one")
	}
	copy(n.mem, m.mem)
	copy(n.disk.data, m.disk.data)
	n.sent = m.sent
	for i := range m.lines {
		*n.lines[i] = *m.lines[i]
	}
	for _, r := range n.blk.Pending() {
		n.disk.Submit(r)
	}
	n.asked.sizes = n.rng.Pending()
	return n
}

// randomGuest returns the operations of a guest that mostly knows what it does.
func randomGuest(seed int64) []byte {
	random := rand.New(rand.NewSource(seed))
	ops := []byte{14, 0, 0, 0xff, 0xff, 0xff, 0xff}
	for range 300 {
		op := make([]byte, 7)
		random.Read(op)
		if random.Intn(80) > 0 { // seldom wreck things
			op[0] = op[0]&0xf0 | []byte{2, 2, 2, 3, 9, 10, 10, 11, 12, 13, 15}[random.Intn(11)]
		}
		ops = append(ops, op...)
	}
	return ops
}

// TestRandomGuests is FuzzTwoMachines with many random guests, as an ordinary test.
func TestRandomGuests(t *testing.T) {
	failures, answers, running := 0, 0, int64(0)
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", running)
		}
	}()
	for seed := range int64(400) {
		running = seed
		for _, c := range compareMachines(t, randomGuest(seed)).cores() {
			if c.Failure() != "" {
				failures++
			}
			for i := range c.queues {
				answers += int(c.queues[i].nextUsed)
			}
		}
	}
	if failures == 0 || answers == 0 {
		t.Errorf("%d devices failed and %d chains were used: the guests are not what they should be", failures, answers)
	}
	t.Logf("%d devices failed, %d chains in use at the end", failures, answers)
}

// FuzzWalk walks a queue of eight entries in memory that the fuzzer fills. Whatever is there, a chain ends, and its
// shape keeps the bounds that devices rely on.
func FuzzWalk(f *testing.F) {
	mem := make(ram, 0x400)
	mem.desc(0, testDesc{0x80, 32, descIndirect, 0})
	mem.desc(0x80, testDesc{0x100, 16, descNext, 1})
	mem.desc(0x90, testDesc{0x200, 16, descWrite, 0})
	f.Add([]byte(mem), true)
	f.Add(bytes.Repeat([]byte{1}, 0x400), false)
	f.Fuzz(func(t *testing.T, p []byte, indirect bool) {
		mem := make(ram, 0x400)
		copy(mem, p)
		q := queue{mem: mem, max: 8, size: 8, desc: 0, avail: 0x300, used: 0x340, indirect: indirect}
		if err := q.enable(); err != nil {
			t.Fatal(err)
		}
		var c chain
		for n := 0; ; n++ {
			if ok, err := q.pop(&c); !ok || err != nil {
				return
			}
			if n == 8 {
				t.Fatal("more chains than entries")
			}
			if len(c.in)+len(c.out) > 8 || c.head >= 8 {
				t.Fatalf("chain %d has %d buffers", c.head, len(c.in)+len(c.out))
			}
			total := uint64(0)
			for _, s := range append(c.in, c.out...) {
				if s.addr+uint64(s.len) < s.addr {
					t.Fatal("a buffer wraps")
				}
				total += uint64(s.len)
			}
			if total != c.inLen+c.outLen || total > 1<<32-1 {
				t.Fatalf("buffers of %d bytes are counted as %d", total, c.inLen+c.outLen)
			}
		}
	})
}

// FuzzDiskCompletion feeds the decoder: what it accepts, it encodes to the same bytes.
func FuzzDiskCompletion(f *testing.F) {
	f.Add(DiskCompletion{ID: 1, Data: make([]byte, 512)}.Append(nil))
	f.Add(DiskCompletion{ID: 7, Status: DiskIOError}.Append(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := DecodeDiskCompletion(p)
		if err == nil && !bytes.Equal(c.Append(nil), p) {
			t.Fatalf("completion %+v encodes to something else", c)
		}
	})
}

// FuzzDiskState feeds a state to a disk: it is refused, or the disk has it.
func FuzzDiskState(f *testing.F) {
	m := newFuzzMachine(f)
	m.startAll(0)
	m.mem.desc(0, testDesc{0x8000, 16, descNext, 1})
	m.mem.desc(16, testDesc{0x8000, 512, descNext | descWrite, 2})
	m.mem.desc(32, testDesc{0x8000, 1, descWrite, 0})
	m.mem.put16(0x102, 1)
	m.blk.notify(0)
	f.Add([]byte(saved(f, m.blk)))
	f.Fuzz(func(t *testing.T, p []byte) {
		m := newFuzzMachine(t)
		before := saved(t, m.blk)
		if err := m.blk.LoadState(p); err != nil {
			if saved(t, m.blk) != before {
				t.Fatal("a refused state has changed the disk")
			}
			return
		}
		again := saved(t, m.blk)
		if err := m.blk.LoadState([]byte(again)); err != nil || saved(t, m.blk) != again {
			t.Fatalf("state %s: %v", again, err)
		}
		for _, r := range m.blk.Pending() {
			m.disk.Submit(r)
		}
		for len(m.disk.waiting) > 0 {
			if err := m.blk.Complete(m.disk.do(0)); err != nil {
				t.Fatal(err)
			}
		}
	})
}
