package virtio

import (
	"encoding/binary"
	"fmt"
	"math"

	"tandem/devices"
)

// Flags of descriptors and rings (virtio 1.2 §2.7.5, §2.7.6, §2.7.8).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

const (
	descSize = 16
	usedSize = 8
)

// maxQueueSize is the largest queue any device here has. §2.7 allows 32768; a bound this low keeps chains small.
const maxQueueSize = 1024

// segment is one contiguous piece of guest memory.
type segment struct {
	addr uint64
	len  uint32
}

// chain is a descriptor chain as it was when it was taken from the queue: the device's own copy.
type chain struct {
	head uint16
	// in is what the device may read, out what it may write; §2.7.4.2 puts all of in before all of out.
	in, out       []segment
	inLen, outLen uint64
}

// queue is a split virtqueue (§2.7).
//
// Invariant: while ready, size is a power of two up to max, and the rings' addresses are aligned and do not wrap.
type queue struct {
	mem devices.Memory
	max uint16

	size              uint16
	ready             bool
	desc, avail, used uint64

	// Negotiated features; they cannot change while the queue is ready and the device runs.
	eventIdx, indirect bool

	nextAvail uint16 // index of the next available entry to take
	nextUsed  uint16 // index of the next used entry to write
	published uint16 // used index that the driver has been shown
	// quiet says that the driver has been told not to notify.
	quiet bool

	// word is where small reads and writes go through, so that they need no allocation.
	word [descSize]byte
}

func (q *queue) reset() {
	*q = queue{mem: q.mem, max: q.max, size: q.max}
}

// enable makes the queue ready with the addresses and the size that the driver has set.
func (q *queue) enable() error {
	if q.size == 0 || q.size > q.max || q.size&(q.size-1) != 0 {
		return fmt.Errorf("size %d is not a power of two of at most %d", q.size, q.max)
	}
	n := uint64(q.size)
	parts := [...]struct {
		name               string
		addr, align, bytes uint64
	}{ // §2.7, table of alignments and sizes
		{"descriptor table", q.desc, 16, descSize * n},
		{"driver area", q.avail, 2, 6 + 2*n},
		{"device area", q.used, 4, 6 + usedSize*n},
	}
	for _, p := range parts {
		if p.addr%p.align != 0 || p.addr > math.MaxUint64-p.bytes {
			return fmt.Errorf("%s at %#x is not aligned to %d or wraps", p.name, p.addr, p.align)
		}
	}
	q.ready = true
	return nil
}

func (q *queue) read16(addr uint64) (uint16, error) {
	p := q.word[:2]
	if err := q.mem.ReadAt(p, addr); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(p), nil
}

func (q *queue) write16(addr uint64, v uint16) error {
	p := q.word[:2]
	binary.LittleEndian.PutUint16(p, v)
	return q.mem.WriteAt(p, addr)
}

// available returns the number of chains that the driver has made available and the device has not taken.
func (q *queue) available() (uint16, error) {
	idx, err := q.read16(q.avail + 2)
	if err != nil {
		return 0, fmt.Errorf("available ring: %w", err)
	}
	n := idx - q.nextAvail
	if n > q.size {
		return 0, fmt.Errorf("available index %d is %d ahead, the queue has %d entries", idx, n, q.size)
	}
	return n, nil
}

// peek reads the chain skip places after the next one into c, without taking it. The caller has made sure by
// available that it is there.
func (q *queue) peek(skip uint16, c *chain) error {
	slot := uint64((q.nextAvail + skip) % q.size)
	head, err := q.read16(q.avail + 4 + 2*slot)
	if err != nil {
		return fmt.Errorf("available ring: %w", err)
	}
	return q.walk(head, c)
}

// pop takes the next chain into c. It returns false if there is none.
func (q *queue) pop(c *chain) (bool, error) {
	n, err := q.available()
	if n == 0 || err != nil {
		return false, err
	}
	if err := q.peek(0, c); err != nil {
		return false, err
	}
	q.nextAvail++
	return true, nil
}

// walk reads the chain that starts at head. A chain has at most as many descriptors as the queue has entries
// (§2.7.5.1), those of an indirect table included (§2.7.5.3.1), so a cycle ends here.
func (q *queue) walk(head uint16, c *chain) error {
	c.head = head
	c.in, c.out = c.in[:0], c.out[:0]
	c.inLen, c.outLen = 0, 0

	table, entries := q.desc, uint64(q.size)
	inTable := false
	next := uint64(head)
	for n := uint16(0); ; n++ {
		if n == q.size {
			return fmt.Errorf("chain %d has more than %d descriptors", head, q.size)
		}
		if next >= entries {
			return fmt.Errorf("chain %d names descriptor %d of %d", head, next, entries)
		}
		d := q.word[:descSize]
		if err := q.mem.ReadAt(d, table+descSize*next); err != nil {
			return fmt.Errorf("chain %d: descriptor %d: %w", head, next, err)
		}
		addr, length := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		next = uint64(binary.LittleEndian.Uint16(d[14:]))

		if flags&descIndirect != 0 {
			switch {
			case !q.indirect || inTable || flags&descNext != 0:
				return fmt.Errorf("chain %d has an indirect descriptor where none is allowed", head)
			case length == 0 || length%descSize != 0 || addr > math.MaxUint64-uint64(length):
				return fmt.Errorf("chain %d has an indirect table of %d bytes at %#x", head, length, addr)
			}
			// The table's first descriptor is its number 0. The one that refers to the table is not part of the
			// chain's length.
			table, entries, inTable, next = addr, uint64(length)/descSize, true, 0
			n--
			continue
		}
		if err := c.add(segment{addr, length}, flags&descWrite != 0); err != nil {
			return fmt.Errorf("chain %d: %w", head, err)
		}
		if flags&descNext == 0 {
			return nil
		}
	}
}

// add appends a buffer. An empty one is allowed and means nothing.
func (c *chain) add(s segment, write bool) error {
	if !write && len(c.out) > 0 {
		return fmt.Errorf("a readable buffer comes after a writable one")
	}
	if s.addr > math.MaxUint64-uint64(s.len) {
		return fmt.Errorf("a buffer of %d bytes at %#x wraps", s.len, s.addr)
	}
	if c.inLen+c.outLen+uint64(s.len) > math.MaxUint32 {
		return fmt.Errorf("the buffers are longer than 4 GiB in all") // §2.7.5.1
	}
	if write {
		c.out = append(c.out, s)
		c.outLen += uint64(s.len)
		return nil
	}
	c.in = append(c.in, s)
	c.inLen += uint64(s.len)
	return nil
}

// read copies len(p) bytes, from offset on, out of the readable buffers. It fails if they hold fewer.
func (c *chain) read(mem devices.Memory, offset uint64, p []byte) error {
	return readSegments(mem, c.in, offset, p)
}

// write copies p to offset of the writable buffers. It fails if they hold fewer bytes.
func (c *chain) write(mem devices.Memory, offset uint64, p []byte) error {
	return writeSegments(mem, c.out, offset, p)
}

func readSegments(mem devices.Memory, segs []segment, offset uint64, p []byte) error {
	for _, s := range segs {
		addr, n := s.part(&offset, len(p))
		if n == 0 {
			continue
		}
		if err := mem.ReadAt(p[:n], addr); err != nil {
			return err
		}
		p = p[n:]
	}
	return fits(p)
}

func writeSegments(mem devices.Memory, segs []segment, offset uint64, p []byte) error {
	for _, s := range segs {
		addr, n := s.part(&offset, len(p))
		if n == 0 {
			continue
		}
		if err := mem.WriteAt(p[:n], addr); err != nil {
			return err
		}
		p = p[n:]
	}
	return fits(p)
}

// part returns the address and the length of what lies in s of length bytes that begin offset bytes after s's start,
// and makes offset relative to what follows s.
func (s segment) part(offset *uint64, length int) (uint64, int) {
	if *offset >= uint64(s.len) {
		*offset -= uint64(s.len)
		return 0, 0
	}
	addr, n := s.addr+*offset, min(uint64(s.len)-*offset, uint64(length))
	*offset = 0
	return addr, int(n)
}

func fits(left []byte) error {
	if len(left) > 0 {
		return fmt.Errorf("%d bytes do not fit into the buffers", len(left))
	}
	return nil
}

// push gives chain head back to the driver with written bytes in it (§2.7.8). The driver sees it after publish.
func (q *queue) push(head uint16, written uint32) error {
	p := q.word[:usedSize]
	binary.LittleEndian.PutUint32(p, uint32(head))
	binary.LittleEndian.PutUint32(p[4:], written)
	if err := q.mem.WriteAt(p, q.used+4+usedSize*uint64(q.nextUsed%q.size)); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	q.nextUsed++
	return nil
}

// publish shows the driver everything pushed since the last time and reports whether it wants an interrupt for that
// (§2.7.7.2, §2.7.10).
func (q *queue) publish() (bool, error) {
	before := q.published
	if q.nextUsed == before {
		return false, nil
	}
	if err := q.write16(q.used+2, q.nextUsed); err != nil {
		return false, fmt.Errorf("used ring: %w", err)
	}
	q.published = q.nextUsed
	if !q.eventIdx {
		flags, err := q.read16(q.avail)
		if err != nil {
			return false, fmt.Errorf("available ring: %w", err)
		}
		return flags&availNoInterrupt == 0, nil
	}
	event, err := q.read16(q.avail + 4 + 2*uint64(q.size))
	if err != nil {
		return false, fmt.Errorf("available ring: %w", err)
	}
	return passed(event, before, q.nextUsed), nil
}

// passed reports whether a free-running index went past event on its way from before to after: vring_need_event of
// §2.7.10, modulo 65536.
func passed(event, before, after uint16) bool {
	return after-event-1 < after-before
}

// listen asks the driver to notify when it makes available what comes after the first ahead chains that the device has
// not taken. Without the event index the driver can only be asked to notify always.
func (q *queue) listen(ahead uint16) error {
	if q.eventIdx {
		return q.setAvailEvent(q.nextAvail + ahead)
	}
	return q.setNoNotify(false)
}

// silence asks the driver not to notify (§2.7.10): it is only a hint.
func (q *queue) silence() error {
	if q.eventIdx {
		// An event just behind: the driver's index reaches it again only after 65535 more buffers.
		return q.setAvailEvent(q.nextAvail - 1)
	}
	return q.setNoNotify(true)
}

func (q *queue) setAvailEvent(idx uint16) error {
	if err := q.write16(q.used+4+usedSize*uint64(q.size), idx); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	return nil
}

func (q *queue) setNoNotify(quiet bool) error {
	if q.quiet == quiet {
		return nil
	}
	var flags uint16
	if quiet {
		flags = usedNoNotify
	}
	if err := q.write16(q.used, flags); err != nil {
		return fmt.Errorf("used ring: %w", err)
	}
	q.quiet = quiet
	return nil
}
