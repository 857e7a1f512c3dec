package devices

import (
	"errors"

	"tandem/lockstep"
)

// The PC's interrupt inputs that its legacy parts drive. The others are free for PCI.
const (
	irqTimer    = 0
	irqKeyboard = 1
	irqSerial   = 4
	irqRTC      = 8
)

// serialBase is the first port of the machine's serial line (COM1, ttyS0).
const serialBase = 0x3f8

// Where PCI's configuration ports are; the reset control register is the second of them.
const (
	pciConfigBase      = 0xcf8
	pciConfigPorts     = 8
	resetControlOffset = 0xcf9 - pciConfigBase
)

// PCConfig is what a PC is made of.
type PCConfig struct {
	Clock lockstep.Clock
	// EpochNS is the wall-clock time at guest time 0, in Unix ns.
	EpochNS int64
	// MemoryBytes is the size of RAM, for those who ask the CMOS.
	MemoryBytes uint64
	// Console takes what is sent on the serial line, Debug what is written to port 0xe9. A nil sink drops it.
	Console, Debug Sink
	// Reset is called when the guest resets the machine, while the access that does so is being handled.
	Reset func()
}

// PC is the legacy parts of a PC, wired together and on their buses.
type PC struct {
	Ports, MMIO *Bus

	PIC      *PIC
	PIT      *PIT
	UART     *UART
	RTC      *RTC
	Keyboard *I8042
	PMTimer  *PMTimer
	System   *SystemPorts

	config configPorts
}

// NewPC builds a PC. Further devices may be attached to its buses and to the free inputs of its PIC.
func NewPC(config PCConfig) (*PC, error) {
	if config.Clock == nil || config.Reset == nil {
		return nil, errors.New("devices: a PC needs a clock and a function to reset it")
	}
	if config.Console == nil {
		config.Console = nowhere{}
	}
	if config.Debug == nil {
		config.Debug = nowhere{}
	}
	pic := NewPIC()
	pc := &PC{
		Ports: &Bus{}, MMIO: &Bus{},
		PIC:      pic,
		PIT:      NewPIT(config.Clock, pic.Line(irqTimer)),
		UART:     NewUART(config.Console, pic.Line(irqSerial)),
		RTC:      NewRTC(config.Clock, pic.Line(irqRTC), config.EpochNS, config.MemoryBytes),
		Keyboard: NewI8042(pic.Line(irqKeyboard), config.Reset),
		PMTimer:  NewPMTimer(config.Clock),
		System:   NewSystemPorts(config.Debug, config.Reset),
	}
	pic.OnAcknowledge(irqTimer, pc.PIT.TickTaken)
	pc.config.system = pc.System
	return pc, errors.Join(
		pc.PIC.Attach(pc.Ports),
		pc.PIT.Attach(pc.Ports),
		pc.UART.Attach(pc.Ports, serialBase),
		pc.RTC.Attach(pc.Ports),
		pc.Keyboard.Attach(pc.Ports),
		pc.PMTimer.Attach(pc.Ports),
		pc.System.Attach(pc.Ports),
		pc.Ports.Attach(pciConfigBase, pciConfigPorts, &pc.config),
	)
}

// ConnectPCI puts a host bridge's configuration ports at 0xcf8 to 0xcff. They share them with the reset control
// register, which has single bytes at 0xcf9; the bridge takes 32 bits at 0xcf8.
func (pc *PC) ConnectPCI(config Handler) { pc.config.bridge = config }

// PowerButton asks the guest to shut down: a press of Ctrl-Alt-Del, since without ACPI there is no other way.
func (pc *PC) PowerButton() { pc.Keyboard.CtrlAltDel() }

// Timers returns the parts in which time makes things happen, in the order in which they are to be advanced.
func (pc *PC) Timers() []Timer { return []Timer{pc.PIT, pc.RTC} }

// Part is a stateful part of a machine with its name, which states and reports of differences are keyed by.
type Part struct {
	Name string
	Stateful
}

// Parts returns all parts that have a state, in a fixed order.
func (pc *PC) Parts() []Part {
	return []Part{
		{"pic", pc.PIC},
		{"pit", pc.PIT},
		{"uart", pc.UART},
		{"rtc", pc.RTC},
		{"i8042", pc.Keyboard},
		{"system", pc.System},
	}
}

// attachment is a window that a part wants on a bus.
type attachment struct {
	base, size uint64
	handler    Handler
}

func attachAll(b *Bus, all ...attachment) error {
	for _, a := range all {
		if err := b.Attach(a.base, a.size, a.handler); err != nil {
			return err
		}
	}
	return nil
}

// nowhere is a sink that drops everything.
type nowhere struct{}

func (nowhere) Output([]byte) {}

// configPorts passes on the accesses to ports 0xcf8 to 0xcff.
type configPorts struct {
	bridge Handler // nil if there is no PCI
	system *SystemPorts
}

func (c *configPorts) Read(offset uint64, p []byte) {
	switch {
	case offset == resetControlOffset && len(p) == 1:
		p[0] = c.system.readReset()
	case c.bridge != nil:
		c.bridge.Read(offset, p)
	default:
		for i := range p {
			p[i] = 0xff
		}
	}
}

func (c *configPorts) Write(offset uint64, p []byte) {
	switch {
	case offset == resetControlOffset && len(p) == 1:
		c.system.writeReset(p[0])
	case c.bridge != nil:
		c.bridge.Write(offset, p)
	}
}
