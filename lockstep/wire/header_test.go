package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func headerBytes(t testing.TB, configuration string) []byte {
	t.Helper()
	h := Header{Fingerprint: FingerprintOf(Part{"cpuid", []byte{1}}), Configuration: []byte(configuration)}
	p, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHeaderSurvivesTheRoundTrip(t *testing.T) {
	p := headerBytes(t, `{"ram":1}`)
	h, n, err := ReadHeader(bytes.NewReader(append(p, "rest"...)))
	if err != nil || n != int64(len(p)) || string(h.Configuration) != `{"ram":1}` || h.Fingerprint != FingerprintOf(Part{"cpuid", []byte{1}}) {
		t.Fatalf("%+v, %d, %v", h, n, err)
	}
}

func TestHeaderRefuses(t *testing.T) {
	le := binary.LittleEndian
	table := []struct {
		name   string
		damage func(p []byte) []byte
		want   string
	}{
		{"empty", func(p []byte) []byte { return nil }, "not a Tandem log"},
		{"other file", func(p []byte) []byte { return []byte("\x7fELF and more than eight bytes") }, "not a Tandem log"},
		{"short", func(p []byte) []byte { return p[:30] }, "ends inside its header"},
		{"short configuration", func(p []byte) []byte { return p[:len(p)-1] }, "ends inside its header"},
		{"version", func(p []byte) []byte { p[8] = 2; return p }, "version 2, this program reads version 1"},
		{"long configuration", func(p []byte) []byte { le.PutUint32(p[12:], MaxConfiguration+1); return p }, "at most 1048576"},
		{"flags", func(p []byte) []byte { p[10] = 1; return p }, "checksum"},
		{"fingerprint", func(p []byte) []byte { p[16] ^= 1; return p }, "checksum"},
		{"configuration", func(p []byte) []byte { p[65] ^= 1; return p }, "checksum"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := ReadHeader(bytes.NewReader(c.damage(headerBytes(t, `{"ram":1}`))))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, _, err := ReadHeader(bytes.NewReader(nil)); !errors.Is(err, ErrNoLog) {
		t.Errorf("an empty file: %v", err)
	}
	big := Header{Configuration: make([]byte, MaxConfiguration+1)}
	if _, err := big.Append(nil); err == nil {
		t.Error("a configuration that is too long was written")
	}
}

func TestFingerprintTellsPartsApart(t *testing.T) {
	seen := map[Fingerprint]string{}
	for name, parts := range map[string][]Part{
		"none":       nil,
		"ab, c":      {{"ab", []byte("c")}},
		"a, bc":      {{"a", []byte("bc")}},
		"two":        {{"a", []byte("b")}, {"c", nil}},
		"two turned": {{"c", nil}, {"a", []byte("b")}},
	} {
		f := FingerprintOf(parts...)
		if other, ok := seen[f]; ok {
			t.Errorf("%q and %q have the same fingerprint", name, other)
		}
		seen[f] = name
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(headerBytes(f, `{}`))
	f.Add(headerBytes(f, ``)[:40])
	f.Fuzz(func(t *testing.T, p []byte) {
		h, n, err := ReadHeader(bytes.NewReader(p))
		if err != nil {
			return
		}
		again, err := h.Append(nil)
		if err != nil || !bytes.Equal(again, p[:n]) {
			t.Errorf("a header of %d bytes was read and is written otherwise: %v", n, err)
		}
	})
}
