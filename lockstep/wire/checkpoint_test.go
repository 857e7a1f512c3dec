package wire

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func checkpointBytes(t testing.TB) (Checkpoint, []byte) {
	t.Helper()
	c := Checkpoint{
		Header: Header{Fingerprint: FingerprintOf(Part{"kernel", []byte{7}}), Configuration: []byte("{}")},
		Number: 3, Base: Base{Sequence: 10, Position: 20, Time: 30},
	}
	p, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

func TestCheckpointSurvivesTheRoundTrip(t *testing.T) {
	want, p := checkpointBytes(t)
	in := bytes.NewReader(append(p, "stream"...))
	got, err := ReadCheckpoint(in)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if in.Len() != len("stream") {
		t.Errorf("%d bytes are left for the stream", in.Len())
	}
	if _, _, err := ReadHeader(bytes.NewReader(p)); !errors.Is(err, ErrNoLog) {
		t.Errorf("a checkpoint was read as a log: %v", err)
	}
	if _, err := ReadCheckpoint(bytes.NewReader(headerBytes(t, "{}"))); !errors.Is(err, ErrNoCheckpoint) {
		t.Errorf("a log was read as a checkpoint: %v", err)
	}
	if CheckpointName(want.Number) != "checkpoint-000003" {
		t.Error(CheckpointName(want.Number))
	}
}

func TestCheckpointRefuses(t *testing.T) {
	_, good := checkpointBytes(t)
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if got, err := ReadCheckpoint(bytes.NewReader(bad)); err == nil {
			t.Errorf("flipped at %d: read as %+v", at, got)
		}
		if _, err := ReadCheckpoint(bytes.NewReader(good[:at])); err == nil || at > 8 && !strings.Contains(err.Error(), "ends inside") {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
}

func FuzzCheckpoint(f *testing.F) {
	_, p := checkpointBytes(f)
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		in := bytes.NewReader(p)
		c, err := ReadCheckpoint(in)
		if err != nil {
			return
		}
		again, err := c.Append(nil)
		if err != nil || !bytes.Equal(again, p[:len(p)-in.Len()]) {
			t.Errorf("%+v is written otherwise than it was read: %v", c, err)
		}
	})
}
