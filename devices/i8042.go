package devices

import "encoding/json"

// Bits of the controller's status register (port 0x64; IBM PS/2 technical reference, keyboard controller).
const (
	kbcOutputFull = 1 << 0
	kbcSystem     = 1 << 2 // the self-test has been passed
	kbcCommand    = 1 << 3 // the last write was to port 0x64
	kbcUnlocked   = 1 << 4
	kbcAux        = 1 << 5 // the byte is not the keyboard's but the mouse's
	kbcTimeout    = 1 << 6
)

// Bits of the controller's command byte, which is byte 0 of its memory.
const (
	kbcInterrupt   = 1 << 0
	kbcNoKeyboard  = 1 << 4
	kbcNoAux       = 1 << 5
	kbcTranslate   = 1 << 6
	kbcFirmwareSet = kbcInterrupt | kbcSystem | kbcNoAux | kbcTranslate
)

// Bits of the output port. Bit 0 holds the processor in reset when low.
const (
	kbcOutNoReset = 1 << 0
	kbcOutA20     = 1 << 1
	kbcOutIdle    = 0xcc | kbcOutNoReset | kbcOutA20
)

// Commands to the controller.
const (
	kbcReadMemory   = 0x20 // to 0x3f
	kbcWriteMemory  = 0x60 // to 0x7f
	kbcDisableAux   = 0xa7
	kbcEnableAux    = 0xa8
	kbcTestAux      = 0xa9
	kbcSelfTest     = 0xaa
	kbcTestKeyboard = 0xab
	kbcDisable      = 0xad
	kbcEnable       = 0xae
	kbcReadInput    = 0xc0
	kbcReadOutput   = 0xd0
	kbcWriteOutput  = 0xd1
	kbcLoopKeyboard = 0xd2
	kbcLoopAux      = 0xd3
	kbcWriteAux     = 0xd4
	kbcA20Off       = 0xdd
	kbcA20On        = 0xdf
	kbcPulse        = 0xf0 // to 0xff: the low four bits of the output port go low for a moment where the command has a 0
)

// Answers.
const (
	kbcSelfTestPassed = 0x55
	kbcLinePassed     = 0x00
	kbcLineDead       = 0x02 // clock line stuck: nothing is attached
	kbcResend         = 0xfe
)

// I8042 is a PC's keyboard controller with a keyboard and no mouse.
//
// It answers each command within the access that gives it, so a driver never has to poll. That costs a guest no more
// accesses than a controller that is absent (Linux reads one of those 33 times before it gives up), and the keyboard is
// how the guest is asked to shut down: Ctrl-Alt-Del.
type I8042 struct {
	irq   Line
	reset func()
	s     i8042State
}

type i8042State struct {
	Status uint8 `json:"status"` // but for the output buffer's own bits
	// Output is the byte at port 0x60, Flags the status bits that go with it: none when there is no byte.
	Output uint8 `json:"output"`
	Flags  uint8 `json:"flags"`
	// FromKeyboard says that the byte came from the keyboard.
	FromKeyboard bool `json:"from_keyboard"`
	// Command is the one that waits for its byte at port 0x60, or 0.
	Command    uint8     `json:"command"`
	Memory     [32]uint8 `json:"memory"`
	OutputPort uint8     `json:"output_port"`
	Keyboard   keyboard  `json:"keyboard"`
}

// NewI8042 returns a controller as firmware leaves it. It interrupts by irq; reset is called when the guest resets the
// machine.
func NewI8042(irq Line, reset func()) *I8042 {
	k := &I8042{irq: irq, reset: reset}
	k.s.Status = kbcSystem | kbcUnlocked
	k.s.Memory[0] = kbcFirmwareSet
	k.s.OutputPort = kbcOutIdle
	k.s.Keyboard.reset()
	return k
}

// Attach puts the ports on the bus: 0x60, 0x64.
func (k *I8042) Attach(ports *Bus) error {
	return attachAll(ports,
		attachment{0x60, 1, &bytePorts{k.readData, k.writeData}},
		attachment{0x64, 1, &bytePorts{k.readStatus, k.writeCommand}},
	)
}

// CtrlAltDel presses and releases the keys that ask a guest to shut down (Linux's init decides what it does then). A
// guest that has not enabled the keyboard doesn't notice.
func (k *I8042) CtrlAltDel() {
	k.s.Keyboard.press(ctrlAltDel[:])
	k.fill()
}

func (k *I8042) readStatus(uint64) byte { return k.s.Status | k.s.Flags }

func (k *I8042) readData(uint64) byte {
	v := k.s.Output // an empty buffer still shows its last byte
	k.s.Flags, k.s.FromKeyboard = 0, false
	k.irq.Set(false)
	k.fill()
	return v
}

// put makes v the byte at port 0x60.
func (k *I8042) put(v, flags uint8, fromKeyboard bool) {
	k.s.Output, k.s.Flags, k.s.FromKeyboard = v, kbcOutputFull|flags, fromKeyboard
	if flags&kbcAux == 0 {
		k.interrupt()
	}
}

// interrupt drives the keyboard's interrupt line.
func (k *I8042) interrupt() {
	k.irq.Set(k.s.Memory[0]&kbcInterrupt != 0 && k.s.Flags&(kbcOutputFull|kbcAux) == kbcOutputFull)
}

// answer gives the controller's own answer to a command at once. A byte of the keyboard's that is in the way goes back
// to the keyboard.
func (k *I8042) answer(v, flags uint8) {
	if k.s.FromKeyboard {
		k.s.Keyboard.putBack(k.s.Output)
	}
	k.irq.Set(false)
	k.put(v, flags, false)
}

// fill takes the next byte from the keyboard if there is room for it and the keyboard may send.
func (k *I8042) fill() {
	if k.s.Flags != 0 || k.s.Memory[0]&kbcNoKeyboard != 0 {
		return
	}
	if v, ok := k.s.Keyboard.next(); ok {
		k.put(v, 0, true)
	}
}

func (k *I8042) writeCommand(_ uint64, v byte) {
	k.s.Status |= kbcCommand
	k.s.Command = 0
	switch {
	case v&0xe0 == kbcReadMemory:
		k.answer(k.s.Memory[v&0x1f], 0)
	case v&0xe0 == kbcWriteMemory:
		k.s.Command = v
	case v >= kbcPulse:
		if v&kbcOutNoReset == 0 {
			k.reset()
		}
	default:
		k.command(v)
	}
}

func (k *I8042) command(v byte) {
	switch v {
	case kbcDisableAux:
		k.s.Memory[0] |= kbcNoAux
	case kbcEnableAux:
		k.s.Memory[0] &^= kbcNoAux
	case kbcTestAux:
		k.answer(kbcLineDead, 0)
	case kbcSelfTest:
		k.s.Status |= kbcSystem
		k.answer(kbcSelfTestPassed, 0)
	case kbcTestKeyboard:
		k.answer(kbcLinePassed, 0)
	case kbcDisable:
		k.s.Memory[0] |= kbcNoKeyboard
	case kbcEnable:
		k.s.Memory[0] &^= kbcNoKeyboard
		k.fill()
	case kbcReadInput:
		k.answer(kbcInputIdle, 0)
	case kbcReadOutput:
		k.answer(k.s.OutputPort, 0)
	case kbcWriteOutput, kbcLoopKeyboard, kbcLoopAux, kbcWriteAux:
		k.s.Command = v
	case kbcA20Off:
		k.s.OutputPort &^= kbcOutA20
	case kbcA20On:
		k.s.OutputPort |= kbcOutA20
	}
}

// kbcInputIdle is what the input port reads: the keyboard is not locked.
const kbcInputIdle = 0x80

func (k *I8042) writeData(_ uint64, v byte) {
	k.s.Status &^= kbcCommand
	command := k.s.Command
	k.s.Command = 0
	switch {
	case command == 0:
		k.s.Keyboard.command(v, k.s.Memory[0]&kbcTranslate != 0)
		// A byte to the keyboard also lets it send.
		k.s.Memory[0] &^= kbcNoKeyboard
		k.fill()
	case command&0xe0 == kbcWriteMemory:
		k.s.Memory[command&0x1f] = v
		k.interrupt()
		k.fill()
	case command == kbcWriteOutput:
		k.s.OutputPort = v | kbcOutNoReset
		if v&kbcOutNoReset == 0 {
			k.reset()
		}
	case command == kbcLoopKeyboard:
		k.answer(v, 0)
	case command == kbcLoopAux:
		// Without the mouse's bit: there is no mouse's port. Linux then asks for its test, and believes that.
		k.answer(v, 0)
	case command == kbcWriteAux:
		k.answer(kbcResend, kbcAux|kbcTimeout)
	}
}

// SaveState implements Stateful.
func (k *I8042) SaveState() ([]byte, error) { return json.Marshal(&k.s) }

// LoadState implements Stateful.
func (k *I8042) LoadState(state []byte) error {
	s, err := decodeState("keyboard controller", state, func(s *i8042State) error {
		const status, flags = kbcSystem | kbcCommand | kbcUnlocked, kbcOutputFull | kbcAux | kbcTimeout
		err := firstError(
			condition{s.Status&^status == 0, "status: bits that can't be set"},
			condition{s.Flags&^flags == 0 && (s.Flags == 0 || s.Flags&kbcOutputFull != 0), "flags: not those of a byte"},
			condition{!s.FromKeyboard || s.Flags == kbcOutputFull, "flags: not those of a keyboard's byte"},
			condition{s.OutputPort&kbcOutNoReset != 0, "output port: held in reset"},
		)
		if err != nil {
			return err
		}
		return s.Keyboard.check()
	})
	if err != nil {
		return err
	}
	k.s = s
	return nil
}
