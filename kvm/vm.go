package kvm

import (
	"fmt"

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
// that the guest writes; SetMemory may be called again with the same memory to turn the log on or off.
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
	v.memory = m
	return nil
}

// DirtyLog ORs into bitmap, one bit a page of region number slot, the pages that the guest has written since the last
// call, and forgets them. bitmap must have the length of [Memory.RegionPages](slot)/64, rounded up.
func (v *VM) DirtyLog(slot int, bitmap []uint64) error {
	words := (v.memory.RegionPages(slot) + 63) / 64
	if len(bitmap) != words {
		panic(fmt.Sprintf("kvm: dirty bitmap of %d words for a region of %d", len(bitmap), words))
	}
	fresh := make([]uint64, words)
	if err := getDirtyLog(v.fd, slot, fresh); err != nil {
		return err
	}
	for i, w := range fresh {
		bitmap[i] |= w
	}
	return nil
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
