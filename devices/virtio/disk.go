package virtio

import (
	"encoding/binary"
	"fmt"
)

// SectorSize is the unit of sector numbers and counts, whatever block size is shown to the guest (virtio 1.2 §5.2.2).
const SectorSize = 512

// Bounds on what a disk has under way, and so on what a guest can make the host hold.
const (
	// MaxDiskRequests is the largest number of requests in flight.
	MaxDiskRequests = diskQueueSize
	// MaxDiskTransfer is the largest number of bytes that one request reads or writes.
	MaxDiskTransfer = diskSegments * diskSegmentBytes
	// MaxDiskInflight is the number of bytes in flight at which a device takes no more requests; the one that reaches
	// it may go beyond.
	MaxDiskInflight = 32 << 20
	// MaxDiskClear is the largest number of sectors that one discard or write-zeroes request names.
	MaxDiskClear = 1 << 21
)

// DiskOp is what a request does. The numbers are part of the device's saved state and are never changed.
type DiskOp uint8

// The operations of a disk.
const (
	DiskRead        DiskOp = 1
	DiskWrite       DiskOp = 2
	DiskFlush       DiskOp = 3 // all writes submitted before are on stable storage when it is done
	DiskDiscard     DiskOp = 4 // the sectors' content is no longer needed
	DiskWriteZeroes DiskOp = 5
)

func (op DiskOp) String() string {
	switch op {
	case DiskRead:
		return "read"
	case DiskWrite:
		return "write"
	case DiskFlush:
		return "flush"
	case DiskDiscard:
		return "discard"
	case DiskWriteZeroes:
		return "write-zeroes"
	}
	return fmt.Sprintf("operation %d", uint8(op))
}

// DiskRequest is a request on its way to the host. It is inside the disk, and writes come only for writable ones.
type DiskRequest struct {
	// ID numbers the requests of one device: 1, 2, 3, … in the order of submission.
	ID uint64
	Op DiskOp
	// Sector is the first sector, and Sectors how many there are; both are 0 for a flush.
	Sector, Sectors uint64
	// Data is what a write writes, Sectors long. The back end must not change it, nor look at it after the request's
	// completion has been handed to the machine.
	Data []byte
	// Sync says that a write, discard or write-zeroes must be on stable storage before it is done.
	Sync bool
	// Unmap says that a write-zeroes may give the sectors' space back.
	Unmap bool
}

// DiskBackend does the requests of one disk, any number at a time, and completes each exactly once. Requests that
// overlap take effect in the order of submission. Submit must not block.
//
// A machine that follows a log and has a back end of its own, a replica of the disk, hands a completion from the log to
// [Blk.Complete] only after that back end has completed the same request: until then the request's data is in use.
type DiskBackend interface {
	Submit(DiskRequest)
}

// DiskStatus is how a request ended: the status byte of §5.2.6, and the one in a completion.
type DiskStatus uint8

// The ways in which a request ends.
const (
	DiskOK          DiskStatus = 0
	DiskIOError     DiskStatus = 1
	DiskUnsupported DiskStatus = 2
)

// DiskCompletionHeader is the size of a completion without its data. A back end may read data right behind the space
// for a header and fill that in by [PutDiskCompletion] when it knows the status.
const DiskCompletionHeader = 9

// DiskCompletion is the payload of an input of kind KindDisk. Its layout is in the package comment.
type DiskCompletion struct {
	ID     uint64
	Status DiskStatus
	// Data is what a successful read has read.
	Data []byte
}

// PutDiskCompletion writes the header of a completion to the start of p.
func PutDiskCompletion(p []byte, id uint64, status DiskStatus) {
	binary.LittleEndian.PutUint64(p, id)
	p[8] = byte(status)
}

// Append appends the completion's bytes to p.
func (c DiskCompletion) Append(p []byte) []byte {
	p = binary.LittleEndian.AppendUint64(p, c.ID)
	p = append(p, byte(c.Status))
	return append(p, c.Data...)
}

// DecodeDiskCompletion is the reverse of [DiskCompletion.Append]. Data is a part of p.
func DecodeDiskCompletion(p []byte) (DiskCompletion, error) {
	if len(p) < DiskCompletionHeader {
		return DiskCompletion{}, fmt.Errorf("virtio: disk completion of %d bytes, at least %d needed", len(p), DiskCompletionHeader)
	}
	c := DiskCompletion{ID: binary.LittleEndian.Uint64(p), Status: DiskStatus(p[8]), Data: p[DiskCompletionHeader:]}
	switch {
	case c.ID == 0:
		return DiskCompletion{}, fmt.Errorf("virtio: disk completion with request id 0, the first is 1")
	case c.Status > DiskUnsupported:
		return DiskCompletion{}, fmt.Errorf("virtio: disk completion %d with unknown status %d", c.ID, c.Status)
	case c.Status != DiskOK && len(c.Data) > 0:
		return DiskCompletion{}, fmt.Errorf("virtio: disk completion %d failed and has %d bytes of data", c.ID, len(c.Data))
	case len(c.Data) > MaxDiskTransfer:
		return DiskCompletion{}, fmt.Errorf("virtio: disk completion %d has %d bytes, at most %d allowed", c.ID, len(c.Data), MaxDiskTransfer)
	}
	return c, nil
}
