package lockstep

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"tandem/lockstep/wire"
)

// framed returns a frame of n ticks from record first on.
func framed(t *testing.T, first uint64, n int) []byte {
	t.Helper()
	ring := wire.NewRing(wire.MinRing, wire.Base{Sequence: first}, nil)
	reader := ring.NewReader()
	for i := range n {
		if err := ring.Append(&wire.Record{Kind: wire.KindTick, Position: uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ring.Flush(); err != nil {
		t.Fatal(err)
	}
	batch, err := reader.Next(t.Context(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := wire.NewFrameWriter(&out, false).Write(batch); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestInboxGivesRecordsInOrder(t *testing.T) {
	taken := 0
	b := NewInbox(7, func(n int) { taken += n })
	first, second := framed(t, 7, 3), framed(t, 10, 2)
	if err := errors.Join(b.Push(7, 3, first), b.Push(10, 2, second)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	var r wire.Record
	for want := uint64(7); want < 12; want++ {
		if err := b.Next(&r); err != nil || r.Sequence != want {
			t.Fatalf("record %d (%v), want %d", r.Sequence, err, want)
		}
	}
	if err := b.Next(&r); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last record: %v", err)
	}
	if taken != len(first)+len(second) {
		t.Errorf("%d bytes taken of %d", taken, len(first)+len(second))
	}
}

func TestInboxRefusesAGap(t *testing.T) {
	b := NewInbox(1, nil)
	if err := b.Push(2, 1, framed(t, 2, 1)); err == nil || !strings.Contains(err.Error(), "1 was due") {
		t.Errorf("a gap: %v", err)
	}
}

// What the message around a frame says of it must be what the frame says.
func TestInboxRefusesAFrameThatIsNotAsAnnounced(t *testing.T) {
	for name, frame := range map[string][]byte{"another number": framed(t, 5, 2), "another count": framed(t, 1, 3), "garbage": []byte("garbage")} {
		b := NewInbox(1, nil)
		if err := b.Push(1, 2, frame); err != nil {
			t.Fatal(err)
		}
		var r wire.Record
		if err := b.Next(&r); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInboxWaitsAndAborts(t *testing.T) {
	b := NewInbox(1, nil)
	got := make(chan error, 1)
	go func() {
		var r wire.Record
		got <- b.Next(&r)
	}()
	if err := b.Push(1, 1, framed(t, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := b.Push(2, 4, framed(t, 2, 4)); err != nil {
		t.Fatal(err)
	}
	b.Abort()
	var r wire.Record
	if err := b.Next(&r); !errors.Is(err, io.EOF) {
		t.Errorf("after an abort: %v", err)
	}
}
