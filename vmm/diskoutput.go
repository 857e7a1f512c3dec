package vmm

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"tandem/devices/virtio"
)

// diskChange is a request that changes a shared disk, as output: it must not reach the disk before the pair's rule lets it, and its
// completion comes to the guest when it is done.
type diskChange struct {
	request virtio.DiskRequest
	release func()
}

// changeHeader is the size of a change without its data, as its record's hash has it.
const changeHeader = 32

// sum returns the length and the hash of a change: id, sector and sectors (8 bytes each, little-endian), operation, sync and unmap
// (a byte each), 5 zeros, data.
func (c *diskChange) sum() (bytes int, hash uint64) {
	r := &c.request
	head := make([]byte, 0, changeHeader)
	head = binary.LittleEndian.AppendUint64(head, r.ID)
	head = binary.LittleEndian.AppendUint64(head, r.Sector)
	head = binary.LittleEndian.AppendUint64(head, r.Sectors)
	head = append(head, byte(r.Op), byteOf(r.Sync), byteOf(r.Unmap), 0, 0, 0, 0, 0)
	d := xxhash.New()
	_, _ = d.Write(head) // never fails
	_, _ = d.Write(r.Data)
	return len(head) + len(r.Data), d.Sum64()
}

func byteOf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// submitShared passes a request of a shared disk on, or keeps it until it may leave the machine.
func (d *diskBackend) submitShared(r virtio.DiskRequest) {
	out := &d.outlet.machine.outputs
	c := &diskChange{request: r, release: func() {}}
	switch {
	case r.Op == virtio.DiskRead || out.mode == outputFree:
		d.server.Submit(r)
		return
	case out.mode == outputHeld:
		c.release = func() { d.server.Release(r.ID) }
		d.server.SubmitHeld(r)
	default:
		d.server.Submit(r) // does nothing yet
	}
	out.packets = append(out.packets, packet{outlet: d.outlet, change: c})
}

// OnDiskLost has f called, from any goroutine, when another host has taken a shared disk from this machine, whose guest waits for
// it for ever. Without it the machine ends then. It is called before the machine has a door.
func (m *Machine) OnDiskLost(f func(error)) { m.onDiskLost = f }

// diskLost takes note that a shared disk is another host's. It is called from any goroutine.
func (m *Machine) diskLost(cause error) {
	if m.onDiskLost != nil {
		m.onDiskLost(cause)
		return
	}
	m.failure.CompareAndSwap(nil, &cause)
	m.Stop()
}
