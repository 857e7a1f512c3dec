package rewrite

// A length decoder for 64-bit code: it tells where an instruction ends and what its opcode is, and nothing about operands.
// The opcode tables follow the opcode maps of SDM vol. 2 appendix A; VEX is vol. 2 §2.3, EVEX §2.7, XOP is AMD APM vol. 3 §1.5.

// opcodeMap is the table that an instruction's opcode byte belongs to.
type opcodeMap uint8

const (
	mapPrimary opcodeMap = iota // one-byte opcodes
	map0F                       // 0f xx
	map0F38                     // 0f 38 xx
	map0F3A                     // 0f 3a xx
	mapVector                   // VEX, EVEX and XOP, whatever their own map
)

// instruction is what decode found.
type instruction struct {
	length   int // bytes, prefixes included
	opcodeAt int // index of the first opcode byte behind the prefixes: of 0f, for the maps behind that
	table    opcodeMap
	opcode   byte
	rex      byte // the REX prefix, or 0
	modrm    byte // if the opcode has one
}

// lengthMax is the longest instruction that a processor accepts (SDM vol. 2 §2.3.11).
const lengthMax = 15

// The form of an instruction behind its opcode byte: flags, and the immediate's size in the low bits.
type form uint8

const (
	immBytes form = 0x0f // number of immediate bytes, for sizes that never vary
	hasModRM form = 0x10
	immZ     form = 0x20 // 4 bytes, 2 with an operand-size prefix
	special  form = 0x40 // immediateBytes knows
	invalid  form = 0x80
)

var (
	primaryForms = buildPrimary()
	extendedForm = build0F()
)

// set gives all opcodes from first to last a form.
func set(table *[256]form, f form, first, last int) {
	for i := first; i <= last; i++ {
		table[i] = f
	}
}

// buildPrimary lists the one-byte opcodes. Prefixes and the escapes to other maps are dealt with before it is asked.
func buildPrimary() *[256]form {
	t := new([256]form)
	for row := 0; row < 0x40; row += 8 { // add, or, adc, sbb, and, sub, xor, cmp
		set(t, hasModRM, row, row+3)
		t[row+4] = 1
		t[row+5] = immZ
		set(t, invalid, row+6, row+7) // push and pop of segments, BCD: not in 64-bit mode
	}
	set(t, invalid, 0x60, 0x62)
	t[0x63] = hasModRM
	t[0x68] = immZ
	t[0x69] = hasModRM | immZ
	t[0x6a] = 1
	t[0x6b] = hasModRM | 1
	set(t, 1, 0x70, 0x7f)
	t[0x80] = hasModRM | 1
	t[0x81] = hasModRM | immZ
	t[0x82] = invalid
	t[0x83] = hasModRM | 1
	set(t, hasModRM, 0x84, 0x8f)
	t[0x9a] = invalid
	set(t, special, 0xa0, 0xa3) // mov with an absolute address
	t[0xa8] = 1
	t[0xa9] = immZ
	set(t, 1, 0xb0, 0xb7)
	set(t, special, 0xb8, 0xbf) // mov with an immediate of the full width
	set(t, hasModRM|1, 0xc0, 0xc1)
	t[0xc2] = 2
	t[0xc6] = hasModRM | 1
	t[0xc7] = hasModRM | immZ
	t[0xc8] = 3
	t[0xca] = 2
	t[0xcd] = 1
	t[0xce] = invalid
	set(t, hasModRM, 0xd0, 0xd3)
	set(t, invalid, 0xd4, 0xd6)
	set(t, hasModRM, 0xd8, 0xdf)
	set(t, 1, 0xe0, 0xe7)
	set(t, 4, 0xe8, 0xe9)
	t[0xea] = invalid
	t[0xeb] = 1
	set(t, hasModRM|special, 0xf6, 0xf7) // an immediate only for /0 and /1
	set(t, hasModRM, 0xfe, 0xff)
	return t
}

// build0F lists the opcodes behind 0f.
func build0F() *[256]form {
	t := new([256]form)
	set(t, hasModRM, 0x00, 0xff)
	set(t, 0, 0x05, 0x09) // syscall, clts, sysret, invd, wbinvd
	t[0x04] = invalid
	t[0x0a] = invalid
	t[0x0b] = 0 // ud2
	t[0x0c] = invalid
	t[0x0e] = 0            // femms
	t[0x0f] = hasModRM | 1 // 3DNow!, whose opcode comes last
	set(t, invalid, 0x24, 0x27)
	set(t, 0, 0x30, 0x35) // wrmsr, rdtsc, rdmsr, rdpmc, sysenter, sysexit
	t[0x36] = invalid
	t[0x37] = 0 // getsec
	set(t, invalid, 0x39, 0x39)
	set(t, invalid, 0x3b, 0x3f)
	set(t, hasModRM|1, 0x70, 0x73)
	t[0x77] = 0 // emms
	t[0x78] = hasModRM | special
	set(t, invalid, 0x7a, 0x7b)
	set(t, 4, 0x80, 0x8f)
	set(t, 0, 0xa0, 0xa2) // push and pop fs, cpuid
	t[0xa4] = hasModRM | 1
	set(t, 0, 0xa8, 0xaa) // push and pop gs, rsm
	t[0xac] = hasModRM | 1
	t[0xba] = hasModRM | 1
	t[0xc2] = hasModRM | 1
	set(t, hasModRM|1, 0xc4, 0xc6)
	set(t, 0, 0xc8, 0xcf) // bswap
	return t
}

// prefixes holds what a run of prefixes says.
type prefixes struct {
	rex         byte
	operandSize bool // 66
	repne       bool // f2
	addressSize bool // 67
}

// decode reads the instruction at the start of code. ok is false if there is none: the bytes are no instruction in 64-bit
// mode, or code ends inside it.
func decode(code []byte) (in instruction, ok bool) {
	if len(code) > lengthMax {
		code = code[:lengthMax]
	}
	at, p := readPrefixes(code)
	if at == len(code) {
		return in, false
	}
	in.rex, in.opcodeAt, in.opcode = p.rex, at, code[at]
	var f form
	switch in.opcode {
	case 0x0f:
		f, at = escape(&in, code, at)
	case 0xc4, 0xc5, 0x62:
		f, at = vector(&in, code, at)
	case 0x8f:
		if at+1 < len(code) && code[at+1]&0x1f >= 8 {
			f, at = vector(&in, code, at)
			break
		}
		fallthrough
	default:
		f = primaryForms[in.opcode]
	}
	at++ // behind the opcode
	if f&invalid != 0 || at > len(code) {
		return in, false
	}
	if f&hasModRM != 0 {
		if at == len(code) {
			return in, false
		}
		in.modrm = code[at]
		if at += 1 + memoryOperandBytes(in, code[at:]); at > len(code) {
			return in, false
		}
	}
	in.length = at + immediateBytes(in, f, p)
	return in, in.length <= len(code)
}

// readPrefixes returns the index of the first byte that is no prefix. A REX prefix counts only right before the opcode
// (SDM vol. 2 §2.2.1).
func readPrefixes(code []byte) (int, prefixes) {
	var p prefixes
	for at, b := range code {
		switch {
		case b&0xf0 == 0x40:
			p.rex = b
			continue
		case b == 0x66:
			p.operandSize = true
		case b == 0x67:
			p.addressSize = true
		case b == 0xf2:
			p.repne = true
		case b == 0xf3, b == 0xf0, b == 0x2e, b == 0x36, b == 0x3e, b == 0x26, b == 0x64, b == 0x65:
		default:
			return at, p
		}
		p.rex = 0
	}
	return len(code), p
}

// escape reads the opcode behind 0f and returns its form and index.
func escape(in *instruction, code []byte, at int) (form, int) {
	if at++; at >= len(code) {
		return invalid, at
	}
	in.table, in.opcode = map0F, code[at]
	if in.opcode != 0x38 && in.opcode != 0x3a {
		return extendedForm[in.opcode], at
	}
	f := hasModRM
	in.table = map0F38
	if in.opcode == 0x3a {
		in.table = map0F3A
		f |= 1
	}
	if at++; at >= len(code) {
		return invalid, at
	}
	in.opcode = code[at]
	return f, at
}

// vector reads a VEX, EVEX or XOP prefix and returns the form and index of the opcode behind it.
func vector(in *instruction, code []byte, at int) (form, int) {
	prefix := code[at]
	length, table := 2, byte(1) // of the two-byte VEX prefix
	if prefix != 0xc5 {
		if at+1 >= len(code) {
			return invalid, at
		}
		length, table = 3, code[at+1]&0x1f
		if prefix == 0x62 {
			length, table = 4, table&7
		}
	}
	if at += length; at >= len(code) {
		return invalid, at
	}
	in.table, in.opcode = mapVector, code[at]
	switch {
	case prefix == 0x8f && table == 0x8, table == 3:
		return hasModRM | 1, at
	case prefix == 0x8f && table == 0xa:
		return hasModRM | 4, at
	case table == 1:
		return extendedForm[in.opcode] &^ (special | invalid), at // vzeroupper, the shuffles and compares are as behind 0f
	}
	return hasModRM, at
}

// memoryOperandBytes returns how many bytes of SIB and displacement follow the ModRM byte at the start of code (SDM vol. 2
// §2.1.5). The moves to and from control and debug registers take any ModRM byte as two registers.
func memoryOperandBytes(in instruction, code []byte) int {
	mod, rm := code[0]>>6, code[0]&7
	if mod == 3 || in.table == map0F && in.opcode >= 0x20 && in.opcode <= 0x23 {
		return 0
	}
	n := 0
	if rm == 4 {
		n = 1
		if mod == 0 && len(code) > 1 && code[1]&7 == 5 {
			return n + 4 // no base register
		}
	}
	switch {
	case mod == 1:
		return n + 1
	case mod == 2, mod == 0 && rm == 5: // the latter relative to RIP
		return n + 4
	}
	return n
}

// immediateBytes returns the size of the immediate.
func immediateBytes(in instruction, f form, p prefixes) int {
	sizeZ := 4
	if p.operandSize && in.rex&8 == 0 {
		sizeZ = 2
	}
	switch {
	case f&immZ != 0:
		return sizeZ
	case f&special == 0:
		return int(f & immBytes)
	case in.table == map0F: // 0f 78: vmread, or the SSE4a forms with two immediates
		if p.operandSize || p.repne {
			return 2
		}
		return 0
	case in.opcode >= 0xb8 && in.opcode <= 0xbf:
		if in.rex&8 != 0 {
			return 8
		}
		return sizeZ
	case in.opcode >= 0xa0 && in.opcode <= 0xa3:
		if p.addressSize {
			return 4
		}
		return 8
	case in.modrm&0x30 != 0: // f6, f7: /2 to /7
		return 0
	case in.opcode == 0xf6:
		return 1
	}
	return sizeZ
}
