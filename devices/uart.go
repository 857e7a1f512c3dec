package devices

import "encoding/json"

// uartFIFOBytes is the depth of the 16550A's FIFOs.
const uartFIFOBytes = 16

// Registers (offset from the base port; National Semiconductor PC16550D data sheet, table II).
const (
	uartData  = 0 // RBR, THR; DLL with DLAB
	uartIER   = 1 // DLM with DLAB
	uartFCR   = 2 // IIR when read
	uartLCR   = 3
	uartMCR   = 4
	uartLSR   = 5
	uartMSR   = 6
	uartSCR   = 7
	uartPorts = 8
)

// Bits of the registers.
const (
	ierReceive  = 1 << 0
	ierTransmit = 1 << 1
	ierLine     = 1 << 2
	ierModem    = 1 << 3
	ierWritable = 0x0f

	iirNone     = 0x01
	iirModem    = 0x00
	iirTransmit = 0x02
	iirReceive  = 0x04
	iirTimeout  = 0x0c
	iirLine     = 0x06
	iirFIFO     = 0xc0

	fcrEnable  = 1 << 0
	fcrClearRX = 1 << 1
	fcrKept    = 0xc9

	lcrDLAB = 1 << 7

	mcrDTR      = 1 << 0
	mcrRTS      = 1 << 1
	mcrOut1     = 1 << 2
	mcrOut2     = 1 << 3
	mcrLoop     = 1 << 4
	mcrWritable = 0x1f

	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrEmpty   = 1<<5 | 1<<6 // THRE and TEMT

	msrDelta = 0x0f
	msrCTS   = 1 << 4
	msrDSR   = 1 << 5
	msrRI    = 1 << 6
	msrDCD   = 1 << 7
)

// triggerLevels are the receiver FIFO's, by FCR bits 7..6.
var triggerLevels = [4]uint8{1, 4, 8, 14}

// UART is a 16550A at the standard ports of a PC's first serial line, with a terminal attached that is always ready
// (CTS, DSR and DCD are high).
//
// It has no bit rate: a byte written is sent at once, so the transmitter is always empty and its interrupt is there
// again as soon as it was taken. A driver can thus write whole FIFOs one after the other in one interrupt. Received bytes
// below the FIFO's trigger level are reported as a time-out at once: waiting four characters' time would need a timer
// and tell the guest nothing.
type UART struct {
	line outbox
	irq  Line
	s    uartState
}

type uartState struct {
	IER     uint8  `json:"ier"`
	FCR     uint8  `json:"fcr"` // enable, DMA mode and trigger level
	LCR     uint8  `json:"lcr"`
	MCR     uint8  `json:"mcr"`
	MSR     uint8  `json:"msr"`
	SCR     uint8  `json:"scr"`
	Divisor uint16 `json:"divisor"`
	Overrun bool   `json:"overrun"`
	// Emptied is the transmitter's interrupt: it is set when the holding register becomes empty or its interrupt is
	// enabled while it is, and cleared when the IIR has reported it.
	Emptied bool `json:"emptied"`
	// FIFO is a ring of Count received bytes that begins at First.
	FIFO  [uartFIFOBytes]uint8 `json:"fifo"`
	First uint8                `json:"first"`
	Count uint8                `json:"count"`
	// Polled is how often the LSR was read since a byte was last sent, up to pollsOfListener.
	Polled uint8 `json:"polled"`
}

// pollsOfListener is how often a guest reads the LSR without sending a byte before it is taken for one that waits for
// input without interrupts.
const pollsOfListener = 32

// NewUART returns a UART as after a reset. It sends to sink and interrupts by irq.
func NewUART(sink Sink, irq Line) *UART {
	return &UART{line: outbox{sink: sink}, irq: irq, s: uartState{Divisor: 12, MSR: msrCTS | msrDSR | msrDCD, Emptied: true}}
}

// Attach puts the eight ports on the bus at base.
func (u *UART) Attach(ports *Bus, base uint64) error {
	return attachAll(ports, attachment{base, uartPorts, &bytePorts{u.read, u.write}})
}

// capacity is how many received bytes the UART holds.
func (u *UART) capacity() int {
	if u.s.FCR&fcrEnable != 0 {
		return uartFIFOBytes
	}
	return 1
}

// Room returns how many bytes Receive would take now. In loopback mode the UART is cut off from its line: none. Nor is
// there room before the guest listens, by interrupt or by polling: a driver empties the FIFO when it starts, and what was
// typed before would be lost.
func (u *UART) Room() int {
	if u.s.MCR&mcrLoop != 0 || !u.listening() {
		return 0
	}
	return u.capacity() - int(u.s.Count)
}

// Receive takes bytes from the line and returns how many fitted.
func (u *UART) Receive(p []byte) int {
	n := min(len(p), u.Room())
	for _, v := range p[:n] {
		u.push(v)
	}
	u.update()
	return n
}

// listening needs OUT2 of a guest that waits for interrupts, which come through only with it: Linux enables all of them for
// a moment when it looks for the kind of UART (8250_port.c, autoconfig).
func (u *UART) listening() bool {
	return u.s.IER&ierReceive != 0 && u.s.MCR&mcrOut2 != 0 || u.s.Polled >= pollsOfListener
}

// push puts a byte into the receiver, which has room for it.
func (u *UART) push(v byte) {
	u.s.FIFO[(u.s.First+u.s.Count)%uartFIFOBytes] = v
	u.s.Count++
}

// pop takes the oldest byte from the receiver. An empty one gives 0.
func (u *UART) pop() byte {
	if u.s.Count == 0 {
		return 0
	}
	v := u.s.FIFO[u.s.First]
	u.s.FIFO[u.s.First] = 0
	u.s.First = (u.s.First + 1) % uartFIFOBytes
	u.s.Count--
	return v
}

func (u *UART) dlab() bool { return u.s.LCR&lcrDLAB != 0 }

func (u *UART) read(port uint64) byte {
	switch port {
	case uartData:
		if u.dlab() {
			return byte(u.s.Divisor)
		}
		v := u.pop()
		u.update()
		return v
	case uartIER:
		if u.dlab() {
			return byte(u.s.Divisor >> 8)
		}
		return u.s.IER
	case uartFCR:
		return u.identify()
	case uartLCR:
		return u.s.LCR
	case uartMCR:
		return u.s.MCR
	case uartLSR:
		return u.lineStatus()
	case uartMSR:
		v := u.s.MSR
		u.s.MSR &^= msrDelta
		u.update()
		return v
	}
	return u.s.SCR
}

// identify reads the IIR, which takes back the transmitter's interrupt if it reports that.
func (u *UART) identify() byte {
	v := u.interrupt()
	if v == iirTransmit {
		u.s.Emptied = false
		u.update()
	}
	if u.s.FCR&fcrEnable != 0 {
		v |= iirFIFO
	}
	return v
}

// lineStatus reads the LSR, which clears the error it reports.
func (u *UART) lineStatus() byte {
	v := byte(lsrEmpty)
	u.s.Polled = min(u.s.Polled+1, pollsOfListener)
	if u.s.Count > 0 {
		v |= lsrData
	}
	if u.s.Overrun {
		v |= lsrOverrun
		u.s.Overrun = false
		u.update()
	}
	return v
}

func (u *UART) write(port uint64, v byte) {
	switch port {
	case uartData:
		if u.dlab() {
			u.s.Divisor = u.s.Divisor&0xff00 | uint16(v)
			return
		}
		u.s.Polled = 0
		u.transmit(v)
	case uartIER:
		if u.dlab() {
			u.s.Divisor = u.s.Divisor&0x00ff | uint16(v)<<8
			return
		}
		u.enable(v & ierWritable)
	case uartFCR:
		u.setFIFO(v)
	case uartLCR:
		u.s.LCR = v
		return
	case uartMCR:
		u.s.MCR = v & mcrWritable
		u.setModem(u.modemInputs())
	case uartSCR:
		u.s.SCR = v
		return
	default:
		return // LSR and MSR: for tests in the factory only
	}
	u.update()
}

// transmit sends a byte. The holding register is empty again at once.
func (u *UART) transmit(v byte) {
	u.s.Emptied = true
	if u.s.MCR&mcrLoop == 0 {
		u.line.send(v)
		return
	}
	if int(u.s.Count) == u.capacity() {
		u.s.Overrun = true
		return
	}
	u.push(v)
}

// enable sets the IER. Enabling the transmitter's interrupt raises it, since the transmitter is empty.
func (u *UART) enable(v byte) {
	if v&^u.s.IER&ierTransmit != 0 {
		u.s.Emptied = true
	}
	u.s.IER = v
}

// setFIFO takes the FCR. Turning the FIFOs off empties them, and the other bits count only if they are on. Turning them on
// keeps the byte in the holding register: Linux enables the receiver's interrupt before the FIFOs (8250_port.c,
// serial8250_do_set_termios), and would lose the first byte of what was typed before.
func (u *UART) setFIFO(v byte) {
	off := u.s.FCR&fcrEnable != 0 && v&fcrEnable == 0
	if off || v&(fcrEnable|fcrClearRX) == fcrEnable|fcrClearRX {
		u.s.FIFO = [uartFIFOBytes]uint8{}
		u.s.First, u.s.Count = 0, 0
	}
	u.s.FCR = 0
	if v&fcrEnable != 0 {
		u.s.FCR = v & fcrKept
	}
}

// modemInputs returns the upper half of the MSR: the terminal's lines, or in loopback mode our own.
func (u *UART) modemInputs() byte {
	if u.s.MCR&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	v := byte(0)
	for _, wire := range [...]struct{ out, in byte }{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD}} {
		if u.s.MCR&wire.out != 0 {
			v |= wire.in
		}
	}
	return v
}

// setModem sets the modem lines and notes which have changed; of RI only the falling edge counts.
func (u *UART) setModem(inputs byte) {
	changed := (u.s.MSR ^ inputs) & 0xf0
	if inputs&msrRI != 0 {
		changed &^= msrRI
	}
	u.s.MSR = inputs | u.s.MSR&msrDelta | changed>>4
}

// interrupt returns the IIR's low four bits: the enabled interrupt of highest priority (data sheet, table IV).
func (u *UART) interrupt() byte {
	s := &u.s
	switch {
	case s.IER&ierLine != 0 && s.Overrun:
		return iirLine
	case s.IER&ierReceive != 0 && s.Count > 0:
		if s.FCR&fcrEnable != 0 && s.Count < triggerLevels[s.FCR>>6] {
			return iirTimeout
		}
		return iirReceive
	case s.IER&ierTransmit != 0 && s.Emptied:
		return iirTransmit
	case s.IER&ierModem != 0 && s.MSR&msrDelta != 0:
		return iirModem
	}
	return iirNone
}

// update drives the interrupt line, which on a PC passes a gate that OUT2 opens; in loopback mode the pin OUT2 is off.
func (u *UART) update() {
	open := u.s.MCR&(mcrOut2|mcrLoop) == mcrOut2
	u.irq.Set(open && u.interrupt() != iirNone)
}

// SaveState implements Stateful.
func (u *UART) SaveState() ([]byte, error) { return json.Marshal(&u.s) }

// LoadState implements Stateful.
func (u *UART) LoadState(state []byte) error {
	s, err := decodeState("UART", state, func(s *uartState) error {
		depth := uint8(1)
		if s.FCR&fcrEnable != 0 {
			depth = uartFIFOBytes
		}
		return firstError(
			condition{s.IER&^ierWritable == 0, "IER: bits that can't be set"},
			condition{s.FCR&^fcrKept == 0 && (s.FCR == 0 || s.FCR&fcrEnable != 0), "FCR: bits that can't be set"},
			condition{s.MCR&^mcrWritable == 0, "MCR: bits that can't be set"},
			condition{s.First < uartFIFOBytes && s.Count <= depth, "FIFO: more bytes than fit"},
			condition{s.Polled <= pollsOfListener, "polled: more than is counted"},
		)
	})
	if err != nil {
		return err
	}
	u.s = s
	return nil
}
