package sums

import (
	"bytes"
	"testing"
)

func TestSumsNameContents(t *testing.T) {
	a, b := NewHasher(Key{1}), NewHasher(Key{2})
	piece := bytes.Repeat([]byte("piece"), 1000)
	first := a.Of(piece)
	if a.Of(piece) != first || NewHasher(Key{1}).Of(piece) != first {
		t.Error("the same piece has another sum")
	}
	if b.Of(piece) == first {
		t.Error("the key makes no difference")
	}
	for i := range piece {
		piece[i] ^= 0x80
		if a.Of(piece) == first {
			t.Fatalf("with another byte %d the sum is the same", i)
		}
		piece[i] ^= 0x80
	}
	if a.Of(nil) == a.Of([]byte{0}) || a.Of(piece[:4096]) == first {
		t.Error("the length makes no difference")
	}
	if NewKey() == NewKey() {
		t.Error("two keys by chance are equal")
	}
}

func BenchmarkPage(b *testing.B) {
	h, page := NewHasher(NewKey()), make([]byte, 4096)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		h.Of(page)
	}
}
