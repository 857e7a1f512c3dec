package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The ioctl numbers of linux/kvm.h that this package uses.
const (
	ioGetAPIVersion       = 0xae00
	ioCreateVM            = 0xae01
	ioGetMSRIndexList     = 0xc004ae02
	ioCheckExtension      = 0xae03
	ioGetVCPUMmapSize     = 0xae04
	ioGetSupportedCPUID   = 0xc008ae05
	ioCreateVCPU          = 0xae41
	ioGetDirtyLog         = 0x4010ae42
	ioSetUserMemoryRegion = 0x4020ae46
	ioSetTSSAddr          = 0xae47
	ioSetIdentityMapAddr  = 0x4008ae48
	ioRun                 = 0xae80
	ioGetRegs             = 0x8090ae81
	ioSetRegs             = 0x4090ae82
	ioGetSregs            = 0x8138ae83
	ioSetSregs            = 0x4138ae84
	ioTranslate           = 0xc018ae85
	ioInterrupt           = 0x4004ae86
	ioGetMSRs             = 0xc008ae88
	ioSetMSRs             = 0x4008ae89
	ioGetFPU              = 0x81a0ae8c
	ioSetFPU              = 0x41a0ae8d
	ioSetCPUID2           = 0x4008ae90
	ioGetCPUID2           = 0xc008ae91
	ioGetMPState          = 0x8004ae98
	ioSetMPState          = 0x4004ae99
	ioSetGuestDebug       = 0x4048ae9b
	ioGetVCPUEvents       = 0x8040ae9f
	ioSetVCPUEvents       = 0x4040aea0
	ioGetDebugRegs        = 0x8080aea1
	ioSetDebugRegs        = 0x4080aea2
	ioEnableCap           = 0x4068aea3
	ioGetXSave            = 0x9000aea4
	ioSetXSave            = 0x5000aea5
	ioGetXCRs             = 0x8188aea6
	ioSetXCRs             = 0x4188aea7
	ioClearDirtyLog       = 0xc018aec0
)

// Capability numbers, for [System.Capability] and [VM.Capability].
const (
	CapUserMemory            = 3
	CapSetTSSAddr            = 4
	CapExtCPUID              = 7
	CapNrMemslots            = 10
	CapMPState               = 14
	CapSyncMMU               = 16
	CapDestroyMemoryRegion   = 21
	CapSetGuestDebug         = 23
	CapVCPUEvents            = 41
	CapDebugRegs             = 50
	CapXSave                 = 55
	CapXCRs                  = 56
	CapTSCControl            = 60
	CapMaxVCPUs              = 66
	CapReadonlyMem           = 81
	CapSyncRegs              = 74
	CapImmediateExit         = 136
	CapManualDirtyLogProtect = 168
	CapDirtyLogRing          = 192
)

// OpError is a failure of the host's kernel in one operation of the KVM API.
type OpError struct {
	Op  string // the ioctl's or system call's name
	Err error  // the errno
}

func (e *OpError) Error() string { return fmt.Sprintf("kvm: %s: %v", e.Op, e.Err) }

// Unwrap returns the errno.
func (e *OpError) Unwrap() error { return e.Err }

func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Err: err}
}

// ioctlInt makes an ioctl whose argument is an integer, again for as long as a signal interrupts it.
func ioctlInt(fd int, op string, req uint, arg int) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
		if errno == 0 {
			return int(r), nil
		}
		if !errors.Is(errno, unix.EINTR) {
			return 0, opError(op, errno)
		}
	}
}
