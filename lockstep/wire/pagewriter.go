package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// PageWriter writes streams of pages: Begin, perhaps ResetShadow, State, Page for each page in rising order, End. One
// writer is used for one stream after another. Use out of this order panics.
type PageWriter struct {
	shadow *Shadow
	zstd   *zstd.Encoder
	guess  guess

	w     io.Writer
	stage int
	next  uint64 // the smallest number that the next page may have
	state int    // bytes of state so far
	block []byte // the pages block that is being filled
	body  []byte
	out   []byte
	stats PageStats
}

// Stages of a stream, in the order in which they follow each other.
const (
	stageClosed = 0
	stageBegun  = 1
	stageState  = 2
	stagePages  = 3
)

// PageStats is what one stream has in it.
type PageStats struct {
	// Zero, Plain, Same, Differences and Words are numbers of pages by their coding.
	Zero        uint64 `json:"zero"`
	Plain       uint64 `json:"plain"`
	Same        uint64 `json:"same"`
	Differences uint64 `json:"differences"`
	Words       uint64 `json:"words"`
	// StateBytes is the size of the state, and StoredBytes that of the whole stream.
	StateBytes  uint64 `json:"state_bytes"`
	StoredBytes uint64 `json:"stored_bytes"`
}

// Pages returns the number of pages.
func (s *PageStats) Pages() uint64 { return s.Zero + s.Plain + s.Same + s.Differences + s.Words }

func (s *PageStats) count(coding uint64) {
	*[pageCodings]*uint64{&s.Zero, &s.Plain, &s.Same, &s.Differences, &s.Words}[coding]++
}

// NewPageWriter returns a writer that takes differences from shadow, or writes whole pages if that is nil.
func NewPageWriter(shadow *Shadow) *PageWriter {
	return &PageWriter{shadow: shadow, zstd: newCompressor()}
}

// Begin begins a stream to w.
func (p *PageWriter) Begin(w io.Writer) {
	p.w, p.stage, p.next, p.state, p.stats = w, stageBegun, 0, 0, PageStats{}
	p.block = p.block[:0]
}

// ResetShadow empties the shadow, and that of each reader when it gets here.
func (p *PageWriter) ResetShadow() error {
	p.enter(stageBegun, stageState)
	if p.shadow != nil {
		p.shadow.reset()
	}
	return p.writeBlock(blockReset, nil)
}

// State writes a part of the state.
func (p *PageWriter) State(blob []byte) error {
	p.enter(stageState, stageState)
	if p.state += len(blob); p.state > MaxState {
		return fmt.Errorf("a machine state of %d bytes, at most %d fit in a stream", p.state, MaxState)
	}
	for len(blob) > 0 {
		n := min(len(blob), blockFull)
		if err := p.writeBlock(blockState, blob[:n]); err != nil {
			return err
		}
		p.stats.StateBytes += uint64(n)
		blob = blob[n:]
	}
	return nil
}

// Page writes a page's number and content, PageSize bytes.
func (p *PageWriter) Page(number uint64, content []byte) error {
	if len(content) != PageSize {
		panic(fmt.Sprintf("wire: page %#x of %d bytes", number, len(content)))
	}
	gap := p.gap(number)
	old := p.shadow.page(number)
	coding := p.appendPage(gap, old, content)
	p.stats.count(coding)
	if coding != pageSame {
		p.shadow.set(number, content)
	}
	return p.flushFull()
}

// Same writes that a page is as the reader's host has it in hand. The writer has no shadow.
func (p *PageWriter) Same(number uint64) error {
	if p.shadow != nil {
		panic("wire: a page is as in two places")
	}
	p.block = binary.AppendUvarint(p.block, p.gap(number)*8+pageSame)
	p.stats.count(pageSame)
	return p.flushFull()
}

// gap returns how many pages are left out before the next one, which is this one.
func (p *PageWriter) gap(number uint64) uint64 {
	p.enter(stagePages, stagePages)
	if number < p.next || number >= MaxPages {
		panic(fmt.Sprintf("wire: page %#x where %#x is the smallest", number, p.next))
	}
	gap := number - p.next
	p.next = number + 1
	return gap
}

func (p *PageWriter) flushFull() error {
	if len(p.block) < blockFull {
		return nil
	}
	return p.flush()
}

// End ends the stream.
func (p *PageWriter) End() error {
	p.enter(stagePages, stageClosed)
	if err := p.flush(); err != nil {
		return err
	}
	return p.writeBlock(blockEnd, nil)
}

// Stats returns what the stream has in it, up to the last block.
func (p *PageWriter) Stats() PageStats { return p.stats }

// enter checks that the stream is not beyond stage by, and makes it to.
func (p *PageWriter) enter(by, to int) {
	if p.stage == stageClosed || p.stage > by {
		panic("wire: a stream of pages is written out of order")
	}
	p.stage = to
}

// appendPage appends a page to the block in the shortest coding and returns that. old is its shadow or nil.
func (p *PageWriter) appendPage(gap uint64, old *[PageSize]byte, content []byte) uint64 {
	head := func(coding uint64) { p.block = binary.AppendUvarint(p.block, gap*8+coding) }
	switch {
	case old != nil && bytes.Equal(old[:], content):
		head(pageSame)
		return pageSame
	case bytes.Equal(content, zeroPage[:]):
		head(pageZero)
		return pageZero
	}
	if old != nil {
		start := len(p.block)
		coding := p.guess.shorter(old, content)
		head(coding)
		if coding == pageDifferences {
			p.block = appendDifferences(p.block, old, content)
		} else {
			p.block = appendWords(p.block, old, content)
		}
		if len(p.block)-start <= PageSize {
			return coding
		}
		p.block = p.block[:start]
	}
	head(pagePlain)
	p.block = append(p.block, content...)
	return pagePlain
}

func (p *PageWriter) flush() error {
	if len(p.block) == 0 {
		return nil
	}
	err := p.writeBlock(blockPages, p.block)
	p.block = p.block[:0]
	return err
}

// tooSmallToCompress is the size in bytes up to which zstd's own header eats what it saves.
const tooSmallToCompress = 64

// writeBlock writes a block in one call, compressed if that is shorter.
func (p *PageWriter) writeBlock(kind byte, meant []byte) error {
	coding, body := byte(bodyPlain), meant
	if len(meant) > tooSmallToCompress {
		if p.body = p.zstd.EncodeAll(meant, p.body[:0]); len(p.body) < len(meant) {
			coding, body = bodyZstd, p.body
		}
	}
	p.out = appendBlockHeader(p.out[:0], kind, coding, body, len(meant))
	p.out = append(p.out, body...)
	p.stats.StoredBytes += uint64(len(p.out))
	_, err := p.w.Write(p.out)
	return err
}
