package vmm

import (
	"encoding/binary"
	"slices"
	"testing"

	"tandem/devices"
	"tandem/devices/virtio"
	"tandem/kvm"
	"tandem/lockstep"
)

// consoleDriver drives a machine's virtio console by its memory-mapped registers (virtio 1.2 §4.2.2), as a guest would.
type consoleDriver struct {
	t *testing.T
	m *Machine
}

// Guest memory of the driver: queue q has its rings in the page at driverRings + q pages, and one buffer behind them.
const (
	driverRings       = 0x100000
	driverQueues      = 2
	driverQueueSize   = 8
	driverAvailOffset = 0x400
	driverUsedOffset  = 0x800
	driverBuffers     = driverRings + driverQueues*kvm.PageBytes
)

func (d consoleDriver) write(register uint64, v uint32) {
	d.m.pc.MMIO.Write(mmioBase+register, binary.LittleEndian.AppendUint32(nil, v))
}

func (d consoleDriver) read(register uint64) uint32 {
	var p [4]byte
	d.m.pc.MMIO.Read(mmioBase+register, p[:])
	return binary.LittleEndian.Uint32(p[:])
}

func (d consoleDriver) memory(gpa uint64, n int) []byte {
	d.t.Helper()
	p, err := d.m.memory.Bytes(gpa, uint64(n))
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

// start initialises the device with VIRTIO_F_VERSION_1 and two queues.
func (d consoleDriver) start() {
	d.t.Helper()
	const status, ready = 0x70, 0x44
	d.write(status, 1|2)
	d.write(0x24, 1) // the upper half of the features
	d.write(0x20, 1)
	d.write(status, 1|2|8)
	for q := range uint32(driverQueues) {
		rings := driverRings + q*kvm.PageBytes
		d.write(0x30, q)
		d.write(0x38, driverQueueSize)
		d.write(0x80, rings)
		d.write(0x90, rings+driverAvailOffset)
		d.write(0xa0, rings+driverUsedOffset)
		d.write(ready, 1)
	}
	d.write(status, 1|2|8|4)
	if got := d.read(status); got != 15 {
		d.t.Fatalf("status %#x", got)
	}
}

// add makes the queue's next buffer available, of n bytes, and returns where it is.
func (d consoleDriver) add(q uint32, n int, deviceWrites bool) []byte {
	d.t.Helper()
	rings := uint64(driverRings + q*kvm.PageBytes)
	buffer := uint64(driverBuffers + q*kvm.PageBytes)
	flags := uint16(0)
	if deviceWrites {
		flags = 2
	}
	avail := d.memory(rings+driverAvailOffset, 4+2*driverQueueSize)
	index := binary.LittleEndian.Uint16(avail[2:])
	descriptor := d.memory(rings, 16)
	binary.LittleEndian.PutUint64(descriptor, buffer)
	binary.LittleEndian.PutUint32(descriptor[8:], uint32(n))
	binary.LittleEndian.PutUint16(descriptor[12:], flags)
	binary.LittleEndian.PutUint16(avail[4+2*(index%driverQueueSize):], 0)
	binary.LittleEndian.PutUint16(avail[2:], index+1)
	return d.memory(buffer, n)
}

func (d consoleDriver) notify(q uint32) { d.write(0x50, q) }

func consoleMachine(t *testing.T, config *virtio.ConsoleConfig) (*Machine, *sink) {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	defer system.Close()
	out := newSink()
	c := Config{MemoryBytes: guestMemoryBytes, EpochNS: guestEpochNS, Console: newSink(), Debug: newSink(), MMIO: true}
	if config != nil {
		c.VirtioConsole = &VirtioConsole{ConsoleConfig: *config, Out: out}
	}
	m, err := New(system, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, out
}

func TestVirtioConsole(t *testing.T) {
	m, out := consoleMachine(t, &virtio.ConsoleConfig{Columns: 80, Rows: 25})
	m.GoLive()
	const receive, transmit = 0, 1
	typed := []byte("typed")
	if n := m.room(lockstep.KindConsole, VirtioConsoleDevice, typed); n != 0 {
		t.Errorf("room for %d bytes before there is a driver", n)
	}
	d := consoleDriver{t, m}
	d.start()

	copy(d.add(transmit, 5, false), "hello")
	d.notify(transmit)
	if got := out.String(); got != "hello" {
		t.Errorf("the guest has written %q", got)
	}

	buffer := d.add(receive, 3, true)
	if n := m.room(lockstep.KindConsole, VirtioConsoleDevice, typed); n != 3 {
		t.Errorf("room for %d bytes in a buffer of 3", n)
	}
	if err := m.apply(lockstep.Input{Kind: lockstep.KindConsole, Device: VirtioConsoleDevice, Payload: typed[:3]}); err != nil {
		t.Fatal(err)
	}
	if string(buffer) != "typ" || !m.pc.PIC.Pending() && d.read(0x60) == 0 {
		t.Errorf("the guest has received %q", buffer)
	}
	if !slices.ContainsFunc(m.parts(), func(p devices.Part) bool { return p.Name == "console" }) {
		t.Error("the console's state is no part of the machine's")
	}
}

func TestVirtioConsoleIdentity(t *testing.T) {
	size := virtio.ConsoleConfig{Columns: 132, Rows: 43}
	for _, want := range []*virtio.ConsoleConfig{nil, {}, &size} {
		m, _ := consoleMachine(t, want)
		header, err := m.header()
		if err != nil {
			t.Fatal(err)
		}
		c, err := ConfigOf(header)
		if err != nil {
			t.Fatal(err)
		}
		if (c.VirtioConsole == nil) != (want == nil) || want != nil && c.VirtioConsole.ConsoleConfig != *want {
			t.Errorf("%v became %v", want, c.VirtioConsole)
		}
	}
}

// TestNoSuchConsole expects that what is typed at a console that is not there is dropped, and that a log that has it is
// another machine's.
func TestNoSuchConsole(t *testing.T) {
	m, _ := consoleMachine(t, nil)
	for _, device := range []uint8{VirtioConsoleDevice, VirtioConsoleDevice + 1} {
		if n := m.room(lockstep.KindConsole, device, []byte("x")); n >= 0 {
			t.Errorf("console %d has room for %d bytes", device, n)
		}
		if m.apply(lockstep.Input{Kind: lockstep.KindConsole, Device: device, Payload: []byte("x")}) == nil {
			t.Errorf("console %d takes input", device)
		}
	}
}
