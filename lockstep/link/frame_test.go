package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	payloads := [][]byte{nil, {1}, bytes.Repeat([]byte("x"), 3000), {}}
	var stream []byte
	for i, p := range payloads {
		stream = appendFrame(stream, uint8(i+1), uint64(i+1), p)
	}
	r := frameReader{r: bytes.NewReader(stream), maxPayload: 3000}
	for i, want := range payloads {
		kind, got, err := r.next()
		if err != nil || kind != uint8(i+1) || !bytes.Equal(got, want) {
			t.Fatalf("frame %d: kind %d, %d bytes, %v", i, kind, len(got), err)
		}
	}
	if _, _, err := r.next(); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	good := appendFrame(nil, 7, 1, []byte("payload"))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] ^= to
		return b
	}
	long := appendFrame(nil, 7, 1, nil)
	binary.LittleEndian.PutUint32(long, 0xffff_ffff)
	tests := []struct {
		name   string
		stream []byte
		want   error
	}{
		{"kind", change(4, 1), ErrMalformed},
		{"reserved byte", change(6, 1), ErrMalformed},
		{"sequence", change(8, 1), ErrMalformed},
		{"repeated", append(bytes.Clone(good), good...), ErrMalformed},
		{"checksum", change(16, 1), ErrMalformed},
		{"payload", change(headerSize, 1), ErrMalformed},
		{"over the bound", appendFrame(nil, 7, 1, make([]byte, 101)), ErrOversize},
		{"as long as can be said", long, ErrOversize},
		{"torn header", good[:10], io.ErrUnexpectedEOF},
		{"torn payload", good[:headerSize+1], io.ErrUnexpectedEOF},
		{"header alone", good[:headerSize], io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := frameReader{r: bytes.NewReader(tt.stream), maxPayload: 100}
			_, _, err := r.next()
			if err == nil {
				_, _, err = r.next()
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if cap(r.payload) > 100 {
				t.Errorf("%d bytes were allocated", cap(r.payload))
			}
		})
	}
}

// FuzzFrames: whatever the stream, each frame taken is one that was written so, and memory stays within the bound.
func FuzzFrames(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, 1, 1, []byte("first")), 2, 2, nil))
	f.Add(appendFrame(nil, 9, 2, []byte("gap")))
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, stream []byte) {
		const bound = 512
		r := frameReader{r: bytes.NewReader(stream), maxPayload: bound}
		var again []byte
		for {
			kind, payload, err := r.next()
			if err != nil {
				break
			}
			again = appendFrame(again, kind, r.sequence, payload)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Errorf("frames taken make % x", again)
		}
		if cap(r.payload) > bound {
			t.Errorf("allocated %d bytes", cap(r.payload))
		}
	})
}
