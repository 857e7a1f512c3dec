package guests

import "encoding/binary"

// Registers by number, as instructions encode them (SDM vol. 2A §2.1.5).
const (
	rax = 0
	rcx = 1
	rdx = 2
	rbx = 3  // holds the window's address throughout
	rsp = 4  // as a base or index it means something else
	r15 = 15 // counts loops
)

// general are the registers that a random program computes with.
var general = [...]uint8{rax, rcx, rdx, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}

// generator writes machine code. Opcodes are those of SDM vol. 2, in the order of its tables.
type generator struct {
	state   uint64 // of the random sequence
	code    []byte
	emitted int // instructions so far
}

// next is SplitMix64: the sequence must be the same for ever.
func (g *generator) next() uint64 {
	g.state += 0x9e3779b97f4a7c15
	z := g.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (g *generator) below(n int) int        { return int(g.next() % uint64(n)) }
func (g *generator) register() uint8        { return general[g.below(len(general))] }
func (g *generator) pick(from []byte) uint8 { return from[g.below(len(from))] }

// offset returns where in the window to access up to 8 bytes: behind the tick's counter.
func (g *generator) offset() uint32 { return uint32(8 + g.below(WindowBytes-16)) }

func (g *generator) emit(p ...byte) {
	g.code = append(g.code, p...)
	g.emitted++
}

// rex returns the prefix for 64-bit operands, or for 32-bit ones half of the time.
func (g *generator) rex(reg, index, base uint8) byte {
	width := byte(8)
	if g.below(2) == 0 {
		width = 0
	}
	return rexOf(width, reg, index, base)
}

func rexOf(width byte, reg, index, base uint8) byte {
	return 0x40 | width | reg>>3<<2 | index>>3<<1 | base>>3
}

func modRM(mod, reg, rm uint8) byte { return mod<<6 | reg&7<<3 | rm&7 }

func imm32(p []byte, v uint32) []byte { return binary.LittleEndian.AppendUint32(p, v) }

// seedRegisters loads every general register.
func (g *generator) seedRegisters() {
	for _, r := range general {
		g.emit(binary.LittleEndian.AppendUint64([]byte{rexOf(8, 0, 0, r), 0xb8 | r&7}, g.next())...)
	}
}

// step emits what comes next: mostly plain instructions, now and then something with structure or an exit.
func (g *generator) step() {
	switch n := g.below(1000); {
	case n < 700:
		g.plain()
	case n < 780:
		g.branch()
	case n < 830:
		g.loop(2+g.below(6), 1+g.below(6))
	case n < 880:
		g.stack()
	case n < 890:
		g.loop(200+g.below(600), 0)
	case n < 920:
		g.interruptsOff()
	case n < 950:
		g.readTimer()
	case n < 995:
		g.emit(0xe6, g.pick([]byte{0x80, 0xe9})) // out %al, port
	default:
		g.emit(0xf4) // hlt
	}
}

// plain emits one instruction that only computes, or two if an index must be made valid first.
func (g *generator) plain() {
	reg, rm := g.register(), g.register()
	switch g.below(12) {
	case 0, 1: // op reg, reg
		op := g.pick([]byte{0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x85, 0x87, 0x89})
		g.emit(g.rex(reg, 0, rm), op, modRM(3, reg, rm))
	case 2: // op imm, reg
		g.emit(imm32([]byte{g.rex(0, 0, rm), 0x81, modRM(3, uint8(g.below(8)), rm)}, uint32(g.next()))...)
	case 3: // imul
		g.emit(g.rex(reg, 0, rm), 0x0f, 0xaf, modRM(3, reg, rm))
	case 4: // rotates and shifts by a constant
		g.emit(g.rex(0, 0, rm), 0xc1, modRM(3, g.pick([]byte{0, 1, 4, 5, 7}), rm), byte(1+g.below(31)))
	case 5: // inc, dec, not, neg
		op := [...][2]byte{{0xff, 0}, {0xff, 1}, {0xf7, 2}, {0xf7, 3}}[g.below(4)]
		g.emit(g.rex(0, 0, rm), op[0], modRM(3, op[1], rm))
	case 6: // bswap
		g.emit(rexOf(8, 0, 0, rm), 0x0f, 0xc8|rm&7)
	case 7: // movzx, movsx
		g.emit(g.rex(reg, 0, rm), 0x0f, g.pick([]byte{0xb6, 0xb7, 0xbe, 0xbf}), modRM(3, reg, rm))
	case 8: // setcc, cmovcc
		if g.below(2) == 0 {
			g.emit(rexOf(0, 0, 0, rm), 0x0f, 0x90|byte(g.below(16)), modRM(3, 0, rm))
			return
		}
		g.emit(g.rex(reg, 0, rm), 0x0f, 0x40|byte(g.below(16)), modRM(3, reg, rm))
	case 9: // lea disp8(base, index, scale)
		index := g.register()
		g.emit(g.rex(reg, index, rm), 0x8d, modRM(1, reg, rsp), byte(g.below(4))<<6|index&7<<3|rm&7, byte(g.next()))
	case 10:
		g.memory(reg)
	case 11:
		g.indexed(reg, rm)
	}
}

// memoryOps are the opcodes of mov and arithmetic between a register and memory, both ways.
var memoryOps = []byte{0x89, 0x8b, 0x88, 0x8a, 0x01, 0x03, 0x09, 0x0b, 0x11, 0x13, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x39, 0x3b}

// memory emits an access to a fixed place in the window.
func (g *generator) memory(reg uint8) {
	rest := imm32([]byte{modRM(2, reg, rbx)}, g.offset())
	switch g.below(8) {
	case 0: // lock xadd
		g.emit(append([]byte{0xf0, g.rex(reg, 0, rbx), 0x0f, 0xc1}, rest...)...)
	case 1: // lock cmpxchg
		g.emit(append([]byte{0xf0, g.rex(reg, 0, rbx), 0x0f, 0xb1}, rest...)...)
	default:
		g.emit(append([]byte{g.rex(reg, 0, rbx), g.pick(memoryOps)}, rest...)...)
	}
}

// indexed emits an access to a place in the window that a register decides, which is first cut to the window's size.
func (g *generator) indexed(reg, index uint8) {
	const mask = WindowBytes/2 - 8
	g.emit(imm32([]byte{rexOf(8, 0, 0, index), 0x81, modRM(3, 4, index)}, mask)...)
	g.emit(g.rex(reg, index, rbx), g.pick(memoryOps), modRM(1, reg, rsp), index&7<<3|rbx, 8)
}

// branch emits a conditional jump over some instructions.
func (g *generator) branch() {
	g.emit(0x70|byte(g.below(16)), 0)
	from := len(g.code)
	for range 1 + g.below(4) {
		g.plain()
	}
	g.code[from-1] = byte(len(g.code) - from)
}

// loop emits a loop of some instructions that is passed so many times.
func (g *generator) loop(times, instructions int) {
	g.emit(imm32([]byte{rexOf(0, 0, 0, r15), 0xb8 | r15&7}, uint32(times))...)
	top := len(g.code)
	for range instructions {
		g.plain()
	}
	g.emit(rexOf(8, 0, 0, r15), 0xff, modRM(3, 1, r15)) // dec
	g.emit(0x75, 0)                                     // jnz
	g.code[len(g.code)-1] = byte(top - len(g.code))
}

// stack emits a push, some instructions, and a pop, perhaps of another register.
func (g *generator) stack() {
	from, to := g.register(), g.register()
	g.emit(rexOf(0, 0, 0, from), 0x50|from&7)
	for range g.below(4) {
		g.plain()
	}
	g.emit(rexOf(0, 0, 0, to), 0x58|to&7)
}

// interruptsOff emits some instructions between cli and sti.
func (g *generator) interruptsOff() {
	g.emit(0xfa)
	for range g.below(8) {
		g.plain()
	}
	g.emit(0xfb)
}

// readTimer emits a read of the PM timer: mov $0x608, %edx; in %dx, %eax.
func (g *generator) readTimer() {
	g.emit(imm32([]byte{0xb8 | rdx}, 0x608)...)
	g.emit(0xed)
}
