package blk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// incompleteMark is the extended attribute of a file that is becoming a replica: how many bytes of the row of disks are
// stored, little-endian, as of the last time that it was closed in order. It exists so that nobody runs a guest on half a
// disk, and so that a transfer goes on only from where the file really is. A file system without such attributes, and a block
// device, go without: there a transfer begins anew.
const incompleteMark = "user.tandem.incomplete"

var (
	// errIncomplete is why such a file is not opened.
	errIncomplete = errors.New("it is a replica that was not completed; let `tandem backup` complete it, or delete it")
	// ErrNotKept says that this host has not what a transfer would go on from: it has to begin anew.
	ErrNotKept = errors.New("this host has not kept that much of the replica")
)

// markIncomplete marks f, which has stored so many bytes of the row.
func (f *osFile) markIncomplete(stored int64) error {
	value := binary.LittleEndian.AppendUint64(nil, uint64(stored))
	err := ignoringEINTR(func() error { return unix.Fsetxattr(int(f.Fd()), incompleteMark, value, 0) })
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

// checkKept returns ErrNotKept unless f is marked as having stored as much.
func (f *osFile) checkKept(from int64) error {
	var value [8]byte
	n, err := unix.Fgetxattr(int(f.Fd()), incompleteMark, value[:])
	if err != nil || n != len(value) || binary.LittleEndian.Uint64(value[:]) < uint64(from) {
		return ErrNotKept
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
