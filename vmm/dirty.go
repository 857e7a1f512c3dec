package vmm

import (
	"math/bits"
	"time"
)

// dirtyPages is what is known of a region's written pages, beyond the kernel's dirty log. Each consumer has a bitmap of
// its own, one bit a page, of the pages written since it last asked. It belongs to the machine's goroutine.
//
// In the kernel's log a page is either cold, so that its next write costs the guest a fault and is then known, or hot: it
// stays in the log and costs the guest nothing. Hot pages count as written whenever somebody asks. A page becomes hot when
// it was found written on two occasions close to each other, and cold when it was not for a while. A host whose kernel
// clears its log whenever it is read has cold pages alone.
//
// Invariant: a page that the guest has written since a consumer last asked has its bit in that consumer's bitmap or in the
// kernel's log.
type dirtyPages struct {
	stop     []uint64 // for forced stops: written by the guest
	verify   []uint64 // for hashes of memory: written by the guest or a device
	transfer []uint64 // for sending the machine to another host: written by the guest or a device

	hot []uint64
	// last is, for each page, the number of the occasion on which it was last found written, or if it is hot: changed.
	last     []uint32
	occasion uint32 // how many forced stops and times of forgetting there were, and hotAgain to begin with
	all      bool   // there was no log until now, so that every page counts as written
	fresh    []uint64
}

// hotAgain is within how many occasions a page has to be found written again to become hot, coldAfter after how many
// without a change it becomes cold. To look at a page that has not changed costs about a tenth of a fault.
const (
	hotAgain  = 3
	coldAfter = 8
)

// dirtyOf returns what is known of a region's pages.
func (m *Machine) dirtyOf(slot int) *dirtyPages {
	for len(m.dirty) <= slot {
		pages := m.memory.RegionPages(len(m.dirty))
		words := func() []uint64 { return make([]uint64, (pages+63)/64) }
		m.dirty = append(m.dirty, dirtyPages{
			stop: words(), verify: words(), transfer: words(), hot: words(), fresh: words(),
			last: make([]uint32, pages), occasion: hotAgain,
		})
	}
	return &m.dirty[slot]
}

// logDirty turns the kernel's dirty log on. Nobody knows which pages were written before.
func (m *Machine) logDirty() error {
	for slot := range m.memory.Regions() {
		d := m.dirtyOf(slot)
		d.all = true
		for page := range uint64(m.memory.RegionPages(slot)) {
			word, bit := page/64, uint64(1)<<(page%64)
			d.stop[word] |= bit
			d.verify[word] |= bit
		}
	}
	return m.vm.SetMemory(m.memory, true)
}

// readDirtyLog brings what is known of a region's pages up to date. The kernel's log is left as it is, if it can be.
func (m *Machine) readDirtyLog(slot int) (*dirtyPages, error) {
	if !m.vm.LogsDirty() {
		if err := m.logDirty(); err != nil {
			return nil, err
		}
	}
	d := m.dirtyOf(slot)
	if err := m.vm.ReadDirtyLog(slot, d.fresh); err != nil {
		return nil, err
	}
	for i, w := range d.fresh {
		d.stop[i] |= w
		d.verify[i] |= w
		d.transfer[i] |= w
	}
	clear(d.fresh)
	m.memory.TakeWritten(slot, d.fresh)
	for i, w := range d.fresh {
		d.verify[i] |= w
		d.transfer[i] |= w
	}
	return d, nil
}

// protect has the kernel notice the next write to each cold page of a bitmap.
func (m *Machine) protect(slot int, pages []uint64) error {
	d := &m.dirty[slot]
	if !m.vm.KeepsDirtyLog() {
		return nil
	}
	for i, w := range pages {
		d.fresh[i] = w &^ d.hot[i]
	}
	return m.vm.ClearDirtyLog(slot, d.fresh)
}

// takeDirty returns the pages of a region that were written, by whomever, since the last call.
func (m *Machine) takeDirty(slot int) ([]uint64, error) {
	d, err := m.readDirtyLog(slot)
	if err != nil {
		return nil, err
	}
	taken := append([]uint64(nil), d.verify...)
	clear(d.verify)
	return taken, m.protect(slot, taken)
}

// takeForTransfer is takeDirty for sending the machine to another host, which has its own account of what it was told. No
// page is hot after that: a transfer comes to an end when few pages are written.
func (m *Machine) takeForTransfer(slot int) ([]uint64, error) {
	d, err := m.readDirtyLog(slot)
	if err != nil {
		return nil, err
	}
	taken := append([]uint64(nil), d.transfer...)
	clear(d.transfer)
	clear(d.hot)
	return taken, m.protect(slot, taken)
}

// foundWritten ends an occasion: it takes note of the cold pages that were written since the one before, and lets those
// become hot that often are. Hot pages that have not changed for long become cold.
func (d *dirtyPages) foundWritten() {
	if d.all {
		d.all = false // nothing was found
		return
	}
	_ = eachBit(d.stop, func(page uint64) error {
		word, bit := page/64, uint64(1)<<(page%64)
		since := d.occasion - d.last[page]
		switch {
		case d.hot[word]&bit == 0:
			if since <= hotAgain && d.last[page] != 0 {
				d.hot[word] |= bit
			}
			d.last[page] = d.occasion
		case since >= coldAfter:
			d.hot[word] &^= bit
		}
		return nil
	})
	d.occasion++
}

// coldWritten returns how many cold pages were written since the last forced stop or time of forgetting.
func (d *dirtyPages) coldWritten() (pages int) {
	for i, word := range d.stop {
		pages += bits.OnesCount64(word &^ d.hot[i])
	}
	return pages
}

// changed takes note that a hot page was found changed.
func (d *dirtyPages) changed(page uint64) {
	if d.hot[page/64]>>(page%64)&1 != 0 {
		d.last[page] = d.occasion
	}
}

// How often a recorded machine forgets, at an exit, which pages were written: a forced stop then needs those written
// since. A page that is forgotten and written again costs the guest a fault, which takes about as long as a page more in a
// forced stop's delta. The next time is so far away that these faults take no more than a forgetShare-th of the time.
const (
	forgetShare   = 50
	forgetLeastNS = 2_000_000_000
	forgetMostNS  = 30_000_000_000
	pageCostNS    = 50_000 // what a page of a delta takes, as long as none has been measured
)

// startNS is how long a guest starts, from when it was first seen in a program: it begins one program after the other, which
// write ever new pages and soon come to an exit.
const startNS = 5_000_000_000

// stopCostStarting is what a forced stop is taken to cost in a guest that starts, where it would be a big one and nobody
// waits for a tick.
const stopCostStarting = 500 * time.Millisecond

// forgetWritten takes the present exit as what forced stops start from, when it is time for that: first when the guest is
// seen in a program, so that its kernel's boot takes no faults and is in no delta, then when it has started. Until the first
// time KVM keeps no dirty log, for which it would map memory in small pages.
func (m *Machine) forgetWritten() error {
	now, first, starting := m.time(), m.forgotten == 0, !m.started
	switch {
	case !m.recorder.Booted():
		return nil
	case first:
	case starting:
		if now-m.forgotten < startNS {
			return nil
		}
		m.started = true
	case now-m.forgotten < max(m.forgetEvery, forgetLeastNS):
		return nil
	}
	pages, err := m.forget()
	m.forgotten, m.forgetEvery = now, 0
	if !starting {
		m.forgetEvery = min(int64(pages)*forgetShare*m.pageCost(), forgetMostNS)
	}
	return err
}

// forget does so and returns how many pages will be noticed again.
func (m *Machine) forget() (pages int, err error) {
	for slot := range m.memory.Regions() {
		d, err := m.readDirtyLog(slot)
		if err != nil {
			return pages, err
		}
		d.foundWritten()
		pages += d.coldWritten()
		if err := m.protect(slot, d.stop); err != nil {
			return pages, err
		}
		clear(d.stop)
	}
	return pages, nil
}

// stopCost returns about how long a forced stop would take now.
func (m *Machine) stopCost() time.Duration {
	if !m.started {
		return stopCostStarting
	}
	if !m.vm.KeepsDirtyLog() {
		return 0 // to look would cost the guest as much
	}
	pages := 0
	for slot := range m.memory.Regions() {
		d, err := m.readDirtyLog(slot)
		if err != nil {
			return 0 // the stop will say so
		}
		pages += d.coldWritten()
	}
	return time.Duration(int64(pages) * m.pageCost())
}

// pageCost returns how long a page of a forced stop's delta takes, in ns.
func (m *Machine) pageCost() int64 {
	if m.stats.stopPages == 0 {
		return pageCostNS
	}
	return min(m.stats.stopTime.Nanoseconds()/int64(m.stats.stopPages), pageCostNS)
}
