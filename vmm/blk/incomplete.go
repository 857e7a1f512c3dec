package blk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// incompleteMark is the extended attribute of a file that is becoming a replica. It exists so that nobody runs a guest on
// half a disk. A file system without such attributes, and a block device, go without.
const incompleteMark = "user.tandem.incomplete"

// errIncomplete is why such a file is not opened.
var errIncomplete = errors.New("it is a replica that was not completed; let `tandem backup` complete it, or delete it")

// markIncomplete marks f, for good.
func (f *osFile) markIncomplete() error {
	err := ignoringEINTR(func() error { return unix.Fsetxattr(int(f.Fd()), incompleteMark, []byte{1}, 0) })
	if unmarkable(err) {
		return nil
	}
	if err == nil {
		err = f.File.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot mark it as incomplete: %w", err)
	}
	return nil
}

// markComplete takes the mark away, if there is one.
func (f *osFile) markComplete() error {
	err := ignoringEINTR(func() error { return unix.Fremovexattr(int(f.Fd()), incompleteMark) })
	if unmarkable(err) || errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err == nil {
		err = f.File.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot mark it as complete: %w", err)
	}
	return nil
}

// checkComplete returns errIncomplete if f is marked.
func (f *osFile) checkComplete() error {
	if _, err := unix.Fgetxattr(int(f.Fd()), incompleteMark, nil); err == nil {
		return errIncomplete
	}
	return nil
}

// unmarkable says that f can have no mark.
func unmarkable(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS)
}

// storage returns the file of the host that image writes to, or nil.
func storage(image Image) *osFile {
	var f *osFile
	switch i := image.(type) {
	case *raw:
		f, _ = i.File.(*osFile)
	case *overlay:
		f, _ = i.file.(*osFile)
	}
	return f
}
