package virtio

import (
	"encoding/binary"

	"tandem/devices"
)

// MMIOSize is the size of a device's window of memory-mapped registers.
const MMIOSize = 0x200

// Registers of the memory-mapped transport, version 2 (virtio 1.2 §4.2.2).
const (
	mmioMagic          = 0x000
	mmioVersion        = 0x004
	mmioDeviceID       = 0x008
	mmioVendorID       = 0x00c
	mmioDeviceFeature  = 0x010
	mmioDeviceSelect   = 0x014
	mmioDriverFeature  = 0x020
	mmioDriverSelect   = 0x024
	mmioQueueSelect    = 0x030
	mmioQueueSizeMax   = 0x034
	mmioQueueSize      = 0x038
	mmioQueueReady     = 0x044
	mmioQueueNotify    = 0x050
	mmioISR            = 0x060
	mmioISRAck         = 0x064
	mmioStatus         = 0x070
	mmioQueueDesc      = 0x080
	mmioQueueDriver    = 0x090
	mmioQueueDevice    = 0x0a0
	mmioSharedLenLow   = 0x0b0
	mmioSharedBaseHigh = 0x0bc
	mmioGeneration     = 0x0fc
	mmioConfig         = 0x100
)

// NewMMIO returns a window of registers through which the guest drives c, which interrupts by line. Linux finds it by
// the kernel parameter virtio_mmio.device=512@ADDRESS:IRQ.
func NewMMIO(c *Core, line devices.Line) devices.Handler {
	c.line = line
	return mmio{c}
}

type mmio struct{ c *Core }

// Read reads a register, which takes 4 aligned bytes (§4.2.2.2), or device configuration of any width. Anything else
// is zero.
func (m mmio) Read(offset uint64, p []byte) {
	if offset >= mmioConfig {
		m.c.readConfig(offset-mmioConfig, p)
		return
	}
	clear(p)
	if len(p) == 4 && offset%4 == 0 {
		binary.LittleEndian.PutUint32(p, m.c.readMMIO(offset))
	}
}

func (m mmio) Write(offset uint64, p []byte) {
	if offset >= mmioConfig {
		m.c.writeConfig(offset-mmioConfig, p)
		return
	}
	if len(p) == 4 {
		m.c.writeMMIO(offset, binary.LittleEndian.Uint32(p))
	}
}

func (c *Core) readMMIO(offset uint64) uint32 {
	switch offset {
	case mmioMagic:
		return 0x74726976 // "virt"
	case mmioVersion:
		return 2
	case mmioDeviceID:
		return uint32(c.model.id())
	case mmioVendorID:
		return 0x1af4
	case mmioDeviceFeature:
		return c.featureWord()
	case mmioQueueSizeMax:
		if q := c.selected(); q != nil {
			return uint32(q.max)
		}
	case mmioQueueReady:
		if q := c.selected(); q != nil && q.ready {
			return 1
		}
	case mmioISR:
		return uint32(c.isr)
	case mmioStatus:
		return uint32(c.status)
	case mmioGeneration:
		return uint32(c.generation)
	}
	if offset >= mmioSharedLenLow && offset <= mmioSharedBaseHigh {
		return 0xffffffff // no shared memory region has this number (§4.2.2.1)
	}
	return 0
}

func (c *Core) writeMMIO(offset uint64, v uint32) {
	switch offset {
	case mmioDeviceSelect:
		c.deviceSelect = v
	case mmioDriverSelect:
		c.driverSelect = v
	case mmioDriverFeature:
		c.setFeatureWord(v)
	case mmioQueueSelect:
		c.queueSelect = uint16(min(v, 0xffff))
	case mmioQueueSize:
		if q := c.configurable(); q != nil {
			q.size = uint16(min(v, 0xffff))
		}
	case mmioQueueReady:
		c.setReady(v)
	case mmioQueueNotify:
		c.notify(v)
	case mmioISRAck:
		c.setISR(c.isr &^ uint8(v))
	case mmioStatus:
		if v <= 0xff {
			c.setStatus(uint8(v))
		}
	case mmioQueueDesc, mmioQueueDesc + 4, mmioQueueDriver, mmioQueueDriver + 4, mmioQueueDevice, mmioQueueDevice + 4:
		c.setQueueAddress(int(offset-mmioQueueDesc)/0x10, offset&4 != 0, v)
	}
}

// setReady handles a write to QueueReady. A queue of a running device cannot be taken away from it without
// VIRTIO_F_RING_RESET (§2.6), so there 0 does nothing.
func (c *Core) setReady(v uint32) {
	switch q := c.selected(); {
	case q == nil:
	case v == 1:
		c.enableQueue()
	case v == 0 && c.status&statusDriverOK == 0:
		q.reset()
	}
}
