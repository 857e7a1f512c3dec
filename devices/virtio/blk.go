package virtio

import (
	"encoding/binary"
	"fmt"

	"tandem/devices"
)

// Feature bits of a disk (virtio 1.2 §5.2.3).
const (
	blkSizeMax     = 1 << 1
	blkSegMax      = 1 << 2
	blkReadOnly    = 1 << 5
	blkBlkSize     = 1 << 6
	blkFlush       = 1 << 9
	blkTopology    = 1 << 10
	blkConfigWCE   = 1 << 11
	blkDiscard     = 1 << 13
	blkWriteZeroes = 1 << 14
)

// Request types (§5.2.6).
const (
	blkIn            = 0
	blkOut           = 1
	blkFlushRequest  = 4
	blkGetID         = 8
	blkDiscardReq    = 11
	blkWriteZeroesRq = 13
)

const (
	blkHeader      = 16 // struct virtio_blk_req up to its data
	blkRange       = 16 // struct virtio_blk_discard_write_zeroes
	blkSerialSize  = 20
	blkConfigSize  = 60
	blkWCEOffset   = 32
	blkUnmapFlag   = 1
	blkUnknownFlag = ^uint32(blkUnmapFlag)
)

// The disk's one queue, and the largest request that its driver is told to make: 128 pieces of 32 KiB.
const (
	diskQueueSize    = 256
	diskSegments     = 128
	diskSegmentBytes = 32 << 10
)

// keptBuffer is the largest bounce buffer that is kept for the next request in its slot.
const keptBuffer = 64 << 10

// BlkConfig is what a disk shows to its guest.
type BlkConfig struct {
	// Sectors is the size in units of 512 bytes.
	Sectors  uint64
	ReadOnly bool
	// BlockSize is the logical block size in bytes: 0, 512, or a larger power of two up to 4096. 0 means 512.
	BlockSize uint32
	// PhysicalBlockSize is what the storage writes at once: 0, or a power of two of at least BlockSize.
	PhysicalBlockSize uint32
	// Discard offers discard and write-zeroes.
	Discard bool
	// Serial is what the guest sees as the disk's serial number, at most 20 bytes of ASCII.
	Serial string
}

func (c BlkConfig) check() error {
	powerOf2 := func(v uint32) bool { return v&(v-1) == 0 }
	switch {
	case c.Sectors == 0:
		return fmt.Errorf("virtio: a disk needs at least one sector")
	case c.Sectors > 1<<54: // 2^63 bytes
		return fmt.Errorf("virtio: a disk of %d sectors is too large", c.Sectors)
	case c.BlockSize < SectorSize || c.BlockSize > 4096 || !powerOf2(c.BlockSize):
		return fmt.Errorf("virtio: block size %d is not 512, 1024, 2048 or 4096", c.BlockSize)
	case c.Sectors%uint64(c.BlockSize/SectorSize) != 0:
		return fmt.Errorf("virtio: the disk's size is not a multiple of its block size %d", c.BlockSize)
	case c.PhysicalBlockSize < c.BlockSize || c.PhysicalBlockSize > 1<<20 || !powerOf2(c.PhysicalBlockSize):
		return fmt.Errorf("virtio: physical block size %d is not a power of two from %d to 1 MiB", c.PhysicalBlockSize, c.BlockSize)
	case len(c.Serial) > blkSerialSize:
		return fmt.Errorf("virtio: disk serial %q is longer than %d bytes", c.Serial, blkSerialSize)
	}
	return nil
}

// Blk is a disk (§5.2).
//
// Requests are taken from the queue when the driver notifies, and leave for the back end in that order. A reset does
// not call back those under way: they stay in flight without a place in the queue until they are completed, so that
// the back end's order, and the bounds on what is in flight, hold across it.
type Blk struct {
	Core
	config  BlkConfig
	backend DiskBackend

	// inflight has the requests that wait for their completion, in the order of submission.
	inflight      []*diskSlot
	inflightBytes uint64
	lastID        uint64
	// writeback is the driver's choice in the configuration space: a write is done before it is stable.
	writeback bool
	// flushes and wce say that the driver has accepted the features of those names.
	flushes, wce bool

	free  []*diskSlot
	chain chain
	small [max(blkHeader, blkRange, blkSerialSize, 1)]byte
}

// diskSlot is a request in flight and where its answer goes.
type diskSlot struct {
	DiskRequest
	head uint16
	// orphan says that the device was reset since: the answer goes nowhere.
	orphan bool
	// out is the chain's writable buffers; the status byte is the last of outLen.
	out    []segment
	outLen uint64
}

// bytes is what the request counts towards MaxDiskInflight.
func (s *diskSlot) bytes() uint64 {
	if s.Op == DiskRead || s.Op == DiskWrite {
		return s.Sectors * SectorSize
	}
	return 0
}

// NewBlk returns a disk that has its requests done by backend.
func NewBlk(mem devices.Memory, config BlkConfig, backend DiskBackend) (*Blk, error) {
	if config.BlockSize == 0 {
		config.BlockSize = SectorSize
	}
	if config.PhysicalBlockSize == 0 {
		config.PhysicalBlockSize = config.BlockSize
	}
	if err := config.check(); err != nil {
		return nil, err
	}
	b := &Blk{config: config, backend: backend, writeback: true}
	b.init(b, mem, diskQueueSize)
	return b, nil
}

func (b *Blk) id() uint16 { return idBlk }

func (b *Blk) features() uint64 {
	f := uint64(blkSizeMax | blkSegMax | blkBlkSize | blkTopology | blkFlush)
	if b.config.ReadOnly {
		return f | blkReadOnly
	}
	f |= blkConfigWCE
	if b.config.Discard {
		f |= blkDiscard | blkWriteZeroes
	}
	return f
}

// configuration lays out struct virtio_blk_config (§5.2.4).
func (b *Blk) configuration(p *[configSpace]byte) int {
	le := binary.LittleEndian
	le.PutUint64(p[0:], b.config.Sectors)
	le.PutUint32(p[8:], diskSegmentBytes)
	le.PutUint32(p[12:], diskSegments)
	le.PutUint32(p[20:], b.config.BlockSize)
	blocks := b.config.PhysicalBlockSize / b.config.BlockSize
	for ; blocks > 1; blocks >>= 1 {
		p[24]++ // physical_block_exp
	}
	le.PutUint16(p[26:], uint16(b.config.PhysicalBlockSize/b.config.BlockSize)) // min_io_size
	if b.writeback {
		p[blkWCEOffset] = 1
	}
	le.PutUint16(p[34:], 1) // num_queues
	if b.config.Discard && !b.config.ReadOnly {
		le.PutUint32(p[36:], MaxDiskClear)
		le.PutUint32(p[40:], 1) // max_discard_seg
		le.PutUint32(p[44:], b.config.PhysicalBlockSize/SectorSize)
		le.PutUint32(p[48:], MaxDiskClear)
		le.PutUint32(p[52:], 1) // max_write_zeroes_seg
		p[56] = 1               // write_zeroes_may_unmap
	}
	return blkConfigSize
}

// configure lets the driver choose between write-back and write-through (§5.2.5.2).
func (b *Blk) configure(offset uint64, p []byte) {
	if offset == blkWCEOffset && len(p) == 1 && b.driverFeatures&blkConfigWCE != 0 {
		b.writeback = p[0]&1 != 0
	}
}

func (b *Blk) start(features uint64) {
	b.flushes = features&blkFlush != 0
	b.wce = features&blkConfigWCE != 0
}

func (b *Blk) reset() {
	b.writeback, b.flushes, b.wce = true, false, false
	for _, s := range b.inflight {
		s.orphan = true
	}
}

// sync reports whether a write must be stable before it is done: when the driver has chosen write-through, or has no
// way to flush (§5.2.6.2).
func (b *Blk) sync() bool {
	if b.wce {
		return !b.writeback
	}
	return !b.flushes
}

func (b *Blk) notify(int) { b.process() }

// process takes requests until there are none or the bounds are reached; in the second case a completion goes on, so
// the driver need not notify.
func (b *Blk) process() {
	for {
		if len(b.inflight) >= MaxDiskRequests || b.inflightBytes >= MaxDiskInflight {
			b.publish(0)
			return
		}
		if !b.pop(0, &b.chain) {
			break
		}
		b.take(&b.chain)
	}
	b.publish(0)
	b.listen(0, 0)
}

// take starts the request in c, or answers it at once.
func (b *Blk) take(c *chain) {
	if c.inLen < blkHeader || c.outLen < 1 {
		b.fail(fmt.Errorf("disk request with %d bytes to read and %d to write has no header or no status", c.inLen, c.outLen))
		return
	}
	header := b.small[:blkHeader]
	if err := c.read(b.mem, 0, header); err != nil {
		b.fail(fmt.Errorf("disk request: %w", err))
		return
	}
	kind, sector := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint64(header[8:])
	switch kind {
	case blkIn:
		b.transfer(c, DiskRead, sector, c.outLen-1)
	case blkOut:
		b.transfer(c, DiskWrite, sector, c.inLen-blkHeader)
	case blkFlushRequest:
		b.submit(c, DiskRequest{Op: DiskFlush})
	case blkGetID:
		b.identify(c)
	case blkDiscardReq:
		b.clearRange(c, DiskDiscard, blkDiscard)
	case blkWriteZeroesRq:
		b.clearRange(c, DiskWriteZeroes, blkWriteZeroes)
	default:
		b.answer(c, 0, DiskUnsupported)
	}
}

// inside reports whether n sectors from sector on are part of the disk.
func (b *Blk) inside(sector, n uint64) bool {
	return sector <= b.config.Sectors && n <= b.config.Sectors-sector
}

// transfer starts a read or a write of n bytes.
func (b *Blk) transfer(c *chain, op DiskOp, sector, n uint64) {
	if n%SectorSize != 0 || n == 0 || n > MaxDiskTransfer || !b.inside(sector, n/SectorSize) ||
		op == DiskWrite && b.config.ReadOnly {
		b.answer(c, 0, DiskIOError)
		return
	}
	b.submit(c, DiskRequest{Op: op, Sector: sector, Sectors: n / SectorSize, Sync: op == DiskWrite && b.sync()})
}

// clearRange starts a discard or a write-zeroes of one range (§5.2.6.2).
func (b *Blk) clearRange(c *chain, op DiskOp, feature uint64) {
	if b.driverFeatures&feature == 0 || c.inLen != blkHeader+blkRange {
		status := DiskUnsupported
		if b.config.ReadOnly {
			status = DiskIOError
		}
		b.answer(c, 0, status)
		return
	}
	r := b.small[:blkRange]
	if err := c.read(b.mem, blkHeader, r); err != nil {
		b.fail(fmt.Errorf("disk request: %w", err))
		return
	}
	sector, n := binary.LittleEndian.Uint64(r), uint64(binary.LittleEndian.Uint32(r[8:]))
	flags := binary.LittleEndian.Uint32(r[12:])
	unmap := flags&blkUnmapFlag != 0
	switch {
	case flags&blkUnknownFlag != 0 || op == DiskDiscard && unmap:
		b.answer(c, 0, DiskUnsupported)
	case n == 0 || n > MaxDiskClear || !b.inside(sector, n):
		b.answer(c, 0, DiskIOError)
	default:
		b.submit(c, DiskRequest{Op: op, Sector: sector, Sectors: n, Sync: b.sync(), Unmap: unmap})
	}
}

// identify answers with the serial number, padded with zeros (§5.2.6).
func (b *Blk) identify(c *chain) {
	id := b.small[:blkSerialSize]
	clear(id)
	copy(id, b.config.Serial)
	n := min(c.outLen-1, blkSerialSize)
	if err := c.write(b.mem, 0, id[:n]); err != nil {
		b.fail(fmt.Errorf("disk request: %w", err))
		return
	}
	b.answer(c, n, DiskOK)
}

// answer ends the request in c, of whose data n bytes have been written.
func (b *Blk) answer(c *chain, n uint64, status DiskStatus) {
	b.end(c.head, c.out, c.outLen, n, status)
}

// end writes the status byte and gives the chain back.
func (b *Blk) end(head uint16, out []segment, outLen, n uint64, status DiskStatus) {
	b.small[0] = byte(status)
	if err := writeSegments(b.mem, out, outLen-1, b.small[:1]); err != nil {
		b.fail(fmt.Errorf("disk request: %w", err))
		return
	}
	// The length says how much was written from the start on, without a gap (§2.7.8.2).
	written := uint32(n)
	if n == outLen-1 {
		written++
	}
	b.push(0, head, written)
}

// submit gives r, with the data of a write, to the back end.
func (b *Blk) submit(c *chain, r DiskRequest) {
	s := b.slot()
	buffer := s.Data[:0]
	s.DiskRequest = r
	s.Data = nil
	if r.Op == DiskWrite {
		s.Data = grow(buffer, int(r.Sectors*SectorSize))
		if err := c.read(b.mem, blkHeader, s.Data); err != nil {
			b.free = append(b.free, s)
			b.fail(fmt.Errorf("disk request: %w", err))
			return
		}
	}
	b.lastID++
	s.ID = b.lastID
	s.head, s.orphan = c.head, false
	s.out, s.outLen = append(s.out[:0], c.out...), c.outLen
	b.inflight = append(b.inflight, s)
	b.inflightBytes += s.bytes()
	b.backend.Submit(s.DiskRequest)
}

func (b *Blk) slot() *diskSlot {
	if n := len(b.free); n > 0 {
		s := b.free[n-1]
		b.free = b.free[:n-1]
		return s
	}
	return &diskSlot{}
}

// grow returns n bytes, p's own if they are enough.
func grow(p []byte, n int) []byte {
	if cap(p) >= n {
		return p[:n]
	}
	return make([]byte, n)
}

// Pending returns the requests that wait for their completion, in the order of submission: what a machine that goes
// live in this state has to submit to its back end. The same rules hold for their data as after Submit.
func (b *Blk) Pending() []DiskRequest {
	var p []DiskRequest
	for _, s := range b.inflight {
		p = append(p, s.DiskRequest)
	}
	return p
}

// Complete takes the completion of a request: it copies what was read into guest memory, gives the request back to the
// driver, and takes more. A completion that answers no request of this device, or has not the data that was asked
// for, is an error and changes nothing: the log is damaged or the machine is not the one that was recorded.
func (b *Blk) Complete(payload []byte) error {
	done, err := DecodeDiskCompletion(payload)
	if err != nil {
		return err
	}
	i := 0
	for i < len(b.inflight) && b.inflight[i].ID != done.ID {
		i++
	}
	if i == len(b.inflight) {
		return fmt.Errorf("virtio: disk completion %d answers no request in flight (the last submitted is %d)", done.ID, b.lastID)
	}
	s := b.inflight[i]
	want := 0
	if s.Op == DiskRead && done.Status == DiskOK {
		want = int(s.Sectors * SectorSize)
	}
	if len(done.Data) != want {
		return fmt.Errorf("virtio: disk completion %d has %d bytes of data, its %v wants %d", done.ID, len(done.Data), s.Op, want)
	}

	b.inflight = append(b.inflight[:i], b.inflight[i+1:]...)
	b.inflightBytes -= s.bytes()
	if !s.orphan && b.usable(0) {
		b.finish(s, done)
	}
	b.release(s)
	if b.usable(0) {
		b.process()
	}
	return nil
}

// finish writes the outcome of s to guest memory.
func (b *Blk) finish(s *diskSlot, done DiskCompletion) {
	if err := writeSegments(b.mem, s.out, 0, done.Data); err != nil {
		b.fail(fmt.Errorf("disk request: %w", err))
		return
	}
	b.end(s.head, s.out, s.outLen, uint64(len(done.Data)), done.Status)
}

// release keeps s for another request.
func (b *Blk) release(s *diskSlot) {
	if cap(s.Data) > keptBuffer {
		s.Data = nil
	}
	b.free = append(b.free, s)
}
