package boot

import (
	"errors"
	"fmt"
)

// The causes for which an image or a machine can be refused. An error from this package wraps one of them and says, in the
// same line, what was found and what to do about it.
var (
	ErrEmpty         = errors.New("kernel image is empty")
	ErrTruncated     = errors.New("kernel image is truncated")
	ErrNotKernel     = errors.New("not a Linux kernel image")
	ErrOldProtocol   = errors.New("kernel image is too old")
	ErrNot64Bit      = errors.New("not a 64-bit x86 kernel")
	ErrCompression   = errors.New("kernel compression is not supported")
	ErrCorrupt       = errors.New("kernel image is corrupt")
	ErrTooBig        = errors.New("kernel image is too big")
	ErrAddress       = errors.New("kernel cannot be placed at its load address")
	ErrMemoryTooLow  = errors.New("guest memory is too small")
	ErrInitrdTooBig  = errors.New("initrd is too large")
	ErrCmdlineLength = errors.New("kernel command line is too long")
	ErrCmdlineNUL    = errors.New("kernel command line contains a NUL byte")
	ErrSeedLength    = errors.New("random seed is too long")
)

// refuse wraps cause with what was found.
func refuse(cause error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", cause, fmt.Sprintf(format, args...))
}

// mebibytes formats a size for a person, rounded up to whole MiB.
func mebibytes(n uint64) string {
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}
