package guests

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// Where random.S expects the program, and the memory that the program uses. The space up to the window bounds its length.
const (
	bodyAddress   = 0x180000
	WindowAddress = 0x200000
	WindowBytes   = 0x2000

	// MaxRandomInstructions is how long a random program may be: its longest instruction sequences average below
	// 12 bytes an instruction.
	MaxRandomInstructions = (WindowAddress - bodyAddress) / 16
)

// Random returns the ELF file of a guest that runs a random program of about the given number of instructions, the same
// for the same arguments on every host: integer arithmetic, accesses to a window of memory, branches, short loops, reads
// of the PM timer, writes to ports, stretches with interrupts off, HLT. A 500 Hz tick interrupts it. Its last line on the
// debug port is "digest " and 16 hex digits, which depend on all that it did, on the times that it read and on where each
// tick came. It panics if instructions is not between 1 and MaxRandomInstructions.
func Random(seed uint64, instructions int) []byte {
	if instructions < 1 || instructions > MaxRandomInstructions {
		panic(fmt.Sprintf("guests: a random program of %d instructions", instructions))
	}
	g := &generator{state: seed}
	g.seedRegisters()
	for g.emitted < instructions {
		g.step()
	}
	g.code = append(g.code, 0xc3) // ret
	return withSegment(Image(randomFrame), bodyAddress, g.code)
}

// withSegment returns the ELF file image with one more segment.
func withSegment(image []byte, address uint64, data []byte) []byte {
	frame, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		panic(fmt.Sprintf("guests: %v", err))
	}
	const headerBytes, progBytes = 64, 56
	progs := []elf.Prog64{}
	var contents []byte
	add := func(p elf.Prog64, data []byte) {
		p.Off = uint64(len(contents)) // made an offset in the file below
		contents = append(contents, data...)
		progs = append(progs, p)
	}
	for _, p := range frame.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		segment := image[p.Off : p.Off+p.Filesz]
		add(elf.Prog64{Type: uint32(p.Type), Flags: uint32(p.Flags), Vaddr: p.Vaddr, Paddr: p.Paddr, Filesz: p.Filesz, Memsz: p.Memsz}, segment)
	}
	n := uint64(len(data))
	add(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: address, Paddr: address, Filesz: n, Memsz: n}, data)
	start := uint64(headerBytes + progBytes*len(progs))
	for i := range progs {
		progs[i].Off += start
	}
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: frame.Entry,
		Phoff: headerBytes, Ehsize: headerBytes, Phentsize: progBytes, Phnum: uint16(len(progs)),
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	out, err := binary.Append(nil, binary.LittleEndian, header)
	if err == nil {
		out, err = binary.Append(out, binary.LittleEndian, progs)
	}
	if err != nil {
		panic(fmt.Sprintf("guests: %v", err))
	}
	return append(out, contents...)
}
