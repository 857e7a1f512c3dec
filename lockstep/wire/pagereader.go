package wire

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// PageReader reads streams of pages: Begin, State, then Next until io.EOF. One reader is used for one stream after
// another; its shadow goes with them. After an error the shadow is no longer that of the writer.
//
// A stream that breaks the format gives a [*FormatError], one that ends too early io.ErrUnexpectedEOF, and a source that
// fails its own error.
type PageReader struct {
	shadow *Shadow
	limit  uint64
	blind  bool // the pages' contents are not wanted, and there is no shadow to make them from
	hand   func(number uint64) []byte
	zstd   *zstd.Decoder // made for the first compressed block

	r      io.Reader
	stage  int
	header [blockHeaderSize]byte
	stored []byte
	meant  []byte
	block  []byte // what is left of the present block
	next   uint64
	page   [PageSize]byte
	stats  PageStats
}

// NewPageReader returns a reader with the given shadow, or none if the streams are written without, for a machine whose
// page numbers are below limit.
func NewPageReader(shadow *Shadow, limit uint64) *PageReader {
	return &PageReader{shadow: shadow, limit: min(limit, MaxPages)}
}

// NewPageScanner returns a reader that tells which pages streams have, and by Stats how they are coded, but not what is
// in them: the contents that Next returns mean nothing. It needs no shadow.
func NewPageScanner() *PageReader { return &PageReader{limit: MaxPages, blind: true} }

// Hand has pages that are as this host has them in hand taken from it: hand returns a page's content, or nil if this host has
// not told of it. The reader has no shadow. With nil there are no such pages.
func (p *PageReader) Hand(hand func(number uint64) []byte) { p.hand = hand }

// Begin begins to read a stream from r.
func (p *PageReader) Begin(r io.Reader) {
	p.r, p.stage, p.next, p.block, p.stats = r, stageBegun, 0, nil, PageStats{}
}

// Stats returns what has been read of the stream.
func (p *PageReader) Stats() PageStats { return p.stats }

// State reads the stream's state, which is the caller's to keep.
func (p *PageReader) State() ([]byte, error) {
	var state []byte
	for p.stage < stagePages {
		kind, body, err := p.readBlock()
		if err != nil {
			return nil, err
		}
		switch {
		case kind == blockReset && p.stage == stageBegun:
			if p.shadow != nil {
				p.shadow.reset()
			}
			p.stage = stageState
		case kind == blockState:
			p.stage = stageState
			if len(state)+len(body) > MaxState {
				return nil, malformed("a machine state of more than %d bytes", MaxState)
			}
			state = append(state, body...)
			p.stats.StateBytes = uint64(len(state))
		case kind == blockPages:
			p.stage, p.block = stagePages, body
		case kind == blockEnd:
			p.stage = stageClosed
			return state, nil
		default:
			return nil, malformed("a block of type %d is out of place", kind)
		}
	}
	return state, nil
}

// Next returns the next page's number and content. The content is valid until the next call. It returns io.EOF at the end
// of the stream.
func (p *PageReader) Next() (number uint64, content []byte, err error) {
	if p.stage == stageBegun {
		panic("wire: the pages of a stream are read before its state")
	}
	for len(p.block) == 0 {
		if p.stage == stageClosed {
			return 0, nil, io.EOF
		}
		kind, body, err := p.readBlock()
		switch {
		case err != nil:
			return 0, nil, err
		case kind == blockEnd:
			p.stage = stageClosed
		case kind == blockPages:
			p.block = body
		default:
			return 0, nil, malformed("a block of type %d is out of place", kind)
		}
	}
	c := cursor{data: p.block}
	number = p.readPage(&c)
	if c.err != nil {
		return 0, nil, c.err
	}
	p.block = p.block[c.at:]
	return number, p.page[:], nil
}

// readPage reads one page into p.page.
func (p *PageReader) readPage(c *cursor) uint64 {
	head := c.uvarint()
	coding, gap := head%8, head/8
	if c.err == nil && (p.next >= p.limit || gap >= p.limit-p.next) {
		c.fail("a page beyond the machine's last, %#x", p.limit)
	}
	if c.err != nil {
		return 0
	}
	number := p.next + gap
	switch coding {
	case pageZero:
		clear(p.page[:])
	case pagePlain:
		copy(p.page[:], c.take(PageSize))
	case pageSame, pageDifferences, pageWords:
		if coding == pageSame && p.hand != nil {
			content := p.hand(number)
			if content == nil {
				c.fail("page %#x is said to be as this host has it, which has told nothing of it", number)
				return 0
			}
			copy(p.page[:], content)
			break
		}
		old := p.shadow.page(number)
		if p.blind {
			old = &zeroPage
		}
		if old == nil {
			c.fail("page %#x differs from one that was never sent", number)
			return 0
		}
		p.page = *old
		if coding != pageSame {
			applyRuns(c, p.page[:], coding)
		}
	default:
		c.fail("a page of coding %d", coding)
	}
	if c.err != nil {
		return 0
	}
	p.next = number + 1
	p.stats.count(coding)
	if coding != pageSame {
		p.shadow.set(number, p.page[:])
	}
	return number
}

// readBlock reads a block and returns its body as meant, which is valid until the next call.
func (p *PageReader) readBlock() (kind byte, body []byte, err error) {
	if _, err := io.ReadFull(p.r, p.header[:]); err != nil {
		return 0, nil, unexpected(err)
	}
	le := binary.LittleEndian
	kind, coding := p.header[0], p.header[1]
	stored, meant := le.Uint32(p.header[4:]), le.Uint32(p.header[8:])
	empty := kind == blockEnd || kind == blockReset
	switch {
	case kind < blockState || kind > blockReset || coding > bodyZstd || p.header[2]|p.header[3] != 0:
		return 0, nil, malformed("no block begins here (type %d, coding %d)", kind, coding)
	case stored > MaxBlock || meant > MaxBlock || coding == bodyPlain && stored != meant:
		return 0, nil, malformed("a block of %d bytes that are %d, at most %d allowed", stored, meant, MaxBlock)
	case empty != (meant == 0) || empty && stored != 0:
		return 0, nil, malformed("a block of type %d with %d bytes", kind, meant)
	}
	if p.stored, err = readExactly(p.r, p.stored, int(stored)); err != nil {
		return 0, nil, unexpected(err)
	}
	sum := crc32.Update(crc32.Checksum(p.header[:12], castagnoli), castagnoli, p.stored)
	if want := le.Uint32(p.header[12:]); sum != want {
		return 0, nil, malformed("a block's checksum is %08x, its bytes have %08x", want, sum)
	}
	p.stats.StoredBytes += blockHeaderSize + uint64(stored)
	if coding == bodyPlain {
		return kind, p.stored, nil
	}
	if p.zstd == nil {
		p.zstd = newDecompressor(MaxBlock)
	}
	if p.meant, err = decompress(p.zstd, p.meant, p.stored, MaxBlock); err != nil {
		return 0, nil, err
	}
	if len(p.meant) != int(meant) {
		return 0, nil, malformed("a block of %d bytes that tells %d", len(p.meant), meant)
	}
	return kind, p.meant, nil
}

// unexpected makes the end of the source what it is inside a stream.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
