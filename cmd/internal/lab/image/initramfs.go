// Package image builds initramfs archives: for the lab's own hosts and for the
// busybox guests that are run on them.
//
// The format is the kernel's "newc" cpio, uncompressed: QEMU copies an initrd
// into guest memory at memcpy speed, while a guest under emulation pays for
// every byte it inflates. Archives may be concatenated; later files replace
// earlier ones (Documentation/driver-api/early-userspace/buffer-format.rst).
package image

import (
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Initramfs collects files and writes them as one cpio archive. Parent folders
// are made as needed. Output depends on the content alone: entries are sorted,
// times are zero, owner is root.
type Initramfs struct {
	entries map[string]entry
}

type entry struct {
	mode   cpio.FileMode // type and permissions
	data   []byte
	target string // symlink
	source string // file of this machine, read when written
	size   int64
}

// Permissions is the part of a cpio mode that AddFile and AddDir take.
const permissions = 0o7777

// AddFile puts a file with these bytes and permissions at name.
func (im *Initramfs) AddFile(name string, perm uint32, data []byte) {
	im.add(name, entry{mode: cpio.TypeReg | cpio.FileMode(perm&permissions), data: data, size: int64(len(data))})
}

// AddDir puts an empty folder at name.
func (im *Initramfs) AddDir(name string, perm uint32) {
	im.add(name, entry{mode: cpio.TypeDir | cpio.FileMode(perm&permissions)})
}

// AddSymlink puts a symbolic link to target at name.
func (im *Initramfs) AddSymlink(name, target string) {
	im.add(name, entry{mode: cpio.TypeSymlink | 0o777, target: target, size: int64(len(target))})
}

// AddSource puts the file source of this machine, with its permissions, at
// name. It is read when the archive is written.
func (im *Initramfs) AddSource(name, source string) error {
	st, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("adding %s to an initramfs: %w", name, err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("adding %s to an initramfs: %s is not a regular file", name, source)
	}
	if st.Size() > maxFileBytes {
		return fmt.Errorf("adding %s to an initramfs: %s has %d bytes, cpio holds %d at most", name, source, st.Size(), int64(maxFileBytes))
	}
	im.add(name, entry{mode: cpio.TypeReg | cpio.FileMode(st.Mode().Perm()), source: source, size: st.Size()})
	return nil
}

// maxFileBytes is what newc's 32-bit size field can say.
const maxFileBytes = 1<<32 - 1

func (im *Initramfs) add(name string, e entry) {
	if im.entries == nil {
		im.entries = map[string]entry{}
	}
	name = clean(name)
	if name == "" {
		return // the root itself always exists
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := im.entries[dir]; !ok {
			im.entries[dir] = entry{mode: cpio.TypeDir | 0o755}
		}
	}
	im.entries[name] = e
}

func clean(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// WriteTo writes the archive, padded so that another can follow it.
func (im *Initramfs) WriteTo(w io.Writer) (int64, error) {
	cw := &countingWriter{w: w}
	out := cpio.NewWriter(cw)
	names := make([]string, 0, len(im.entries))
	for n := range im.entries {
		names = append(names, n)
	}
	sort.Strings(names) // a folder comes before what is in it
	for i, n := range names {
		if err := im.entries[n].write(out, n, int64(i+1)); err != nil {
			return cw.n, fmt.Errorf("writing %s to an initramfs: %w", n, err)
		}
	}
	if err := out.Close(); err != nil {
		return cw.n, fmt.Errorf("ending an initramfs: %w", err)
	}
	if pad := -cw.n & (segmentAlign - 1); pad > 0 {
		if _, err := cw.Write(make([]byte, pad)); err != nil {
			return cw.n, err
		}
	}
	return cw.n, nil
}

// segmentAlign is where a following archive may start; the kernel asks for 4.
const segmentAlign = 512

func (e entry) write(out *cpio.Writer, name string, inode int64) error {
	h := &cpio.Header{Name: name, Mode: e.mode, Size: e.size, Inode: inode, Links: 1}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	if e.source != "" {
		return copySource(out, e.source, e.size)
	}
	data := e.data
	if e.target != "" {
		data = []byte(e.target) // newc keeps a link's target where a file has its bytes
	}
	_, err := out.Write(data)
	return err
}

func copySource(out io.Writer, source string, size int64) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(out, io.LimitReader(f, size))
	if err == nil && n != size {
		err = fmt.Errorf("%s shrank from %d to %d bytes while read", source, size, n)
	}
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
