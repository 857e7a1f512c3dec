package kvm

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// The pages that kvm_intel needs for a guest in real mode on processors without unrestricted guest: three for a task
// state segment and one for an identity map, just under the firmware hole, where no guest RAM is.
const (
	tssAddress         = 0xfffbd000
	identityMapAddress = 0xfffbc000
)

// VM is a virtual machine.
type VM struct {
	fd       int
	mmapSize int
	memory   *Memory
	logDirty bool // the kernel keeps a dirty log
	manual   bool // a log that is read is not cleared by that
}

// Close releases the machine, once its vCPU is closed. Its memory is closed by itself.
func (v *VM) Close() error { return opError("close", unix.Close(v.fd)) }

// Capability returns the value of KVM_CHECK_EXTENSION for this machine: 0 if it is missing.
func (v *VM) Capability(capability int) (int, error) {
	return ioctlInt(v.fd, "KVM_CHECK_EXTENSION", ioCheckExtension, capability)
}

// EnableCapability turns a capability on, with its first argument.
func (v *VM) EnableCapability(capability int, arg uint64) error {
	_, err := ioctlPtr(v.fd, "KVM_ENABLE_CAP", ioEnableCap, &enableCap{cap: uint32(capability), args: [4]uint64{arg}})
	return err
}

// SetTSS gives kvm_intel the pages that it needs for real mode. Other hosts ignore them.
func (v *VM) SetTSS() error {
	identity := uint64(identityMapAddress)
	if _, err := ioctlPtr(v.fd, "KVM_SET_IDENTITY_MAP_ADDR", ioSetIdentityMapAddr, &identity); err != nil {
		return err
	}
	_, err := ioctlInt(v.fd, "KVM_SET_TSS_ADDR", ioSetTSSAddr, tssAddress)
	return err
}

// SetMemory makes m the machine's RAM: a slot for each of its regions. With logDirty the kernel keeps a log of the pages
// that the guest writes from here on; SetMemory may be called again with the same memory to turn the log on or off.
func (v *VM) SetMemory(m *Memory, logDirty bool) error {
	flags := uint32(0)
	if logDirty {
		flags = memLogDirtyPages
	}
	for i := range m.regions {
		r := &m.regions[i]
		slot := &userspaceMemoryRegion{
			slot: uint32(i), flags: flags, guestPhysAddr: r.base,
			memorySize: uint64(len(r.bytes)), userspaceAddr: addressOf(r.bytes),
		}
		if _, err := ioctlPtr(v.fd, "KVM_SET_USER_MEMORY_REGION", ioSetUserMemoryRegion, slot); err != nil {
			return err
		}
	}
	begun := logDirty && !v.logDirty
	v.memory, v.logDirty = m, logDirty
	if begun && v.manual {
		return v.clearNewLog()
	}
	return nil
}

// clearNewLog clears logs that have just begun: with manual clearing they have every page in them at first.
func (v *VM) clearNewLog() error {
	for slot := range v.memory.regions {
		all := make([]uint64, v.bitmapWords(slot))
		for i := range all {
			all[i] = ^uint64(0)
		}
		if err := v.ClearDirtyLog(slot, all); err != nil {
			return err
		}
	}
	return nil
}

// KeepDirtyLog asks the kernel to clear the dirty log and to protect pages anew only when it is told to
// (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), or not to do so any more. It must not be called while there is a log. A new machine
// asks for it; where the kernel can't it stays without.
func (v *VM) KeepDirtyLog(keep bool) error {
	const manualAndInitiallySet = 3 // initially set: a log that begins is protected by clearing it, in steps, not at once
	can, err := v.Capability(CapManualDirtyLogProtect)
	if err != nil || can&manualAndInitiallySet != manualAndInitiallySet {
		return err
	}
	arg := uint64(0)
	if keep {
		arg = manualAndInitiallySet
	}
	v.manual = keep
	return v.EnableCapability(CapManualDirtyLogProtect, arg)
}

// LogsDirty tells whether there is a dirty log.
func (v *VM) LogsDirty() bool { return v.logDirty }

// KeepsDirtyLog tells whether ReadDirtyLog leaves the log as it is.
func (v *VM) KeepsDirtyLog() bool { return v.manual }

// DirtyLog ORs into bitmap, one bit a page of region number slot, the pages that the guest has written since the last
// call, and forgets them. bitmap must have the length of [Memory.RegionPages](slot)/64, rounded up.
func (v *VM) DirtyLog(slot int, bitmap []uint64) error {
	fresh := make([]uint64, v.bitmapWords(slot))
	if err := v.ReadDirtyLog(slot, fresh); err != nil {
		return err
	}
	v.checkBitmap(slot, bitmap)
	for i, w := range fresh {
		bitmap[i] |= w
	}
	return v.ClearDirtyLog(slot, fresh)
}

// ReadDirtyLog makes bitmap, of DirtyLog's length, the pages of region number slot that are in the log. They stay there
// until ClearDirtyLog, if the kernel can keep them (KeepsDirtyLog); else the log is empty then.
//
// A page in the log is one whose writes the kernel does not notice: it is written at full speed. A page that is cleared is
// protected, and its next write costs the guest a fault.
func (v *VM) ReadDirtyLog(slot int, bitmap []uint64) error {
	v.checkBitmap(slot, bitmap)
	return getDirtyLog(v.fd, slot, bitmap)
}

// clearedAtOnce is how many pages ClearDirtyLog clears in one system call, for which the kernel locks the guest out.
const clearedAtOnce = 1 << 15

// ClearDirtyLog takes the pages of bitmap, of DirtyLog's length, out of the log of region number slot. A page's content
// must be read after that, not before, by whoever wants to know of each write. It does nothing where the kernel does not
// keep a log that was read.
func (v *VM) ClearDirtyLog(slot int, bitmap []uint64) error {
	v.checkBitmap(slot, bitmap)
	if !v.manual {
		return nil
	}
	pages := v.memory.RegionPages(slot)
	for first := 0; first < pages; first += clearedAtOnce {
		part := bitmap[first/64 : min((first+clearedAtOnce)/64, len(bitmap))]
		if !slices.ContainsFunc(part, func(w uint64) bool { return w != 0 }) {
			continue
		}
		if err := clearDirtyLogPart(v.fd, slot, first, min(clearedAtOnce, pages-first), part); err != nil {
			return err
		}
	}
	return nil
}

func (v *VM) bitmapWords(slot int) int { return (v.memory.RegionPages(slot) + 63) / 64 }

func (v *VM) checkBitmap(slot int, bitmap []uint64) {
	if want := v.bitmapWords(slot); len(bitmap) != want {
		panic(fmt.Sprintf("kvm: dirty bitmap of %d words for a region of %d", len(bitmap), want))
	}
}

// CreateVCPU makes the machine's vCPU number id. The caller must have locked its goroutine to its thread.
func (v *VM) CreateVCPU(id int) (*VCPU, error) {
	fd, err := ioctlInt(v.fd, "KVM_CREATE_VCPU", ioCreateVCPU, id)
	if err != nil {
		return nil, err
	}
	area, err := unix.Mmap(fd, 0, v.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, opError("mmap of the vCPU's run area", err)
	}
	return newVCPU(fd, area), nil
}
