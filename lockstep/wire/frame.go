package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// Layout of a frame's header: see the package comment.
const (
	frameMarker     = 0x54f7
	frameHeaderSize = 40
	frameCompressed = 1 << 0
)

// MaxFrame bounds a frame's body, as stored and as meant: a whole batch fits.
const MaxFrame = 8 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameHeader is what stands before a frame's body.
type frameHeader struct {
	flags    byte
	length   uint32
	base     Base
	records  uint32
	checksum uint32
}

// appendFrameHeader appends the header of a frame with the given stored body.
func appendFrameHeader(dst []byte, flags byte, base Base, records uint32, body []byte) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = le.AppendUint16(dst, frameMarker)
	dst = append(dst, flags, 0)
	dst = le.AppendUint32(dst, uint32(len(body)))
	dst = le.AppendUint64(dst, base.Sequence)
	dst = le.AppendUint64(dst, base.Position)
	dst = le.AppendUint64(dst, uint64(base.Time))
	dst = le.AppendUint32(dst, records)
	sum := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, body)
	return le.AppendUint32(dst, sum)
}

// parseFrameHeader reads a header of frameHeaderSize bytes and checks everything but the checksum.
func parseFrameHeader(p []byte) (frameHeader, error) {
	le := binary.LittleEndian
	h := frameHeader{
		flags:    p[2],
		length:   le.Uint32(p[4:]),
		base:     Base{Sequence: le.Uint64(p[8:]), Position: le.Uint64(p[16:]), Time: int64(le.Uint64(p[24:]))},
		records:  le.Uint32(p[32:]),
		checksum: le.Uint32(p[36:]),
	}
	switch {
	case le.Uint16(p) != frameMarker:
		return h, malformed("no frame begins here (its marker would be %#04x, here is %#04x)", uint16(frameMarker), le.Uint16(p))
	case h.flags&^frameCompressed != 0 || p[3] != 0:
		return h, malformed("reserved bits of a frame are set (%#x, %#x)", h.flags, p[3])
	case h.length == 0 || h.length > MaxFrame:
		return h, malformed("a frame of %d bytes, 1 to %d allowed", h.length, MaxFrame)
	case h.base.Sequence == 0 || h.base.Sequence > math.MaxUint64-uint64(h.records):
		return h, malformed("a frame of %d records from sequence number %d", h.records, h.base.Sequence)
	case h.base.Time < 0:
		return h, malformed("a frame whose time base is negative (%d)", h.base.Time)
	case h.records == 0 || !(h.flags&frameCompressed != 0) && h.records > h.length:
		return h, malformed("a frame of %d records in %d bytes", h.records, h.length)
	}
	return h, nil
}

// FrameWriter writes batches as frames.
type FrameWriter struct {
	w          io.Writer
	head       []byte
	compressor *zstd.Encoder // nil: never compress
	compressed []byte
}

const (
	// worthCompressing is the size in bytes from which a body is tried.
	worthCompressing = 1 << 10
	// oneWrite is the size in bytes up to which a body is copied behind its header, so that both go out together.
	oneWrite = 64 << 10
)

// NewFrameWriter returns a writer of frames to w. With compress, a body is stored compressed where that is smaller.
func NewFrameWriter(w io.Writer, compress bool) *FrameWriter {
	f := &FrameWriter{w: w}
	if compress {
		f.compressor = newCompressor()
	}
	return f
}

// Write writes one frame and returns how many bytes it took. After an error an unknown part of it is written.
func (f *FrameWriter) Write(b Batch) (int, error) {
	if len(b.Bytes) == 0 || len(b.Bytes) > MaxFrame || b.Records == 0 {
		panic(fmt.Sprintf("wire: a batch of %d records in %d bytes", b.Records, len(b.Bytes)))
	}
	flags, body := byte(0), b.Bytes
	if f.compressor != nil && len(body) >= worthCompressing {
		f.compressed = f.compressor.EncodeAll(body, f.compressed[:0])
		if len(f.compressed) < len(body) {
			flags, body = frameCompressed, f.compressed
		}
	}
	f.head = appendFrameHeader(f.head[:0], flags, b.Base, uint32(b.Records), body)
	if len(body) <= oneWrite {
		f.head = append(f.head, body...)
		return f.w.Write(f.head)
	}
	n, err := f.w.Write(f.head)
	if err != nil {
		return n, err
	}
	m, err := f.w.Write(body)
	return n + m, err
}

// Frame is a frame that has been read.
type Frame struct {
	Base    Base
	Records int
	// Body is the records' bytes; it is valid until the next frame is read.
	Body []byte
	// Stored is how many bytes the frame took, with its header.
	Stored int64
}

// FrameReader reads frames. It holds at most one frame, as stored and as meant.
type FrameReader struct {
	r        io.Reader
	head     [frameHeaderSize]byte
	body     []byte
	expanded []byte
	zstd     *zstd.Decoder // made for the first compressed frame
}

// NewFrameReader returns a reader of frames from r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Next reads a frame. It returns io.EOF if there is no further byte, an error that is io.ErrUnexpectedEOF if the bytes end
// inside the frame, a [*FormatError] for bytes that are no frame, and the source's own error if it fails. The records are
// not looked at.
func (f *FrameReader) Next() (Frame, error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		return Frame{}, err
	}
	h, err := parseFrameHeader(f.head[:])
	if err != nil {
		return Frame{}, err
	}
	f.body, err = readExactly(f.r, f.body, int(h.length))
	if err != nil {
		return Frame{}, err
	}
	sum := crc32.Update(crc32.Checksum(f.head[:frameHeaderSize-4], castagnoli), castagnoli, f.body)
	if sum != h.checksum {
		return Frame{}, malformed("a frame's checksum is %08x, its bytes have %08x", h.checksum, sum)
	}
	frame := Frame{Base: h.base, Records: int(h.records), Body: f.body, Stored: frameHeaderSize + int64(h.length)}
	if h.flags&frameCompressed == 0 {
		return frame, nil
	}
	if f.zstd == nil {
		f.zstd = newDecompressor(MaxFrame)
	}
	f.expanded, err = decompress(f.zstd, f.expanded, f.body, MaxFrame)
	if err != nil {
		return Frame{}, err
	}
	frame.Body = f.expanded
	if frame.Records > len(frame.Body) {
		return Frame{}, malformed("a frame of %d records in %d bytes", frame.Records, len(frame.Body))
	}
	return frame, nil
}

// readStep is how much is allocated before the bytes for it have come: a length alone makes nobody allocate more.
const readStep = 256 << 10

// readExactly reads n bytes into buf, which it grows as they come.
func readExactly(r io.Reader, buf []byte, n int) ([]byte, error) {
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), max(readStep, cap(buf)-len(buf)))
		start := len(buf)
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return buf[:start], err
		}
	}
	return buf, nil
}
