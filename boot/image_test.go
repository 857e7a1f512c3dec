package boot

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// testPackings are the packings of which testdata/kernel has an example, made by the compressors that the kernel's build uses.
var testPackings = []string{"gzip", "bzip2", "lzma", "xz", "lz4", "zstd"}

// readTestdata returns a file of testdata/kernel; see make.sh there.
func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "kernel", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bzImageOf wraps a payload as the kernel's build does: boot sector, one sector of setup code, and the payload some way into
// the protected-mode code. edit may change the image afterwards.
func bzImageOf(payload []byte, edit ...func(image []byte)) []byte {
	const setupSects, payloadOffset = 1, 0x40
	start := (1+setupSects)*sectorBytes + payloadOffset
	image := make([]byte, start, start+len(payload)+8)
	le := binary.LittleEndian
	image[hdrSetupSects] = setupSects
	le.PutUint16(image[hdrBootFlag:], bootFlagValue)
	image[hdrJump], image[hdrJump+1] = 0xeb, 0x6a
	copy(image[hdrMagic:], headerMagic)
	le.PutUint16(image[hdrVersion:], 0x020f)
	image[hdrLoadflags] = loadflagLoadedHigh
	le.PutUint32(image[hdrInitrdAddrMax:], 0x7fffffff)
	le.PutUint16(image[hdrXloadflags:], xloadflagKernel64)
	le.PutUint32(image[hdrCmdlineSize:], 2047)
	le.PutUint32(image[hdrPayloadOffset:], payloadOffset)
	le.PutUint32(image[hdrPayloadLength:], uint32(len(payload)))
	le.PutUint64(image[hdrPrefAddress:], 0x1000000)
	image = append(image, payload...)
	image = append(image, "checksum"...) // what follows the payload must not matter
	for _, e := range edit {
		e(image)
	}
	return image
}

// put16 and put32 are edits of a bzImage or an ELF file.
func put16(offset int, v uint16) func([]byte) {
	return func(image []byte) { binary.LittleEndian.PutUint16(image[offset:], v) }
}

func put32(offset int, v uint32) func([]byte) {
	return func(image []byte) { binary.LittleEndian.PutUint32(image[offset:], v) }
}

func put64(offset int, v uint64) func([]byte) {
	return func(image []byte) { binary.LittleEndian.PutUint64(image[offset:], v) }
}

// edited returns a changed copy.
func edited(image []byte, edit ...func([]byte)) []byte {
	c := append([]byte(nil), image...)
	for _, e := range edit {
		e(c)
	}
	return c
}

// testMemory is a guest's RAM that keeps only the pages written, and refuses what lies outside Layout.
type testMemory struct {
	size  uint64
	pages map[uint64]*[pageBytes]byte
}

func newTestMemory(size uint64) *testMemory {
	return &testMemory{size: size, pages: map[uint64]*[pageBytes]byte{}}
}

func (m *testMemory) Size() uint64 { return m.size }

func (m *testMemory) WriteAt(p []byte, gpa uint64) error {
	if !m.contains(gpa, uint64(len(p))) {
		return fmt.Errorf("%d bytes at %#x are not RAM", len(p), gpa)
	}
	for len(p) > 0 {
		page := m.pages[gpa/pageBytes]
		if page == nil {
			page = new([pageBytes]byte)
			m.pages[gpa/pageBytes] = page
		}
		n := copy(page[gpa%pageBytes:], p)
		p, gpa = p[n:], gpa+uint64(n)
	}
	return nil
}

func (m *testMemory) contains(gpa, n uint64) bool {
	for _, r := range Layout(m.size) {
		if gpa >= r.Start && n <= r.Size && gpa-r.Start <= r.Size-n {
			return true
		}
	}
	return false
}

// read returns n bytes at gpa; pages never written are zero.
func (m *testMemory) read(gpa uint64, n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		page := m.pages[gpa/pageBytes]
		if page == nil {
			page = new([pageBytes]byte)
		}
		part := page[gpa%pageBytes:]
		part = part[:min(len(part), n-len(out))]
		out = append(out, part...)
		gpa += uint64(len(part))
	}
	return out
}

func (m *testMemory) uint64At(gpa uint64) uint64 { return binary.LittleEndian.Uint64(m.read(gpa, 8)) }

func (m *testMemory) uint32At(gpa uint64) uint32 { return binary.LittleEndian.Uint32(m.read(gpa, 4)) }
