package boot

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"io"
	"slices"
)

var elfMagic = []byte(elf.ELFMAG)

const (
	elfHeaderBytes = 64

	// maxSegments bounds the PT_LOAD headers of an image. Linux has four or five.
	maxSegments = 64

	// maxSections bounds the section headers looked at. A vmlinux built with a section per function is linked into some forty.
	maxSections = 4096
)

// parseELF reads the headers and the loaded segments of an ELF file of size bytes.
func parseELF(r io.ReaderAt, size uint64) (*Kernel, error) {
	return parse(r, size, func(off, n uint64) ([]byte, error) {
		data := make([]byte, n)
		return data, readFull(r, data, int64(off))
	})
}

// parseELFBytes does the same for an ELF file in memory, whose segments then alias it.
func parseELFBytes(file []byte) (*Kernel, error) {
	return parse(bytes.NewReader(file), uint64(len(file)), func(off, n uint64) ([]byte, error) {
		return file[off : off+n : off+n], nil
	})
}

// parse builds a Kernel from the ELF file behind r; contents returns n bytes at off, which lie inside the file.
func parse(r io.ReaderAt, size uint64, contents func(off, n uint64) ([]byte, error)) (*Kernel, error) {
	file, err := openELF(r, size)
	if err != nil {
		return nil, err
	}
	loads, err := loadHeaders(file, size)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Format: FormatELF}
	for _, p := range loads {
		data, err := contents(p.Off, p.Filesz)
		if err != nil {
			return nil, err
		}
		k.Segments = append(k.Segments, Segment{
			Virt: p.Vaddr, Phys: p.Paddr, MemSize: p.Memsz, Data: data, Exec: p.Flags&elf.PF_X != 0,
		})
	}
	if k.Entry, err = entryPoint(file.Entry, k.Segments); err != nil {
		return nil, err
	}
	k.Sections = loadedSections(file, k.Segments)
	return k, nil
}

// openELF checks that the file is an x86-64 executable.
func openELF(r io.ReaderAt, size uint64) (*elf.File, error) {
	if size < elfHeaderBytes {
		return nil, refuse(ErrTruncated, "%d bytes are too few for an ELF header", size)
	}
	var ident [20]byte
	if err := readFull(r, ident[:], 0); err != nil {
		return nil, err
	}
	if class := elf.Class(ident[elf.EI_CLASS]); class == elf.ELFCLASS32 {
		return nil, refuse(ErrNot64Bit, "a 32-bit ELF file; give an x86-64 kernel")
	}
	if machine := elf.Machine(uint16(ident[18]) | uint16(ident[19])<<8); machine != elf.EM_X86_64 {
		return nil, refuse(ErrNot64Bit, "an ELF file for %v; give an x86-64 kernel", machine)
	}
	file, err := elf.NewFile(r)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, refuse(ErrTruncated, "its headers end behind the file's %d bytes; fetch or build it again", size)
	}
	if err != nil {
		return nil, refuse(ErrCorrupt, "%v; fetch or build it again", err)
	}
	if file.Type != elf.ET_EXEC && file.Type != elf.ET_DYN {
		return nil, refuse(ErrNotKernel, "an ELF file of type %v; give a linked vmlinux", file.Type)
	}
	return file, nil
}

// loadHeaders returns the PT_LOAD headers in ascending order of physical address, checked against the file and each other.
func loadHeaders(file *elf.File, size uint64) ([]elf.ProgHeader, error) {
	var loads []elf.ProgHeader
	var total uint64
	for _, p := range file.Progs {
		if p.Type != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		if len(loads) == maxSegments {
			return nil, refuse(ErrCorrupt, "more than %d loadable segments; fetch or build it again", maxSegments)
		}
		if p.Filesz > p.Memsz || p.Paddr+p.Memsz < p.Paddr || p.Vaddr+p.Memsz < p.Vaddr {
			return nil, refuse(ErrCorrupt, "segment at %#x has impossible sizes (%#x in the file, %#x in memory); fetch or build it again", p.Paddr, p.Filesz, p.Memsz)
		}
		if p.Off > size || p.Filesz > size-p.Off {
			return nil, refuse(ErrTruncated, "segment at %#x ends behind the file's %d bytes; fetch or build it again", p.Paddr, size)
		}
		// No linker maps the same bytes of the file twice: so what is read stays within the file's own size.
		if total += p.Filesz; total > size {
			return nil, refuse(ErrCorrupt, "its segments claim more bytes than the file's %d; fetch or build it again", size)
		}
		if total > maxUnpackedBytes {
			return nil, refuse(ErrTooBig, "more than %s to load", mebibytes(maxUnpackedBytes))
		}
		loads = append(loads, p.ProgHeader)
	}
	if len(loads) == 0 {
		return nil, refuse(ErrNotKernel, "an ELF file without loadable segments; give a linked vmlinux")
	}
	slices.SortFunc(loads, func(a, b elf.ProgHeader) int { return cmp.Compare(a.Paddr, b.Paddr) })
	for i := 1; i < len(loads); i++ {
		if end := loads[i-1].Paddr + loads[i-1].Memsz; end > loads[i].Paddr {
			return nil, refuse(ErrCorrupt, "segments overlap at physical address %#x; fetch or build it again", loads[i].Paddr)
		}
	}
	return loads, nil
}

// entryPoint returns the physical entry address. Linux names it physically; a virtual one is translated.
func entryPoint(entry uint64, segments []Segment) (uint64, error) {
	for _, s := range segments {
		if entry >= s.Phys && entry-s.Phys < uint64(len(s.Data)) {
			return entry, nil
		}
	}
	for _, s := range segments {
		if entry >= s.Virt && entry-s.Virt < uint64(len(s.Data)) {
			return s.Phys + (entry - s.Virt), nil
		}
	}
	return 0, refuse(ErrCorrupt, "entry point %#x lies in no segment; fetch or build it again", entry)
}

// loadedSections returns the allocated sections that lie inside a segment.
func loadedSections(file *elf.File, segments []Segment) []Section {
	var sections []Section
	for _, s := range file.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_TLS != 0 || s.Size == 0 || len(sections) == maxSections {
			continue
		}
		i := slices.IndexFunc(segments, func(g Segment) bool {
			return s.Addr >= g.Virt && s.Addr-g.Virt <= g.MemSize && s.Size <= g.MemSize-(s.Addr-g.Virt)
		})
		if i < 0 {
			continue
		}
		g := segments[i]
		start := s.Addr - g.Virt
		var data []byte
		if s.Type != elf.SHT_NOBITS && start+s.Size <= uint64(len(g.Data)) {
			data = g.Data[start : start+s.Size : start+s.Size]
		}
		sections = append(sections, Section{
			Name: s.Name, Virt: s.Addr, Phys: g.Phys + start, Data: data, Exec: s.Flags&elf.SHF_EXECINSTR != 0,
		})
	}
	return sections
}
