package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// memory is a guest's pages by number.
type memory map[uint64][]byte

// pass is one stream: its state and its pages, in order.
type pass struct {
	state   []byte
	numbers []uint64
	reset   bool
}

func writeStream(t testing.TB, w *PageWriter, out io.Writer, p pass, m memory) {
	t.Helper()
	w.Begin(out)
	var err error
	if p.reset {
		err = w.ResetShadow()
	}
	if err == nil {
		err = w.State(p.state)
	}
	for _, n := range p.numbers {
		if err == nil {
			err = w.Page(n, m[n])
		}
	}
	if err == nil {
		err = w.End()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readStream reads a stream into m and returns its state and the pages' numbers.
func readStream(r *PageReader, in io.Reader, m memory) (p pass, err error) {
	r.Begin(in)
	if p.state, err = r.State(); err != nil {
		return p, err
	}
	for {
		number, content, err := r.Next()
		if err == io.EOF {
			return p, nil
		}
		if err != nil {
			return p, err
		}
		p.numbers = append(p.numbers, number)
		m[number] = bytes.Clone(content)
	}
}

// dirty changes some pages of m as a guest does and returns their numbers.
func dirty(rnd *rand.Rand, m memory, pages uint64) []uint64 {
	var numbers []uint64
	for n := range pages {
		if rnd.IntN(3) == 0 {
			continue
		}
		page := make([]byte, PageSize)
		copy(page, m[n])
		switch rnd.IntN(6) {
		case 0: // written and changed back
		case 1:
			clear(page)
		case 2:
			copy(page, randomBytes(rnd, PageSize))
		case 3:
			for range 1 + rnd.IntN(500) { // new content here and there
				copy(page[rnd.IntN(wordsPerPage)*8:], randomBytes(rnd, 8))
			}
		default:
			for range 1 + rnd.IntN(90) { // counters and pointers
				p := page[rnd.IntN(wordsPerPage)*8:]
				binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)+uint64(rnd.IntN(200))-100)
			}
		}
		m[n] = page
		numbers = append(numbers, n)
	}
	return numbers
}

func TestPagesSurviveTheRoundTrip(t *testing.T) {
	const seed = 5
	for _, shadowPages := range []int{0, 1, 7, 1000} {
		t.Run(fmt.Sprint("shadow of ", shadowPages), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, uint64(shadowPages)))
			var ours, theirs *Shadow
			if shadowPages > 0 {
				ours, theirs = NewShadow(shadowPages), NewShadow(shadowPages)
			}
			w, r := NewPageWriter(ours), NewPageReader(theirs, 100)
			m, peer := memory{}, memory{}
			var all PageStats
			for round := range 30 {
				p := pass{state: randomBytes(rnd, rnd.IntN(3*blockFull)), reset: rnd.IntN(5) == 0}
				p.numbers = dirty(rnd, m, 100)
				var stream bytes.Buffer
				writeStream(t, w, &stream, p, m)
				if n := uint64(stream.Len()); n != w.Stats().StoredBytes {
					t.Fatalf("%d bytes, the writer says %d", n, w.Stats().StoredBytes)
				}
				for n := range peer { // the peer's machine has gone on and is elsewhere
					peer[n] = randomBytes(rnd, PageSize)
				}
				got, err := readStream(r, &stream, peer)
				if err != nil {
					t.Fatalf("seed %d round %d: %v", seed, round, err)
				}
				if !bytes.Equal(got.state, p.state) || fmt.Sprint(got.numbers) != fmt.Sprint(p.numbers) {
					t.Fatalf("seed %d round %d: %d bytes of state, pages %v", seed, round, len(got.state), got.numbers)
				}
				for _, n := range p.numbers {
					if !bytes.Equal(m[n], peer[n]) {
						t.Fatalf("seed %d round %d: page %d differs", seed, round, n)
					}
				}
				if w.Stats() != r.Stats() {
					t.Fatalf("seed %d round %d: wrote %+v, read %+v", seed, round, w.Stats(), r.Stats())
				}
				if stream.Len() != 0 {
					t.Fatalf("seed %d round %d: %d bytes are left", seed, round, stream.Len())
				}
				s := w.Stats()
				all.Zero += s.Zero
				all.Plain += s.Plain
				all.Same += s.Same
				all.Differences += s.Differences
				all.Words += s.Words
			}
			if all.Zero == 0 || all.Plain == 0 || shadowPages == 1000 && (all.Same == 0 || all.Differences == 0 || all.Words == 0) {
				t.Errorf("a coding was never used: %+v", all)
			}
			if ours != nil && ours.Pages() != theirs.Pages() {
				t.Errorf("shadows of %d and %d pages", ours.Pages(), theirs.Pages())
			}
		})
	}
}

func TestChoiceOfCoding(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	old := randomBytes(rnd, PageSize)
	changed := func(f func(p []byte)) []byte { p := bytes.Clone(old); f(p); return p }
	table := []struct {
		name  string
		page  []byte
		want  PageStats
		bytes uint64 // upper bound for the pages block
	}{
		{"same", old, PageStats{Same: 1}, 1},
		{"zero", zeroPage[:], PageStats{Zero: 1}, 1},
		{"a counter", changed(func(p []byte) { p[800]++ }), PageStats{Differences: 1}, 8},
		{"a new word", changed(func(p []byte) { copy(p[800:], randomBytes(rnd, 8)) }), PageStats{Words: 1}, 14},
		{"new content", randomBytes(rnd, PageSize), PageStats{Plain: 1}, PageSize + 1},
		{"every third word new", changed(func(p []byte) {
			for i := 0; i < PageSize; i += 24 {
				copy(p[i:], randomBytes(rnd, 8))
			}
		}), PageStats{Words: 1}, PageSize / 2},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			w := NewPageWriter(NewShadow(10))
			writeStream(t, w, io.Discard, pass{numbers: []uint64{0}}, memory{0: old})
			writeStream(t, w, io.Discard, pass{numbers: []uint64{0}}, memory{0: c.page})
			got := w.Stats()
			stored := got.StoredBytes - 2*blockHeaderSize
			if got.StoredBytes = 0; got != c.want {
				t.Errorf("coded as %+v, want %+v", got, c.want)
			}
			if stored > c.bytes {
				t.Errorf("%d bytes, want at most %d", stored, c.bytes)
			}
		})
	}
}

// block returns the bytes of a block with a right checksum.
func block(kind byte, body ...byte) []byte {
	return append(appendBlockHeader(nil, kind, bodyPlain, body, len(body)), body...)
}

func TestPageReaderRefuses(t *testing.T) {
	end := block(blockEnd)
	z := newCompressor()
	bomb := z.EncodeAll(make([]byte, MaxBlock+1), nil)
	lie := z.EncodeAll(make([]byte, 1000), nil)
	table := []struct {
		name   string
		stream [][]byte
		want   string
	}{
		{"nothing", nil, "unexpected EOF"},
		{"no end", [][]byte{block(blockState, 1)}, "unexpected EOF"},
		{"type 0", [][]byte{block(0)}, "type 0"},
		{"type 5", [][]byte{block(5)}, "type 5"},
		{"zeros", [][]byte{make([]byte, 100)}, "type 0"},
		{"empty pages", [][]byte{block(blockPages), end}, "with 0 bytes"},
		{"end with a body", [][]byte{block(blockEnd, 1)}, "with 1 bytes"},
		{"reset after state", [][]byte{block(blockState, 1), block(blockReset), end}, "out of place"},
		{"state after pages", [][]byte{block(blockPages, 0), block(blockState, 1), end}, "out of place"},
		{"huge", [][]byte{appendBlockHeader(nil, blockState, bodyPlain, make([]byte, MaxBlock+1), MaxBlock+1)}, "at most"},
		{"two lengths", [][]byte{append(appendBlockHeader(nil, blockState, bodyPlain, []byte{1}, 2), 1)}, "1 bytes that are 2"},
		{"bomb", [][]byte{append(appendBlockHeader(nil, blockState, bodyZstd, bomb, MaxBlock), bomb...)}, "at most"},
		{"lie", [][]byte{append(appendBlockHeader(nil, blockState, bodyZstd, lie, 999), lie...)}, "tells 999"},
		{"checksum", [][]byte{append(block(blockState, 1)[:blockHeaderSize], 2)}, "checksum"},
		{"page beyond the machine", [][]byte{block(blockPages, 10*8), end}, "beyond the machine's last"},
		{"page after the last", [][]byte{block(blockPages, 9*8, 0), end}, "beyond the machine's last"},
		{"coding 5", [][]byte{block(blockPages, 5), end}, "coding 5"},
		{"short page", [][]byte{block(blockPages, 1, 1, 2, 3), end}, "beyond the end"},
		{"same without a shadow's page", [][]byte{block(blockPages, 8+pageSame), end}, "never sent"},
		{"long run of equal words", [][]byte{block(blockPages, pageWords, 0x81, 4), end}, "run goes beyond"},
		{"long run of words", [][]byte{block(blockPages, pageWords, 0x80, 3, 0x81, 1), end}, "run of 129 words at word 384"},
		{"empty run", [][]byte{block(blockPages, pageDifferences, 1, 0), end}, "run of 0 words"},
		{"short words", [][]byte{block(blockPages, pageWords, 1, 1, 1), end}, "beyond the end"},
		{"short differences", [][]byte{block(blockPages, pageDifferences, 1, 2, 1), end}, "beyond the end"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			shadow := NewShadow(10)
			shadow.set(0, make([]byte, PageSize))
			_, err := readStream(NewPageReader(shadow, 10), bytes.NewReader(bytes.Join(c.stream, nil)), memory{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			var format *FormatError
			if torn := errors.Is(err, io.ErrUnexpectedEOF); torn == errors.As(err, &format) {
				t.Errorf("%v: torn %v and a format error alike", err, torn)
			}
		})
	}
}

func TestStateHasABound(t *testing.T) {
	w := NewPageWriter(nil)
	w.Begin(io.Discard)
	if err := w.State(make([]byte, MaxState+1)); err == nil {
		t.Error("a state beyond the bound was written")
	}
	// A reader does not trust the writer: the same block over and over.
	body := newCompressor().EncodeAll(make([]byte, MaxBlock), nil)
	one := append(appendBlockHeader(nil, blockState, bodyZstd, body, MaxBlock), body...)
	r := NewPageReader(nil, 1)
	r.Begin(bytes.NewReader(bytes.Repeat(one, MaxState/MaxBlock+1)))
	if _, err := r.State(); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("error %v", err)
	}
}

func TestDeltaGoesThroughTheRingInParts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	stream := randomBytes(rnd, 2*MaxDeltaPart+100)
	r := NewRing(MinRing, Base{Sequence: 1}, nil)
	reader := r.NewReader()
	d := NewDeltaWriter(r, 77)
	for rest := stream; len(rest) > 0; {
		n := min(len(rest), 1+rnd.IntN(100_000))
		if _, err := d.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	flush(t, r)
	b := take(t, reader, 1<<20)
	if b.Records != 3 {
		t.Errorf("%d parts", b.Records)
	}
	var dec Decoder
	dec.Reset(b.Bytes, b.Base)
	var first Record
	if err := dec.Next(&first); err != nil || first.Position != 77 {
		t.Fatalf("%+v, %v", first, err)
	}
	got, err := io.ReadAll(NewDeltaReader(&first, dec.Next))
	if err != nil || !bytes.Equal(got, stream) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

func TestDeltaThatIsInterrupted(t *testing.T) {
	first := Record{Kind: KindDelta, Position: 7, Payload: []byte("part")}
	for name, next := range map[string]func(*Record) error{
		"cut off":       func(r *Record) error { return io.EOF },
		"another kind":  func(r *Record) error { *r = Record{Kind: KindTick, Position: 7}; return nil },
		"another place": func(r *Record) error { *r = Record{Kind: KindDelta, Position: 8, Last: true}; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := io.ReadAll(NewDeltaReader(&first, next)); err == nil {
				t.Errorf("%q was read as a whole delta", got)
			}
		})
	}
}

// Pages that the reader's host has in hand come without their content, and only if it has told of them.
func TestPagesInHand(t *testing.T) {
	var stream bytes.Buffer
	w := NewPageWriter(nil)
	w.Begin(&stream)
	plain := bytes.Repeat([]byte{1, 2, 3, 4}, PageSize/4)
	err := w.State(nil)
	for _, number := range []uint64{3, 5, 900} {
		if err == nil {
			err = w.Same(number)
		}
	}
	if err == nil {
		err = w.Page(901, plain)
	}
	if err == nil {
		err = w.End()
	}
	if s := w.Stats(); err != nil || s.Same != 3 || s.Pages() != 4 {
		t.Fatalf("%+v, %v", s, err)
	}
	inHand := map[uint64][]byte{3: bytes.Repeat([]byte{3}, PageSize), 5: bytes.Repeat([]byte{5}, PageSize), 900: plain, 901: nil}
	for name, untold := range map[string]uint64{"all told": 0, "one untold": 5} {
		r := NewPageReader(nil, 1000)
		r.Hand(func(number uint64) []byte {
			if number == untold {
				return nil
			}
			return inHand[number]
		})
		got := memory{}
		p, err := readStream(r, bytes.NewReader(stream.Bytes()), got)
		var malformed *FormatError
		switch {
		case untold != 0:
			if !errors.As(err, &malformed) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || len(p.numbers) != 4 || !bytes.Equal(got[901], plain) || !bytes.Equal(got[5], inHand[5]) || !bytes.Equal(got[900], plain):
			t.Errorf("%s: pages %v, %v", name, p.numbers, err)
		}
	}
	if _, err := readStream(NewPageReader(nil, 1000), bytes.NewReader(stream.Bytes()), memory{}); err == nil {
		t.Error("a reader with nothing in hand has pages of it")
	}
}

func FuzzPages(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 9))
	m := memory{}
	var one, two bytes.Buffer
	w := NewPageWriter(NewShadow(20))
	writeStream(f, w, &one, pass{state: []byte("state"), numbers: dirty(rnd, m, 20)}, m)
	writeStream(f, w, &two, pass{numbers: dirty(rnd, m, 20), reset: true}, m)
	f.Add(one.Bytes(), []byte{0, 8, 16})
	f.Add(two.Bytes(), []byte{pageWords, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 3})
	f.Add([]byte{}, []byte{pageDifferences, 1, 1, 2, 0xfe, 3, 8 + pageSame})
	f.Fuzz(func(t *testing.T, stream, pages []byte) {
		shadow := NewShadow(4)
		shadow.set(0, make([]byte, PageSize))
		r := NewPageReader(shadow, 1000)
		check := func(in []byte) {
			r.Begin(bytes.NewReader(in))
			state, err := r.State()
			if len(state) > MaxState {
				t.Fatalf("%d bytes of state", len(state))
			}
			for last := -1; err == nil; {
				var n uint64
				var content []byte
				if n, content, err = r.Next(); err != nil {
					break
				}
				if int(n) <= last || n >= 1000 || len(content) != PageSize {
					t.Fatalf("page %d after %d, %d bytes", n, last, len(content))
				}
				last = int(n)
			}
			if shadow.Pages() > 4 {
				t.Fatalf("a shadow of %d pages", shadow.Pages())
			}
		}
		hand := make([]byte, PageSize)
		told := NewPageReader(nil, 1000)
		told.Hand(func(number uint64) []byte {
			if number%2 == 0 {
				return hand
			}
			return nil
		})
		told.Begin(bytes.NewReader(stream))
		if _, err := told.State(); err == nil {
			for err == nil {
				_, _, err = told.Next()
			}
		}
		check(stream)
		if n := len(pages); n > 0 && n <= MaxBlock { // past the checksum, which no fuzzer finds
			check(append(block(blockPages, pages...), block(blockEnd)...))
		}
	})
}

// benchmarkStop makes a forced stop like those measured in the lab: pages of which some words changed.
func benchmarkStop(pages, words int) (before, after memory, numbers []uint64) {
	rnd := rand.New(rand.NewPCG(8, 8))
	before, after = memory{}, memory{}
	for n := range uint64(pages) {
		page := make([]byte, PageSize)
		for i := range wordsPerPage { // pointers, counters and text, as in a kernel's heap
			switch v := rnd.Uint64(); v % 3 {
			case 0:
				binary.LittleEndian.PutUint64(page[i*8:], 0xffff888000000000+v>>38)
			case 1:
				binary.LittleEndian.PutUint64(page[i*8:], v>>52)
			}
		}
		before[n] = page
		numbers = append(numbers, n)
		now := bytes.Clone(page)
		for range words / pages {
			p := now[rnd.IntN(wordsPerPage)*8:]
			v := binary.LittleEndian.Uint64(p)
			switch rnd.IntN(3) {
			case 0:
				v += rnd.Uint64N(4096) * 8
			case 1:
				v++
			case 2:
				v = 0xffff888000000000 + rnd.Uint64N(1<<26)
			}
			binary.LittleEndian.PutUint64(p, v)
		}
		after[n] = now
	}
	return before, after, numbers
}

func BenchmarkForcedStop(b *testing.B) {
	for _, c := range []struct {
		name         string
		pages, words int
	}{{"27pages-2000words", 27, 2000}, {"64pages-5500words", 64, 5500}} {
		before, after, numbers := benchmarkStop(c.pages, c.words)
		state := make([]byte, 4096)
		b.Run(c.name+"/write", func(b *testing.B) {
			w := NewPageWriter(NewShadow(DefaultShadow))
			i := 0
			for b.Loop() {
				m := [2]memory{before, after}[i%2]
				i++
				writeStream(b, w, io.Discard, pass{state: state, numbers: numbers}, m)
			}
			b.ReportMetric(float64(w.Stats().StoredBytes), "B/stop")
		})
		b.Run(c.name+"/read", func(b *testing.B) {
			var whole, there, back bytes.Buffer
			w := NewPageWriter(NewShadow(DefaultShadow))
			writeStream(b, w, &whole, pass{numbers: numbers}, before)
			writeStream(b, w, &there, pass{state: state, numbers: numbers}, after)
			writeStream(b, w, &back, pass{state: state, numbers: numbers}, before)
			r := NewPageReader(NewShadow(DefaultShadow), MaxPages)
			drain := func(p []byte) {
				r.Begin(bytes.NewReader(p))
				_, err := r.State()
				for err == nil {
					_, _, err = r.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
			drain(whole.Bytes())
			i := 0
			for b.Loop() {
				drain([2][]byte{there.Bytes(), back.Bytes()}[i%2])
				i++
			}
		})
	}
}

func BenchmarkCheckpoint(b *testing.B) {
	_, m, numbers := benchmarkStop(4096, 1)
	b.SetBytes(int64(len(numbers)) * PageSize)
	w := NewPageWriter(nil)
	for b.Loop() {
		writeStream(b, w, io.Discard, pass{numbers: numbers}, m)
	}
	b.ReportMetric(float64(w.Stats().StoredBytes)/float64(len(numbers)), "B/page")
}
