package blk

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync/atomic"

	"tandem/vmm/sums"
)

// When a transfer is near enough to its end to stop the guest for the rest.
const (
	// FinalBytes is what may be left.
	FinalBytes = 4 << 20
	// MaxRounds is how many times what was written meanwhile is sent, however much there is each time.
	MaxRounds = 8
)

// maxSpan is the number of chunks whose marks are taken at once.
const maxSpan = maxPartData / chunk

// Row is the disks of a machine, one behind the other in one row of bytes. A read-only disk takes no bytes of it.
type Row struct {
	disks  []*Tracked
	forms  []Form
	starts []int64 // where each disk begins
	size   int64
	name   [32]byte
}

// NewRow returns the row of a machine's disks, in their order. It reads what it needs to tell their forms.
func NewRow(disks []*Tracked) (*Row, error) {
	r := &Row{disks: disks}
	names := sha256.New()
	for i, d := range disks {
		f, err := FormOf(d)
		if err != nil {
			return nil, fmt.Errorf("disk %d: %w", i+1, err)
		}
		r.forms = append(r.forms, f)
		names.Write(d.name[:])
	}
	r.starts, r.size = layout(r.forms)
	r.name = [32]byte(names.Sum(nil))
	return r, nil
}

// layout returns where each disk begins in a row, and the row's size in bytes.
func layout(forms []Form) (starts []int64, size int64) {
	for _, f := range forms {
		starts = append(starts, size)
		size += f.rowBytes()
	}
	return starts, size
}

// Name names the disks and all that is known of changes to them: no other row has it. A replica that was begun under
// this name can be gone on with.
func (r *Row) Name() [32]byte { return r.name }

// Size is the number of bytes in the row.
func (r *Row) Size() int64 { return r.size }

// Forms returns the forms of the disks. The caller must not change it.
func (r *Row) Forms() []Form { return r.forms }

// Transfer sends what a replica of a row lacks: all that was written below where it goes on, then the rest in its order,
// then what was written meanwhile. The row may be in use all the time.
//
// Next is for one goroutine; the other methods are for any.
type Transfer struct {
	row *Row
	// due has, for each disk, the chunks to send before anything else.
	due []chunkSet
	// disk, at and end are the span that is being sent, whose marks have been taken; disk is that of next if there is none.
	disk    int
	at, end int64
	// next is where the row goes on when nothing is due.
	next     int64
	ordered  bool // the span is at next
	progress atomic.Int64
	rounds   atomic.Int64

	// comparing asks what the replica has as it is; it is nil if all is sent. same tells it of the chunks of the span, which begins
	// at chunk first, or is empty.
	comparing *comparison
	same      []bool
	first     int64
	sameBytes atomic.Int64
	sentBytes atomic.Int64
}

// Begin begins a transfer to a replica that has the first from bytes of the row, or had them at some time since it got the
// row's name. The transfer before it, if there was one, must not be used any more. A from beyond the row is 0.
func (r *Row) Begin(from int64) *Transfer {
	from = resumeAt(from, r.size)
	t := &Transfer{row: r, next: from}
	for i, d := range r.disks {
		due := newChunkSet(int64(len(d.since.words)) * 64)
		if r.forms[i].Kind != ReadOnly {
			t.collect(d, due, from-r.starts[i])
		}
		t.due = append(t.due, due)
	}
	if i := r.at(from); i >= 0 {
		t.next -= (from - r.starts[i]) % chunk
	}
	t.progress.Store(t.next)
	return t
}

// resumeAt is where both hosts take it that a transfer goes on.
func resumeAt(from, size int64) int64 {
	if from < 0 || from > size {
		return 0
	}
	return from
}

// collect makes those chunks of d due that begin before end and were ever written. The marks of since go first: a change
// whose mark in ever is not there yet will leave one in since.
func (t *Transfer) collect(d *Tracked, due chunkSet, end int64) {
	for c := d.since.next(0); c >= 0; c = d.since.next(c + 1) {
		d.since.take(c)
	}
	for c := d.ever.next(0); c >= 0 && c*chunk < end; c = d.ever.next(c + 1) {
		due.add(c, c)
	}
}

// at returns the disk that has byte off of the row, or -1 at its end.
func (r *Row) at(off int64) int {
	for i, f := range r.forms {
		if n := f.rowBytes(); n > 0 && off < r.starts[i]+n {
			return i
		}
	}
	return -1
}

// Compare lets the transfer ask for the sums, made with a key, of what lies in the replica, and not send what has the same. It is
// called before the first part is taken.
func (t *Transfer) Compare(key sums.Key, asker sums.Asker) {
	from := t.next
	if i := t.row.at(from); i >= 0 && from > 0 {
		// The block in which it goes on may be due: what is on its way there is not in its sum.
		from = min(from+chunk, t.row.starts[i]+t.row.forms[i].Size)
	}
	t.comparing = newComparison(t.row, from, key, asker)
}

// Content returns how many bytes of content were sent, and how many were not, because the replica had them.
func (t *Transfer) Content() (sent, same int64) { return t.sentBytes.Load(), t.sameBytes.Load() }

// Next appends the next part to dst and returns it. A nil part says that nothing is left now; once the guest stands still,
// the replica has everything then. An error is one of reading this host's disk,
// and the transfer's end.
func (t *Transfer) Next(dst []byte) ([]byte, error) {
	if t.at == t.end {
		if err := t.take(); err != nil || t.at == t.end {
			return nil, err
		}
	}
	part, n, err := t.encode(dst)
	if err != nil {
		return nil, fmt.Errorf("disk %d: sending it: %w", t.disk+1, err)
	}
	t.at += n
	if t.ordered {
		t.next += n
		t.progress.Store(t.next)
	}
	return part, nil
}

// take takes the marks of the next span, if there is one.
func (t *Transfer) take() error {
	for {
		if t.takeDue() {
			return nil
		}
		if i := t.row.at(t.next); i >= 0 {
			return t.takeOrdered(i)
		}
		if !t.takeWritten() {
			return nil
		}
	}
}

// takeDue takes a run of chunks that are due.
func (t *Transfer) takeDue() bool {
	for i, due := range t.due {
		first := due.next(0)
		if first < 0 {
			continue
		}
		last := first
		for due.take(first); last+1 < first+maxSpan && t.inDisk(i, last+1) && due.take(last+1); {
			last++
		}
		t.span(i, first*chunk, (last+1)*chunk)
		t.ordered = false
		return true
	}
	return false
}

func (t *Transfer) inDisk(i int, c int64) bool { return c*chunk < t.row.forms[i].Size }

// takeOrdered takes what comes next in disk i: as much as is a hole, or a few chunks.
func (t *Transfer) takeOrdered(i int) error {
	d, off := t.row.disks[i], t.next-t.row.starts[i]
	e, err := d.stretch(off)
	if err != nil {
		return fmt.Errorf("disk %d: %w", i+1, err)
	}
	n := int64(maxSpan * chunk)
	if hole := e.n / chunk * chunk; e.content != stored && hole > n {
		n = hole
	}
	t.span(i, off, off+n)
	t.ordered = true
	for c := off / chunk; c*chunk < t.end; c++ {
		d.since.take(c)
	}
	if t.comparing != nil && n <= maxSpan*chunk {
		t.first = off / chunk
		t.same, err = t.comparing.span(i, t.first, t.end, t.same)
	}
	return err
}

// takeWritten makes due what was written meanwhile, and reports whether there was anything.
func (t *Transfer) takeWritten() bool {
	found := false
	for i, d := range t.row.disks {
		d.since.takeAll(t.due[i])
		found = found || t.due[i].next(0) >= 0
	}
	if found {
		t.rounds.Add(1)
	}
	return found
}

func (t *Transfer) span(disk int, at, end int64) {
	t.disk, t.at, t.end = disk, at, min(end, t.row.forms[disk].Size)
	t.same = t.same[:0]
}

// encode appends the part at the start of the span to dst, and says how much of the span it is.
func (t *Transfer) encode(dst []byte) (p []byte, n int64, err error) {
	d, off := t.row.disks[t.disk], t.row.starts[t.disk]+t.at
	end, same := t.alike()
	if same {
		t.sameBytes.Add(end - t.at)
		return appendPartHeader(dst, partSame, off, end-t.at), end - t.at, nil
	}
	e, err := d.extent(t.at, end-t.at)
	switch {
	case err != nil:
		return nil, 0, err
	case e.content == based:
		return appendPartHeader(dst, partBased, off, e.n), e.n, nil
	case e.content == zeros:
		return appendPartHeader(dst, partZeros, off, e.n), e.n, nil
	}
	head := len(dst)
	p = appendPartHeader(dst, partData, off, 0)
	p, n, empty, err := appendContent(p, d, t.at, min(e.n, maxPartData))
	if err != nil {
		return nil, 0, err
	}
	kind := byte(partData)
	if empty {
		kind, p = partZeros, p[:head+partHeader]
	} else {
		t.sentBytes.Add(n)
	}
	appendPartHeader(p[:head], kind, off, n)
	return p, n, nil
}

// alike returns up to where the rest of the span is the same in the replica, or up to where it is not known to be.
func (t *Transfer) alike() (end int64, same bool) {
	k := t.at/chunk - t.first
	if len(t.same) == 0 {
		return t.end, false
	}
	same = t.same[k]
	for k++; k < int64(len(t.same)) && t.same[k] == same; k++ {
	}
	return min((t.first+k)*chunk, t.end), same
}

// appendContent appends up to max bytes at off, as many as are all zeros or have none but zeros in no chunk.
func appendContent(p []byte, image Image, off, max int64) (_ []byte, n int64, empty bool, err error) {
	for n < max {
		step := min(max-n, chunk)
		start := len(p)
		p = append(p, zeroes[:step]...)
		if _, err := image.ReadAt(p[start:], off+n); err != nil {
			return nil, 0, false, err
		}
		blank := bytes.Equal(p[start:], zeroes[:step])
		if n > 0 && blank != empty {
			return p[:start], n, empty, nil
		}
		empty = blank
		n += step
	}
	return p, n, empty, nil
}

// Progress is from where the transfer could go on if it broke off, once the replica has stored all parts so far.
func (t *Transfer) Progress() int64 { return t.progress.Load() }

// Done returns how much of the row is sent, and its size, in bytes: for a bar.
func (t *Transfer) Done() (done, total int64) { return t.Progress(), t.row.size }

// Left is how many bytes are to be sent at most.
func (t *Transfer) Left() int64 {
	n := t.row.size - t.Progress()
	for i, d := range t.row.disks {
		n += (max(0, t.due[i].n.Load()) + max(0, d.since.n.Load())) * chunk
	}
	return n
}

// Enough reports whether so little of what was written meanwhile is left that the guest can be stopped for it, or that sending more
// while it writes would be in vain.
func (t *Transfer) Enough() bool {
	if t.Progress() < t.row.size {
		return false // the replica may be asked what it has, which the guest need not wait for
	}
	if t.Left() <= FinalBytes {
		return true
	}
	for _, due := range t.due {
		if due.n.Load() > 0 {
			return false
		}
	}
	return t.rounds.Load() >= MaxRounds
}
