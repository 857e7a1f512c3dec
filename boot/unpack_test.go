package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// withSize appends the unpacked size as the kernel's build does.
func withSize(packed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(packed), uint32(size))
}

// lz4Payload packs data into a legacy LZ4 frame.
func lz4Payload(data []byte) []byte {
	frame := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), lz4BlockBytes)
		block := make([]byte, lz4.CompressBlockBound(n))
		size, err := lz4.CompressBlock(rest[:n], block, nil)
		if err != nil {
			panic(err)
		}
		frame = binary.LittleEndian.AppendUint32(frame, uint32(size))
		frame = append(frame, block[:size]...)
		rest = rest[n:]
	}
	return withSize(frame, len(data))
}

func gzipPayload(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func zstdPayload(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return withSize(w.EncodeAll(data, nil), len(data))
}

// Data larger than an LZ4 block, and so compressible that it outgrows what is allocated at first.
func TestUnpackLarge(t *testing.T) {
	data := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog "), 500_000) // 22 MB
	for name, payload := range map[string][]byte{"lz4": lz4Payload(data), "gzip": gzipPayload(data), "zstd": zstdPayload(data)} {
		t.Run(name, func(t *testing.T) {
			got, packing, err := unpack(payload)
			if err != nil {
				t.Fatal(err)
			}
			if packing != name || !bytes.Equal(got, data) {
				t.Errorf("%s: got %d bytes that differ from the %d packed", packing, len(got), len(data))
			}
		})
	}
}

// A payload that claims the largest size allowed and holds next to nothing must not cost that much memory.
func TestUnpackAllocatesInProportion(t *testing.T) {
	// What the libraries may take for their tables and dictionaries, at most the dictionary of xz.
	const limit = dictionaryMaxBytes + 16<<20
	for _, name := range testPackings {
		t.Run(name, func(t *testing.T) {
			payload := edited(readTestdata(t, "tiny."+name))
			binary.LittleEndian.PutUint32(payload[len(payload)-4:], maxUnpackedBytes)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, _, err := unpack(payload)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want %q", err, ErrCorrupt)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > limit {
				t.Errorf("allocated %d bytes for a payload of %d, limit %d", took, len(payload), limit)
			}
		})
	}
}

// A dictionary size in the header is a claim too.
func TestUnpackDictionaryBomb(t *testing.T) {
	payload := edited(readTestdata(t, "tiny.lzma"), put32(1, 0xffff0000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := unpack(payload); err != nil {
		t.Errorf("a dictionary larger than needed: %v", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
		t.Errorf("allocated %d bytes", took)
	}
}

// Each decoder is fuzzed by itself, so that mutations are not spent on the magic number that selects it.
func FuzzUnpack(f *testing.F) {
	for i, p := range packings {
		if p.decode != nil {
			f.Add(uint8(i), readTestdata(f, "tiny."+p.name))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, payload []byte) {
		p := packings[int(which)%len(packings)]
		if p.decode == nil || len(payload) < sizeTrailerBytes {
			return
		}
		// Keep the recorded size small enough to be unpacked thousands of times a second.
		payload = edited(payload, func(b []byte) { b[len(b)-1], b[len(b)-2] = 0, b[len(b)-2]&0x3f })
		unpacked, err := p.unpack(payload)
		if err != nil {
			return
		}
		if size := binary.LittleEndian.Uint32(payload[len(payload)-4:]); len(unpacked) != int(size) {
			t.Errorf("%s: %d bytes, recorded %d", p.name, len(unpacked), size)
		}
	})
}
