package vmm

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"tandem/kvm"
)

// digestBytes is room for what is hashed of one exit: the digest before it, reason and details, 18 registers, and the
// eight bytes of an access. Longer accesses (string instructions) are hashed by pieces.
const digestBytes = 8 + 16 + 18*8 + 8

// exitDigest is a running hash of every exit: its reason, what it did, and the general registers. Two machines with
// equal digests at a position have gone the same way to it.
type exitDigest struct {
	sum uint64
	buf [digestBytes]byte
}

// add takes in an exit, before it is handled: what the devices answer is not part of it.
func (d *exitDigest) add(e *kvm.Exit, regs *kvm.Regs) {
	b := d.buf[:0]
	b = binary.LittleEndian.AppendUint64(b, d.sum)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Reason))
	var data []byte
	switch e.Reason {
	case kvm.ReasonIO:
		b = append(b, e.IO.Size, boolByte(e.IO.Write), byte(e.IO.Count), byte(e.IO.Count>>8))
		b = binary.LittleEndian.AppendUint16(b, e.IO.Port)
		if e.IO.Write {
			data = e.IO.Data
		}
	case kvm.ReasonMMIO:
		b = append(b, byte(len(e.MMIO.Data)), boolByte(e.MMIO.Write))
		b = binary.LittleEndian.AppendUint64(b, e.MMIO.Address)
		if e.MMIO.Write {
			data = e.MMIO.Data
		}
	}
	b = appendRegs(b, regs)
	for len(data) > 8 {
		d.sum = xxhash.Sum64(append(b, data[:8]...))
		b = binary.LittleEndian.AppendUint64(d.buf[:0], d.sum)
		data = data[8:]
	}
	d.sum = xxhash.Sum64(append(b, data...))
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// registerValues returns the general registers in the order of wire.RegisterNames.
func registerValues(r *kvm.Regs) [18]uint64 {
	return [18]uint64{
		r.RAX, r.RBX, r.RCX, r.RDX, r.RSI, r.RDI, r.RSP, r.RBP,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.RIP, r.RFLAGS,
	}
}

func appendRegs(b []byte, r *kvm.Regs) []byte {
	for _, v := range registerValues(r) {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}
