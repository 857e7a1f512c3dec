package pci

import (
	"encoding/binary"
	"fmt"

	"tandem/devices"
)

// Registers of a type-0 header (PCI Local Bus 3.0 §6.1, figure 6-1).
const (
	regVendorID      = 0x00
	regDeviceID      = 0x02
	regCommand       = 0x04
	regStatus        = 0x06
	regRevision      = 0x08
	regClass         = 0x09
	regCacheLine     = 0x0c
	regBAR0          = 0x10
	regSubsysVendor  = 0x2c
	regSubsysID      = 0x2e
	regCapPointer    = 0x34
	regInterruptLine = 0x3c
	regInterruptPin  = 0x3d

	firstCapability = 0x40
	configSize      = 0x100
)

// Bits of the command and the status register (§6.2.2, §6.2.3).
const (
	commandIO          = 1 << 0
	commandMemory      = 1 << 1
	commandMaster      = 1 << 2
	commandINTxDisable = 1 << 10

	statusInterrupt    = 1 << 3
	statusCapabilities = 1 << 4
)

// barSpaceIO is bit 0 of a BAR for ports; a 32-bit memory BAR that is not prefetchable has none of its low bits set
// (§6.2.5.1).
const barSpaceIO = 1

// BAR is a range of registers that the guest can place.
type BAR struct {
	// Size is a power of two: at least 4 and at most 256 for ports, at least 16 for memory. 0 means that there is none.
	Size uint32
	// IO says that the registers are ports.
	IO      bool
	Handler devices.Handler
}

// Header says what a function is.
type Header struct {
	VendorID, DeviceID uint16
	SubsystemVendorID  uint16
	SubsystemID        uint16
	Class              uint32 // 24 bits: class, subclass, programming interface
	Revision           uint8
	Interrupt          bool // the function has INTA#
	BARs               [6]BAR
}

// Function is one function's configuration space.
type Function struct {
	bus    *Bus
	device int
	irq    int // index in bus.irqs

	bars [6]BAR
	// config is the configuration space without the interrupt status bit, which follows pending.
	config [configSize]byte
	// writable has the bits that the guest can change.
	writable [configSize]byte
	pending  bool

	// capEnd is where the next capability goes, lastNext the byte that will point to it.
	capEnd, lastNext int
	// window takes the accesses to the dword at windowAt instead of config.
	window   devices.Handler
	windowAt int
}

// NewFunction returns a function that is not yet on a bus. A BAR that the specification does not allow is the caller's
// bug and panics.
func NewFunction(h Header) *Function {
	f := &Function{bars: h.BARs, capEnd: firstCapability, lastNext: regCapPointer}
	f.put16(regVendorID, h.VendorID)
	f.put16(regDeviceID, h.DeviceID)
	f.put16(regSubsysVendor, h.SubsystemVendorID)
	f.put16(regSubsysID, h.SubsystemID)
	f.config[regRevision] = h.Revision
	f.config[regClass] = byte(h.Class)
	f.put16(regClass+1, uint16(h.Class>>8))
	if h.Interrupt {
		f.config[regInterruptPin] = 1 // INTA#
		f.writable[regInterruptLine] = 0xff
	}
	f.writable[regCacheLine] = 0xff
	command := uint16(commandMaster)
	if h.Interrupt {
		command |= commandINTxDisable
	}
	for i, bar := range h.BARs {
		if bar.Size == 0 {
			continue
		}
		if bar.Size&(bar.Size-1) != 0 || bar.IO && (bar.Size < 4 || bar.Size > 256) || !bar.IO && bar.Size < 16 {
			panic(fmt.Sprintf("pci: BAR %d of %04x:%04x has an impossible size of %d", i, h.VendorID, h.DeviceID, bar.Size))
		}
		mask := ^(bar.Size - 1)
		if bar.IO {
			command |= commandIO
			f.config[regBAR0+4*i] = barSpaceIO
		} else {
			command |= commandMemory
		}
		binary.LittleEndian.PutUint32(f.writable[regBAR0+4*i:], mask)
	}
	binary.LittleEndian.PutUint16(f.writable[regCommand:], command)
	return f
}

func (f *Function) put16(reg int, v uint16) { binary.LittleEndian.PutUint16(f.config[reg:], v) }

func (f *Function) command() uint16 { return binary.LittleEndian.Uint16(f.config[regCommand:]) }

func (f *Function) interrupts() bool { return f.config[regInterruptPin] != 0 }

// place gives the BARs their first addresses and turns decoding on, as firmware does.
func (f *Function) place(at [6]uint32) {
	for i := range f.bars {
		if f.bars[i].Size == 0 {
			continue
		}
		reg := f.config[regBAR0+4*i:]
		binary.LittleEndian.PutUint32(reg, at[i]|uint32(reg[0]))
	}
	f.put16(regCommand, binary.LittleEndian.Uint16(f.writable[regCommand:])&(commandIO|commandMemory))
}

// decodes reports whether the function answers in the port or the memory space.
func (f *Function) decodes(io bool) bool {
	if io {
		return f.command()&commandIO != 0
	}
	return f.command()&commandMemory != 0
}

// barAddress returns where BAR i is; its low bits, which say what it is, are not writable and so are left out.
func (f *Function) barAddress(i int) uint32 {
	reg := regBAR0 + 4*i
	return binary.LittleEndian.Uint32(f.config[reg:]) & binary.LittleEndian.Uint32(f.writable[reg:])
}

// BARAddress returns the address of BAR i in its space as the guest has set it.
func (f *Function) BARAddress(i int) uint32 { return f.barAddress(i) }

// IRQ returns the number of the interrupt line that the function drives.
func (f *Function) IRQ() uint8 { return f.bus.irqs[f.irq].Number }

// Device returns the function's device number on the bus.
func (f *Function) Device() int { return f.device }

// AddCapability appends a capability (§6.7) whose bytes after the identifier and the next pointer are body, and
// returns its offset. writable, if not nil, has body's writable bits. It panics when the space is full.
func (f *Function) AddCapability(id uint8, body, writable []byte) int {
	at := f.capEnd
	end := at + 2 + len(body)
	if end > configSize {
		panic("pci: capabilities do not fit into the configuration space")
	}
	f.config[at] = id
	copy(f.config[at+2:], body)
	copy(f.writable[at+2:end], writable)
	f.config[f.lastNext] = byte(at)
	f.lastNext = at + 1
	f.capEnd = (end + 3) &^ 3
	f.put16(regStatus, statusCapabilities)
	return at
}

// SetWindow makes h answer for the dword at offset of the configuration space; h's offsets are relative to it.
func (f *Function) SetWindow(offset int, h devices.Handler) { f.window, f.windowAt = h, offset }

// ConfigUint32 returns the dword at offset of the configuration space.
func (f *Function) ConfigUint32(offset int) uint32 {
	return binary.LittleEndian.Uint32(f.config[offset:])
}

// Set drives INTA#; it makes a Function a [devices.Line].
func (f *Function) Set(level bool) {
	f.pending = level
	f.drive()
}

// drive passes pending on unless the guest has disabled INTx (§6.2.2, bit 10).
func (f *Function) drive() {
	f.bus.drive(f.irq, f.device, f.pending && f.command()&commandINTxDisable == 0)
}

// readConfig reads registers inside one dword.
func (f *Function) readConfig(reg int, p []byte) {
	if f.window != nil && reg&^3 == f.windowAt {
		f.window.Read(uint64(reg&3), p)
		return
	}
	copy(p, f.config[reg:])
	if f.pending && reg <= regStatus && reg+len(p) > regStatus {
		p[regStatus-reg] |= statusInterrupt
	}
}

// writeConfig writes registers inside one dword.
func (f *Function) writeConfig(reg int, p []byte) {
	if f.window != nil && reg&^3 == f.windowAt {
		f.window.Write(uint64(reg&3), p)
		return
	}
	for i, v := range p {
		mask := f.writable[reg+i]
		f.config[reg+i] = f.config[reg+i]&^mask | v&mask
	}
	if reg&^3 == regCommand && f.interrupts() {
		f.drive()
	}
}
