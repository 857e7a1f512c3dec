package vmm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"tandem/devices"
	"tandem/devices/pci"
	"tandem/devices/virtio"
	"tandem/lockstep"
	"tandem/vmm/blk"
)

// Disk is a disk of a machine.
type Disk struct {
	virtio.BlkConfig
	// Name is what messages call the disk.
	Name string
	// Image is its content, which the machine closes. A machine that replays a log needs none; one that goes live without
	// it answers the guest's requests with I/O errors.
	Image blk.Image
}

// NIC is a network device of a machine.
type NIC struct {
	virtio.NetConfig
	// Out takes the packets that the guest sends. What it receives comes by Machine.Offer.
	Out devices.Sink
	// OnOffloads, if not nil, is told what the guest's driver can take in a packet whenever that changes.
	OnOffloads func(virtio.Offloads)
}

// The consoles of a machine, as inputs of kind KindConsole name them.
const (
	SerialConsole = 0
	// VirtioConsoleDevice is the console of Config.VirtioConsole.
	VirtioConsoleDevice = 1
)

// VirtioConsole is a virtio console of a machine. What is typed at it comes by Machine.Post.
type VirtioConsole struct {
	virtio.ConsoleConfig
	// Out takes what the guest writes to it.
	Out devices.Sink
}

// virtioDevices are a machine's virtio devices and, while inputs come from the world, what does their work.
type virtioDevices struct {
	bus   *pci.Bus
	disks []*virtio.Blk
	nics  []*virtio.Net
	rng   *virtio.Rng
	// console is nil if the machine has no virtio console.
	console *virtio.Console
	parts   []devices.Part

	backends []*diskBackend
	entropy  entropySource
}

// diskBackend passes a disk's requests on to its server, when there is one.
type diskBackend struct {
	server    *blk.Server
	following bool // the server does what a primary's does, and posts nothing
	shared    bool // both hosts of a pair have the disk: what changes it leaves the machine by outlet
	outlet    *outlet
}

func (d *diskBackend) Submit(r virtio.DiskRequest) {
	switch {
	case d.server == nil:
	case d.shared:
		d.submitShared(r)
	default:
		d.server.Submit(r)
	}
}

// addVirtio makes the virtio devices that the configuration asks for. The order is fixed: disks, network, entropy,
// console.
func (m *Machine) addVirtio() error {
	v := &m.virtio
	attach := m.mmioSlots()
	if !m.config.MMIO {
		attach = m.pciSlots()
	}
	for i, d := range m.config.Disks {
		backend := &diskBackend{outlet: m.outlet(lockstep.KindDisk, uint8(i), nil)}
		disk, err := virtio.NewBlk(m.memory, d.BlkConfig, backend)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
		v.disks, v.backends = append(v.disks, disk), append(v.backends, backend)
		if err := attach(&disk.Core, fmt.Sprintf("disk%d", i), disk); err != nil {
			return err
		}
	}
	for i, n := range m.config.NICs {
		nic, err := virtio.NewNet(m.memory, n.NetConfig, m.outlet(lockstep.KindFrame, uint8(i), n.Out))
		if err != nil {
			return err
		}
		if n.OnOffloads != nil {
			nic.OnOffloads(n.OnOffloads)
		}
		v.nics = append(v.nics, nic)
		if err := attach(&nic.Core, fmt.Sprintf("net%d", i), nic); err != nil {
			return err
		}
	}
	if m.config.Entropy {
		v.rng = virtio.NewRng(m.memory, &v.entropy)
		if err := attach(&v.rng.Core, "rng", v.rng); err != nil {
			return err
		}
	}
	if c := m.config.VirtioConsole; c != nil {
		v.console = virtio.NewConsole(m.memory, c.ConsoleConfig, m.outlet(lockstep.KindConsole, VirtioConsoleDevice, c.Out))
		if err := attach(&v.console.Core, "console", v.console); err != nil {
			return err
		}
	}
	if v.bus != nil {
		m.pc.PIC.SetLevelTriggered(v.bus.LevelMask())
		v.parts = append(v.parts, devices.Part{Name: "pci", Stateful: v.bus})
	}
	return nil
}

// attacher puts a virtio device where the guest finds it.
type attacher func(core *virtio.Core, name string, state devices.Stateful) error

// pciSlots makes a PCI bus and returns what puts devices on it.
func (m *Machine) pciSlots() attacher {
	v := &m.virtio
	var irqs []pci.IRQ
	for _, n := range pci.DefaultIRQs {
		irqs = append(irqs, pci.IRQ{Number: n, Line: m.pc.PIC.Line(int(n))})
	}
	v.bus = pci.New(irqs)
	m.pc.ConnectPCI(v.bus)
	windows := errors.Join(
		m.pc.Ports.Attach(pci.PortBase, pci.PortSize, v.bus.Ports()),
		m.pc.MMIO.Attach(pci.MemoryBase, pci.MemorySize, v.bus.Memory()))
	return func(core *virtio.Core, name string, state devices.Stateful) error {
		m.watch(core, name, state)
		return errors.Join(windows, v.bus.Add(virtio.NewPCI(core)))
	}
}

// The windows of virtio-mmio devices: one page each, from the start of the hole that PCI would have.
const (
	mmioBase = pci.MemoryBase
	mmioSize = 0x1000
)

// mmioSlots returns what puts devices on memory-mapped registers, each with an interrupt line of its own.
func (m *Machine) mmioSlots() attacher {
	slots := 0
	return func(core *virtio.Core, name string, state devices.Stateful) error {
		if slots == len(pci.DefaultIRQs) {
			return fmt.Errorf("more than %d virtio devices don't fit on memory-mapped registers: use PCI", slots)
		}
		m.watch(core, name, state)
		irq := pci.DefaultIRQs[slots]
		handler := virtio.NewMMIO(core, m.pc.PIC.Line(int(irq)))
		slots++
		return m.pc.MMIO.Attach(mmioBase+uint64(slots-1)*mmioSize, mmioSize, handler)
	}
}

// MMIODevices returns the kernel parameters that tell Linux where n virtio devices on memory-mapped registers are.
func MMIODevices(n int) []string {
	var parameters []string
	for i := range min(n, len(pci.DefaultIRQs)) {
		parameters = append(parameters, fmt.Sprintf("virtio_mmio.device=4K@%#x:%d", uint64(mmioBase)+uint64(i)*mmioSize, pci.DefaultIRQs[i]))
	}
	return parameters
}

// watch keeps a device's state among the machine's parts, and says it when the guest has broken the device.
func (m *Machine) watch(core *virtio.Core, name string, state devices.Stateful) {
	m.virtio.parts = append(m.virtio.parts, devices.Part{Name: name, Stateful: state})
	core.OnFailure(func(cause error) {
		slog.Warn("the guest has broken the rules of a device, which waits for a reset", "device", name, "cause", cause)
	})
}

// frameRoom tells whether a network device takes a packet now.
func (m *Machine) frameRoom(device uint8, packet []byte) int {
	if int(device) >= len(m.virtio.nics) {
		return -1
	}
	nic := m.virtio.nics[device]
	switch {
	case !nic.Wants(packet):
		return -1
	case nic.CanReceive(len(packet)):
		return 1
	}
	return 0
}

// startBackEnds lets requests have their work done by the host, and submits those that were under way already.
func (m *Machine) startBackEnds() {
	v := &m.virtio
	for i := range v.disks {
		if v.backends[i].server != nil {
			continue // it posts to whichever door the machine has
		}
		d := m.config.Disks[i]
		image := d.Image
		if image == nil {
			image = blk.Absent(d.Sectors*virtio.SectorSize, d.ReadOnly)
		}
		v.backends[i].shared = blk.IsShared(image)
		v.backends[i].server = blk.NewServer(d.Name, image, slog.Default(), m.diskDone(i))
		v.backends[i].server.OnLost(m.diskLost)
		for _, r := range v.disks[i].Pending() {
			v.backends[i].Submit(r)
		}
	}
	if v.rng != nil && v.entropy.requests == nil {
		v.entropy.start(func(p []byte) { _ = m.Post(lockstep.Input{Kind: lockstep.KindRandom, Payload: p}) })
		for _, n := range v.rng.Pending() {
			v.entropy.Request(n)
		}
	}
}

// diskDone returns what posts a disk's completions.
func (m *Machine) diskDone(device int) func(payload []byte) {
	return func(payload []byte) {
		_ = m.Post(lockstep.Input{Kind: lockstep.KindDisk, Device: uint8(device), Payload: payload}) // the machine may have ended
	}
}

// closeBackEnds ends the back ends; what was written is stable then. Images that no back end has got are closed too.
func (m *Machine) closeBackEnds() error {
	v := &m.virtio
	v.entropy.close()
	var errs []error
	for i, d := range m.config.Disks {
		switch {
		case i < len(v.backends) && v.backends[i].server != nil:
			errs = append(errs, v.backends[i].server.Close())
			v.backends[i].server = nil
		case d.Image != nil:
			errs = append(errs, d.Image.Close())
		}
		m.config.Disks[i].Image = nil
	}
	return errors.Join(errs...)
}

// entropySource draws random bytes from the host, in the order of the requests.
type entropySource struct {
	requests chan int // nil while nobody answers
}

// maxEntropyRequests is more than the device has under way at a time, so that Request never blocks.
const maxEntropyRequests = 256

func (e *entropySource) start(deliver func([]byte)) {
	requests := make(chan int, maxEntropyRequests)
	e.requests = requests
	go func() {
		for n := range requests {
			p := make([]byte, n)
			rand.Read(p) // never fails: crypto/rand ends the process before it gives anything but entropy
			deliver(p)
		}
	}()
}

// Request implements virtio.EntropySource.
func (e *entropySource) Request(n int) {
	if e.requests != nil {
		e.requests <- n
	}
}

func (e *entropySource) close() {
	if e.requests != nil {
		close(e.requests)
		e.requests = nil
	}
}

// TrackDisks notes from now on what is written to the machine's disks, so that they can be copied while the guest runs. It is
// called before the machine has a door.
func (m *Machine) TrackDisks() (*blk.Row, error) {
	tracked := make([]*blk.Tracked, 0, len(m.config.Disks))
	for i := range m.config.Disks {
		d := &m.config.Disks[i]
		t := blk.Track(d.Image)
		d.Image = t
		tracked = append(tracked, t)
	}
	return blk.NewRow(tracked)
}

// SetImages gives a machine that has no door yet its disks' content, which it closes.
func (m *Machine) SetImages(images []blk.Image) error {
	if len(images) != len(m.config.Disks) {
		return fmt.Errorf("%d images for %d disks", len(images), len(m.config.Disks))
	}
	for i, image := range images {
		d := &m.config.Disks[i]
		if uint64(image.Size()) != d.Sectors*virtio.SectorSize {
			return fmt.Errorf("disk %s has %d bytes, the guest's has %d: give an image of that size", d.Name, image.Size(), d.Sectors*virtio.SectorSize)
		}
		d.Image = image
	}
	return nil
}

// NICs returns how many network devices the machine has.
func (m *Machine) NICs() int { return len(m.config.NICs) }
