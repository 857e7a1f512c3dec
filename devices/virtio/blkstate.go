package virtio

import (
	"fmt"
	"tandem/devices"
)

// blkState is the part of a disk's state that is not its Core's.
type blkState struct {
	LastID    uint64      `json:"last_id"`
	Writeback bool        `json:"writeback"`
	Inflight  []slotState `json:"inflight"`
}

type slotState struct {
	ID      uint64         `json:"id"`
	Op      DiskOp         `json:"op"`
	Sector  uint64         `json:"sector"`
	Sectors uint64         `json:"sectors"`
	Sync    bool           `json:"sync"`
	Unmap   bool           `json:"unmap"`
	Head    uint16         `json:"head"`
	Orphan  bool           `json:"orphan"`
	Out     []segmentState `json:"out"`
	Data    []byte         `json:"data"`
}

func (b *Blk) save() any {
	s := blkState{LastID: b.lastID, Writeback: b.writeback, Inflight: []slotState{}}
	for _, r := range b.inflight {
		data := r.Data
		if data == nil {
			data = []byte{}
		}
		s.Inflight = append(s.Inflight, slotState{r.ID, r.Op, r.Sector, r.Sectors, r.Sync, r.Unmap,
			r.head, r.orphan, saveSegments(r.out), data})
	}
	return s
}

func (b *Blk) load(p []byte, features uint64, _ []queueState) (func(), error) {
	var s blkState
	if err := devices.DecodeState(p, &s); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if len(s.Inflight) > MaxDiskRequests {
		return nil, fmt.Errorf("disk: %d requests in flight, at most %d possible", len(s.Inflight), MaxDiskRequests)
	}
	var slots []*diskSlot
	var total, last uint64
	for _, r := range s.Inflight {
		slot, err := b.loadSlot(r)
		if err != nil {
			return nil, fmt.Errorf("disk: request %d: %w", r.ID, err)
		}
		if r.ID <= last || r.ID > s.LastID {
			return nil, fmt.Errorf("disk: request %d is not in its order", r.ID)
		}
		if total >= MaxDiskInflight {
			return nil, fmt.Errorf("disk: more than %d bytes in flight", MaxDiskInflight)
		}
		last = r.ID
		total += slot.bytes()
		slots = append(slots, slot)
	}
	return func() {
		b.lastID, b.writeback = s.LastID, s.Writeback
		b.inflight, b.inflightBytes, b.free = slots, total, nil
		b.start(features)
	}, nil
}

// loadSlot checks what submit would have checked.
func (b *Blk) loadSlot(r slotState) (*diskSlot, error) {
	s := &diskSlot{
		DiskRequest: DiskRequest{ID: r.ID, Op: r.Op, Sector: r.Sector, Sectors: r.Sectors, Sync: r.Sync, Unmap: r.Unmap},
		head:        r.Head, orphan: r.Orphan,
	}
	limit, data := uint64(MaxDiskTransfer/SectorSize), uint64(0)
	switch r.Op {
	case DiskRead:
	case DiskWrite:
		data = r.Sectors * SectorSize
		s.Data = r.Data
	case DiskDiscard, DiskWriteZeroes:
		limit = MaxDiskClear
	case DiskFlush:
		limit = 0
	default:
		return nil, fmt.Errorf("unknown %v", r.Op)
	}
	switch {
	case r.Sectors > limit || (r.Sectors == 0) != (r.Op == DiskFlush) || !b.inside(r.Sector, r.Sectors):
		return nil, fmt.Errorf("%v of %d sectors from %d on is not possible", r.Op, r.Sectors, r.Sector)
	case uint64(len(r.Data)) != data:
		return nil, fmt.Errorf("%v with %d bytes of data, %d belong to it", r.Op, len(r.Data), data)
	case r.Op != DiskRead && r.Op != DiskFlush && b.config.ReadOnly:
		return nil, fmt.Errorf("%v on a read-only disk", r.Op)
	}
	var err error
	if s.out, s.outLen, err = loadSegments(r.Out); err != nil {
		return nil, err
	}
	if s.outLen < 1 || r.Op == DiskRead && s.outLen-1 != r.Sectors*SectorSize {
		return nil, fmt.Errorf("buffers of %d bytes do not fit %d sectors", s.outLen, r.Sectors)
	}
	return s, nil
}
