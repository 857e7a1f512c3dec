// Package pci is the machine's PCI bus: configuration mechanism #1 (PCI Local Bus 3.0 §3.2.2.3.2), a host bridge at
// 0:0.0, and up to 31 functions with type-0 headers, each function 0 of its device on bus 0.
//
// There is no firmware, so the bus does what firmware does: it gives every base address register an address inside its
// windows, turns decoding on and fills in the interrupt line register. Linux (pci=conf1, no ACPI, no $PIR table) keeps
// those addresses and takes the IRQ from the interrupt line register as it stands; no interrupt router is needed. BARs
// can be moved by the guest anywhere inside the windows.
//
// Interrupts are INTx, level-triggered and wired-OR: functions beyond the number of lines share them, in the order in
// which they were added. Whoever builds the machine sets the ELCR bits named by [Bus.LevelMask].
//
// The bus is touched only by the goroutine that owns the machine. It handles three windows: the configuration ports
// (the Bus itself), the port window ([Bus.Ports]) and the memory window ([Bus.Memory]).
package pci

import (
	"encoding/binary"
	"fmt"

	"tandem/devices"
)

// Where the bus's windows are in the machine. Memory lies in the hole below 4 GiB that RAM leaves free and ends where
// an I/O APIC would be.
const (
	ConfigPort  = 0xcf8
	ConfigPorts = 8

	PortBase = 0xc000
	PortSize = 0x1000

	MemoryBase = 0xd0000000
	MemorySize = 0xfec00000 - MemoryBase
)

// maxDevices is the number of device numbers on a bus (PCI Local Bus 3.0 §3.2.2.3.2); the host bridge takes the first.
const maxDevices = 32

// DefaultIRQs are the interrupt lines that functions get, in the order in which they are handed out: inputs of the PIC
// pair that no legacy part of this machine drives. The seventh function shares with the first, and so on.
var DefaultIRQs = [...]uint8{5, 9, 10, 11, 3, 14}

// IRQ is an input of the interrupt controller that functions may use.
type IRQ struct {
	Number uint8
	Line   devices.Line
}

// Bus is PCI bus 0 with its host bridge.
type Bus struct {
	address   uint32 // CONFIG_ADDRESS
	functions [maxDevices]*Function
	count     int

	irqs []IRQ
	// asserted has, for each of irqs, a bit for each device number that drives it.
	asserted []uint32

	nextPort, nextMemory uint64
}

// New returns a bus with a host bridge and nothing else on it. irqs may be empty only if no function interrupts.
func New(irqs []IRQ) *Bus {
	b := &Bus{
		irqs:       irqs,
		asserted:   make([]uint32, len(irqs)),
		nextPort:   PortBase,
		nextMemory: MemoryBase,
	}
	// The identifiers are those of the 440FX's host bridge, which every guest knows as one that needs no driver.
	bridge := NewFunction(Header{VendorID: 0x8086, DeviceID: 0x1237, Class: 0x060000, Revision: 2})
	if err := b.Add(bridge); err != nil {
		panic(err) // an empty bus has room for its bridge
	}
	return b
}

// Add puts f on the bus as the next device number, places its BARs and gives it an interrupt line. It fails when the
// bus or one of its windows is full.
func (b *Bus) Add(f *Function) error {
	if b.count == maxDevices {
		return fmt.Errorf("pci: no room for another device: the bus holds %d", maxDevices-1)
	}
	if f.interrupts() && len(b.irqs) == 0 {
		return fmt.Errorf("pci: the bus has no interrupt line for device %d", b.count)
	}
	port, memory := b.nextPort, b.nextMemory
	var at [len(f.bars)]uint32
	for i := range f.bars {
		bar := &f.bars[i]
		switch {
		case bar.Size == 0:
		case bar.IO:
			at[i], port = allocate(port, bar.Size)
		default:
			at[i], memory = allocate(memory, bar.Size)
		}
	}
	if port > PortBase+PortSize || memory > MemoryBase+MemorySize {
		return fmt.Errorf("pci: no address space left for the registers of device %d", b.count)
	}
	b.nextPort, b.nextMemory = port, memory

	f.bus, f.device = b, b.count
	b.functions[b.count] = f
	b.count++
	f.place(at)
	if f.interrupts() {
		// The host bridge has device number 0 and no interrupt, so the first function is number 1.
		f.irq = (f.device - 1) % len(b.irqs)
		f.config[regInterruptLine] = b.irqs[f.irq].Number
	}
	return nil
}

// allocate returns the first multiple of size, a power of two, from next on, and what follows the range. A range that
// does not end below 4 GiB is found by its end.
func allocate(next uint64, size uint32) (at uint32, end uint64) {
	start := (next + uint64(size) - 1) &^ (uint64(size) - 1)
	return uint32(start), start + uint64(size)
}

// LevelMask has a bit for each IRQ number that a function on the bus uses: what firmware would set in the ELCR.
func (b *Bus) LevelMask() uint16 {
	var mask uint16
	for _, f := range b.functions[:b.count] {
		if f.interrupts() {
			mask |= 1 << b.irqs[f.irq].Number
		}
	}
	return mask
}

// drive sets or clears device's part of the wired-OR of its line.
func (b *Bus) drive(irq, device int, level bool) {
	was := b.asserted[irq] != 0
	if level {
		b.asserted[irq] |= 1 << device
	} else {
		b.asserted[irq] &^= 1 << device
	}
	if is := b.asserted[irq] != 0; is != was {
		b.irqs[irq].Line.Set(is)
	}
}

// Read handles the configuration ports; offsets are relative to [ConfigPort]. Only a dword access reaches
// CONFIG_ADDRESS (PCI Local Bus 3.0 §3.2.2.3.2); what no one answers reads as ones.
func (b *Bus) Read(offset uint64, p []byte) {
	if offset == 0 && len(p) == 4 {
		binary.LittleEndian.PutUint32(p, b.address)
		return
	}
	if f, reg, ok := b.selected(offset, len(p)); ok {
		f.readConfig(reg, p)
		return
	}
	ones(p)
}

// Write handles the configuration ports, as [Bus.Read] does.
func (b *Bus) Write(offset uint64, p []byte) {
	if offset == 0 && len(p) == 4 {
		// Bits 30..24 and 1..0 are reserved and read as zero.
		b.address = binary.LittleEndian.Uint32(p) & 0x80fffffc
		return
	}
	if f, reg, ok := b.selected(offset, len(p)); ok {
		f.writeConfig(reg, p)
	}
}

// selected returns the function and the register that an access to CONFIG_DATA is for.
func (b *Bus) selected(offset uint64, length int) (*Function, int, bool) {
	const enable = 1 << 31
	if offset < 4 || offset+uint64(length) > ConfigPorts || b.address&enable == 0 {
		return nil, 0, false
	}
	if bus, function := b.address>>16&0xff, b.address>>8&7; bus != 0 || function != 0 {
		return nil, 0, false
	}
	f := b.functions[b.address>>11&0x1f]
	if f == nil {
		return nil, 0, false
	}
	return f, int(b.address&0xfc) + int(offset-4), true
}

func ones(p []byte) {
	for i := range p {
		p[i] = 0xff
	}
}

// window is the part of an address space that the host bridge passes on to the functions.
type window struct {
	bus  *Bus
	base uint32
	io   bool
}

// Ports returns the bus's window of I/O ports, to be attached at [PortBase] for [PortSize].
func (b *Bus) Ports() devices.Handler { return window{b, PortBase, true} }

// Memory returns the bus's window of memory addresses, to be attached at [MemoryBase] for [MemorySize].
func (b *Bus) Memory() devices.Handler { return window{b, MemoryBase, false} }

func (w window) Read(offset uint64, p []byte) {
	if h, at := w.find(offset, len(p)); h != nil {
		h.Read(at, p)
		return
	}
	ones(p)
}

func (w window) Write(offset uint64, p []byte) {
	if h, at := w.find(offset, len(p)); h != nil {
		h.Write(at, p)
	}
}

// find returns the BAR in which an access lies wholly, and its offset there. Of two that the guest has laid over each
// other the lower device number answers.
func (w window) find(offset uint64, length int) (devices.Handler, uint64) {
	addr := uint64(w.base) + offset
	for _, f := range w.bus.functions[:w.bus.count] {
		if !f.decodes(w.io) {
			continue
		}
		for i := range f.bars {
			bar := &f.bars[i]
			if bar.Size == 0 || bar.IO != w.io {
				continue
			}
			start := uint64(f.barAddress(i))
			if addr >= start && addr+uint64(length) <= start+uint64(bar.Size) {
				return bar.Handler, addr - start
			}
		}
	}
	return nil, 0
}
