package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

const (
	// maxImageBytes bounds the file that OpenKernel reads whole (a bzImage). Distribution kernels are 8 to 20 MiB.
	maxImageBytes = 256 << 20

	// maxUnpackedBytes bounds what a payload may unpack to, and the sum of an ELF file's loaded bytes. The kernel's own text
	// mapping ends at 1 GiB (KERNEL_IMAGE_SIZE), and half of it without KASLR; a real kernel unpacks to 30 to 90 MiB.
	maxUnpackedBytes = 512 << 20
)

// Format is the file format a kernel came in.
type Format string

const (
	FormatBzImage Format = "bzImage"
	FormatELF     Format = "ELF vmlinux"
)

// Kernel is a parsed kernel image, ready to be loaded or rewritten.
type Kernel struct {
	Format Format

	// Compression names the bzImage payload's packing ("lz4"); empty for an ELF file.
	Compression string

	// Entry is the physical address of startup_64.
	Entry uint64

	// Segments are the parts to load, in ascending order of physical address, not overlapping.
	Segments []Segment

	// Sections are those that take part in the loaded image and lie wholly inside one segment, in the file's order. An image
	// without section headers has none.
	Sections []Section

	// header is the bzImage's setup header, from file offset 0x1f1; nil for ELF.
	header []byte
}

// Segment is one PT_LOAD program header (ELF-64 object file format §5).
type Segment struct {
	Virt    uint64
	Phys    uint64
	MemSize uint64 // bytes; at least len(Data)
	Data    []byte // file contents; what follows up to MemSize is zero
	Exec    bool
}

// Section is one allocated section of the image. Data aliases a Segment's, so that a change to it changes what Load writes.
type Section struct {
	Name string
	Virt uint64
	Phys uint64
	Data []byte // empty for a section without file contents, such as .bss
	Exec bool
}

// OpenKernel reads the kernel image of size bytes behind r. A bzImage is read whole; of an ELF file, which may carry
// gigabytes of debug information, only the headers and the loaded segments.
func OpenKernel(r io.ReaderAt, size int64) (*Kernel, error) {
	if size <= 0 {
		return nil, refuse(ErrEmpty, "it has no bytes; give a bzImage or an ELF vmlinux")
	}
	var magic [4]byte
	if err := readFull(r, magic[:], 0); err != nil {
		return nil, err
	}
	if bytes.Equal(magic[:], elfMagic) {
		return parseELF(r, uint64(size))
	}
	if size > maxImageBytes {
		return nil, refuse(ErrTooBig, "%s in a file that is not ELF; a bzImage has at most %s",
			mebibytes(uint64(size)), mebibytes(maxImageBytes))
	}
	image := make([]byte, size)
	if err := readFull(r, image, 0); err != nil {
		return nil, err
	}
	return readBzImage(image)
}

// ReadKernel parses a kernel image held in memory. The Kernel keeps no reference to an ELF image's bytes.
func ReadKernel(image []byte) (*Kernel, error) {
	if len(image) == 0 || bytes.HasPrefix(image, elfMagic) {
		return OpenKernel(bytes.NewReader(image), int64(len(image)))
	}
	return readBzImage(image)
}

// End returns the physical address behind the last byte that the kernel occupies, .bss included.
func (k *Kernel) End() uint64 {
	var end uint64
	for _, s := range k.Segments {
		end = max(end, s.Phys+s.MemSize)
	}
	return end
}

// Start returns the lowest physical address that the kernel occupies.
func (k *Kernel) Start() uint64 {
	return k.Segments[0].Phys
}

// Section returns the first section of that name, or nil.
func (k *Kernel) Section(name string) *Section {
	for i := range k.Sections {
		if k.Sections[i].Name == name {
			return &k.Sections[i]
		}
	}
	return nil
}

// CmdlineMaxBytes is the longest command line that the kernel takes, without the closing NUL.
func (k *Kernel) CmdlineMaxBytes() uint64 {
	if k.header == nil {
		return defaultCmdlineMaxBytes
	}
	return min(uint64(k.headerUint32(hdrCmdlineSize)), cmdlineRoomBytes-1)
}

// initrdAddrMax is the highest address that a byte of the RAM disk may have.
func (k *Kernel) initrdAddrMax() uint64 {
	if k.header == nil {
		return defaultInitrdAddrMax
	}
	return uint64(k.headerUint32(hdrInitrdAddrMax))
}

// headerUint32 reads a field of the setup header by its offset in the file.
func (k *Kernel) headerUint32(offset int) uint32 {
	return binary.LittleEndian.Uint32(k.header[offset-hdrStart:])
}

// readFull fills p from r at off. A file that ends first is a truncated image; anything else is the host's failure.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return refuse(ErrTruncated, "%d bytes are missing at offset %d; fetch or build the image again", len(p)-n, off+int64(n))
	default:
		return err
	}
}
