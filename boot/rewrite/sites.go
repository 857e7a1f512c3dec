package rewrite

import (
	"errors"
	"fmt"

	"tandem/boot"
)

// Kind says which instruction a site holds.
type Kind uint8

const (
	RDTSC Kind = iota + 1
	RDTSCP
	WriteCR4
)

func (k Kind) String() string {
	switch k {
	case RDTSC:
		return "rdtsc"
	case RDTSCP:
		return "rdtscp"
	case WriteCR4:
		return "mov to cr4"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Site is one instruction to rewrite.
type Site struct {
	Kind Kind
	Virt uint64
	Phys uint64

	// Register is the number of a CR4 write's source register, as instructions encode it: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP,
	// 5 RBP, 6 RSI, 7 RDI, 8 to 15 R8 to R15.
	Register uint8

	code []byte // the whole instruction, in the image
}

// Length returns the instruction's length in bytes; the port access that replaces it takes the first two.
func (s Site) Length() int { return len(s.code) }

// Sites are all sites of an image, in the order of its sections and ascending in each.
type Sites []Site

// Count returns how many sites are of a kind.
func (s Sites) Count(kind Kind) int {
	n := 0
	for _, site := range s {
		if site.Kind == kind {
			n++
		}
	}
	return n
}

// registerCount is how many ports the CR4 writes take.
const registerCount = 16

// Ports are the port numbers to rewrite to. None may be one that a device answers.
type Ports struct {
	RDTSC    uint8
	RDTSCP   uint8
	WriteCR4 uint8 // the first of 16, one for each source register
}

// Register returns the source register of a CR4 write from the port it was made to; ok is false if port is none of those.
func (p Ports) Register(port uint16) (register uint8, ok bool) {
	first := uint16(p.WriteCR4)
	if port < first || port >= first+registerCount {
		return 0, false
	}
	return uint8(port - first), true
}

func (p Ports) check() error {
	_, tscInCR4 := p.Register(uint16(p.RDTSC))
	_, tscpInCR4 := p.Register(uint16(p.RDTSCP))
	switch {
	case int(p.WriteCR4)+registerCount > 256:
		return fmt.Errorf("rewrite: 16 ports from %#x on do not fit into 8 bits; choose a first port of at most 0xf0", p.WriteCR4)
	case p.RDTSC == p.RDTSCP || tscInCR4 || tscpInCR4:
		return fmt.Errorf("rewrite: ports %#x, %#x and %#x+16 overlap; choose others", p.RDTSC, p.RDTSCP, p.WriteCR4)
	}
	return nil
}

// Encodings (SDM vol. 2, IN and OUT with an immediate port).
const (
	opInEAX  = 0xe5
	opOutEAX = 0xe7
	opNOP    = 0x90
)

// Apply rewrites the sites in the image that they were found in. Applying again with other ports is allowed.
func (s Sites) Apply(ports Ports) error {
	if err := ports.check(); err != nil {
		return err
	}
	for _, site := range s {
		opcode, port := byte(opInEAX), ports.RDTSC
		switch site.Kind {
		case RDTSCP:
			port = ports.RDTSCP
		case WriteCR4:
			opcode, port = opOutEAX, ports.WriteCR4+site.Register
		}
		site.code[0], site.code[1] = opcode, port
		for i := 2; i < len(site.code); i++ {
			site.code[i] = opNOP
		}
	}
	return nil
}

// ErrNoSections is returned for an image that does not say where its code is.
var ErrNoSections = errors.New("kernel image has no section headers, without which code can't be told from data: " +
	"give a kernel that has them, or leave it unrewritten")

// Find returns every rdtsc, rdtscp and write to CR4 in the executable sections of the image.
func Find(k *boot.Kernel) (Sites, error) {
	known := orcTable(k)
	var sites Sites
	executable := false
	for _, section := range k.Sections {
		if section.Exec {
			executable = true
			sites = append(sites, findIn(section, known)...)
		}
	}
	if !executable {
		return nil, ErrNoSections
	}
	return sites, nil
}
