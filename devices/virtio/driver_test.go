package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"tandem/devices"
	"tandem/devices/pci"
)

// This file is a guest: memory, a PIC input, and a driver that knows virtio only by its registers and rings.

// ram is guest memory from address 0 on.
type ram []byte

var errOutside = errors.New("outside of RAM")

func (r ram) ReadAt(p []byte, gpa uint64) error {
	if gpa > uint64(len(r)) || uint64(len(p)) > uint64(len(r))-gpa {
		return errOutside
	}
	copy(p, r[gpa:])
	return nil
}

func (r ram) WriteAt(p []byte, gpa uint64) error {
	if gpa > uint64(len(r)) || uint64(len(p)) > uint64(len(r))-gpa {
		return errOutside
	}
	copy(r[gpa:], p)
	return nil
}

func (r ram) u16(a uint64) uint16      { return binary.LittleEndian.Uint16(r[a:]) }
func (r ram) u32(a uint64) uint32      { return binary.LittleEndian.Uint32(r[a:]) }
func (r ram) put16(a uint64, v uint16) { binary.LittleEndian.PutUint16(r[a:], v) }
func (r ram) put64(a uint64, v uint64) { binary.LittleEndian.PutUint64(r[a:], v) }
func (r ram) put32(a uint64, v uint32) { binary.LittleEndian.PutUint32(r[a:], v) }
func (r ram) desc(a uint64, d testDesc) {
	r.put64(a, d.addr)
	r.put32(a+8, d.len)
	r.put16(a+12, d.flags)
	r.put16(a+14, d.next)
}

type testDesc struct {
	addr        uint64
	len         uint32
	flags, next uint16
}

// line is an input of the interrupt controller.
type line struct {
	level bool
	rises int
}

func (l *line) Set(level bool) {
	if level && !l.level {
		l.rises++
	}
	l.level = level
}

// registers is the transport as the driver uses it.
type registers interface {
	setFeature(sel, v uint32)
	feature(sel uint32) uint32
	status() uint8
	setStatus(uint8)
	config(offset uint64, p []byte)
	setConfig(offset uint64, p []byte)
	setupQueue(i int, size uint16, desc, avail, used uint64)
	queueMax(i int) uint16
	notify(i int)
	// isr reads the interrupt status and acknowledges it.
	isr() uint8
	needsReset() bool
}

// guest is a driver and its machine.
type guest struct {
	t    testing.TB
	mem  ram
	line *line
	registers
	queues []*testQueue
	next   uint64 // free guest memory
	// features are those accepted.
	features uint64
}

const ramSize = 4 << 20

func newGuest(t testing.TB) *guest {
	return &guest{t: t, mem: make(ram, ramSize), line: &line{}, next: 0x1000}
}

func (g *guest) alloc(n uint64) uint64 {
	a := (g.next + 15) &^ 15
	g.next = a + n
	if g.next > uint64(len(g.mem)) {
		g.t.Fatalf("guest memory is full")
	}
	return a
}

// transports are the ways to put a device into a guest.
var transports = map[string]func(g *guest, c *Core) registers{"pci": onPCI, "mmio": onMMIO}

func eachTransport(t *testing.T, f func(t *testing.T, attach func(g *guest, c *Core))) {
	for _, name := range []string{"pci", "mmio"} {
		t.Run(name, func(t *testing.T) {
			f(t, func(g *guest, c *Core) { g.registers = transports[name](g, c) })
		})
	}
}

// start initialises the device (virtio 1.2 §3.1.1), accepting the offered features in want and VERSION_1.
func (g *guest) start(want uint64, queues int, size uint16) {
	g.t.Helper()
	g.setStatus(0)
	g.setStatus(1)
	g.setStatus(1 | 2)
	offered := uint64(g.feature(0)) | uint64(g.feature(1))<<32
	g.features = offered & (want | featVersion1)
	g.setFeature(0, uint32(g.features))
	g.setFeature(1, uint32(g.features>>32))
	g.setStatus(1 | 2 | 8)
	if g.status()&8 == 0 {
		g.t.Fatalf("features %#x refused", g.features)
	}
	g.queues = nil
	for i := range queues {
		g.queues = append(g.queues, g.newQueue(i, size))
	}
	g.setStatus(1 | 2 | 8 | 4)
	if got := g.status(); got != 15 {
		g.t.Fatalf("status %#x after start", got)
	}
}

// testQueue is the driver's side of a queue.
type testQueue struct {
	g                 *guest
	index             int
	size              uint16
	desc, avail, used uint64
	availIdx, usedIdx uint16
	free              []uint16 // descriptors not in use
	chains            map[uint16][]uint16
	kicks             int
}

func (g *guest) newQueue(i int, size uint16) *testQueue {
	q := &testQueue{g: g, index: i, size: min(size, g.queueMax(i)), chains: map[uint16][]uint16{}}
	n := uint64(q.size)
	q.desc, q.avail, q.used = g.alloc(16*n), g.alloc(6+2*n), g.alloc(6+8*n)
	for d := range q.size {
		q.free = append(q.free, d)
	}
	g.setupQueue(i, q.size, q.desc, q.avail, q.used)
	return q
}

type buffer struct {
	addr  uint64
	len   uint32
	write bool
}

func descriptor(b buffer, more bool, next uint16) testDesc {
	d := testDesc{addr: b.addr, len: b.len}
	if b.write {
		d.flags |= descWrite
	}
	if more {
		d.flags |= descNext
		d.next = next
	}
	return d
}

// add makes a chain available and returns its head.
func (q *testQueue) add(buffers ...buffer) uint16 {
	q.g.t.Helper()
	if len(q.free) < len(buffers) {
		q.g.t.Fatalf("queue %d: %d descriptors free, %d needed", q.index, len(q.free), len(buffers))
	}
	ids := append([]uint16(nil), q.free[:len(buffers)]...)
	q.free = q.free[len(buffers):]
	for i, b := range buffers {
		more := i+1 < len(buffers)
		var next uint16
		if more {
			next = ids[i+1]
		}
		q.g.mem.desc(q.desc+16*uint64(ids[i]), descriptor(b, more, next))
	}
	q.chains[ids[0]] = ids
	q.offer(ids[0])
	return ids[0]
}

// addIndirect makes a chain available whose buffers are in an indirect table.
func (q *testQueue) addIndirect(buffers ...buffer) uint16 {
	table := q.g.alloc(16 * uint64(len(buffers)))
	for i, b := range buffers {
		q.g.mem.desc(table+16*uint64(i), descriptor(b, i+1 < len(buffers), uint16(i+1)))
	}
	id := q.free[0]
	q.free = q.free[1:]
	q.g.mem.desc(q.desc+16*uint64(id), testDesc{table, uint32(16 * len(buffers)), descIndirect, 0})
	q.chains[id] = []uint16{id}
	q.offer(id)
	return id
}

func (q *testQueue) offer(head uint16) {
	q.g.mem.put16(q.avail+4+2*uint64(q.availIdx%q.size), head)
	q.availIdx++
	q.g.mem.put16(q.avail+2, q.availIdx)
}

// kick notifies if the device wants it for the n chains last added.
func (q *testQueue) kick(n uint16) {
	if q.wantsKick(n) {
		q.kicks++
		q.g.notify(q.index)
	}
}

func (q *testQueue) wantsKick(n uint16) bool {
	if q.g.features&featEventIdx == 0 {
		return q.g.mem.u16(q.used)&usedNoNotify == 0
	}
	event := q.g.mem.u16(q.used + 4 + 8*uint64(q.size))
	return q.availIdx-event-1 < n // virtio 1.2 §2.7.10
}

// setUsedEvent asks for an interrupt when the used index passes idx.
func (q *testQueue) setUsedEvent(idx uint16) { q.g.mem.put16(q.avail+4+2*uint64(q.size), idx) }

// take returns the next used chain and the length written to it.
func (q *testQueue) take() (head uint16, written uint32, ok bool) {
	if q.g.mem.u16(q.used+2) == q.usedIdx {
		return 0, 0, false
	}
	at := q.used + 4 + 8*uint64(q.usedIdx%q.size)
	q.usedIdx++
	head, written = uint16(q.g.mem.u32(at)), q.g.mem.u32(at+4)
	ids, known := q.chains[head]
	if !known {
		q.g.t.Fatalf("queue %d: chain %d was used and is not in use", q.index, head)
	}
	delete(q.chains, head)
	q.free = append(q.free, ids...)
	return head, written, true
}

// mustTake is take of a chain that must be there.
func (q *testQueue) mustTake() (uint16, uint32) {
	q.g.t.Helper()
	head, written, ok := q.take()
	if !ok {
		q.g.t.Fatalf("queue %d: nothing was used", q.index)
	}
	return head, written
}

// pciRegisters drives a function through configuration ports and windows, as a PCI driver does.
type pciRegisters struct {
	bus                               *pci.Bus
	device                            uint32
	common, notifyAt, isrAt, deviceAt region
	multiplier                        uint32
}

// region is a structure that a capability has named.
type region struct {
	h    devices.Handler
	base uint64
	size uint32
}

func onPCI(g *guest, c *Core) registers {
	bus := pci.New([]pci.IRQ{{Number: 5, Line: g.line}})
	if err := bus.Add(NewPCI(c)); err != nil {
		g.t.Fatal(err)
	}
	r := &pciRegisters{bus: bus, device: 1}
	r.probe(g.t)
	return r
}

func (r *pciRegisters) config32(reg uint32) uint32 {
	r.bus.Write(0, binary.LittleEndian.AppendUint32(nil, 1<<31|r.device<<11|reg&0xfc))
	p := make([]byte, 4)
	r.bus.Read(4, p)
	return binary.LittleEndian.Uint32(p)
}

func (r *pciRegisters) setConfig32(reg, v uint32) {
	r.bus.Write(0, binary.LittleEndian.AppendUint32(nil, 1<<31|r.device<<11|reg&0xfc))
	r.bus.Write(4, binary.LittleEndian.AppendUint32(nil, v))
}

// probe follows the capability list (§4.1.4).
func (r *pciRegisters) probe(t testing.TB) {
	if id := r.config32(0); id&0xffff != 0x1af4 || id>>16 <= 0x1040 {
		t.Fatalf("function is %#x", id)
	}
	for at := r.config32(0x34) & 0xfc; at != 0; at = r.config32(at) >> 8 & 0xfc {
		if r.config32(at)&0xff != 9 {
			continue
		}
		kind, bar := r.config32(at)>>24, r.config32(at+4)&0xff
		reg := region{base: uint64(r.config32(at + 8)), size: r.config32(at + 12)}
		if kind == capPCI {
			continue
		}
		addr := r.config32(0x10 + 4*bar)
		if addr&1 != 0 {
			reg.h = r.bus.Ports()
			reg.base += uint64(addr&^3) - pci.PortBase
		} else {
			reg.h = r.bus.Memory()
			reg.base += uint64(addr&^15) - pci.MemoryBase
		}
		switch kind {
		case capCommon:
			r.common = reg
		case capNotify:
			r.notifyAt, r.multiplier = reg, r.config32(at+16)
		case capISR:
			r.isrAt = reg
		case capDevice:
			r.deviceAt = reg
		}
	}
	if r.common.h == nil || r.notifyAt.h == nil || r.isrAt.h == nil || r.deviceAt.h == nil {
		t.Fatal("a structure has no capability")
	}
}

func (r region) read(offset uint64, size int) uint32 {
	p := make([]byte, size)
	r.h.Read(r.base+offset, p)
	return littleEndian(p)
}

func (r region) write(offset uint64, size int, v uint32) {
	r.h.Write(r.base+offset, binary.LittleEndian.AppendUint32(nil, v)[:size])
}

func (r *pciRegisters) feature(sel uint32) uint32 {
	r.common.write(0, 4, sel)
	return r.common.read(4, 4)
}

func (r *pciRegisters) setFeature(sel, v uint32) {
	r.common.write(8, 4, sel)
	r.common.write(12, 4, v)
}
func (r *pciRegisters) status() uint8                  { return uint8(r.common.read(0x14, 1)) }
func (r *pciRegisters) setStatus(v uint8)              { r.common.write(0x14, 1, uint32(v)) }
func (r *pciRegisters) config(offset uint64, p []byte) { r.deviceAt.h.Read(r.deviceAt.base+offset, p) }
func (r *pciRegisters) setConfig(offset uint64, p []byte) {
	r.deviceAt.h.Write(r.deviceAt.base+offset, p)
}

func (r *pciRegisters) queueMax(i int) uint16 {
	r.common.write(0x16, 2, uint32(i))
	return uint16(r.common.read(0x18, 2))
}

func (r *pciRegisters) setupQueue(i int, size uint16, desc, avail, used uint64) {
	r.common.write(0x16, 2, uint32(i))
	r.common.write(0x18, 2, uint32(size))
	for n, a := range []uint64{desc, avail, used} {
		r.common.write(0x20+8*uint64(n), 4, uint32(a))
		r.common.write(0x24+8*uint64(n), 4, uint32(a>>32))
	}
	r.common.write(0x1c, 2, 1)
}

func (r *pciRegisters) notify(i int) {
	r.common.write(0x16, 2, uint32(i))
	off := r.common.read(0x1e, 2) * r.multiplier
	r.notifyAt.write(uint64(off), 2, uint32(i))
}
func (r *pciRegisters) isr() uint8       { return uint8(r.isrAt.read(0, 1)) }
func (r *pciRegisters) needsReset() bool { return r.status()&statusNeedsReset != 0 }

// mmioRegisters drives a device through its memory-mapped registers.
type mmioRegisters struct{ h devices.Handler }

func onMMIO(g *guest, c *Core) registers {
	r := mmioRegisters{NewMMIO(c, g.line)}
	if r.read(0) != 0x74726976 || r.read(4) != 2 {
		g.t.Fatal("no virtio-mmio device of version 2")
	}
	return r
}

func (r mmioRegisters) read(offset uint64) uint32 {
	p := make([]byte, 4)
	r.h.Read(offset, p)
	return binary.LittleEndian.Uint32(p)
}

func (r mmioRegisters) write(offset uint64, v uint32) {
	r.h.Write(offset, binary.LittleEndian.AppendUint32(nil, v))
}

func (r mmioRegisters) feature(sel uint32) uint32 {
	r.write(0x14, sel)
	return r.read(0x10)
}

func (r mmioRegisters) setFeature(sel, v uint32) {
	r.write(0x24, sel)
	r.write(0x20, v)
}
func (r mmioRegisters) status() uint8                     { return uint8(r.read(0x70)) }
func (r mmioRegisters) setStatus(v uint8)                 { r.write(0x70, uint32(v)) }
func (r mmioRegisters) config(offset uint64, p []byte)    { r.h.Read(0x100+offset, p) }
func (r mmioRegisters) setConfig(offset uint64, p []byte) { r.h.Write(0x100+offset, p) }

func (r mmioRegisters) queueMax(i int) uint16 {
	r.write(0x30, uint32(i))
	return uint16(r.read(0x34))
}

func (r mmioRegisters) setupQueue(i int, size uint16, desc, avail, used uint64) {
	r.write(0x30, uint32(i))
	r.write(0x38, uint32(size))
	for n, a := range []uint64{desc, avail, used} {
		r.write(0x80+0x10*uint64(n), uint32(a))
		r.write(0x84+0x10*uint64(n), uint32(a>>32))
	}
	r.write(0x44, 1)
}
func (r mmioRegisters) notify(i int) { r.write(0x50, uint32(i)) }

func (r mmioRegisters) isr() uint8 {
	v := r.read(0x60)
	r.write(0x64, v)
	return uint8(v)
}
func (r mmioRegisters) needsReset() bool { return r.status()&statusNeedsReset != 0 }

// saved returns the device's state.
func saved(t testing.TB, s devices.Stateful) string {
	t.Helper()
	p, err := s.SaveState()
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// must panics on an error of a constructor; for fuzz targets and tables.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint("constructor: ", err))
	}
	return v
}
