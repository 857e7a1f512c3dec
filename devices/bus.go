package devices

import (
	"fmt"
	"slices"
	"sort"
)

// Bus is an address space, of I/O ports or of memory-mapped registers, with the windows of devices in it. Like all
// devices it belongs to the goroutine that owns the machine; a handler may attach and detach windows while it handles
// an access.
//
// What no device claims reads as ones, and a write to it is lost, as on an ISA or PCI bus where nobody drives the data
// lines. An access that is not wholly inside one window is carried out byte by byte, lowest address first.
type Bus struct {
	windows []window // Invariant: sorted by base, not overlapping, never of size 0
	// last is the window that was hit last. It only makes the look-up faster.
	last window
	// unclaimed counts accesses that met no window. The guest can't see it, and it isn't part of any state.
	unclaimed uint64
}

type window struct {
	base, size uint64
	handler    Handler
}

// holds tells whether n bytes at address are all inside the window.
func (w *window) holds(address, n uint64) bool {
	offset := address - w.base // wraps round to a huge offset below the base
	return offset < w.size && n <= w.size-offset
}

// Attach puts a window of size bytes (or ports) at base. It fails if the window is empty, wraps round the end of the
// address space, or overlaps another one.
func (b *Bus) Attach(base, size uint64, handler Handler) error {
	if size == 0 || base+(size-1) < base {
		return fmt.Errorf("bus: window of %#x at %#x: empty, or beyond the end of the address space", size, base)
	}
	at := b.search(base)
	if at > 0 {
		if before := &b.windows[at-1]; base-before.base < before.size {
			return overlapError(base, size, before)
		}
	}
	if at < len(b.windows) {
		if after := &b.windows[at]; after.base-base < size {
			return overlapError(base, size, after)
		}
	}
	b.windows = slices.Insert(b.windows, at, window{base, size, handler})
	return nil
}

func overlapError(base, size uint64, w *window) error {
	return fmt.Errorf("bus: window of %#x at %#x overlaps the one of %#x at %#x: attach it elsewhere", size, base, w.size, w.base)
}

// Detach removes the window at base and tells whether there was one.
func (b *Bus) Detach(base uint64) bool {
	at := b.search(base)
	if at == len(b.windows) || b.windows[at].base != base {
		return false
	}
	b.windows = slices.Delete(b.windows, at, at+1)
	b.last = window{}
	return true
}

// search returns the index of the first window that begins at address or above.
func (b *Bus) search(address uint64) int {
	return sort.Search(len(b.windows), func(i int) bool { return b.windows[i].base >= address })
}

// find makes last the window that holds n bytes at address, and tells whether there is one.
func (b *Bus) find(address, n uint64) bool {
	if b.last.holds(address, n) {
		return true
	}
	low, high := 0, len(b.windows)
	for low < high {
		if middle := int(uint(low+high) >> 1); b.windows[middle].base <= address {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == 0 || !b.windows[low-1].holds(address, n) {
		return false
	}
	b.last = b.windows[low-1]
	return true
}

// Read reads len(p) bytes at address: 1, 2, 4 or 8.
func (b *Bus) Read(address uint64, p []byte) {
	if b.find(address, uint64(len(p))) {
		b.last.handler.Read(address-b.last.base, p)
		return
	}
	for i := range p {
		if at := address + uint64(i); b.find(at, 1) {
			b.last.handler.Read(at-b.last.base, p[i:i+1])
			continue
		}
		p[i] = 0xff
		b.unclaimed++
	}
}

// Write writes len(p) bytes at address: 1, 2, 4 or 8.
func (b *Bus) Write(address uint64, p []byte) {
	if b.find(address, uint64(len(p))) {
		b.last.handler.Write(address-b.last.base, p)
		return
	}
	for i := range p {
		if at := address + uint64(i); b.find(at, 1) {
			b.last.handler.Write(at-b.last.base, p[i:i+1])
			continue
		}
		b.unclaimed++
	}
}

// Unclaimed returns how many bytes were read or written that no window holds.
func (b *Bus) Unclaimed() uint64 { return b.unclaimed }

// bytePorts is a window of a part with an 8-bit data bus. A wider access becomes one byte access after the other, lowest
// port first, as the ISA bus does it.
type bytePorts struct {
	in  func(port uint64) byte
	out func(port uint64, value byte)
}

func (b *bytePorts) Read(offset uint64, p []byte) {
	for i := range p {
		p[i] = b.in(offset + uint64(i))
	}
}

func (b *bytePorts) Write(offset uint64, p []byte) {
	for i, v := range p {
		b.out(offset+uint64(i), v)
	}
}
