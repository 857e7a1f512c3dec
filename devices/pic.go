package devices

import (
	"encoding/json"
	"math/bits"
)

// cascadeInput is the master's input that the slave is wired to.
const cascadeInput = 2

// picLines is the number of inputs of the pair, the cascade among them.
const picLines = 16

// PIC is a pair of 8259A interrupt controllers with an edge/level control register each, as in the PIIX/ICH family
// (Intel 8259A data sheet; 82371AB data sheet §4.1.3 for the ELCR). Inputs 8 to 15 are the slave's, which is wired to
// input 2 of the master.
//
// As on that part, the trigger mode is the ELCR's alone: LTIM in ICW1 is ignored. The processor is always an 8086, and
// the wiring of the cascade is fixed, so ICW3 and the processor bit of ICW4 are accepted and without effect. An edge
// whose line falls before it is acknowledged is forgotten, as the data sheet has it.
type PIC struct {
	chips  [2]chip // master, slave
	lines  [picLines]picLine
	onTake [picLines]func()
}

// chip is the state of one 8259A.
type chip struct {
	Requests  uint8 `json:"irr"`
	InService uint8 `json:"isr"`
	Masked    uint8 `json:"imr"`
	Levels    uint8 `json:"levels"` // the inputs as they stand
	ELCR      uint8 `json:"elcr"`
	Base      uint8 `json:"base"` // vector of input 0
	// Top is the input of highest priority; the others follow in ascending order, wrapping round.
	Top uint8 `json:"top"`
	// Step is the ICW that the odd port expects next: 2, 3 or 4, or 0 if the chip is initialised.
	Step       uint8 `json:"step"`
	NeedsICW4  bool  `json:"needs_icw4"`
	Single     bool  `json:"single"`
	AutoEOI    bool  `json:"auto_eoi"`
	AutoRotate bool  `json:"auto_rotate"`
	// FullyNested is the special fully nested mode.
	FullyNested bool `json:"special_fully_nested"`
	SpecialMask bool `json:"special_mask"`
	ReadISR     bool `json:"read_isr"`
	Poll        bool `json:"poll"` // the next read is a poll
}

// picLine is one input of the pair.
type picLine struct {
	pic    *PIC
	number uint8
}

// ELCR bits that exist: the timer, the keyboard, the cascade, the RTC and the coprocessor are always edge triggered.
var elcrWritable = [2]uint8{0xf8, 0xde}

// NewPIC returns the pair as firmware would leave it: vectors 0x08 and 0x70, everything masked.
func NewPIC() *PIC {
	p := &PIC{}
	p.chips[0] = chip{Base: 0x08, Masked: 0xff}
	p.chips[1] = chip{Base: 0x70, Masked: 0xff}
	for i := range p.lines {
		p.lines[i] = picLine{p, uint8(i)}
	}
	return p
}

// Attach puts the ports on the bus: 0x20, 0xa0, 0x4d0.
func (p *PIC) Attach(ports *Bus) error {
	return attachAll(ports,
		attachment{0x20, 2, &bytePorts{p.readMaster, p.writeMaster}},
		attachment{0xa0, 2, &bytePorts{p.readSlave, p.writeSlave}},
		attachment{0x4d0, 2, &bytePorts{p.readELCR, p.writeELCR}},
	)
}

func (p *PIC) readMaster(port uint64) byte     { return p.read(0, port) }
func (p *PIC) writeMaster(port uint64, v byte) { p.write(0, port, v) }
func (p *PIC) readSlave(port uint64) byte      { return p.read(1, port) }
func (p *PIC) writeSlave(port uint64, v byte)  { p.write(1, port, v) }
func (p *PIC) readELCR(port uint64) byte       { return p.chips[port&1].ELCR }

func (p *PIC) writeELCR(port uint64, v byte) {
	c := &p.chips[port&1]
	level := v & elcrWritable[port&1]
	// An input that becomes level triggered requests while it is high; one that becomes edge triggered has had no edge.
	c.Requests = c.Requests&^(level^c.ELCR) | level&c.Levels
	c.ELCR = level
	p.cascade()
}

// PICLine is an input of the interrupt controller as those parts see it that care what becomes of their requests.
type PICLine interface {
	Line
	// Requested tells whether the line's request waits to be acknowledged.
	Requested() bool
}

// Line returns input n, 0 to 15 without 2. It panics for another n: that is a mistake in the machine's wiring.
func (p *PIC) Line(n int) PICLine {
	if n == cascadeInput {
		panic("devices: input 2 of the PIC is the cascade")
	}
	return &p.lines[n]
}

// OnAcknowledge makes f be called each time the request of input n has been acknowledged.
func (p *PIC) OnAcknowledge(n int, f func()) { p.onTake[n] = f }

// SetLevelTriggered makes the inputs in mask (bit n is input n) level triggered, as firmware does for PCI interrupts.
func (p *PIC) SetLevelTriggered(mask uint16) {
	p.writeELCR(0, uint8(mask))
	p.writeELCR(1, uint8(mask>>8))
}

// Set implements Line.
func (l *picLine) Set(level bool) {
	c := &l.pic.chips[l.number>>3]
	bit := uint8(1) << (l.number & 7)
	if level == (c.Levels&bit != 0) {
		return
	}
	if level {
		c.Levels |= bit
		c.Requests |= bit
	} else {
		c.Levels &^= bit
		c.Requests &^= bit
	}
	if l.number >= 8 {
		l.pic.cascade()
	}
}

// Requested implements PICLine.
func (l *picLine) Requested() bool {
	return l.pic.chips[l.number>>3].Requests>>(l.number&7)&1 != 0
}

// cascade makes the master's cascade input follow the slave's INT. It is taken as level triggered: the slave drops INT
// at each acknowledge, so a further request makes a new edge.
func (p *PIC) cascade() {
	const bit = 1 << cascadeInput
	master := &p.chips[0]
	if p.chips[1].highest() >= 0 {
		master.Levels |= bit
		master.Requests |= bit
	} else {
		master.Levels &^= bit
		master.Requests &^= bit
	}
}

// Pending tells whether the pair drives INTR: the processor has an interrupt to take.
func (p *PIC) Pending() bool { return p.chips[0].highest() >= 0 }

// Acknowledge is the processor's INTA cycle: it returns the vector of the interrupt of highest priority, which is in
// service from then on. If there is none any more, the vector is that of input 7 of the chip concerned, and nothing is
// in service there (data sheet, "spurious").
func (p *PIC) Acknowledge() uint8 {
	master := &p.chips[0]
	n := master.highest()
	if n < 0 {
		return master.Base + 7
	}
	master.take(n)
	if n != cascadeInput {
		p.taken(n)
		return master.Base + uint8(n)
	}
	slave := &p.chips[1]
	n = slave.highest()
	if n < 0 {
		p.cascade()
		return slave.Base + 7
	}
	slave.take(n)
	p.cascade()
	p.taken(n + 8)
	return slave.Base + uint8(n)
}

// taken tells the part at input n that its request was acknowledged.
func (p *PIC) taken(n int) {
	if f := p.onTake[n]; f != nil {
		f()
	}
}

// rank returns a chip's bits so that bit 0 is the input of highest priority.
func (c *chip) rank(bitset uint8) uint8 { return bits.RotateLeft8(bitset, -int(c.Top)) }

// highest returns the input to be served next, or -1: the requested, unmasked one of highest priority, if nothing of
// the same or a higher priority is in service. In special fully nested mode a slave in service may interrupt again.
func (c *chip) highest() int {
	requests := c.rank(c.Requests &^ c.Masked)
	if requests == 0 {
		return -1
	}
	first := bits.TrailingZeros8(requests)
	n := (first + int(c.Top)) & 7
	served := bits.TrailingZeros8(c.rank(c.blocking()))
	if served < first || served == first && !(c.FullyNested && n == cascadeInput) {
		return -1
	}
	return n
}

// blocking returns the inputs in service that count: in special mask mode masked ones don't.
func (c *chip) blocking() uint8 {
	if c.SpecialMask {
		return c.InService &^ c.Masked
	}
	return c.InService
}

// take puts input n in service, or ends its service at once in automatic EOI mode.
func (c *chip) take(n int) {
	bit := uint8(1) << n
	c.Requests &^= bit &^ c.ELCR
	if !c.AutoEOI {
		c.InService |= bit
		return
	}
	if c.AutoRotate {
		c.Top = uint8(n+1) & 7
	}
}

func (p *PIC) read(which int, port uint64) byte {
	c := &p.chips[which]
	if c.Poll {
		return p.poll(which)
	}
	switch {
	case port&1 != 0:
		return c.Masked
	case c.ReadISR:
		return c.InService
	}
	return c.Requests
}

// poll is an acknowledge by reading (data sheet, "poll command"): bit 7 tells whether there was a request, bits 2..0
// which. A poll of the master takes its cascade input alone; the program then polls the slave.
func (p *PIC) poll(which int) byte {
	c := &p.chips[which]
	c.Poll = false
	n := c.highest()
	if n < 0 {
		return 0
	}
	c.take(n)
	p.cascade()
	if which == 1 {
		p.taken(n + 8)
	} else if n != cascadeInput {
		p.taken(n)
	}
	return 0x80 | byte(n)
}

func (p *PIC) write(which int, port uint64, v byte) {
	c := &p.chips[which]
	switch {
	case port&1 != 0:
		c.writeOdd(v, which == 0)
	case v&0x10 != 0:
		c.initialise(v)
	case v&0x08 != 0:
		c.control(v)
	default:
		c.end(v)
	}
	p.cascade()
}

// initialise takes ICW1.
func (c *chip) initialise(v byte) {
	*c = chip{
		Levels: c.Levels, ELCR: c.ELCR, Base: c.Base,
		// The edge sense circuits are reset; what is level triggered requests on.
		Requests:  c.Levels & c.ELCR,
		Step:      2,
		NeedsICW4: v&0x01 != 0,
		Single:    v&0x02 != 0,
	}
}

// writeOdd takes ICW2 to ICW4 while the chip is being initialised, else the interrupt mask (OCW1).
func (c *chip) writeOdd(v byte, master bool) {
	switch c.Step {
	case 0:
		c.Masked = v
	case 2:
		c.Base = v & 0xf8
		switch {
		case !c.Single:
			c.Step = 3
		case c.NeedsICW4:
			c.Step = 4
		default:
			c.Step = 0
		}
	case 3:
		c.Step = 0
		if c.NeedsICW4 {
			c.Step = 4
		}
	case 4:
		c.AutoEOI = v&0x02 != 0
		c.FullyNested = v&0x10 != 0 && master
		c.Step = 0
	}
}

// control takes OCW3.
func (c *chip) control(v byte) {
	if v&0x40 != 0 {
		c.SpecialMask = v&0x20 != 0
	}
	if v&0x02 != 0 {
		c.ReadISR = v&0x01 != 0
	}
	c.Poll = v&0x04 != 0
}

// end takes OCW2: the ends of interrupts and the rotation of priorities.
func (c *chip) end(v byte) {
	rotate, specific, eoi := v&0x80 != 0, v&0x40 != 0, v&0x20 != 0
	n := int(v & 7)
	switch {
	case !eoi && !specific:
		c.AutoRotate = rotate
		return
	case eoi && !specific:
		if n = c.serving(); n < 0 {
			return
		}
	}
	if eoi {
		c.InService &^= 1 << n
	}
	if rotate {
		c.Top = uint8(n+1) & 7
	}
}

// serving returns the input of highest priority that is in service, or -1. In special mask mode masked ones don't
// count.
func (c *chip) serving() int {
	inService := c.blocking()
	if inService == 0 {
		return -1
	}
	return (bits.TrailingZeros8(c.rank(inService)) + int(c.Top)) & 7
}

// picState is the pair's state: master, slave.
type picState struct {
	Master chip `json:"master"`
	Slave  chip `json:"slave"`
}

// SaveState implements Stateful.
func (p *PIC) SaveState() ([]byte, error) {
	return json.Marshal(picState{p.chips[0], p.chips[1]})
}

// LoadState implements Stateful.
func (p *PIC) LoadState(state []byte) error {
	s, err := decodeState("PIC", state, func(s *picState) error {
		if err := s.Master.check(0); err != nil {
			return err
		}
		if err := s.Slave.check(1); err != nil {
			return err
		}
		return firstError(
			condition{!s.Slave.FullyNested, "the slave is in special fully nested mode"},
			condition{s.Master.Requests>>cascadeInput&1 != 0 == (s.Slave.highest() >= 0), "the cascade differs from the slave's INT"},
			condition{(s.Master.Requests^s.Master.Levels)>>cascadeInput&1 == 0, "the cascade's request differs from its level"},
		)
	})
	if err != nil {
		return err
	}
	p.chips = [2]chip{s.Master, s.Slave}
	return nil
}

// check tells what is wrong with the state of the master (0) or the slave (1).
func (c *chip) check(which int) error {
	return firstError(
		condition{c.Top < 8, "priority: there is no such input"},
		condition{c.Step == 0 || c.Step >= 2 && c.Step <= 4, "initialisation: there is no such step"},
		condition{c.Base&7 == 0, "vector: the base is not a multiple of 8"},
		condition{c.ELCR&^elcrWritable[which] == 0, "ELCR: an input that can only be edge triggered is set to level"},
		condition{c.Requests&^c.Levels == 0, "requests: one of a line that is low"},
		condition{c.ELCR&(c.Requests^c.Levels) == 0, "requests: one of a level-triggered line differs from it"},
	)
}
