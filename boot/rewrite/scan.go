package rewrite

import (
	"bytes"

	"tandem/boot"
)

// findIn returns the sites of one section. at moves forward only, so the work is in proportion to the section, whatever
// known claims.
func findIn(section boot.Section, known starts) Sites {
	var sites Sites
	code := section.Data
	at := 0 // the start of an instruction
	for match := nextMatch(code, 0); match >= 0; match = nextMatch(code, match+1) {
		if at > match {
			continue // inside an instruction that is decoded already
		}
		at = max(at, known.before(section, match))
		for at <= match {
			in, ok := decode(code[at:])
			if !ok {
				at++
				continue
			}
			if at+in.opcodeAt == match {
				if site, ok := siteAt(section, at, in); ok {
					sites = append(sites, site)
				}
			}
			at += in.length
		}
	}
	return sites
}

// nextMatch returns the index of the next bytes, from from on, that could be the opcode of a site, or -1.
func nextMatch(code []byte, from int) int {
	for {
		i := bytes.IndexByte(code[from:], 0x0f)
		if i < 0 || from+i+1 >= len(code) {
			return -1
		}
		from += i
		switch code[from+1] {
		case 0x31:
			return from
		case 0x01:
			if from+2 < len(code) && code[from+2] == modrmRDTSCP {
				return from
			}
		case 0x22:
			if from+2 < len(code) && modrmReg(code[from+2]) == 4 {
				return from
			}
		}
		from++
	}
}

// modrmRDTSCP is the operand byte that makes 0f 01 an rdtscp.
const modrmRDTSCP = 0xf9

// modrmReg returns the reg field: for 0f 22 the control register.
func modrmReg(modrm byte) byte { return modrm >> 3 & 7 }

// REX bits (SDM vol. 2 §2.2.1.2).
const (
	rexB = 1 << 0 // extends the r/m field, here the source register
	rexR = 1 << 2 // extends the reg field, here the control register
)

// siteAt returns the site that in, at code[at], is.
func siteAt(section boot.Section, at int, in instruction) (Site, bool) {
	site := Site{
		Virt: section.Virt + uint64(at),
		Phys: section.Phys + uint64(at),
		code: section.Data[at : at+in.length : at+in.length],
	}
	switch {
	case in.table != map0F:
		return Site{}, false
	case in.opcode == 0x31:
		site.Kind = RDTSC
	case in.opcode == 0x01 && in.modrm == modrmRDTSCP:
		site.Kind = RDTSCP
	case in.opcode == 0x22 && modrmReg(in.modrm) == 4 && in.rex&rexR == 0:
		site.Kind = WriteCR4
		site.Register = in.modrm & 7
		if in.rex&rexB != 0 {
			site.Register += 8
		}
	default:
		return Site{}, false
	}
	return site, true
}
