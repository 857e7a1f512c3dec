package ether

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestStreamFrames(t *testing.T) {
	tests := []struct{ name, raw, want, err string }{
		{name: "frame", raw: "\x00\x00\x00\x02hi", want: "hi"},
		{name: "empty", raw: "\x00\x00\x00\x00"},
		{name: "nothing", err: "EOF"},
		{name: "half a length", raw: "\x00\x00", err: "unexpected EOF"},
		{name: "half a frame", raw: "\x00\x00\x00\x09hi", err: "unexpected EOF"},
		{name: "too long", raw: "\x00\x01\x10\x01", err: "a frame of 69633 bytes"},
		{name: "much too long", raw: "\xff\xff\xff\xff", err: "4294967295 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := ReadStreamFrame(strings.NewReader(tt.raw))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || string(b) != tt.want {
				t.Fatalf("got %q, %v", b, err)
			}
			var out bytes.Buffer
			if err := WriteStreamFrame(&out, b); err != nil || out.String() != tt.raw {
				t.Errorf("written as %q, %v", out.String(), err)
			}
		})
	}
}

func TestPlug(t *testing.T) {
	b := newBench(t, 1, "a")
	p, err := b.s.Attach("plugged")
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	Plug(p, far)
	if err := WriteStreamFrame(near, frame("p", "*", "out")); err != nil {
		t.Fatal(err)
	}
	b.expect("a", "out")
	b.send("a", "p", "in")
	f, err := ReadStreamFrame(near)
	if err != nil || string(f[minFrameBytes:]) != "in" {
		t.Errorf("got %q, %v", f, err)
	}
	near.Close() // the host dies: its port goes
	if _, err := p.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("the port gives %v", err)
	}
	q, err := b.s.Attach("other")
	if err != nil {
		t.Fatal(err)
	}
	near, far = net.Pipe()
	Plug(q, far)
	q.Close() // the port goes: so does the stream
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Error("the stream of a closed port lives on")
	}
}

func FuzzReadStreamFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02hi\x00\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var out bytes.Buffer
		for {
			b, err := ReadStreamFrame(r)
			if err != nil {
				break
			}
			if err := WriteStreamFrame(&out, b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(raw, out.Bytes()) {
			t.Fatalf("read %q, wrote %q", raw, out.Bytes())
		}
	})
}

// FuzzSwitch sends what a hostile host might: whatever it is, the switch goes on
// serving the others.
func FuzzSwitch(f *testing.F) {
	f.Add(frame("a", "b", "x"), frame("*", "a", "y"))
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		b := newBench(t, 1, "a", "b", "c")
		for _, raw := range [][]byte{one, two} {
			if err := b.ports["c"].WriteFrame(raw); err != nil {
				t.Fatal(err)
			}
		}
		b.send("b", "*", "learn me")
		b.send("a", "b", "still here")
		for f := range b.got["b"] {
			if string(f[minFrameBytes:]) == "still here" {
				return
			}
		}
		t.Fatal("the switch lost a frame")
	})
}
