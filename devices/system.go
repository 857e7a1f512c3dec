package devices

import "encoding/json"

// Bits of port 0x92 and of the reset control register 0xcf9 (82371AB data sheet §4.2.5.3, §4.2.5.5).
const (
	port92Reset = 1 << 0
	port92A20   = 1 << 1

	resetSystem   = 1 << 1
	resetCPU      = 1 << 2
	resetWritable = resetSystem | resetCPU
)

// debugPortAnswer is what port 0xe9 reads as where it is a debug console.
const debugPortAnswer = 0xe9

// SystemPorts are the ports of the PC's glue: fast A20 gate and reset (0x92), reset control (0xcf9), POST codes (0x80),
// debug console (0xe9) and the port that is written to pass the time (0xed).
//
// A20 is never masked in this machine; the bit just reads as it was written.
type SystemPorts struct {
	debug outbox
	reset func()
	s     systemState
	// posts counts writes to port 0x80. It tells a developer how much of a boot is waiting; the guest can't see it.
	posts uint64
}

type systemState struct {
	Port92  uint8 `json:"port92"`
	Control uint8 `json:"reset_control"`
}

// NewSystemPorts returns the ports as after a reset. reset is called when the guest resets the machine.
func NewSystemPorts(debug Sink, reset func()) *SystemPorts {
	return &SystemPorts{debug: outbox{sink: debug}, reset: reset, s: systemState{Port92: port92A20}}
}

// Attach puts all ports but reset control on the bus: that lies in the midst of PCI's configuration ports.
func (y *SystemPorts) Attach(ports *Bus) error {
	return attachAll(ports,
		attachment{0x80, 1, &bytePorts{readNothing, y.writePost}},
		attachment{0x92, 1, &bytePorts{y.readPort92, y.writePort92}},
		attachment{0xe9, 1, &bytePorts{readDebug, y.writeDebug}},
		attachment{0xed, 1, &bytePorts{readNothing, writeNothing}},
	)
}

func readNothing(uint64) byte   { return 0xff }
func writeNothing(uint64, byte) {}
func readDebug(uint64) byte     { return debugPortAnswer }

// Posts returns how often port 0x80 was written.
func (y *SystemPorts) Posts() uint64 { return y.posts }

func (y *SystemPorts) writePost(uint64, byte) { y.posts++ }

func (y *SystemPorts) readPort92(uint64) byte { return y.s.Port92 }

func (y *SystemPorts) writePort92(_ uint64, v byte) {
	rises := v&^y.s.Port92&port92Reset != 0
	y.s.Port92 = v & (port92A20 | port92Reset)
	if rises {
		y.reset()
	}
}

// readReset and writeReset are the reset control register: the reset happens when bit 2 rises; bit 1, which says whether
// it is a hard one, makes no difference here.
func (y *SystemPorts) readReset() byte { return y.s.Control }

func (y *SystemPorts) writeReset(v byte) {
	rises := v&^y.s.Control&resetCPU != 0
	y.s.Control = v & resetWritable
	if rises {
		y.reset()
	}
}

func (y *SystemPorts) writeDebug(_ uint64, v byte) { y.debug.send(v) }

// SaveState implements Stateful.
func (y *SystemPorts) SaveState() ([]byte, error) { return json.Marshal(&y.s) }

// LoadState implements Stateful.
func (y *SystemPorts) LoadState(state []byte) error {
	s, err := decodeState("system ports", state, func(s *systemState) error {
		return firstError(
			condition{s.Port92&^(port92A20|port92Reset) == 0, "port 0x92: bits that can't be set"},
			condition{s.Control&^resetWritable == 0, "reset control: bits that can't be set"},
		)
	})
	if err != nil {
		return err
	}
	y.s = s
	return nil
}
