package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// logRecords returns a log of every kind, with its end.
func logRecords(seed uint64, n int) []Record {
	rnd := rand.New(rand.NewPCG(seed, seed))
	e := NewEncoder(Base{Sequence: 1})
	var all []Record
	for len(all) < n-1 {
		r := randomRecord(rnd, e.Base())
		if r.Kind == KindEnd {
			continue
		}
		r.Sequence = e.Base().Sequence
		e.Append(nil, &r)
		all = append(all, keep(r))
	}
	base := e.Base()
	return append(all, Record{Kind: KindEnd, Sequence: base.Sequence, Position: base.Position + 1, Time: base.Time, Cause: EndPowerOff, Payload: []byte("bye")})
}

// logBytes returns the file of a log, with so many records a frame, and where its frames begin.
func logBytes(t testing.TB, records []Record, perFrame int) (file []byte, frames []int) {
	t.Helper()
	out := bytes.NewBuffer(headerBytes(t, `{"ram":1}`))
	w := NewFrameWriter(out, true)
	e := NewEncoder(Base{Sequence: 1})
	for len(records) > 0 {
		n := min(perFrame, len(records))
		b := Batch{Base: e.Base(), Records: n}
		for i := range records[:n] {
			b.Bytes = e.Append(b.Bytes, &records[i])
		}
		e.Restart()
		frames = append(frames, out.Len())
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		records = records[n:]
	}
	return out.Bytes(), frames
}

// readLog returns the records of a log and how it ended.
func readLog(r io.Reader) ([]Record, error) {
	l, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	var all []Record
	for {
		var r Record
		if err := l.Next(&r); err != nil {
			return all, err
		}
		all = append(all, keep(r))
	}
}

func TestLogSurvivesTheRoundTrip(t *testing.T) {
	want := logRecords(1, 500)
	for _, perFrame := range []int{1, 7, 500} {
		file, _ := logBytes(t, want, perFrame)
		got, err := readLog(bytes.NewReader(file))
		if err != io.EOF || !reflect.DeepEqual(got, want) {
			t.Errorf("%d records a frame: %d records, %v", perFrame, len(got), err)
		}
	}
}

func TestReaderSkipsKinds(t *testing.T) {
	want := logRecords(2, 200)
	file, _ := logBytes(t, want, 10)
	l, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	l.Only(SetOf(KindTick))
	n := 0
	var r Record
	for {
		if err = l.Next(&r); err != nil {
			break
		}
		if n++; r.Kind != KindTick && r.Kind != KindEnd || r.Position != want[r.Sequence-1].Position {
			t.Errorf("got %+v", r)
		}
	}
	ticks := 0
	for _, r := range want {
		if r.Kind == KindTick {
			ticks++
		}
	}
	if err != io.EOF || n != ticks+1 {
		t.Errorf("%d records, want %d ticks and the end; %v", n, ticks, err)
	}
}

// TestEveryTornLogEndsAtTheLastGoodRecord cuts a log at every byte.
func TestEveryTornLogEndsAtTheLastGoodRecord(t *testing.T) {
	want := logRecords(3, 24)
	file, frames := logBytes(t, want, 4)
	for cut := frames[0]; cut < len(file); cut++ {
		whole := 0
		for whole+1 < len(frames) && frames[whole+1] <= cut {
			whole++
		}
		if cut == len(file) {
			whole++
		}
		got, err := readLog(bytes.NewReader(file[:cut]))
		var damage *DamageError
		if !errors.As(err, &damage) || !damage.Torn {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if len(got) != whole*4 || damage.Sequence != uint64(whole*4) || damage.Offset != int64(frames[whole]) {
			t.Fatalf("cut at %d: %d records, want %d; %v", cut, len(got), whole*4, damage)
		}
		if whole > 0 && damage.Position != want[whole*4-1].Position {
			t.Fatalf("cut at %d: %v, the last good record stands at exit %d", cut, damage, want[whole*4-1].Position)
		}
		if atFrame := cut == frames[whole]; atFrame != errors.Is(err, errNoEnd) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

// TestEveryFlippedBitIsFound flips a bit of every byte behind the header.
func TestEveryFlippedBitIsFound(t *testing.T) {
	want := logRecords(4, 24)
	file, frames := logBytes(t, want, 4)
	for at := frames[0]; at < len(file); at++ {
		bad := bytes.Clone(file)
		bad[at] ^= 1 << (at % 8)
		got, err := readLog(bytes.NewReader(bad))
		var damage *DamageError
		if !errors.As(err, &damage) {
			t.Fatalf("flipped at %d: %v", at, err)
		}
		if len(got)%4 != 0 || len(got) > 0 && !reflect.DeepEqual(got, want[:len(got)]) || damage.Sequence != uint64(len(got)) {
			t.Fatalf("flipped at %d: %d records; %v", at, len(got), err)
		}
	}
}

func TestReaderRefusesLogsThatDoNotFit(t *testing.T) {
	end := func(e *Encoder) Batch {
		b := Batch{Base: e.Base(), Records: 1}
		b.Bytes = e.Append(nil, &Record{Kind: KindEnd, Position: e.Base().Position, Cause: EndStopped})
		return b
	}
	one := ticks(Base{Sequence: 1}, 3)
	more := ticks(Base{Sequence: 1}, 3)
	more.Records = 2
	fewer := ticks(Base{Sequence: 1}, 1)
	fewer.Bytes = []byte{0x82, 0x01} // one tick of two bytes
	fewer.Records = 2
	late := end(NewEncoder(Base{Sequence: 1}))
	late.Bytes = append(late.Bytes, 0x12)
	late.Records = 2
	junk := ticks(Base{Sequence: 1}, 3)
	junk.Bytes[1] = 0x1f
	table := []struct {
		name    string
		batches []Batch
		good    int
		want    string
	}{
		{"gap", []Batch{one, ticks(Base{Sequence: 5, Position: 3}, 1)}, 3, "record 5, exit 3, time 0 follows where record 4"},
		{"repetition", []Batch{one, one}, 3, "follows where record 4"},
		{"other position", []Batch{one, ticks(Base{Sequence: 4, Position: 2}, 1)}, 3, "exit 2"},
		{"other time", []Batch{one, ticks(Base{Sequence: 4, Position: 3, Time: 1}, 1)}, 3, "time 1"},
		{"more records than told", []Batch{more}, 1, "another number of records than the 2"},
		{"fewer records than told", []Batch{fewer}, 0, "another number of records than the 2"},
		{"record behind the end", []Batch{late}, 0, "follow the end"},
		{"no record", []Batch{junk}, 1, "record 2, 1 bytes into its frame: kind 15"},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			file := append(headerBytes(t, ""), frameBytes(t, false, c.batches...)...)
			got, err := readLog(bytes.NewReader(file))
			var damage *DamageError
			if !errors.As(err, &damage) || damage.Torn || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want damage with %q", err, c.want)
			}
			if len(got) != c.good || damage.Sequence != uint64(c.good) {
				t.Errorf("%d good records, want %d; %v", len(got), c.good, err)
			}
		})
	}
}

func TestSourceThatFailsIsNotDamage(t *testing.T) {
	file, frames := logBytes(t, logRecords(5, 8), 4)
	src := io.MultiReader(bytes.NewReader(file[:frames[1]+3]), failing{syscall.EIO})
	got, err := readLog(src)
	var damage *DamageError
	if !errors.Is(err, syscall.EIO) || errors.As(err, &damage) || len(got) != 4 {
		t.Errorf("%d records, %v", len(got), err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestGrowingLogIsFollowed(t *testing.T) {
	want := logRecords(6, 40)
	file, _ := logBytes(t, want, 3)
	var grown bytes.Buffer
	at := 0
	more := func() bool { // a few bytes at a time, wherever they end
		n := min(len(file)-at, 13)
		grown.Write(file[at : at+n])
		at += n
		return n > 0
	}
	got, err := readLog(Growing(&grown, more))
	if err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Errorf("%d records of %d, %v", len(got), len(want), err)
	}
	if at != len(file) {
		t.Errorf("it waited %d bytes beyond the end", len(file)-at)
	}
}

// runWriter appends records to a ring whose log goes to file, and returns what the writer's Run returned.
func runWriter(t *testing.T, w *FileWriter, ring *Ring, records []Record) error {
	t.Helper()
	for i := range records {
		if err := ring.Append(&records[i]); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			flush(t, ring)
		}
	}
	flush(t, ring)
	ring.Close()
	return w.Run(context.Background())
}

func TestFileWriterWritesALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), LogName)
	ring := NewRing(MinRing, Base{Sequence: 1}, nil)
	header := &Header{Configuration: []byte("{}")}
	w, err := CreateFile(path, header, ring)
	if err != nil {
		t.Fatal(err)
	}
	want := logRecords(7, 300)
	if err := runWriter(t, w, ring, want); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := readLog(f)
	if err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Errorf("%d records of %d, %v", len(got), len(want), err)
	}
	info, err := f.Stat()
	if s := w.Stats(); err != nil || s.Bytes != info.Size() || s.Sequence != 300 {
		t.Errorf("%+v, the file has %d bytes, %v", s, info.Size(), err)
	}
	if _, err := CreateFile(path, header, ring); !errors.Is(err, os.ErrExist) {
		t.Errorf("an old log was overwritten: %v", err)
	}
}

// fullDisk is a file in memory whose writes fail, after a part of them, when there is no room.
type fullDisk struct {
	data []byte
	at   int
	room int
	// broken makes Truncate fail too.
	broken bool
}

func (f *fullDisk) Write(p []byte) (int, error) {
	n := min(len(p), f.room-f.at)
	f.data = append(f.data[:f.at], p[:n]...)
	f.at += n
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (f *fullDisk) Truncate(size int64) error {
	if f.broken {
		return syscall.EIO
	}
	f.data = f.data[:size]
	return nil
}

func (f *fullDisk) Seek(offset int64, _ int) (int64, error) { f.at = int(offset); return offset, nil }
func (f *fullDisk) Sync() error                             { return nil }
func (f *fullDisk) Close() error                            { return nil }

// TestFullDiskLosesNothing runs a writer against a disk that has ever so little more room at each try.
func TestFullDiskLosesNothing(t *testing.T) {
	disk := &fullDisk{room: 1000}
	ring := NewRing(MinRing, Base{Sequence: 1}, nil)
	w, err := NewFileWriter(disk, &Header{Configuration: []byte("{}")}, ring)
	if err != nil {
		t.Fatal(err)
	}
	want := logRecords(8, 100)
	tries := 0
	for err = runWriter(t, w, ring, want); err != nil; err = w.Run(context.Background()) {
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "stands still") {
			t.Fatalf("error %v", err)
		}
		if !disk.broken && int64(len(disk.data)) != w.Stats().Bytes {
			t.Fatalf("%d bytes remain of %d good ones", len(disk.data), w.Stats().Bytes)
		}
		if _, err := readLog(bytes.NewReader(disk.data)); err == nil || err == io.EOF {
			t.Fatal("a log without its end was whole")
		}
		disk.broken = tries%3 == 1
		disk.room += 911
		if tries++; tries > 1000 {
			t.Fatal("it never ends")
		}
	}
	got, err := readLog(bytes.NewReader(disk.data))
	if err != io.EOF || !reflect.DeepEqual(got, want) || tries == 0 {
		t.Errorf("%d records of %d after %d failures, %v", len(got), len(want), tries, err)
	}
}

// hostileLogs are logs of a few bytes that ask for much memory.
func hostileLogs(t testing.TB) map[string][]byte {
	header := headerBytes(t, "")
	with := func(flags byte, body []byte) []byte {
		b := Base{Sequence: 1}
		return append(append(bytes.Clone(header), appendFrameHeader(nil, flags, b, 1, body)...), body...)
	}
	long := with(0, []byte{0x12})
	long[len(header)+6] = 0x7f // a body of nearly 8 MiB
	configuration := bytes.Clone(header)
	configuration[14] = 0x0f
	z := newCompressor()
	return map[string][]byte{
		"long frame":         long,
		"long configuration": configuration,
		"long packet":        with(0, []byte{0x04, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}),
		"zstd bomb":          with(frameCompressed, z.EncodeAll(make([]byte, 256<<20), nil)),
		"zstd header alone":  with(frameCompressed, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0}),
	}
}

func TestHostileLengthsAllocateLittle(t *testing.T) {
	const most = 24 << 20 // one frame as stored and as meant, and the decompressor's
	for name, file := range hostileLogs(t) {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := readLog(bytes.NewReader(file))
			runtime.ReadMemStats(&after)
			if err == nil || err == io.EOF {
				t.Errorf("error %v", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > most {
				t.Errorf("%d bytes were allocated for %d", got, len(file))
			}
		})
	}
}

func FuzzLog(f *testing.F) {
	file, frames := logBytes(f, logRecords(9, 60), 7)
	f.Add(file)
	f.Add(file[:frames[3]+5])
	for _, p := range hostileLogs(f) {
		if len(p) < 1<<16 {
			f.Add(p)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		// Give the frames right checksums, which no fuzzer finds.
		if _, n, err := ReadHeader(bytes.NewReader(p)); err == nil {
			p = resealAll(p, int(n))
		}
		records, err := readLog(bytes.NewReader(p))
		if err == nil {
			t.Fatal("a log without an end or an error")
		}
		for i := 1; i < len(records); i++ {
			if a, b := records[i-1], records[i]; b.Sequence != a.Sequence+1 || b.Position < a.Position {
				t.Fatalf("%+v follows %+v", b, a)
			}
		}
		var damage *DamageError
		if errors.As(err, &damage) && len(records) > 0 && damage.Sequence != records[len(records)-1].Sequence {
			t.Fatalf("%d records are good, %v", len(records), err)
		}
	})
}

// resealAll gives the frames of a log right checksums, as far as their lengths lead.
func resealAll(p []byte, at int) []byte {
	p = bytes.Clone(p)
	for at+frameHeaderSize <= len(p) {
		h, err := parseFrameHeader(p[at:])
		end := at + frameHeaderSize + int(h.length)
		if err != nil || end > len(p) {
			break
		}
		copy(p[at:], resealed(p[at:end])[:frameHeaderSize])
		at = end
	}
	return p
}
