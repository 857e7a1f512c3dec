package kvm

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlPtr makes an ioctl whose argument is a pointer to a structure of the kernel's layout, again for as long as a
// signal interrupts it.
func ioctlPtr[T any](fd int, op string, req uint, p *T) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(p)))
		if errno == 0 {
			return int(r), nil
		}
		if errno != unix.EINTR {
			return 0, opError(op, errno)
		}
	}
}

// addressOf returns the host virtual address of a mapping made with mmap: memory that Go's collector does not move.
func addressOf(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// bitmapAddress returns the address of a bitmap that the kernel fills during the call in which it is used.
func bitmapAddress(p []uint64) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

// getDirtyLog reads a slot's dirty log into bitmap, which is pinned because the kernel learns of it by number.
func getDirtyLog(fd, slot int, bitmap []uint64) error {
	var pin runtime.Pinner
	pin.Pin(unsafe.SliceData(bitmap))
	defer pin.Unpin()
	_, err := ioctlPtr(fd, "KVM_GET_DIRTY_LOG", ioGetDirtyLog, &dirtyLog{slot: uint32(slot), bitmap: bitmapAddress(bitmap)})
	return err
}

// clearDirtyLogPart takes pages out of a slot's dirty log: those of the given number of pages from first on that have a bit
// in bitmap. first is a multiple of 64.
func clearDirtyLogPart(fd, slot, first, pages int, bitmap []uint64) error {
	var pin runtime.Pinner
	pin.Pin(unsafe.SliceData(bitmap))
	defer pin.Unpin()
	_, err := ioctlPtr(fd, "KVM_CLEAR_DIRTY_LOG", ioClearDirtyLog, &clearDirtyLog{
		slot: uint32(slot), numPages: uint32(pages), firstPage: uint64(first), bitmap: bitmapAddress(bitmap),
	})
	return err
}
