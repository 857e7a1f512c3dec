package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// randomRecord returns a record of any kind that may follow the state of e.
func randomRecord(rnd *rand.Rand, base Base) Record {
	r := Record{
		Kind:     KindClock + Kind(rnd.IntN(int(maxKind))),
		Position: base.Position + rnd.Uint64N(1<<rnd.IntN(20)),
	}
	if r.Kind.hasTime() {
		r.Time = base.Time + rnd.Int64N(1<<rnd.IntN(40))
	}
	if r.Kind.hasDevice() {
		r.Device = uint8(rnd.IntN(256))
	}
	if most := r.Kind.MaxPayload(); most > 0 {
		r.Payload = randomBytes(rnd, rnd.IntN(min(most, 1<<rnd.IntN(12))+1)&^7)
	}
	switch r.Kind {
	case KindDigest:
		r.Hash = rnd.Uint64()
		if rnd.IntN(2) == 0 {
			r.Registers = randomRegisters(rnd)
		}
	case KindDelta:
		r.Last = rnd.IntN(2) == 0
	case KindMemory, KindCheckpoint:
		r.Number = rnd.Uint64N(1 << 40)
	case KindOutput:
		r.Of, r.Length, r.Hash = KindFrame, rnd.Uint64N(1<<16), rnd.Uint64()
	case KindEnd:
		r.Cause = EndPowerOff + Cause(rnd.IntN(int(maxCause)))
	}
	return r
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func randomRegisters(rnd *rand.Rand) *Registers {
	r := new(Registers)
	for i := range r {
		if rnd.IntN(3) > 0 {
			r[i] = rnd.Uint64() >> rnd.IntN(64)
		}
	}
	return r
}

// keep returns a copy of r that outlives the decoder's buffers.
func keep(r Record) Record {
	if r.Registers != nil {
		image := *r.Registers
		r.Registers = &image
	}
	r.Payload = append([]byte(nil), r.Payload...)
	return r
}

func decodeAll(t *testing.T, body []byte, base Base) []Record {
	t.Helper()
	var d Decoder
	d.Reset(body, base)
	var all []Record
	for {
		var r Record
		err := d.Next(&r)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("record %d at offset %d: %v", len(all), d.Offset(), err)
		}
		all = append(all, keep(r))
	}
}

func TestRecordsSurviveTheRoundTrip(t *testing.T) {
	const seed = 4
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 200 {
		base := Base{Sequence: 1 + rnd.Uint64N(100), Position: rnd.Uint64N(1 << 40), Time: rnd.Int64N(1 << 50)}
		e := NewEncoder(base)
		var body []byte
		var want []Record
		for range 1 + rnd.IntN(40) {
			r := randomRecord(rnd, e.Base())
			r.Sequence = e.Base().Sequence
			body = e.Append(body, &r)
			want = append(want, keep(r))
		}
		if got := decodeAll(t, body, base); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d round %d:\n got %+v\nwant %+v", seed, round, got, want)
		}
	}
}

func TestRecordSizes(t *testing.T) {
	regs := &Registers{16: 0xffffffff81000000}
	near := *regs
	near[16] += 5
	table := []struct {
		name   string
		before *Record
		r      Record
		bytes  int
	}{
		{"tick 7 exits on", nil, Record{Kind: KindTick, Position: 107}, 1},
		{"tick 1,023 exits on", nil, Record{Kind: KindTick, Position: 1123}, 2},
		{"tick 1,024 exits on", nil, Record{Kind: KindTick, Position: 1124}, 3},
		{"clock 100 µs on", nil, Record{Kind: KindClock, Position: 101, Time: 1100_000}, 4},
		{"clock 4 ms on", nil, Record{Kind: KindClock, Position: 101, Time: 5_000_000}, 5},
		{"typed key", nil, Record{Kind: KindConsole, Position: 101, Payload: []byte("x")}, 4},
		{"digest", nil, Record{Kind: KindDigest, Position: 101, Time: 1000_000, Hash: 1}, 11},
		{"digest with registers like the last", &Record{Kind: KindDigest, Position: 100, Time: 1000_000, Registers: regs},
			Record{Kind: KindDigest, Position: 101, Time: 1000_000, Registers: &near}, 11 + 3 + 1},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			e := NewEncoder(Base{Sequence: 1, Position: 100, Time: 1000_000})
			if c.before != nil {
				e.Append(nil, c.before)
			}
			if got := len(e.Append(nil, &c.r)); got != c.bytes {
				t.Errorf("%d bytes, want %d", got, c.bytes)
			}
		})
	}
}

func TestDecoderRefuses(t *testing.T) {
	base := Base{Sequence: 1, Position: math.MaxUint64 - 10, Time: math.MaxInt64 - 10}
	table := []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"kind 0", []byte{0x10}, "kind 0 does not exist"},
		{"kind 15", []byte{0x1f}, "kind 15 does not exist"},
		{"kind 15", []byte{0x1f}, "kind 15 does not exist"},
		{"position beyond 64 bits", []byte{0xb2, 0x01}, "position goes beyond"},
		{"long head", []byte{0x82, 0x00}, "longer than it need be"},
		{"head beyond 64 bits", bytes.Repeat([]byte{0xff}, 11), "integer goes beyond"},
		{"head cut off", []byte{0x82}, "beyond the end"},
		{"clock without time", []byte{0x01}, "beyond the end"},
		{"time beyond 63 bits", []byte{0x01, 11}, "time goes beyond"},
		{"console cut off", []byte{0x03, 0, 2, 'x'}, "beyond the end"},
		{"console too long", []byte{0x03, 0, 0x81, 0x80, 0x04}, "65537 bytes where at most 65536"},
		{"frame of nearly 2^64 bytes", append([]byte{0x04, 0}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01), "at most"},
		{"digest flags", []byte{0x08, 4, 0}, "reserved flags"},
		{"digest whole without registers", append([]byte{0x08, 2, 0}, make([]byte, 8)...), "digest flags"},
		{"digest relative to nothing", append([]byte{0x08, 1, 0}, make([]byte, 9)...), "not in the frame"},
		{"digest mask", append(append([]byte{0x08, 3, 0}, make([]byte, 8)...), 0x80, 0x80, 0x10), "register mask"},
		{"digest equal register", append(append([]byte{0x08, 3, 0}, make([]byte, 8)...), 1, 0), "does not"},
		{"delta flags", []byte{0x09, 2, 0}, "reserved flags"},
		{"odd hashes", []byte{0x0a, 0, 3, 1, 2, 3}, "memory record of 3 bytes"},
		{"output of a tick", append([]byte{0x0c, 0, 2, 0}, make([]byte, 8)...), "output of kind 2"},
		{"end without cause", []byte{0x0d, 0, 0, 0}, "cause 0"},
		{"end with cause 7", []byte{0x0d, 7, 0, 0}, "cause 7"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			var r Record
			d.Reset(c.bytes, base)
			err := d.Next(&r)
			if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if d.Offset() != 0 || d.Base() != base {
				t.Errorf("the decoder moved to %d, %+v", d.Offset(), d.Base())
			}
		})
	}
}

func TestEncoderPanicsOnMisuse(t *testing.T) {
	table := map[string]Record{
		"position falls": {Kind: KindTick, Position: 99},
		"time falls":     {Kind: KindClock, Position: 100, Time: 999},
		"kind 0":         {Position: 100},
		"kind 15":        {Kind: 15, Position: 100},
		"long payload":   {Kind: KindEnd, Position: 100, Time: 1000, Payload: make([]byte, MaxMessage+1)},
		"tick with data": {Kind: KindTick, Position: 100, Payload: []byte{1}},
		"far away":       {Kind: KindTick, Position: math.MaxUint64},
	}
	for name, r := range table {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			NewEncoder(Base{Position: 100, Time: 1000}).Append(nil, &r)
		})
	}
}

func TestCodecDoesNotAllocate(t *testing.T) {
	e := NewEncoder(Base{Sequence: 1})
	var d Decoder
	buf := make([]byte, 0, 1<<10)
	payload := []byte("packet")
	var regs Registers
	position, now := uint64(0), int64(0)
	got := testing.AllocsPerRun(100, func() {
		base := e.Base()
		e.Restart()
		position, now, regs[3] = position+3, now+1000, regs[3]+1
		buf = e.Append(buf[:0], &Record{Kind: KindClock, Position: position, Time: now})
		buf = e.Append(buf, &Record{Kind: KindFrame, Position: position, Payload: payload})
		buf = e.Append(buf, &Record{Kind: KindDigest, Position: position, Time: now, Registers: &regs})
		d.Reset(buf, base)
		var r Record
		for d.Next(&r) == nil {
		}
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func TestKindNamesAreReadBack(t *testing.T) {
	for _, k := range Kinds() {
		got, err := ParseKind(k.String())
		if err != nil || got != k {
			t.Errorf("%v: %v, %v", k, got, err)
		}
		if !AllKinds.Has(k) {
			t.Errorf("%v is not among all kinds", k)
		}
	}
	if _, err := ParseKind("kind 15"); err == nil {
		t.Error("kind 15 was read")
	}
	if AllKinds.Has(0) || AllKinds.Has(15) || SetOf(KindTick).Has(KindClock) {
		t.Error("a set has what is not in it")
	}
}

func FuzzDecoder(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	e := NewEncoder(Base{Sequence: 1})
	var body []byte
	for range 30 {
		r := randomRecord(rnd, e.Base())
		body = e.Append(body, &r)
	}
	f.Add(body, uint64(0), int64(0))
	f.Add([]byte{0x12, 0x11, 0x05}, uint64(1), int64(1))
	f.Fuzz(func(t *testing.T, body []byte, position uint64, now int64) {
		base := Base{Sequence: 1, Position: position, Time: max(now, 0)}
		var d, again Decoder
		d.Reset(body, base)
		e := NewEncoder(base)
		for {
			before := d.Base()
			var r Record
			if err := d.Next(&r); err != nil {
				return
			}
			if r.Position < before.Position || d.Base().Time < before.Time {
				t.Fatalf("%+v goes back behind %+v", r, before)
			}
			// What was decoded is a record that the encoder writes too, and that reads back alike.
			e.Restart()
			again.Reset(e.Append(nil, &r), before)
			var r2 Record
			if err := again.Next(&r2); err != nil || !reflect.DeepEqual(keep(r), keep(r2)) {
				t.Fatalf("%+v became %+v (%v)", r, r2, err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct {
		name string
		r    Record
	}{
		{"tick", Record{Kind: KindTick}}, {"clock", Record{Kind: KindClock}},
		{"packet100", Record{Kind: KindFrame, Payload: make([]byte, 100)}},
		{"digest", Record{Kind: KindDigest, Hash: 1, Registers: &Registers{1, 2, 3}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			e := NewEncoder(Base{})
			buf := make([]byte, 0, 1<<20)
			r := c.r
			for b.Loop() {
				r.Position += 5
				r.Time += 110_000
				if len(buf) > 1<<19 {
					buf = buf[:0]
				}
				buf = e.Append(buf, &r)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	const records = 1000
	for _, kind := range []Kind{KindTick, KindClock} {
		b.Run(kind.String(), func(b *testing.B) {
			e := NewEncoder(Base{})
			var body []byte
			for i := range records {
				r := Record{Kind: kind, Position: uint64(i * 5)}
				if kind == KindClock {
					r.Time = int64(i) * 110_000
				}
				body = e.Append(body, &r)
			}
			var d Decoder
			for b.Loop() {
				d.Reset(body, Base{})
				var r Record
				for d.Next(&r) == nil {
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
			b.ReportMetric(float64(len(body))/records, "B/record")
		})
	}
}

// BenchmarkIdleSecond encodes what a second of an idle guest with a 250 Hz tick leaves in the log: for each tick four
// exits at the PIC, and now and then the clock is read. A frame is written ten times a second.
func BenchmarkIdleSecond(b *testing.B) {
	e := NewEncoder(Base{Sequence: 1})
	var r Record
	bytes := 0
	buf := make([]byte, 0, 1<<16)
	for b.Loop() {
		bytes = 10 * frameHeaderSize
		buf = buf[:0]
		for i := range 250 {
			r = Record{Kind: KindTick, Position: r.Position + 5, Time: r.Time + 4_000_000}
			buf = e.Append(buf, &r)
			if i%10 == 0 {
				buf = e.Append(buf, &Record{Kind: KindClock, Position: r.Position + 1, Time: r.Time + 12345})
			}
		}
		bytes += len(buf)
	}
	b.ReportMetric(float64(bytes), "B/guest-s")
}
