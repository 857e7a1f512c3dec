package kvm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// runPageBytes is sizeof(struct kvm_run).
const runPageBytes = 2352

// runPage is struct kvm_run, which the vCPU shares with the kernel.
type runPage struct {
	requestInterruptWindow     uint8
	immediateExit              uint8
	_                          [6]uint8
	exitReason                 uint32
	readyForInterruptInjection uint8
	ifFlag                     uint8
	flags                      uint16
	cr8                        uint64
	apicBase                   uint64
	exit                       [256]uint8
	validRegs                  uint64
	dirtyRegs                  uint64
	sync                       syncRegs
}

// syncRegs is struct kvm_sync_regs.
type syncRegs struct {
	regs   Regs
	sregs  Sregs
	events VCPUEvents
	_      [1528]uint8
}

// exitIO, exitMMIO, … are the members of kvm_run's union.
type exitIO struct {
	direction  uint8
	size       uint8
	port       uint16
	count      uint32
	dataOffset uint64
}

type exitMMIO struct {
	physAddr uint64
	data     [8]uint8
	length   uint32
	isWrite  uint8
}

type exitDebug struct {
	exception uint32
	_         uint32
	pc        uint64
	dr6       uint64
	dr7       uint64
}

type exitFail struct {
	hardwareReason uint64
	cpu            uint32
}

type exitInternal struct {
	suberror uint32
	count    uint32
	data     [16]uint64
}

type exitSystemEvent struct {
	kind  uint32
	count uint32
	data  [16]uint64
}

func runPageOf(area []byte) *runPage       { return (*runPage)(unsafe.Pointer(unsafe.SliceData(area))) }
func (r *runPage) io() *exitIO             { return (*exitIO)(unsafe.Pointer(&r.exit)) }
func (r *runPage) mmio() *exitMMIO         { return (*exitMMIO)(unsafe.Pointer(&r.exit)) }
func (r *runPage) debug() *exitDebug       { return (*exitDebug)(unsafe.Pointer(&r.exit)) }
func (r *runPage) fail() *exitFail         { return (*exitFail)(unsafe.Pointer(&r.exit)) }
func (r *runPage) internal() *exitInternal { return (*exitInternal)(unsafe.Pointer(&r.exit)) }
func (r *runPage) system() *exitSystemEvent {
	return (*exitSystemEvent)(unsafe.Pointer(&r.exit))
}

// setImmediateExit and clearImmediateExit write the one byte of the run area that another thread writes too. Go has no
// atomic byte; the word around it is requestInterruptWindow, immediateExit and padding, of which the vCPU's thread
// alone writes the first, so a compare-and-swap loses neither.
func (r *runPage) setImmediateExit(on bool) {
	word := (*uint32)(unsafe.Pointer(r))
	for {
		old := atomic.LoadUint32(word)
		fresh := old &^ 0xff00
		if on {
			fresh |= 0x0100
		}
		if atomic.CompareAndSwapUint32(word, old, fresh) {
			return
		}
	}
}

func (r *runPage) immediateExitSet() bool {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(r)))&0xff00 != 0
}

func (r *runPage) setInterruptWindow(on bool) {
	word := (*uint32)(unsafe.Pointer(r))
	for {
		old := atomic.LoadUint32(word)
		fresh := old &^ 0xff
		if on {
			fresh |= 1
		}
		if old == fresh || atomic.CompareAndSwapUint32(word, old, fresh) {
			return
		}
	}
}

// runOnce makes one KVM_RUN. EINTR comes back as the errno it is.
func runOnce(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), ioRun, 0)
	return errno
}
