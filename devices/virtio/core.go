package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/devices"
)

// Device types (virtio 1.2 §5).
const (
	idNet     = 1
	idBlk     = 2
	idConsole = 3
	idRng     = 4
)

// Device status bits (§2.1).
const (
	statusFeaturesOK = 8
	statusDriverOK   = 4
	statusNeedsReset = 64
	statusFailed     = 128
	statusKnown      = 1 | 2 | statusDriverOK | statusFeaturesOK | statusNeedsReset | statusFailed
)

// Features of rings and transports (§6).
const (
	featIndirect = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	featEventIdx = 1 << 29 // VIRTIO_F_EVENT_IDX
	featVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
	featInOrder  = 1 << 35 // VIRTIO_F_IN_ORDER

	featCommon = featIndirect | featEventIdx | featVersion1
)

// Interrupt status bits (§4.1.4.5, §4.2.2).
const (
	isrQueue  = 1
	isrConfig = 2
)

// model is what makes a device of a kind.
type model interface {
	id() uint16
	// features are the device's own bits; those of the rings come from the Core.
	features() uint64
	// configuration writes the device configuration space into p, which is zero, and returns its length.
	configuration(p *[configSpace]byte) int
	// configure handles a write to the device configuration space.
	configure(offset uint64, p []byte)
	// start is called when the driver is ready, with the features agreed on.
	start(features uint64)
	// notify is called when the driver may have made buffers of queue q available, and only while the device runs.
	notify(q int)
	// reset is called when the device is reset, running or not.
	reset()
	save() any
	// load checks a state that save wrote, in JSON, and returns a function that puts it in force.
	load(p []byte, features uint64, queues []queueState) (func(), error)
}

// configSpace is the largest device configuration space here.
const configSpace = 0x100

// Core is what every virtio device has: features, status, queues, interrupt status (§2). A device embeds it.
type Core struct {
	model model
	mem   devices.Memory
	line  devices.Line
	// onFailure is told once for each time the device stops.
	onFailure func(error)

	queues []queue

	status         uint8
	driverFeatures uint64
	deviceSelect   uint32
	driverSelect   uint32
	queueSelect    uint16
	isr            uint8
	generation     uint8
	failure        string
}

// init makes the core of device m with queues of the given largest sizes.
func (c *Core) init(m model, mem devices.Memory, queueSizes ...uint16) {
	c.model, c.mem = m, mem
	c.queues = make([]queue, len(queueSizes))
	for i, n := range queueSizes {
		if n == 0 || n&(n-1) != 0 || n > maxQueueSize {
			panic(fmt.Sprintf("virtio: queue %d has an impossible size of %d", i, n))
		}
		c.queues[i] = queue{mem: mem, max: n, size: n}
	}
	c.line = noLine{}
	c.onFailure = func(error) {}
}

// noLine is where a device without a transport sends its interrupts.
type noLine struct{}

func (noLine) Set(bool) {}

// OnFailure makes f be called, on the machine's goroutine, with the cause whenever the guest has brought the device
// to DEVICE_NEEDS_RESET.
func (c *Core) OnFailure(f func(error)) { c.onFailure = f }

// Failure returns why the device waits for a reset, or "".
func (c *Core) Failure() string { return c.failure }

// Running reports whether a driver has the device in use.
func (c *Core) Running() bool {
	return c.status&(statusDriverOK|statusNeedsReset) == statusDriverOK
}

func (c *Core) offered() uint64 { return featCommon | c.model.features() }

// featureWord returns the 32 features that the driver's selector points at (§4.1.4.3).
func (c *Core) featureWord() uint32 {
	if c.deviceSelect > 1 {
		return 0
	}
	return uint32(c.offered() >> (32 * c.deviceSelect))
}

// driverFeatureWord returns what setFeatureWord has set.
func (c *Core) driverFeatureWord() uint32 {
	if c.driverSelect > 1 {
		return 0
	}
	return uint32(c.driverFeatures >> (32 * c.driverSelect))
}

// setFeatureWord takes 32 of the driver's features; after FEATURES_OK they are settled (§3.1.1).
func (c *Core) setFeatureWord(v uint32) {
	if c.driverSelect > 1 || c.status&statusFeaturesOK != 0 {
		return
	}
	shift := 32 * c.driverSelect
	c.driverFeatures = c.driverFeatures&^(0xffffffff<<shift) | uint64(v)<<shift
}

// setStatus handles a write to the status register (§2.1). 0 resets the device; a bit cannot be cleared singly, and
// DRIVER_OK has no effect without FEATURES_OK.
func (c *Core) setStatus(v uint8) {
	if v == 0 {
		c.reset()
		return
	}
	v &= statusKnown &^ statusNeedsReset
	if v&statusFeaturesOK != 0 && c.status&statusFeaturesOK == 0 && !c.acceptable() {
		v &^= statusFeaturesOK
	}
	if (v|c.status)&statusFeaturesOK == 0 {
		v &^= statusDriverOK
	}
	started := v&statusDriverOK != 0 && c.status&statusDriverOK == 0
	c.status |= v
	if !started || c.status&statusNeedsReset != 0 {
		return
	}
	c.model.start(c.driverFeatures)
	// What the driver made available before is taken now (§3.1.1 lets it fill queues before DRIVER_OK).
	for i := range c.queues {
		c.notify(uint32(i))
	}
}

// acceptable reports whether the driver's features are a set that the device can work with: nothing that was not
// offered, and the version that all of this is about (§6.1).
func (c *Core) acceptable() bool {
	return c.driverFeatures&^c.offered() == 0 && c.driverFeatures&featVersion1 != 0
}

// reset puts the device into the state it had when the machine was made (§2.4).
func (c *Core) reset() {
	c.status, c.driverFeatures = 0, 0
	c.deviceSelect, c.driverSelect, c.queueSelect = 0, 0, 0
	c.failure = ""
	for i := range c.queues {
		c.queues[i].reset()
	}
	c.setISR(0)
	c.model.reset()
}

// fail stops the device until it is reset.
func (c *Core) fail(err error) {
	if c.status&statusNeedsReset != 0 {
		return
	}
	c.failure = err.Error()
	c.status |= statusNeedsReset
	if c.status&statusDriverOK != 0 { // §2.1.2
		c.changed()
	}
	c.onFailure(err)
}

// changed tells the driver that the device configuration space or the status is new.
func (c *Core) changed() {
	c.generation++
	c.setISR(c.isr | isrConfig)
}

func (c *Core) setISR(v uint8) {
	c.isr = v
	c.line.Set(v != 0)
}

// takeISR reads the interrupt status and clears it, which takes the line down (§4.1.4.5).
func (c *Core) takeISR() uint8 {
	v := c.isr
	c.setISR(0)
	return v
}

// selected returns the queue that the driver's selector points at, or nil.
func (c *Core) selected() *queue {
	if int(c.queueSelect) >= len(c.queues) {
		return nil
	}
	return &c.queues[c.queueSelect]
}

// configurable returns the selected queue if its registers may be written: not while it is ready.
func (c *Core) configurable() *queue {
	if q := c.selected(); q != nil && !q.ready {
		return q
	}
	return nil
}

// enableQueue handles the driver's making the selected queue ready.
func (c *Core) enableQueue() {
	q := c.configurable()
	if q == nil {
		return
	}
	// The features are settled before queues are set up (§3.1.1).
	q.eventIdx = c.driverFeatures&featEventIdx != 0
	q.indirect = c.driverFeatures&featIndirect != 0
	if c.status&statusFeaturesOK == 0 {
		c.fail(errors.New("a queue was enabled before the features were agreed on"))
		return
	}
	if err := q.enable(); err != nil {
		c.fail(fmt.Errorf("queue %d: %w", c.queueSelect, err))
	}
}

// notify handles the driver's notification for queue i.
func (c *Core) notify(i uint32) {
	if !c.Running() || i >= uint32(len(c.queues)) || !c.queues[i].ready {
		return
	}
	c.model.notify(int(i))
}

// pop takes the next chain of queue i into ch, and reports false if there is none or the device has failed.
func (c *Core) pop(i int, ch *chain) bool {
	if !c.usable(i) {
		return false
	}
	ok, err := c.queues[i].pop(ch)
	c.check(i, err)
	return ok && err == nil
}

// usable reports whether buffers of queue i may be touched.
func (c *Core) usable(i int) bool { return c.Running() && c.queues[i].ready }

// check fails the device if err, from queue i, is not nil, and reports whether it is nil.
func (c *Core) check(i int, err error) bool {
	if err == nil {
		return true
	}
	c.fail(fmt.Errorf("queue %d: %w", i, err))
	return false
}

// push gives a chain of queue i back; the driver sees it after publish.
func (c *Core) push(i int, head uint16, written uint32) {
	if c.usable(i) {
		c.check(i, c.queues[i].push(head, written))
	}
}

// publish shows the driver what has been pushed to queue i and interrupts if it asked for that. A handler calls it
// once, at its end, however many chains it pushed.
func (c *Core) publish(i int) {
	if !c.usable(i) {
		return
	}
	wants, err := c.queues[i].publish()
	if c.check(i, err) && wants {
		c.setISR(c.isr | isrQueue)
	}
}

// listen and silence are those of the queue.
func (c *Core) listen(i int, ahead uint16) {
	if c.usable(i) {
		c.check(i, c.queues[i].listen(ahead))
	}
}

func (c *Core) silence(i int) {
	if c.usable(i) {
		c.check(i, c.queues[i].silence())
	}
}

// readConfig reads the device configuration space; beyond its end it is zero.
func (c *Core) readConfig(offset uint64, p []byte) {
	var space [configSpace]byte
	c.model.configuration(&space)
	clear(p)
	if offset < configSpace {
		copy(p, space[offset:])
	}
}

// writeConfig writes the device configuration space.
func (c *Core) writeConfig(offset uint64, p []byte) {
	if offset+uint64(len(p)) <= configSpace {
		c.model.configure(offset, p)
	}
}

// littleEndian returns the value of a register access of 1, 2 or 4 bytes.
func littleEndian(p []byte) uint32 {
	switch len(p) {
	case 1:
		return uint32(p[0])
	case 2:
		return uint32(binary.LittleEndian.Uint16(p))
	case 4:
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

// rearm asks the driver of a queue whose buffers wait for input to notify when it adds some, if fewer than low are
// left, and not to otherwise. It is called only where the guest's accesses or the inputs lead, so that both machines
// of a pair do it at the same position.
func (c *Core) rearm(i int, low uint16) {
	if !c.usable(i) {
		return
	}
	n, err := c.queues[i].available()
	if !c.check(i, err) {
		return
	}
	if n < low {
		c.listen(i, n)
	} else {
		c.silence(i)
	}
}
