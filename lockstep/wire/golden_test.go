package wire

import (
	"bytes"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"testing"
)

// writeGolden makes TestGoldenLog write the files of a new version of the format. Files that exist are never written
// again: logs of that version are out in the world.
var writeGolden = flag.Bool("write-golden", false, "write the golden log of a new version of the format")

var (
	goldenLog  = fmt.Sprintf("testdata/version%d.log", Version)
	goldenText = fmt.Sprintf("testdata/version%d.txt", Version)
)

// goldenRecords has every kind and every flag.
func goldenRecords(t *testing.T) []Record {
	regs := &Registers{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0xffffffff81000000, 2}
	moved := *regs
	moved[3], moved[16] = 0, regs[16]-100
	ring := NewRing(MinRing, Base{Sequence: 1}, nil)
	reader := ring.NewReader()
	w := NewPageWriter(NewShadow(4))
	page := func(f func(p []byte)) []byte { p := make([]byte, PageSize); f(p); return p }
	text := page(func(p []byte) { copy(p, strings.Repeat("all work and no play ", 195)) })
	first := page(func(p []byte) { copy(p[8:], "the first page") })
	for i, m := range []memory{
		{0: first, 1: text, 9: make([]byte, PageSize)},
		{0: first, 1: text, 3: page(func(p []byte) { p[4095] = 1 })},
		{1: page(func(p []byte) { copy(p, text); p[0]++ }),
			9: page(func(p []byte) { copy(p[16:], "\xf1\xe2\xd3\xc4\xb5\xa6\x97\x88\x79\x6a\x5b\x4c\x3d\x2e\x1f\x90") })},
	} {
		d := NewDeltaWriter(ring, uint64(100+i))
		p := pass{state: fmt.Appendf(nil, "state %d", i), reset: i == 0}
		for n := range uint64(10) {
			if m[n] != nil {
				p.numbers = append(p.numbers, n)
			}
		}
		writeStream(t, w, d, p, m)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, ring)
	b := take(t, reader, 1<<20)
	deltas := decodeAll(t, b.Bytes, b.Base)
	more := bytes.Repeat([]byte("part "), 300)
	return append(append([]Record{
		{Kind: KindClock, Time: 1_000_000},
		{Kind: KindTick, Position: 7},
		{Kind: KindTick, Position: 1000},
		{Kind: KindConsole, Position: 1000, Device: 1, Payload: []byte("uname -a\n")},
		{Kind: KindFrame, Position: 1001, Payload: []byte{0, 1, 2, 3}},
		{Kind: KindDisk, Position: 1001, Device: 2, Payload: []byte{1, 0, 0, 0, 0, 0, 0, 0, 0}},
		{Kind: KindRandom, Position: 1002, Device: 255, Payload: []byte{}},
		{Kind: KindPower, Position: 1 << 40},
		{Kind: KindDigest, Position: 1 << 40, Time: 2_000_000, Hash: 0x0123456789abcdef},
		{Kind: KindDigest, Position: 1 << 40, Time: 2_000_000, Hash: 1, Registers: regs},
		{Kind: KindDigest, Position: 1 << 40, Time: 1 << 50, Hash: 2, Registers: &moved},
		{Kind: KindMemory, Position: 1 << 40, Number: 0x100, Payload: AppendPageHash(AppendPageHash(nil, 1), 2)},
		{Kind: KindCheckpoint, Position: 1 << 40, Time: 1 << 50, Number: 4},
		{Kind: KindOutput, Position: 1 << 40, Of: KindConsole, Length: 5, Hash: 6},
		{Kind: KindOutput, Position: 1 << 40, Of: KindFrame, Device: 3, Length: 60, Hash: 7},
		{Kind: KindOutput, Position: 1 << 40, Of: KindDisk, Device: 3, Length: 512, Hash: 8},
		{Kind: KindDelta, Position: 1 << 40, Payload: more},
		{Kind: KindDelta, Position: 1 << 40, Payload: more, Last: true},
	}, raise(deltas, 1<<40)...),
		Record{Kind: KindEnd, Position: 1<<40 + 200, Time: 1 << 50, Cause: EndFailure, Payload: []byte("the disk is full")})
}

// raise moves records to later positions.
func raise(records []Record, by uint64) []Record {
	for i := range records {
		records[i].Position += by
	}
	return records
}

// goldenDescription reads a log and tells everything that is in it.
func goldenDescription(t *testing.T, file []byte) string {
	l, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s\n", l.Header().Fingerprint, l.Header().Configuration)
	r := NewPageReader(NewShadow(4), 10)
	var rec Record
	for err = l.Next(&rec); err == nil; err = l.Next(&rec) {
		fmt.Fprintln(&b, rec.String())
		for i := range rec.PageHashes() {
			if rec.Kind == KindMemory {
				fmt.Fprintf(&b, "  page hash %x\n", rec.PageHash(i))
			}
		}
		if rec.Kind != KindDelta || !bytes.Contains(rec.Payload, []byte("state")) {
			continue
		}
		m := memory{}
		p, err := readStream(r, NewDeltaReader(&rec, l.Next), m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  %q %+v\n", p.state, r.Stats())
		for _, n := range p.numbers {
			fmt.Fprintf(&b, "  page %d has checksum %08x\n", n, crc32.ChecksumIEEE(m[n]))
		}
	}
	fmt.Fprintln(&b, err)
	return b.String()
}

// TestGoldenLog reads a log that was written when the version was new. If it fails, logs that exist can't be read any
// more: give the format another version, and read the old one too or refuse it by its number.
func TestGoldenLog(t *testing.T) {
	if *writeGolden {
		file, _ := logBytes(t, goldenRecords(t), 6)
		create(t, goldenLog, file)
		create(t, goldenText, []byte(goldenDescription(t, file)))
	}
	file, err := os.ReadFile(goldenLog)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(goldenText)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.SplitAfter(goldenDescription(t, file), "\n")
	for i, line := range strings.SplitAfter(string(want), "\n") {
		if i >= len(got) || got[i] != line {
			t.Fatalf("line %d is %q, want %q", i+1, got[min(i, len(got)-1)], line)
		}
	}
	if !strings.HasSuffix(string(want), io.EOF.Error()+"\n") {
		t.Error("the golden log has no end")
	}
}

func create(t *testing.T, path string, data []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
