package virtio

import (
	"encoding/binary"

	"tandem/devices"
	"tandem/devices/pci"
)

// The registers of a virtio function. What is used once, while a driver starts, lies in memory; what is used for
// every request, the notification and the interrupt status, lies in ports: a port access leaves the guest without the
// kernel having to decode an instruction. §4.1.4 leaves the choice of BARs to the device.
const (
	barMemory = 0
	barPorts  = 1

	memorySize   = 0x1000
	commonOffset = 0
	commonSize   = 0x3c
	deviceOffset = 0x100
	deviceSize   = configSpace

	portsSize    = 8
	notifyOffset = 0
	notifySize   = 4
	isrOffset    = 4
	isrSize      = 1
)

// Capability types (§4.1.4).
const (
	capVendor = 0x09 // PCI 3.0 appendix H

	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capPCI    = 5
)

// Registers of the common configuration structure (§4.1.4.3).
const (
	regDeviceSelect  = 0x00
	regDeviceFeature = 0x04
	regDriverSelect  = 0x08
	regDriverFeature = 0x0c
	regConfigVector  = 0x10
	regNumQueues     = 0x12
	regStatus        = 0x14
	regGeneration    = 0x15
	regQueueSelect   = 0x16
	regQueueSize     = 0x18
	regQueueVector   = 0x1a
	regQueueEnable   = 0x1c
	regNotifyOff     = 0x1e
	regQueueDesc     = 0x20
	regQueueDriver   = 0x28
	regQueueDevice   = 0x30
)

// noVector is what a vector register of a device without MSI-X reads as (§4.1.5.1.2).
const noVector = 0xffff

// pciClasses are the class codes by device type: what tools show; drivers go by the device identifier.
var pciClasses = [...]uint32{idNet: 0x020000, idBlk: 0x018000, idConsole: 0x078000, idRng: 0x00ff00}

// NewPCI returns a PCI function through which the guest drives c (§4.1): modern only, INTx only. Its state is all in
// c and in the function's configuration space.
func NewPCI(c *Core) *pci.Function {
	id := c.model.id()
	f := pci.NewFunction(pci.Header{
		VendorID: 0x1af4, DeviceID: 0x1040 + id, // §4.1.2
		SubsystemVendorID: 0x1af4, SubsystemID: 0x1100, // not those of a transitional device (§4.1.2.1)
		Class: pciClasses[id], Revision: 1,
		Interrupt: true,
		BARs: [6]pci.BAR{
			barMemory: {Size: memorySize, Handler: memoryBAR{c}},
			barPorts:  {Size: portsSize, IO: true, Handler: portBAR{c}},
		},
	})
	addCapability(f, capCommon, barMemory, commonOffset, commonSize, nil, nil)
	// A multiplier of 0: one register for all queues, told apart by the value written (§4.1.4.4).
	addCapability(f, capNotify, barPorts, notifyOffset, notifySize, make([]byte, 4), nil)
	addCapability(f, capISR, barPorts, isrOffset, isrSize, nil, nil)
	addCapability(f, capDevice, barMemory, deviceOffset, deviceSize, nil, nil)
	writable := make([]byte, 14)
	writable[2] = 0xff // bar
	for i := 6; i < 14; i++ {
		writable[i] = 0xff // offset, length
	}
	at := addCapability(f, capPCI, 0, 0, 0, make([]byte, 4), writable)
	f.SetWindow(at+capHeader, configAccess{c, f, at})

	c.line = f
	return f
}

// capHeader is the size of struct virtio_pci_cap (§4.1.4), and so the offset of what follows it.
const capHeader = 16

// addCapability adds a struct virtio_pci_cap with extra after it.
func addCapability(f *pci.Function, kind, bar uint8, offset, length uint32, extra, writable []byte) int {
	body := make([]byte, capHeader-2, capHeader-2+len(extra))
	body[0] = uint8(capHeader + len(extra))
	body[1] = kind
	body[2] = bar
	binary.LittleEndian.PutUint32(body[6:], offset)
	binary.LittleEndian.PutUint32(body[10:], length)
	return f.AddCapability(capVendor, append(body, extra...), writable)
}

// memoryBAR holds the common and the device configuration structure.
type memoryBAR struct{ c *Core }

func (b memoryBAR) Read(offset uint64, p []byte) {
	switch {
	case offset+uint64(len(p)) <= commonOffset+commonSize:
		b.c.readCommon(offset-commonOffset, p)
	case offset >= deviceOffset && offset < deviceOffset+deviceSize:
		b.c.readConfig(offset-deviceOffset, p)
	default:
		clear(p)
	}
}

func (b memoryBAR) Write(offset uint64, p []byte) {
	switch {
	case offset < commonOffset+commonSize:
		b.c.writeCommon(offset-commonOffset, p)
	case offset >= deviceOffset:
		b.c.writeConfig(offset-deviceOffset, p)
	}
}

// portBAR holds the notification and the interrupt status register.
type portBAR struct{ c *Core }

func (b portBAR) Read(offset uint64, p []byte) {
	clear(p)
	if offset == isrOffset {
		p[0] = b.c.takeISR()
	}
}

func (b portBAR) Write(offset uint64, p []byte) {
	if offset == notifyOffset && len(p) >= 2 && len(p) <= 4 {
		b.c.notify(littleEndian(p) & 0xffff)
	}
}

// readCommon reads the common configuration structure; any width is answered.
func (c *Core) readCommon(offset uint64, p []byte) {
	var r [commonSize]byte
	le := binary.LittleEndian
	le.PutUint32(r[regDeviceSelect:], c.deviceSelect)
	le.PutUint32(r[regDeviceFeature:], c.featureWord())
	le.PutUint32(r[regDriverSelect:], c.driverSelect)
	le.PutUint32(r[regDriverFeature:], c.driverFeatureWord())
	le.PutUint16(r[regConfigVector:], noVector)
	le.PutUint16(r[regNumQueues:], uint16(len(c.queues)))
	r[regStatus] = c.status
	r[regGeneration] = c.generation
	le.PutUint16(r[regQueueSelect:], c.queueSelect)
	le.PutUint16(r[regQueueVector:], noVector)
	if q := c.selected(); q != nil {
		le.PutUint16(r[regQueueSize:], q.size)
		if q.ready {
			le.PutUint16(r[regQueueEnable:], 1)
		}
		le.PutUint64(r[regQueueDesc:], q.desc)
		le.PutUint64(r[regQueueDriver:], q.avail)
		le.PutUint64(r[regQueueDevice:], q.used)
	}
	copy(p, r[offset:])
}

// writeCommon writes a field of the common configuration structure. A driver uses each field's own width, 64-bit ones
// as two halves (§4.1.3.1); a write of another width does nothing.
func (c *Core) writeCommon(offset uint64, p []byte) {
	v := littleEndian(p)
	switch {
	case len(p) == 1 && offset == regStatus:
		c.setStatus(uint8(v))
	case len(p) == 2:
		c.writeCommon16(offset, uint16(v))
	case len(p) == 4:
		c.writeCommon32(offset, v)
	}
}

func (c *Core) writeCommon16(offset uint64, v uint16) {
	switch offset {
	case regQueueSelect:
		c.queueSelect = v
	case regQueueSize:
		if q := c.configurable(); q != nil {
			q.size = v
		}
	case regQueueEnable:
		if v == 1 { // §4.1.4.3.2: a driver does not write 0
			c.enableQueue()
		}
	}
}

func (c *Core) writeCommon32(offset uint64, v uint32) {
	switch offset {
	case regDeviceSelect:
		c.deviceSelect = v
	case regDriverSelect:
		c.driverSelect = v
	case regDriverFeature:
		c.setFeatureWord(v)
	case regQueueDesc, regQueueDesc + 4, regQueueDriver, regQueueDriver + 4, regQueueDevice, regQueueDevice + 4:
		c.setQueueAddress(int(offset-regQueueDesc)/8, offset&4 != 0, v)
	}
}

// setQueueAddress sets half of the address of the selected queue's part: 0 descriptor table, 1 driver area, 2 device
// area.
func (c *Core) setQueueAddress(part int, high bool, v uint32) {
	q := c.configurable()
	if q == nil {
		return
	}
	addr := [...]*uint64{&q.desc, &q.avail, &q.used}[part]
	if high {
		*addr = *addr&0xffffffff | uint64(v)<<32
	} else {
		*addr = *addr&^0xffffffff | uint64(v)
	}
}

// configAccess is the data window of the PCI configuration access capability (§4.1.4.9): it reaches the BARs through
// the configuration space.
type configAccess struct {
	c  *Core
	f  *pci.Function
	at int
}

// target returns the BAR and the offset that the capability's fields name. The width is that of the length field, and
// the offset a multiple of it; the data is in the first bytes of the window.
func (a configAccess) target(offset uint64, length int) (devices.Handler, uint64, bool) {
	bar := uint8(a.f.ConfigUint32(a.at + 4))
	at, width := uint64(a.f.ConfigUint32(a.at+8)), uint64(a.f.ConfigUint32(a.at+12))
	if offset != 0 || width != 1 && width != 2 && width != 4 || uint64(length) < width || at%width != 0 {
		return nil, 0, false
	}
	switch {
	case bar == barMemory && at < memorySize:
		return memoryBAR{a.c}, at, true
	case bar == barPorts && at < portsSize:
		return portBAR{a.c}, at, true
	}
	return nil, 0, false
}

func (a configAccess) Read(offset uint64, p []byte) {
	clear(p)
	if h, at, ok := a.target(offset, len(p)); ok {
		h.Read(at, p[:a.f.ConfigUint32(a.at+12)])
	}
}

func (a configAccess) Write(offset uint64, p []byte) {
	if h, at, ok := a.target(offset, len(p)); ok {
		h.Write(at, p[:a.f.ConfigUint32(a.at+12)])
	}
}
