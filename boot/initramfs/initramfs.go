// Package initramfs writes the cpio archives that Linux unpacks into its first root file system
// (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
//
// Contract: the archive is a function of the entries alone. They are sorted by path, every time stamp is 0, every owner is
// root and inode numbers count up from 1, so two hosts that build the same archive build the same bytes. Directories that an
// entry needs and that are not named are added with mode 0755. Write may be called from any goroutine.
package initramfs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/u-root/u-root/pkg/cpio"
)

// Kind says what an entry is; the values are the file type bits of a Linux mode.
type Kind uint32

const (
	File        Kind = cpio.S_IFREG
	Directory   Kind = cpio.S_IFDIR
	Symlink     Kind = cpio.S_IFLNK
	CharDevice  Kind = cpio.S_IFCHR
	BlockDevice Kind = cpio.S_IFBLK
)

// Entry is one file of the archive.
type Entry struct {
	Path string // relative to the root; a leading slash is dropped
	Kind Kind
	Perm uint32 // the low twelve bits of the mode

	Data   []byte // of a File
	Target string // of a Symlink

	Major, Minor uint32 // of a device
}

// Options says how to write an archive.
type Options struct {
	Gzip bool
}

const (
	permMask    = 0o7777
	defaultPerm = 0o755
	nameMax     = 4095 // PATH_MAX less the NUL
)

// Write writes an archive of the entries to w.
func Write(w io.Writer, entries []Entry, opt Options) error {
	sorted, err := prepare(entries)
	if err != nil {
		return err
	}
	if !opt.Gzip {
		return writeArchive(w, sorted)
	}
	z := gzip.NewWriter(w)
	if err := writeArchive(z, sorted); err != nil {
		return err
	}
	return z.Close()
}

// prepare cleans and checks the paths, adds missing directories, and sorts: a directory comes before what is in it.
func prepare(entries []Entry) ([]Entry, error) {
	byPath := make(map[string]Entry, len(entries))
	for _, e := range entries {
		clean := strings.TrimPrefix(path.Clean("/"+e.Path), "/")
		if err := check(e, clean); err != nil {
			return nil, fmt.Errorf("initramfs entry %q: %w", e.Path, err)
		}
		if _, ok := byPath[clean]; ok {
			return nil, fmt.Errorf("initramfs entry %q: named twice", e.Path)
		}
		e.Path = clean
		byPath[clean] = e
	}
	for _, e := range entries {
		for dir := path.Dir(strings.TrimPrefix(path.Clean("/"+e.Path), "/")); dir != "."; dir = path.Dir(dir) {
			parent, ok := byPath[dir]
			if ok && parent.Kind != Directory && parent.Kind != Symlink {
				return nil, fmt.Errorf("initramfs entry %q: %q is not a directory", e.Path, dir)
			}
			if !ok {
				byPath[dir] = Entry{Path: dir, Kind: Directory, Perm: defaultPerm}
			}
		}
	}
	sorted := make([]Entry, 0, len(byPath))
	for _, e := range byPath {
		sorted = append(sorted, e)
	}
	slices.SortFunc(sorted, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return sorted, nil
}

// check refuses what the format can't hold or the kernel would not unpack.
func check(e Entry, clean string) error {
	switch {
	case clean == "":
		return errors.New("the path is empty")
	case clean == cpio.Trailer:
		return errors.New("the path is the archive's end mark")
	case strings.ContainsRune(clean, 0) || strings.ContainsRune(e.Target, 0):
		return errors.New("the path or target contains a NUL byte")
	case len(clean) > nameMax || len(e.Target) > nameMax:
		return fmt.Errorf("the path or target is longer than %d bytes", nameMax)
	case e.Perm&^permMask != 0:
		return fmt.Errorf("permission bits %#o are beyond %#o", e.Perm, permMask)
	case e.Kind != File && len(e.Data) > 0:
		return errors.New("only a file has data")
	case e.Kind == Symlink && e.Target == "":
		return errors.New("the link has no target")
	case uint64(len(e.Data)) > math.MaxUint32:
		return errors.New("the file is larger than 4 GiB")
	}
	switch e.Kind {
	case File, Directory, Symlink, CharDevice, BlockDevice:
		return nil
	}
	return fmt.Errorf("unknown kind %#o", uint32(e.Kind))
}

func writeArchive(w io.Writer, sorted []Entry) error {
	archive := cpio.Newc.Writer(w)
	for i, e := range sorted {
		if err := archive.WriteRecord(record(e, uint64(i+1))); err != nil {
			return fmt.Errorf("write initramfs entry %q: %w", e.Path, err)
		}
	}
	return cpio.WriteTrailer(archive)
}

// record turns an entry into a cpio record. The link counts are those of a freshly made tree; the kernel takes a regular
// file with more than one for a hard link.
func record(e Entry, inode uint64) cpio.Record {
	info := cpio.Info{Name: e.Path, Ino: inode, Mode: uint64(e.Kind) | uint64(e.Perm), NLink: 1}
	switch e.Kind {
	case Directory:
		info.NLink = 2
	case Symlink:
		info.Mode = cpio.S_IFLNK | 0o777
		return cpio.StaticRecord([]byte(e.Target), info)
	case CharDevice, BlockDevice:
		info.Rmajor, info.Rminor = uint64(e.Major), uint64(e.Minor)
	}
	return cpio.StaticRecord(e.Data, info)
}
