package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// ticks returns a batch of n ticks, one exit apart.
func ticks(base Base, n int) Batch {
	e := NewEncoder(base)
	b := Batch{Base: base, Records: n}
	for i := range n {
		b.Position = base.Position + uint64(i) + 1
		b.Bytes = e.Append(b.Bytes, &Record{Kind: KindTick, Position: b.Position})
	}
	return b
}

func frameBytes(t testing.TB, compress bool, batches ...Batch) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewFrameWriter(&out, compress)
	for _, b := range batches {
		before := out.Len()
		n, err := w.Write(b)
		if err != nil || n != out.Len()-before {
			t.Fatalf("wrote %d of %d bytes: %v", n, out.Len()-before, err)
		}
	}
	return out.Bytes()
}

func TestFramesSurviveTheRoundTrip(t *testing.T) {
	first := ticks(Base{Sequence: 1, Position: 7, Time: 9}, 3)
	second := ticks(Base{Sequence: 4, Position: 10, Time: 9}, 5000)
	for _, compress := range []bool{false, true} {
		stored := frameBytes(t, compress, first, second)
		if small := len(stored) < 1000; small != compress {
			t.Errorf("compress %v: %d bytes", compress, len(stored))
		}
		r := NewFrameReader(bytes.NewReader(stored))
		total := int64(0)
		for _, want := range []Batch{first, second} {
			got, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			total += got.Stored
			if got.Base != want.Base || got.Records != want.Records || !bytes.Equal(got.Body, want.Bytes) {
				t.Errorf("compress %v: got %+v, %d records", compress, got.Base, got.Records)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("behind the last frame: %v", err)
		}
		if total != int64(len(stored)) {
			t.Errorf("frames took %d bytes of %d", total, len(stored))
		}
	}
}

func TestFrameReaderRefuses(t *testing.T) {
	good := frameBytes(t, false, ticks(Base{Sequence: 1}, 3))
	le := binary.LittleEndian
	table := []struct {
		name   string
		damage func(p []byte) []byte
		want   string
	}{
		{"zeros", func(p []byte) []byte { return make([]byte, 4096) }, "no frame begins here"},
		{"flags", func(p []byte) []byte { p[2] = 2; return p }, "reserved bits"},
		{"reserved byte", func(p []byte) []byte { p[3] = 1; return p }, "reserved bits"},
		{"no body", func(p []byte) []byte { le.PutUint32(p[4:], 0); return p }, "a frame of 0 bytes"},
		{"huge body", func(p []byte) []byte { le.PutUint32(p[4:], MaxFrame+1); return p }, "a frame of 8388609 bytes"},
		{"sequence 0", func(p []byte) []byte { le.PutUint64(p[8:], 0); return p }, "sequence number 0"},
		{"last sequence", func(p []byte) []byte { le.PutUint64(p[8:], math.MaxUint64); return p }, "sequence number"},
		{"negative time", func(p []byte) []byte { p[31] = 0x80; return p }, "negative"},
		{"no records", func(p []byte) []byte { le.PutUint32(p[32:], 0); return p }, "0 records"},
		{"more records than bytes", func(p []byte) []byte { le.PutUint32(p[32:], 4); return p }, "4 records in 3 bytes"},
		{"flipped bit in body", func(p []byte) []byte { p[41] ^= 4; return p }, "checksum"},
		{"flipped bit in header", func(p []byte) []byte { p[17] ^= 4; return p }, "checksum"},
		{"torn header", func(p []byte) []byte { return p[:20] }, "unexpected EOF"},
		{"torn body", func(p []byte) []byte { return p[:41] }, "unexpected EOF"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewFrameReader(bytes.NewReader(c.damage(bytes.Clone(good)))).Next()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if torn := strings.HasPrefix(c.name, "torn"); torn != errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v: torn is %v", err, torn)
			}
		})
	}
}

// resealed gives a frame the right checksum again after its header was changed.
func resealed(p []byte) []byte {
	h, _ := parseFrameHeader(p)
	base := Base{Sequence: h.base.Sequence, Position: h.base.Position, Time: h.base.Time}
	return append(appendFrameHeader(nil, p[2], base, h.records, p[frameHeaderSize:]), p[frameHeaderSize:]...)
}

func TestCompressedFrameThatLies(t *testing.T) {
	z := newCompressor()
	huge := z.EncodeAll(make([]byte, MaxFrame+1), nil)
	for name, body := range map[string][]byte{
		"a bomb":        huge,
		"no zstd":       []byte("not compressed at all"),
		"cut off":       z.EncodeAll(bytes.Repeat([]byte("abcdefgh"), 100), nil)[:20],
		"trailing byte": append(z.EncodeAll(make([]byte, 100), nil), 0),
	} {
		t.Run(name, func(t *testing.T) {
			p := append(appendFrameHeader(nil, frameCompressed, Base{Sequence: 1}, 1, body), body...)
			if f, err := NewFrameReader(bytes.NewReader(p)).Next(); err == nil {
				t.Errorf("was read as %d bytes", len(f.Body))
			}
		})
	}
	few := z.EncodeAll(make([]byte, 3), nil)
	p := append(appendFrameHeader(nil, frameCompressed, Base{Sequence: 1}, 4, few), few...)
	if _, err := NewFrameReader(bytes.NewReader(p)).Next(); err == nil || !strings.Contains(err.Error(), "4 records in 3 bytes") {
		t.Errorf("4 records in 3 bytes: %v", err)
	}
}

// endless gives its bytes and then nothing more, and counts how much is asked for at a time.
type endless struct {
	data    []byte
	largest int
}

func (e *endless) Read(p []byte) (int, error) {
	e.largest = max(e.largest, len(p))
	n := copy(p, e.data)
	e.data = e.data[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestLengthAloneAllocatesLittle(t *testing.T) {
	p := frameBytes(t, false, ticks(Base{Sequence: 1}, 3))
	binary.LittleEndian.PutUint32(p[4:], MaxFrame)
	src := &endless{data: p}
	if _, err := NewFrameReader(src).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if src.largest > readStep {
		t.Errorf("%d bytes were made room for before they came", src.largest)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frameBytes(f, false, ticks(Base{Sequence: 1}, 3)))
	f.Add(frameBytes(f, true, ticks(Base{Sequence: 1}, 3000)))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > frameHeaderSize {
			p = resealed(p) // else no fuzzer would get past the checksum
		}
		r := NewFrameReader(bytes.NewReader(p))
		var d Decoder
		for {
			frame, err := r.Next()
			if err != nil {
				return
			}
			if len(frame.Body) > MaxFrame || frame.Records > len(frame.Body) {
				t.Fatalf("a frame of %d records in %d bytes", frame.Records, len(frame.Body))
			}
			d.Reset(frame.Body, frame.Base)
			var rec Record
			for d.Next(&rec) == nil {
			}
		}
	})
}
