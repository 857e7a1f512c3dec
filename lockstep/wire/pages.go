package wire

import (
	"encoding/binary"
	"hash/crc32"
)

// Bounds of a stream of pages.
const (
	// MaxBlock bounds a block's body in bytes.
	MaxBlock = 256 << 10
	// MaxState bounds the state of a stream in bytes: all registers and device state. A network packet or a disk request
	// under way is in it.
	MaxState = 64 << 20
	// MaxPages bounds page numbers: 52 bits of physical address.
	MaxPages = 1 << 40
)

// blockFull is the size in bytes at which a block is written.
const blockFull = 128 << 10

// Types of blocks, and codings of their bodies.
const (
	blockState = 1
	blockPages = 2
	blockEnd   = 3
	blockReset = 4

	bodyPlain = 0
	bodyZstd  = 1
)

const blockHeaderSize = 16

// Codings of pages.
const (
	pageZero        = 0
	pagePlain       = 1
	pageSame        = 2
	pageDifferences = 3
	pageWords       = 4

	pageCodings = 5
)

const wordsPerPage = PageSize / 8

var zeroPage [PageSize]byte

func appendBlockHeader(dst []byte, kind, coding byte, body []byte, meant int) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, kind, coding, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(body)))
	dst = le.AppendUint32(dst, uint32(meant))
	return le.AppendUint32(dst, crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, body))
}

func word(p []byte, i int) uint64 { return binary.LittleEndian.Uint64(p[i*8:]) }

// appendDifferences appends the runs of coding pageDifferences.
func appendDifferences(dst []byte, from *[PageSize]byte, to []byte) []byte {
	for i := 0; i < wordsPerPage; {
		same, differ := run(from, to, i)
		i += same
		dst = binary.AppendUvarint(dst, uint64(same))
		if differ == 0 {
			break
		}
		dst = binary.AppendUvarint(dst, uint64(differ))
		for ; differ > 0; differ-- {
			dst = binary.AppendUvarint(dst, zigzag(word(to, i)-word(from[:], i)))
			i++
		}
	}
	return dst
}

// appendWords appends the runs of coding pageWords.
func appendWords(dst []byte, from *[PageSize]byte, to []byte) []byte {
	for i := 0; i < wordsPerPage; {
		same, differ := run(from, to, i)
		i += same
		dst = binary.AppendUvarint(dst, uint64(same))
		if differ == 0 {
			break
		}
		dst = binary.AppendUvarint(dst, uint64(differ))
		dst = append(dst, to[i*8:(i+differ)*8]...)
		i += differ
	}
	return dst
}

// run returns how many words from word i on are equal, and how many behind those differ.
func run(from *[PageSize]byte, to []byte, i int) (same, differ int) {
	start := i
	for i < wordsPerPage && word(from[:], i) == word(to, i) {
		i++
	}
	same = i - start
	start = i
	for i < wordsPerPage && word(from[:], i) != word(to, i) {
		i++
	}
	return same, i - start
}

// applyRuns changes the words of page that the runs name, by coding.
func applyRuns(c *cursor, page []byte, coding uint64) {
	for i := uint64(0); i < wordsPerPage; {
		same := c.uvarint()
		if same > wordsPerPage-i {
			c.fail("a run goes beyond its page")
		}
		i += same
		if c.err != nil || i == wordsPerPage {
			return
		}
		differ := c.uvarint()
		if differ == 0 || differ > wordsPerPage-i {
			c.fail("a run of %d words at word %d of a page", differ, i)
		}
		if c.err != nil {
			return
		}
		if coding == pageWords {
			copy(page[i*8:], c.take(int(differ)*8))
			i += differ
			continue
		}
		for ; differ > 0; differ-- {
			p := page[i*8 : i*8+8]
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)+unzigzag(c.uvarint()))
			i++
		}
	}
}
