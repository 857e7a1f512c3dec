package wire

// PageSize is the size of a guest page in bytes.
const PageSize = 4096

// DefaultShadow is how many pages a shadow usually holds at most: 64 MiB.
const DefaultShadow = 16384

// Shadow holds pages as they were when they last went through a stream. The writer of a stream and each of its readers
// have one, and because each changes only with the stream, they are equal at equal points of it. Differences are taken
// from it, and not from the reader's memory, because that has gone on: a page may have changed there and changed back
// here.
//
// It belongs to the goroutine of its PageWriter or PageReader.
type Shadow struct {
	most  int
	index map[uint64]int // page number → element of pages
	// pages[:used] are in use, the rest is kept for use. Invariant: used == len(index) <= most.
	pages []*[PageSize]byte
	used  int
}

// NewShadow returns an empty shadow of at most so many pages. One page more empties it first; the bound is the same on
// both sides, so both are emptied at the same point of the stream.
func NewShadow(most int) *Shadow {
	return &Shadow{most: max(most, 1), index: make(map[uint64]int)}
}

// Pages returns how many pages the shadow holds.
func (s *Shadow) Pages() int { return s.used }

// reset empties the shadow.
func (s *Shadow) reset() {
	clear(s.index)
	s.used = 0
}

// page returns the shadow's content of a page, or nil. Changing it changes the shadow.
func (s *Shadow) page(number uint64) *[PageSize]byte {
	if s == nil {
		return nil
	}
	if i, ok := s.index[number]; ok {
		return s.pages[i]
	}
	return nil
}

// set gives a page its content.
func (s *Shadow) set(number uint64, content []byte) {
	if s == nil {
		return
	}
	if p := s.page(number); p != nil {
		copy(p[:], content)
		return
	}
	if s.used == s.most {
		s.reset()
	}
	if s.used == len(s.pages) {
		s.pages = append(s.pages, new([PageSize]byte))
	}
	copy(s.pages[s.used][:], content)
	s.index[number] = s.used
	s.used++
}
