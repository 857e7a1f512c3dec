package blk

import "tandem/vmm/sums"

// askBlocks is for the sums of how many chunks one question asks at most.
const askBlocks = 64

// comparison finds out which chunks of a row the replica has as they are. It asks ahead of what is sent, in the order of the row, and
// only for chunks with stored content.
type comparison struct {
	row    *Row
	hasher *sums.Hasher
	asker  sums.Asker
	at     int64     // in the row: up to where was asked
	open   []inquiry // questions without an answer, the oldest first
	last   inquiry   // the one that was answered last
	told   []sums.Sum
	silent []bool // of which disks the replica has nothing
	buffer []byte
}

// inquiry is a question for the sums of chunks of a disk.
type inquiry struct {
	disk  int
	first int64
	count int64
}

// before tells whether the question is about nothing from chunk c of a disk on.
func (q inquiry) before(disk int, c int64) bool {
	return q.disk < disk || q.disk == disk && q.first+q.count <= c
}

// has tells whether the question is about chunk c of a disk.
func (q inquiry) has(disk int, c int64) bool {
	return q.disk == disk && q.first <= c && c < q.first+q.count
}

// newComparison begins at a byte of the row that is the first of a chunk, or at its end.
func newComparison(r *Row, from int64, key sums.Key, asker sums.Asker) *comparison {
	return &comparison{
		row: r, at: from, hasher: sums.NewHasher(key), asker: asker, silent: make([]bool, len(r.disks)), buffer: make([]byte, chunk),
		last: inquiry{disk: -1},
	}
}

// span appends to dst[:0], for each chunk of disk i from the one given on, up to byte end of the disk, whether it is the same in the
// replica. Spans rise.
func (c *comparison) span(i int, first, end int64, dst []bool) ([]bool, error) {
	dst = dst[:0]
	for at := first; at*chunk < end; at++ {
		if err := c.catchUp(i, at); err != nil {
			return nil, err
		}
		same := false
		if k := at - c.last.first; c.last.has(i, at) && k < int64(len(c.told)) {
			p := c.buffer[:min(chunk, c.row.forms[i].Size-at*chunk)]
			if _, err := c.row.disks[i].ReadAt(p, at*chunk); err != nil {
				return nil, err
			}
			same = c.hasher.Of(p) == c.told[k]
		}
		dst = append(dst, same)
	}
	return dst, nil
}

// catchUp asks ahead, and takes answers until there are none of what comes before chunk at of disk i, and that of the chunk is there
// if it was asked for.
func (c *comparison) catchUp(i int, at int64) error {
	for {
		if err := c.askAhead(); err != nil {
			return err
		}
		if c.last.has(i, at) || len(c.open) == 0 || !c.open[0].before(i, at) && !c.open[0].has(i, at) {
			return nil
		}
		told, err := c.asker.Answer()
		if err != nil {
			return err
		}
		c.last, c.told, c.open = c.open[0], told, c.open[1:]
		if len(told) == 0 {
			c.silent[c.last.disk] = true
		}
	}
}

// askAhead asks until enough questions are open, or all have been asked.
func (c *comparison) askAhead() error {
	for len(c.open) < sums.Ahead {
		i := c.row.at(c.at)
		if i < 0 {
			return nil
		}
		start, size := c.row.starts[i], c.row.forms[i].Size
		if c.silent[i] {
			c.at = start + size
			continue
		}
		skipped, end, err := c.storedRun(i, c.at-start)
		if err != nil {
			return err
		}
		c.at = start + end
		if n := (end - skipped + chunk - 1) / chunk; n > 0 {
			if err := c.asker.Ask(uint64(start+skipped), int(n)); err != nil {
				return err
			}
			c.open = append(c.open, inquiry{i, skipped / chunk, n})
		}
	}
	return nil
}

// storedRun returns the first run of chunks, none of which is all a hole or as in the base, from byte at of disk i on: it begins with
// a chunk, and ends with one or with the disk.
func (c *comparison) storedRun(i int, at int64) (from, to int64, err error) {
	d, size := c.row.disks[i], c.row.forms[i].Size
	from, to = at, at
	for to < size && to-from < askBlocks*chunk {
		e, err := d.stretch(to)
		if err != nil {
			return 0, 0, err
		}
		// What begins inside a chunk, or ends inside one, belongs to a chunk with something else.
		whole := (to + e.n) / chunk * chunk
		if to+e.n == size {
			whole = size
		}
		aligned := (to + chunk - 1) / chunk * chunk
		switch {
		case e.content == stored || whole <= aligned:
			to += e.n
		case from == to: // nothing stored so far
			from, to = whole, whole
		default:
			return from, min(aligned, size), nil
		}
	}
	return from, min((to+chunk-1)/chunk*chunk, size, from+askBlocks*chunk), nil
}
