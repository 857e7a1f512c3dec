package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// compressionWindow bounds how far back the compressor looks, and with it what both sides hold.
const compressionWindow = 512 << 10

// newCompressor returns a compressor for EncodeAll. Our own checksums stand around the bodies, so zstd's is left out. A
// single segment always says its size.
func newCompressor() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(compressionWindow), zstd.WithAllLitEntropyCompression(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(fmt.Sprintf("wire: options of the compressor: %v", err))
	}
	return e
}

// newDecompressor returns a decompressor for bodies of at most so many bytes.
func newDecompressor(most int) *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(uint64(most)), zstd.WithDecoderMaxWindow(MaxFrame))
	if err != nil {
		panic(fmt.Sprintf("wire: options of the decompressor: %v", err))
	}
	return d
}

// errNoSize says that a compressed body does not tell its size, as ours do.
var errNoSize = malformed("a compressed body does not say how long it is")

// decompress expands body into buf[:0]. A body says in its header how long it becomes; that is compared with most first.
func decompress(d *zstd.Decoder, buf, body []byte, most int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return buf[:0], malformed("a compressed body: %v", err)
	}
	if h.Skippable || !h.HasFCS {
		return buf[:0], errNoSize
	}
	if h.FrameContentSize > uint64(most) {
		return buf[:0], malformed("a compressed body of %d bytes, at most %d allowed", h.FrameContentSize, most)
	}
	out, err := d.DecodeAll(body, buf[:0])
	if err != nil {
		return buf[:0], malformed("a compressed body: %v", err)
	}
	if uint64(len(out)) != h.FrameContentSize {
		return out, malformed("a compressed body of %d bytes that says %d", len(out), h.FrameContentSize)
	}
	return out, nil
}
