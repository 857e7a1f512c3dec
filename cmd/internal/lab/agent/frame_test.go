package agent

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	tests := []struct {
		name string
		raw  string
		kind Kind
		want string
		err  string
	}{
		{name: "data", raw: "\x03\x00\x00\x00\x02hi", kind: KindData, want: "hi"},
		{name: "end", raw: "\x05\x00\x00\x00\x00", kind: KindEnd},
		{name: "nothing", raw: "", err: "EOF"},
		{name: "half a header", raw: "\x03\x00", err: "unexpected EOF"},
		{name: "half a payload", raw: "\x03\x00\x00\x00\x05hi", err: "unexpected EOF"},
		{name: "kind 0", raw: "\x00\x00\x00\x00\x00", err: "unknown frame kind 0"},
		{name: "kind 200", raw: "\xc8\x00\x00\x00\x00", err: "unknown frame kind 200"},
		{name: "too long", raw: "\x03\x00\x01\x00\x01", err: "says 65537 bytes"},
		{name: "request too long", raw: "\x01\xff\xff\xff\xff", err: "says 4294967295 bytes"},
		{name: "end with payload", raw: "\x05\x00\x00\x00\x01x", err: "0 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, b, err := ReadFrame(strings.NewReader(tt.raw))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || k != tt.kind || string(b) != tt.want {
				t.Fatalf("got %d %q, %v", k, b, err)
			}
			var out bytes.Buffer
			if err := WriteFrame(&out, k, b); err != nil || out.String() != tt.raw {
				t.Errorf("written as %q, %v", out.String(), err)
			}
		})
	}
	if err := WriteFrame(io.Discard, KindData, make([]byte, maxDataBytes+1)); err == nil {
		t.Error("a frame that is too long was written")
	}
	if err := WriteFrame(io.Discard, 99, nil); err == nil {
		t.Error("a frame of an unknown kind was written")
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x03\x00\x00\x00\x02hi\x05\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x10{\"op\":\"exec\"}"))
	f.Add([]byte("\x07\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var out bytes.Buffer
		for {
			k, b, err := ReadFrame(r)
			if errors.Is(err, io.EOF) && r.Len() == 0 {
				break
			}
			if err != nil {
				return
			}
			if err := WriteFrame(&out, k, b); err != nil {
				t.Fatalf("a frame that was read can't be written: %v", err)
			}
		}
		if !bytes.HasPrefix(raw, out.Bytes()) {
			t.Fatalf("read %q, wrote %q", raw, out.Bytes())
		}
	})
}
