package devices

// keyboardBytes is how much a keyboard keeps until it is read: the 16 bytes of an AT keyboard and one that the
// controller may have given back.
const keyboardBytes = 17

// Commands to the keyboard and its answers (IBM PS/2 technical reference, 101-key keyboard).
const (
	keyLEDs     = 0xed
	keyEcho     = 0xee
	keySet      = 0xf0
	keyIdentify = 0xf2
	keyRate     = 0xf3
	keyEnable   = 0xf4
	keyDisable  = 0xf5
	keyDefaults = 0xf6
	keyResend   = 0xfe // as an answer: not understood
	keyReset    = 0xff

	keyAck      = 0xfa
	keyPassed   = 0xaa
	keyIDFirst  = 0xab
	keyIDSecond = 0x83
	// keyIDTranslated is keyIDSecond as the controller's translation makes it.
	keyIDTranslated = 0x41
)

// ctrlAltDel are the scan codes of set 1, which the controller's translation gives: left Ctrl, left Alt and Del pressed,
// then released.
var ctrlAltDel = [...]uint8{0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d}

// keyboard is the state of an AT keyboard. Its keys are known to it as translated scan codes only: drivers that turn
// translation off and choose a set of their own don't get Ctrl-Alt-Del in a form they know.
type keyboard struct {
	Scanning bool `json:"scanning"`
	// Command waits for its parameter, or is 0.
	Command uint8 `json:"command"`
	Set     uint8 `json:"set"` // scan code set, 1 to 3
	// Queue holds the Count bytes to be sent, oldest first; the others are 0.
	Queue [keyboardBytes]uint8 `json:"queue"`
	Count uint8                `json:"count"`
	Last  uint8                `json:"last"` // sent last, for keyResend
}

func (k *keyboard) reset() { *k = keyboard{Scanning: true, Set: 2} }

// send queues bytes; what does not fit is lost.
func (k *keyboard) send(bytes ...uint8) {
	if k.Count < keyboardBytes {
		k.Count += uint8(copy(k.Queue[k.Count:keyboardBytes-1], bytes))
	}
}

// press queues the scan codes of a chord if scanning is on, whole or not at all.
func (k *keyboard) press(codes []uint8) {
	if k.Scanning && int(k.Count)+len(codes) < keyboardBytes {
		k.send(codes...)
	}
}

// putBack makes v the next byte to be sent again.
func (k *keyboard) putBack(v uint8) {
	copy(k.Queue[1:], k.Queue[:])
	k.Queue[0] = v
	k.Count = min(k.Count+1, keyboardBytes)
}

// next takes the next byte to be sent.
func (k *keyboard) next() (uint8, bool) {
	if k.Count == 0 {
		return 0, false
	}
	k.Last = k.Queue[0]
	copy(k.Queue[:], k.Queue[1:])
	k.Queue[keyboardBytes-1] = 0
	k.Count--
	return k.Last, true
}

// clear forgets what has not been sent.
func (k *keyboard) clear() { k.Queue, k.Count = [keyboardBytes]uint8{}, 0 }

// command takes a byte that the host sends. The answer comes before anything that is still queued, which is dropped.
func (k *keyboard) command(v uint8, translated bool) {
	if k.Command != 0 {
		k.parameter(v)
		return
	}
	k.clear()
	switch v {
	case keyLEDs, keyRate, keySet:
		k.Command = v
		k.send(keyAck)
	case keyEcho:
		k.send(keyEcho)
	case keyIdentify:
		second := uint8(keyIDSecond)
		if translated {
			second = keyIDTranslated
		}
		k.send(keyAck, keyIDFirst, second)
	case keyEnable:
		k.Scanning = true
		k.send(keyAck)
	case keyDisable:
		k.Scanning = false
		k.send(keyAck)
	case keyDefaults:
		k.reset()
		k.send(keyAck)
	case keyResend:
		k.send(k.Last)
	case keyReset:
		k.reset()
		k.send(keyAck, keyPassed)
	default:
		k.send(keyResend)
	}
}

// parameter takes the byte that follows a command.
func (k *keyboard) parameter(v uint8) {
	command := k.Command
	k.Command = 0
	k.clear()
	k.send(keyAck)
	if command != keySet {
		return // lights and repeat rate: nobody sees them
	}
	switch {
	case v == 0:
		k.send(k.Set)
	case v <= 3:
		k.Set = v
	}
}

// check tells what is wrong with a keyboard's state.
func (k *keyboard) check() error {
	empty := true
	for i := int(k.Count); i < keyboardBytes; i++ {
		empty = empty && k.Queue[i] == 0
	}
	return firstError(
		condition{k.Count <= keyboardBytes && empty, "keyboard: bytes beyond those that are queued"},
		condition{k.Set >= 1 && k.Set <= 3, "keyboard: there is no such set of scan codes"},
		condition{k.Command == 0 || k.Command == keyLEDs || k.Command == keyRate || k.Command == keySet, "keyboard: the command takes no parameter"},
	)
}
