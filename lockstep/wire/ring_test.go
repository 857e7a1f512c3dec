package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func appendTicks(t testing.TB, r *Ring, n int) {
	t.Helper()
	for range n {
		if err := r.Append(&Record{Kind: KindTick, Position: r.Base().Position + 1}); err != nil {
			t.Fatal(err)
		}
	}
}

func flush(t testing.TB, r *Ring) {
	t.Helper()
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
}

// take returns what the reader has now, without waiting.
func take(t *testing.T, d *RingReader, most int) Batch {
	t.Helper()
	b, err := d.take(most)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordsBecomeVisibleAtFlush(t *testing.T) {
	r := newRing(1<<10, Base{Sequence: 1}, nil)
	d := r.NewReader()
	appendTicks(t, r, 3)
	if b := take(t, d, 1<<20); b.Records != 0 {
		t.Fatalf("%d records are visible before a flush", b.Records)
	}
	flush(t, r)
	b := take(t, d, 1<<20)
	if b.Records != 3 || b.Base != (Base{Sequence: 1}) || b.Last() != 3 || b.Position != 3 {
		t.Fatalf("got %+v", b)
	}
	if records, bytes := d.Lag(); records != 3 || bytes != 3 {
		t.Errorf("lag of %d records, %d bytes", records, bytes)
	}
	if err := d.Acknowledge(2); err != nil {
		t.Error(err)
	}
	if records, bytes := d.Lag(); records != 1 || bytes != 3 {
		t.Errorf("lag of %d records, %d bytes", records, bytes)
	}
	if err := d.Acknowledge(4); err == nil {
		t.Error("a record that was never sent was acknowledged")
	}
	if err := d.Acknowledge(3); err != nil {
		t.Error(err)
	}
	if s := r.Stats(); s.UsedBytes != 0 || s.Counts.Records[KindTick] != 3 || s.Counts.Bytes[KindTick] != 3 || s.Batches != 1 {
		t.Errorf("%+v", s)
	}
	if d.Acknowledged() != 3 {
		t.Errorf("acknowledged up to %d", d.Acknowledged())
	}
}

func TestFullBatchBecomesVisible(t *testing.T) {
	r := NewRing(MinRing, Base{Sequence: 1}, nil)
	d := r.NewReader()
	if err := r.Append(&Record{Kind: KindDisk, Payload: make([]byte, batchBytes)}); err != nil {
		t.Fatal(err)
	}
	if b := take(t, d, 1); b.Records != 1 || len(b.Bytes) <= batchBytes {
		t.Errorf("got %d records in %d bytes", b.Records, len(b.Bytes))
	}
}

func TestBatchesBecomeOneForAReaderThatLags(t *testing.T) {
	r := newRing(1<<10, Base{Sequence: 1}, nil)
	slow := r.NewReader()
	for range 5 {
		appendTicks(t, r, 2)
		flush(t, r)
	}
	late := r.NewReader()
	appendTicks(t, r, 1)
	flush(t, r)
	if got := r.end - r.first; got != 2 {
		t.Errorf("%d chunks, want one and that of the reader that came late", got)
	}
	if b := take(t, slow, 1<<20); b.Records != 11 || b.Base.Sequence != 1 {
		t.Errorf("the slow reader got %d records from %d", b.Records, b.Base.Sequence)
	}
	if b := take(t, late, 1<<20); b.Records != 1 || b.Base != (Base{Sequence: 11, Position: 10}) {
		t.Errorf("the late reader got %d records from %+v", b.Records, b.Base)
	}
}

func TestReaderStaysWithinItsBound(t *testing.T) {
	r := newRing(1<<10, Base{Sequence: 1}, nil)
	d, other := r.NewReader(), r.NewReader()
	for range 4 {
		appendTicks(t, r, 10)
		flush(t, r)
		take(t, other, 1) // so that batches stay apart
	}
	for _, want := range []int{20, 20, 0} {
		if b := take(t, d, 25); b.Records != want {
			t.Errorf("got %d records, want %d", b.Records, want)
		}
	}
	d.Rewind()
	if b := take(t, d, 5); b.Records != 10 || b.Base.Sequence != 1 {
		t.Errorf("after a rewind %d records from %d", b.Records, b.Base.Sequence)
	}
}

func TestRewindGoesBackToWhatIsNotAcknowledged(t *testing.T) {
	r := newRing(1<<10, Base{Sequence: 1}, nil)
	d := r.NewReader()
	for range 3 {
		appendTicks(t, r, 10)
		flush(t, r)
		take(t, d, 1)
	}
	d.Rewind()
	if err := d.Acknowledge(20); err != nil { // the peer says what it had got before the connection broke
		t.Fatal(err)
	}
	if b := take(t, d, 1<<20); b.Base.Sequence != 21 || b.Records != 10 {
		t.Errorf("got %d records from %d", b.Records, b.Base.Sequence)
	}
}

func TestReaderThatJoinsKnowsTheBase(t *testing.T) {
	r := newRing(1<<10, Base{Sequence: 1}, nil)
	regs := &Registers{1, 2, 3}
	if err := r.Append(&Record{Kind: KindDigest, Position: 5, Time: 7, Registers: regs}); err != nil {
		t.Fatal(err)
	}
	flush(t, r)
	d := r.NewReader()
	if d.Acknowledged() != 1 {
		t.Errorf("it begins behind record %d", d.Acknowledged())
	}
	if err := r.Append(&Record{Kind: KindDigest, Position: 6, Time: 9, Registers: regs}); err != nil {
		t.Fatal(err)
	}
	flush(t, r)
	b := take(t, d, 1<<20)
	got := decodeAll(t, b.Bytes, b.Base)
	if len(got) != 1 || got[0].Sequence != 2 || got[0].Position != 6 || got[0].Time != 9 || *got[0].Registers != *regs {
		t.Errorf("got %+v", got)
	}
}

func TestRingWithoutReadersForgets(t *testing.T) {
	r := newRing(64, Base{Sequence: 1}, nil)
	for range 100 {
		appendTicks(t, r, 10)
		flush(t, r)
	}
	if s := r.Stats(); s.UsedBytes != 0 || s.Stalls != 0 || s.Counts.Records[KindTick] != 1000 {
		t.Errorf("%+v", s)
	}
}

func TestFullRingStallsUntilTheLastReaderAcknowledges(t *testing.T) {
	var clock atomic.Int64
	r := newRing(64, Base{Sequence: 1}, func() int64 { return clock.Add(10) })
	quick, slow := r.NewReader(), r.NewReader()
	appendTicks(t, r, 40)
	flush(t, r)
	done := make(chan error)
	go func() {
		for range 40 {
			if err := r.Append(&Record{Kind: KindTick, Position: r.Base().Position + 1}); err != nil {
				done <- err
				return
			}
		}
		done <- r.Flush()
	}()
	take(t, quick, 1<<20)
	take(t, slow, 1<<20)
	if err := quick.Acknowledge(40); err != nil {
		t.Fatal(err)
	}
	for r.Stats().Stalls == 0 { // the producer gets there, or the test's own deadline ends it
		select {
		case err := <-done:
			t.Fatalf("the producer went on: %v", err)
		default:
		}
	}
	if err := slow.Acknowledge(40); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Stalls != 1 || s.StalledNS != 10 || s.UsedBytes != 40 {
		t.Errorf("%+v", s)
	}
	if b := take(t, slow, 1<<20); b.Base.Sequence != 41 || b.Records != 40 {
		t.Errorf("got %d records from %d", b.Records, b.Base.Sequence)
	}
}

func TestCloseLetsEveryoneGo(t *testing.T) {
	r := newRing(64, Base{Sequence: 1}, nil)
	d := r.NewReader()
	appendTicks(t, r, 40)
	flush(t, r)
	stalled := make(chan error)
	go func() {
		appendTicks(t, r, 40)
		stalled <- r.Flush()
	}()
	for r.Stats().Stalls == 0 {
	}
	r.Close()
	if err := <-stalled; !errors.Is(err, ErrRingClosed) {
		t.Errorf("the producer got %v", err)
	}
	if b, err := d.Next(context.Background(), 1<<20); err != nil || b.Records != 40 {
		t.Errorf("the reader got %d records, %v", b.Records, err)
	}
	if _, err := d.Next(context.Background(), 1<<20); err != io.EOF {
		t.Errorf("behind the end: %v", err)
	}
}

func TestReaderThatLeavesFreesItsPart(t *testing.T) {
	r := newRing(64, Base{Sequence: 1}, nil)
	d := r.NewReader()
	appendTicks(t, r, 40)
	flush(t, r)
	d.Close()
	d.Close()
	if s := r.Stats(); s.UsedBytes != 0 {
		t.Errorf("%d bytes are kept for nobody", s.UsedBytes)
	}
	if _, err := d.Next(context.Background(), 1); err != io.EOF {
		t.Errorf("a closed reader got %v", err)
	}
	appendTicks(t, r, 60)
	flush(t, r)
}

func TestNextEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := newRing(64, Base{Sequence: 1}, nil).NewReader()
	if _, err := d.Next(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestRingKeepsEveryByte runs random batches through a small ring to readers of different speed, which all must get the
// same log, without a gap.
func TestRingKeepsEveryByte(t *testing.T) {
	const seed, records = 11, 20000
	r := newRing(3000, Base{Sequence: 1}, nil)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var want []byte
	var readers sync.WaitGroup
	got := make([][]byte, 3)
	for i := range got {
		d := r.NewReader()
		rnd := rand.New(rand.NewPCG(seed, uint64(i)+1))
		readers.Go(func() {
			next := Base{Sequence: 1}
			for {
				b, err := d.Next(context.Background(), 1+rnd.IntN(2000))
				if err != nil {
					return
				}
				if b.Base.Sequence != next.Sequence || b.Base.Position != next.Position {
					t.Errorf("seed %d reader %d: a batch from %+v after %+v", seed, i, b.Base, next)
				}
				if rnd.IntN(20) == 0 {
					d.Rewind()
					continue
				}
				got[i] = append(got[i], b.Bytes...)
				next = Base{Sequence: b.Last() + 1, Position: b.Position}
				if err := d.Acknowledge(b.Last()); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}
	reference := Encoder{base: Base{Sequence: 1}}
	for range records {
		rec := Record{Kind: KindConsole, Position: r.Base().Position + rnd.Uint64N(100), Payload: randomBytes(rnd, rnd.IntN(200))}
		want = reference.Append(want, &rec)
		if err := r.Append(&rec); err != nil {
			t.Fatal(err)
		}
		if len(r.batch.Bytes) > 1000 || rnd.IntN(4) == 0 {
			flush(t, r)
		}
	}
	flush(t, r)
	r.Close()
	readers.Wait()
	for i := range got {
		if !bytes.Equal(got[i], want) {
			t.Errorf("seed %d: reader %d got %d bytes that are not the %d written", seed, i, len(got[i]), len(want))
		}
	}
	if s := r.Stats(); s.UsedBytes != 0 {
		t.Errorf("%d bytes remain", s.UsedBytes)
	}
}

func BenchmarkRing(b *testing.B) {
	for _, c := range []struct {
		name  string
		batch int
	}{{"append", 1000}, {"append-flush", 1}} {
		b.Run(c.name, func(b *testing.B) {
			r := NewRing(DefaultRing, Base{Sequence: 1}, nil)
			d := r.NewReader()
			rec := Record{Kind: KindClock}
			n := 0
			for b.Loop() {
				rec.Position += 5
				rec.Time += 110_000
				if err := r.Append(&rec); err != nil {
					b.Fatal(err)
				}
				if n++; n%c.batch == 0 {
					flush(b, r)
				}
				if n%1000 == 0 {
					got, _ := d.take(1 << 20)
					if err := d.Acknowledge(got.Last()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
