package boot

import (
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	xzembedded "github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"
)

const (
	// trustedRatio is how many unpacked bytes per packed byte are allocated on the word of the recorded size alone. A kernel
	// packs to between a half and a tenth. What claims to be packed tighter gets memory as its data appears.
	trustedRatio = 16

	// growBytes is the first allocation for a payload that is not believed.
	growBytes = 1 << 20

	// dictionaryMaxBytes bounds the history that xz, lzma and zstd may ask for. Kernels are packed with 32 MiB (xz), 64 MiB
	// (lzma -9) and 128 MiB (zstd -22). Only zstd needs no copy of it: its history is the output itself.
	dictionaryMaxBytes     = 64 << 20
	zstdDictionaryMaxBytes = 128 << 20

	// sizeTrailerBytes is the length of the unpacked size, a little-endian 32-bit number, that the kernel's build appends to
	// the packed kernel (scripts/Makefile.lib, size_append). A gzip file ends in the same number by its own format.
	sizeTrailerBytes = 4
)

// A packing is one way in which a kernel may be compressed (lib/decompress.c has the same table). decode unpacks body, which
// is the payload without the size trailer, to exactly size bytes.
type packing struct {
	name   string
	magic  string
	decode func(body []byte, size int) ([]byte, error)
}

var packings = []packing{
	{"gzip", "\x1f\x8b", decodeGzip},
	{"bzip2", "BZh", decodeBzip2},
	{"lzma", "\x5d\x00\x00", decodeLzma},
	{"xz", "\xfd7zXZ\x00", decodeXz},
	{"lz4", "\x02\x21\x4c\x18", decodeLz4},
	{"zstd", "\x28\xb5\x2f\xfd", decodeZstd},
	{"lzo", "\x89LZO", nil},
}

// unpack recognises the payload's packing and returns the unpacked kernel and the packing's name.
func unpack(payload []byte) ([]byte, string, error) {
	for _, p := range packings {
		if !bytes.HasPrefix(payload, []byte(p.magic)) {
			continue
		}
		if p.decode == nil {
			return nil, "", refuse(ErrCompression, "%s; give a kernel packed with gzip, bzip2, lzma, xz, lz4 or zstd", p.name)
		}
		unpacked, err := p.unpack(payload)
		return unpacked, p.name, err
	}
	return nil, "", refuse(ErrCompression, "its payload starts with % x; give a kernel packed with gzip, bzip2, lzma, xz, lz4 or zstd",
		payload[:min(len(payload), 6)])
}

func (p packing) unpack(payload []byte) ([]byte, error) {
	if len(payload) < sizeTrailerBytes {
		return nil, refuse(ErrCorrupt, "a payload of %d bytes; fetch or build it again", len(payload))
	}
	body := payload[:len(payload)-sizeTrailerBytes]
	size := binary.LittleEndian.Uint32(payload[len(body):])
	if size > maxUnpackedBytes {
		return nil, refuse(ErrTooBig, "its %s payload claims to unpack to %s, more than the limit of %s",
			p.name, mebibytes(uint64(size)), mebibytes(maxUnpackedBytes))
	}
	unpacked, err := p.decode(body, int(size))
	if err != nil {
		return nil, refuse(ErrCorrupt, "its %s payload does not unpack (%v); fetch or build it again", p.name, err)
	}
	return unpacked, nil
}

var (
	errLonger  = errors.New("there is more data than the recorded size")
	errShorter = errors.New("there is less data than the recorded size")
)

// firstCapacity is how much to allocate before any data has been seen.
func firstCapacity(body []byte, size int) int {
	return min(size, max(len(body)*trustedRatio, growBytes))
}

// readExactly reads size bytes and then the end of the data from r. Its buffer grows with the data.
func readExactly(r io.Reader, body []byte, size int) ([]byte, error) {
	out := make([]byte, 0, firstCapacity(body, size))
	for len(out) < size {
		if len(out) == cap(out) {
			grown := make([]byte, len(out), min(size, 2*cap(out)))
			copy(grown, out)
			out = grown
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if errors.Is(err, io.EOF) && len(out) < size {
			return nil, errShorter
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	// The decoders check their checksums when they meet the end.
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return nil, errLonger
	case errors.Is(err, io.EOF):
		return out, nil
	default:
		return nil, err
	}
}

// decodeGzip reads RFC 1952. The size trailer is part of the gzip file, so body's end is 4 bytes short of it.
func decodeGzip(body []byte, size int) ([]byte, error) {
	whole := body[:len(body)+sizeTrailerBytes]
	r, err := gzip.NewReader(bytes.NewReader(whole))
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return readExactly(r, body, size)
}

func decodeBzip2(body []byte, size int) ([]byte, error) {
	return readExactly(bzip2.NewReader(bytes.NewReader(body)), body, size)
}

// lzmaHeaderBytes: properties (1 byte), dictionary size (4), unpacked size (8), of the .lzma format that LZMA Utils define.
const lzmaHeaderBytes = 13

// decodeLzma reads the .lzma format. The dictionary never needs to be larger than what is unpacked, so its size is taken from
// the header only as far as both that and dictionaryMaxBytes allow.
func decodeLzma(body []byte, size int) ([]byte, error) {
	if len(body) < lzmaHeaderBytes {
		return nil, io.ErrUnexpectedEOF
	}
	header := bytes.Clone(body[:lzmaHeaderBytes])
	dictionary := min(binary.LittleEndian.Uint32(header[1:]), dictionaryMaxBytes, max(uint32(size), lzma.MinDictCap))
	binary.LittleEndian.PutUint32(header[1:], dictionary)
	r, err := lzma.ReaderConfig{DictCap: int(dictionary)}.NewReader(
		io.MultiReader(bytes.NewReader(header), bytes.NewReader(body[lzmaHeaderBytes:])))
	if err != nil {
		return nil, err
	}
	return readExactly(r, body, size)
}

// decodeXz reads one .xz stream. Kernels are packed with the x86 BCJ filter before LZMA2 (scripts/xz_wrap.sh) and CRC32. Go's
// usual xz library knows no BCJ; this one is XZ Embedded, the very decoder the kernel unpacks itself with, turned into Go.
func decodeXz(body []byte, size int) ([]byte, error) {
	r, err := xzembedded.NewReader(bytes.NewReader(body), dictionaryMaxBytes)
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return readExactly(r, body, size)
}

// decodeZstd decodes straight into the result. A frame that does not fit what was allocated at first is tried again with more
// room, up to the recorded size.
func decodeZstd(body []byte, size int) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdDictionaryMaxBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for capacity := firstCapacity(body, size); ; capacity = min(size, capacity*4) {
		out, err := d.DecodeAll(body, make([]byte, 0, capacity))
		switch {
		case errors.Is(err, zstd.ErrDecoderSizeExceeded) && capacity < size:
			continue
		case err != nil:
			return nil, err
		case len(out) < size:
			return nil, errShorter
		}
		return out, nil
	}
}

// Legacy LZ4 frames (lz4_Frame_format.md, "Legacy frame"): a magic number, then blocks of a 4-byte packed length and data.
// Each block but the last unpacks to lz4BlockBytes, and none refers to another.
const (
	lz4Magic      = 0x184c2102
	lz4BlockBytes = 8 << 20
)

// decodeLz4 unpacks block by block straight into the result. The library's own frame reader would take the size trailer for
// another block and would copy everything once more.
func decodeLz4(body []byte, size int) ([]byte, error) {
	out := make([]byte, 0, firstCapacity(body, size))
	for len(body) > 0 {
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		packed := binary.LittleEndian.Uint32(body)
		body = body[4:]
		if packed == lz4Magic {
			continue
		}
		if uint64(packed) > uint64(len(body)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = appendLz4Block(out, body[:packed], size); err != nil {
			return nil, err
		}
		body = body[packed:]
	}
	if len(out) < size {
		return nil, errShorter
	}
	return out, nil
}

// appendLz4Block unpacks one block behind out. One packed byte of LZ4 stands for at most 255 unpacked ones, so room is made
// for no more than that.
func appendLz4Block(out, block []byte, size int) ([]byte, error) {
	room := min(size-len(out), lz4BlockBytes, 255*len(block))
	if cap(out)-len(out) < room {
		grown := make([]byte, len(out), min(size, max(2*cap(out), len(out)+room)))
		copy(grown, out)
		out = grown
	}
	n, err := lz4.UncompressBlock(block, out[len(out):len(out)+room])
	if err != nil {
		return nil, err
	}
	return out[:len(out)+n], nil
}
