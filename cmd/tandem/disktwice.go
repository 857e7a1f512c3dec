package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// diskFile is a file that a disk is made of, or the folder of its fence.
type diskFile struct {
	path    string
	written bool
}

func (d *diskSpec) files() []diskFile {
	switch {
	case d.Fence != "":
		return []diskFile{{d.Path, true}, {d.Fence, true}}
	case d.Overlay == "":
		return []diskFile{{d.Path, !d.ReadOnly}}
	}
	return []diskFile{{d.Path, false}, {d.Overlay, true}}
}

// same tells whether two paths are one file, which need not be there yet.
func (f diskFile) same(g diskFile) bool {
	a, errA := os.Stat(f.path)
	b, errB := os.Stat(g.path)
	if errA == nil && errB == nil {
		return os.SameFile(a, b)
	}
	return filepath.Clean(f.path) == filepath.Clean(g.path)
}

// checkDisksDiffer refuses a file that two disks are made of, unless both only read it. Without this the lock on the image
// would refuse it too, and blame another guest.
func checkDisksDiffer(disks []diskSpec) error {
	var seen []diskFile
	for i := range disks {
		for _, f := range disks[i].files() {
			for _, s := range seen {
				if (f.written || s.written) && f.same(s) {
					return fmt.Errorf("--disk %s is given twice: give each disk an image (and a fence) of its own, or an overlay of its own over one that is only read", f.path)
				}
			}
			seen = append(seen, f)
		}
	}
	return nil
}
