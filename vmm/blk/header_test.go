package blk

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

func fixChecksum(p []byte) {
	binary.LittleEndian.PutUint32(p[checksumAt:], crc32.Checksum(p[:checksumAt], castagnoli))
}

func TestImpossibleHeaders(t *testing.T) {
	tests := []struct {
		name   string
		damage func(p []byte)
	}{
		{"size 0", func(p []byte) { clear(p[16:24]) }},
		{"odd size", func(p []byte) { p[16]++ }},
		{"huge size", func(p []byte) { p[23] = 0x7f }},
		{"map sectors", func(p []byte) { p[24]++ }},
		{"data offset", func(p []byte) { p[33]++ }},
		{"cluster size", func(p []byte) { p[13]++ }},
		{"no path", func(p []byte) { clear(p[72:76]) }},
		{"path too long", func(p []byte) { p[73] = 0xff }},
		{"bytes behind the path", func(p []byte) { p[2000] = 1 }},
		{"reserved bytes", func(p []byte) { p[reservedAt] = 1 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := header{size: 1 << 20, base: "/base"}
			p, err := h.encode()
			if err != nil {
				t.Fatal(err)
			}
			test.damage(p)
			fixChecksum(p)
			if _, err := decodeHeader(p); err == nil || !strings.Contains(err.Error(), "damaged") && test.name != "cluster size" {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := (&header{size: 512, base: strings.Repeat("x", maxPath+1)}).encode(); err == nil {
		t.Error("a path that does not fit was encoded")
	}
}
