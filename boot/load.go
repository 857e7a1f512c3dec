package boot

import (
	"bytes"
	"fmt"
	"strings"
)

// workingBytes is the least memory that Linux gets beyond what its image fills. With less it dies before it has a console to
// say why. Other kernels have in their image all that they use.
const workingBytes = 16 << 20

// workingRoom returns how much memory a kernel needs beyond what its image fills.
func workingRoom(k *Kernel) uint64 {
	if k.IsLinux() {
		return workingBytes
	}
	return 0
}

// Memory is a guest's RAM as Load sees it: zero everywhere, standing where Layout(Size()) says.
type Memory interface {
	// WriteAt copies p to the guest-physical address gpa.
	WriteAt(p []byte, gpa uint64) error

	// Size returns the amount of RAM in bytes, holes not counted.
	Size() uint64
}

// Options is what a kernel is started with.
type Options struct {
	Cmdline string
	Initrd  []byte

	// RNGSeed is given to the kernel as entropy; empty means none. The caller draws it, since it is an input to the machine.
	RNGSeed []byte
}

// Load writes the kernel and what it needs into fresh guest memory and returns the processor state to enter it with. On an
// error memory may have been written partly only if the error came from mem itself.
func Load(mem Memory, k *Kernel, opt Options) (Entry, error) {
	regions := Layout(mem.Size())
	if err := checkKernelFits(k, regions); err != nil {
		return Entry{}, err
	}
	if err := checkOptions(k, opt); err != nil {
		return Entry{}, err
	}
	initrd, err := placeInitrd(k, regions, uint64(len(opt.Initrd)))
	if err != nil {
		return Entry{}, err
	}
	p := placement{cmdline: cmdlineAddr, initrd: initrd, initrdSize: uint64(len(opt.Initrd))}
	if len(opt.RNGSeed) > 0 {
		p.setupData = setupDataAddr
	}
	if err := write(mem, k, opt, p, regions); err != nil {
		return Entry{}, err
	}
	return entryState(k), nil
}

// write puts everything into guest memory. Nothing overlaps: the fixed places end below 640 KiB, the kernel starts at 1 MiB
// or above, and the RAM disk stands behind it.
func write(mem Memory, k *Kernel, opt Options, p placement, regions []Region) error {
	type part struct {
		what string
		gpa  uint64
		data []byte
	}
	parts := []part{
		{"GDT", gdtAddr, gdt()},
		{"boot_params", bootParamsAddr, bootParams(k, p, regions)},
		{"page tables", pageTablesAddr, pageTables()},
		{"command line", cmdlineAddr, append([]byte(opt.Cmdline), 0)},
		{"initrd", p.initrd, opt.Initrd},
	}
	if p.setupData != 0 {
		parts = append(parts, part{"setup_data", p.setupData, setupData(opt.RNGSeed)})
	}
	for _, s := range k.Segments {
		parts = append(parts, part{"kernel segment", s.Phys, s.Data})
	}
	for _, part := range parts {
		if err := writeNonZero(mem, part.data, part.gpa); err != nil {
			return fmt.Errorf("write %s to guest memory at %#x: %w", part.what, part.gpa, err)
		}
	}
	return nil
}

var zeroPage [pageBytes]byte

// writeNonZero copies data to gpa, leaving out the guest pages that it would only fill with zero.
func writeNonZero(mem Memory, data []byte, gpa uint64) error {
	pending := 0 // data[pending:done] is to be written
	for done := 0; ; {
		n := min(len(data)-done, pageBytes-int((gpa+uint64(done))%pageBytes))
		if n > 0 && !bytes.Equal(data[done:done+n], zeroPage[:n]) {
			done += n
			continue
		}
		if pending < done {
			if err := mem.WriteAt(data[pending:done], gpa+uint64(pending)); err != nil {
				return err
			}
		}
		if n == 0 {
			return nil
		}
		done += n
		pending = done
	}
}

// checkKernelFits refuses a kernel whose link address is not RAM, and a guest too small for it.
func checkKernelFits(k *Kernel, regions []Region) error {
	if k.Start() < highRAMStart {
		return refuse(ErrAddress, "it is linked to load at %#x, below 1 MiB; give a kernel with CONFIG_PHYSICAL_START=0x1000000", k.Start())
	}
	if k.End() > PCIHoleStart-workingBytes {
		return refuse(ErrAddress, "it is linked to end at %#x, where a guest has no RAM; give a kernel with CONFIG_PHYSICAL_START=0x1000000", k.End())
	}
	var have uint64
	if len(regions) > 0 {
		have = regions[0].Size
	}
	if need := k.End() + workingRoom(k); have < need {
		return refuse(ErrMemoryTooLow, "%d KiB, but this kernel needs at least %s; give the guest more", have>>10, mebibytes(need))
	}
	return nil
}

func checkOptions(k *Kernel, opt Options) error {
	if limit := k.CmdlineMaxBytes(); uint64(len(opt.Cmdline)) > limit {
		return refuse(ErrCmdlineLength, "%d bytes, this kernel takes at most %d; shorten it", len(opt.Cmdline), limit)
	}
	if i := strings.IndexByte(opt.Cmdline, 0); i >= 0 {
		return refuse(ErrCmdlineNUL, "at byte %d; remove it", i)
	}
	if len(opt.RNGSeed) > seedMaxBytes {
		return refuse(ErrSeedLength, "%d bytes, at most %d", len(opt.RNGSeed), seedMaxBytes)
	}
	return nil
}

// placeInitrd returns the address for an initrd of size bytes: as high as RAM below the PCI hole and the kernel's own limit
// allow, so that it is out of the way of what the kernel allocates. Without an initrd it returns 0.
func placeInitrd(k *Kernel, regions []Region, size uint64) (uint64, error) {
	if size == 0 {
		return 0, nil
	}
	bottom := pageUp(k.End())
	limit := pageDown(min(k.initrdAddrMax()+1, PCIHoleStart))
	have := regions[0].Size
	end := bottom + pageUp(size)
	if end > limit {
		return 0, refuse(ErrInitrdTooBig, "%s, but this kernel takes it only between %#x and %#x; make it smaller",
			mebibytes(size), bottom, limit)
	}
	if need := end + workingRoom(k); have < need {
		return 0, refuse(ErrInitrdTooBig, "%s do not fit beside the kernel into %d MiB; give the guest at least %s",
			mebibytes(size), have>>20, mebibytes(need))
	}
	return min(limit, have) - pageUp(size), nil
}

func pageDown(addr uint64) uint64 { return addr &^ (pageBytes - 1) }

func pageUp(addr uint64) uint64 { return pageDown(addr + pageBytes - 1) }
