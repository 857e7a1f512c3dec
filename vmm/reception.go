package vmm

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"tandem/kvm"
	"tandem/lockstep/wire"
	"tandem/vmm/sums"
)

// Reception makes a machine of what a Transfer sends. If the host has the RAM of a machine from before in hand, the new machine
// gets that RAM: pages that are the same on the other host are in their place already, and all others are overwritten, with
// zeros if they don't come. So no more memory is needed than for one machine, and what a transfer that broke off has brought is in
// hand for the next.
//
// One goroutine owns it, but for Sums.
type Reception struct {
	m  *Machine
	in bool // RAM was in hand

	// asking is held while sums are made, so that the RAM is there, and over, which it guards, says that there will be no more.
	asking sync.RWMutex
	over   bool
	// told has a bit for each page whose sum was told, by region.
	told [][]atomic.Uint64
	// next is the page behind those that the first stream has given their content. Sums are told of pages from there on.
	next atomic.Uint64
}

// Receive begins to make a machine; adapt gives its configuration this host's images and sinks. Then hand is called once, for the RAM
// in hand or nil: that is not the caller's any more, and is closed if the machine is of another size or can't be made.
func Receive(system *kvm.System, r io.Reader, hand func() *kvm.Memory, adapt func(*Config) error) (*Reception, error) {
	place, err := wire.ReadCheckpoint(r)
	if err != nil {
		return nil, err
	}
	config, err := ConfigOf(&place.Header)
	if err != nil {
		return nil, err
	}
	if err := adapt(&config); err != nil {
		return nil, err
	}
	memory := hand()
	if memory != nil && !memory.Has(regions(config.MemoryBytes)) {
		if err := memory.Close(); err != nil {
			return nil, err
		}
		memory = nil
	}
	c := &Reception{in: memory != nil, over: memory == nil}
	if c.m, err = newMachine(system, config, memory); err != nil {
		return nil, err
	}
	for slot := range c.m.memory.Regions() {
		words := (c.m.memory.RegionPages(slot) + 63) / 64
		c.told = append(c.told, make([]atomic.Uint64, words))
		c.m.memory.TakeWritten(slot, make([]uint64, words)) // by the machine that had it
	}
	return c, nil
}

// Sums returns the sums, made with a key, of the pages in hand from first on, up to count of them: none if there is nothing in
// hand, or not any more. It may be called from any goroutine.
func (c *Reception) Sums(key sums.Key, first uint64, count int) []sums.Sum {
	c.asking.RLock()
	defer c.asking.RUnlock()
	if c.over || first < c.next.Load() {
		return nil
	}
	h := sums.NewHasher(key)
	zero := h.Of(zeroPage[:])
	var out []sums.Sum
	for number := first; number < first+uint64(count); number++ {
		word, bit := c.place(number)
		if word == nil {
			break
		}
		content, err := c.m.memory.Bytes(number*kvm.PageBytes, kvm.PageBytes)
		if err != nil {
			break
		}
		sum := zero
		if !isZero(content) {
			sum = h.Of(content)
		}
		out = append(out, sum)
		word.Or(bit)
	}
	return out
}

// place returns where it is kept whether a page was told of, nil of a page that is no RAM.
func (c *Reception) place(number uint64) (word *atomic.Uint64, bit uint64) {
	for slot, r := range c.m.memory.Regions() {
		if at := number - r.Base/kvm.PageBytes; number >= r.Base/kvm.PageBytes && at < r.Bytes/kvm.PageBytes {
			return &c.told[slot][at/64], 1 << (at % 64)
		}
	}
	return nil, 0
}

// Machine reads streams up to the one with the state, and returns the machine. If it fails, the machine is of no use, and its RAM is
// what is in hand now: it is the caller's.
func (c *Reception) Machine(r io.Reader) (*Machine, *kvm.Memory, error) {
	err := c.receive(r)
	c.tellNoMore()
	if err != nil {
		hand, closing := c.m.CloseButMemory()
		return nil, hand, errors.Join(err, closing)
	}
	return c.m, nil, nil
}

// tellNoMore ends what is told of the RAM.
func (c *Reception) tellNoMore() {
	c.asking.Lock()
	defer c.asking.Unlock()
	c.over = true
}

func (c *Reception) receive(r io.Reader) error {
	m := c.m
	pages := wire.NewPageReader(nil, m.pageLimit())
	pages.Hand(c.page)
	for first := true; ; first = false {
		pages.Begin(r)
		blob, err := pages.State()
		if err != nil {
			return fmt.Errorf("a machine's pages: %w", err)
		}
		if first {
			err = c.readFirst(pages)
			c.tellNoMore()
			pages.Hand(nil)
		} else {
			err = m.readPages(pages)
		}
		if err != nil {
			return fmt.Errorf("a machine's pages: %w", err)
		}
		if len(blob) == 0 {
			continue
		}
		state, err := decodeState(blob)
		if err != nil {
			return err
		}
		return m.restore(state)
	}
}

// page returns a page that was told of, or nil.
func (c *Reception) page(number uint64) []byte {
	word, bit := c.place(number)
	if word == nil || word.Load()&bit == 0 {
		return nil
	}
	content, err := c.m.memory.Bytes(number*kvm.PageBytes, kvm.PageBytes)
	if err != nil {
		return nil
	}
	return content
}

// readFirst gives all pages the content that the first stream says: those that it leaves out are zero.
func (c *Reception) readFirst(pages *wire.PageReader) error {
	for {
		number, content, err := pages.Next()
		if errors.Is(err, io.EOF) {
			return c.clearTo(c.m.pageLimit())
		}
		if err == nil {
			err = c.clearTo(number)
		}
		if err == nil {
			err = c.m.memory.WriteAt(content, number*kvm.PageBytes)
		}
		if err != nil {
			return err
		}
		c.next.Store(number + 1)
	}
}

// clearTo makes the pages zero that the stream has left out, up to a number.
func (c *Reception) clearTo(number uint64) error {
	next := c.next.Load()
	c.next.Store(number)
	if !c.in {
		return nil
	}
	memory := c.m.memory
	for _, r := range memory.Regions() {
		first, end := r.Base/kvm.PageBytes, (r.Base+r.Bytes)/kvm.PageBytes
		for page := max(first, next); page < min(end, number); page++ {
			content, err := memory.Bytes(page*kvm.PageBytes, kvm.PageBytes)
			if err != nil {
				return err
			}
			if isZero(content) {
				continue
			}
			if err := memory.WriteAt(zeroPage[:], page*kvm.PageBytes); err != nil {
				return err
			}
		}
	}
	return nil
}
