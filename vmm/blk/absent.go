package blk

import "errors"

// errAbsent is why a disk without content fails.
var errAbsent = errors.New("the machine goes on from a recording, which has no content of this disk")

// absent is a disk whose content is not there.
type absent struct {
	size     int64
	readOnly bool
}

// Absent returns a disk of size bytes that fails every request: of a machine that was replayed, without its disks, and
// goes live.
func Absent(size uint64, readOnly bool) Image { return absent{int64(size), readOnly} }

func (absent) ReadAt([]byte, int64) (int, error)  { return 0, errAbsent }
func (absent) WriteAt([]byte, int64) (int, error) { return 0, errAbsent }
func (absent) Zero(int64, int64, bool) error      { return errAbsent }
func (absent) Sync() error                        { return nil } // nothing was written
func (absent) Close() error                       { return nil }
func (a absent) Size() int64                      { return a.size }
func (a absent) ReadOnly() bool                   { return a.readOnly }
