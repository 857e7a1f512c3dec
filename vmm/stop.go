package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"tandem/kvm"
	"tandem/lockstep/wire"
)

// forcedStop hands the machine's state, at an instant that has no name, to the door: all of the vCPU, and the pages that
// the guest has written since the last forced stop. Pages written by devices are not among them: those were written at
// exits, and whoever follows the log has written them too.
func (m *Machine) forcedStop() error {
	start := time.Now()
	defer func() { m.stats.stopTime += time.Since(start) }()
	var state cpuState
	if err := m.captureCPU(&state); err != nil {
		return err
	}
	if m.pageWriter == nil {
		m.pageWriter = wire.NewPageWriter(wire.NewShadow(wire.DefaultShadow))
	}
	var delta bytes.Buffer
	m.pageWriter.Begin(&delta)
	if err := m.pageWriter.State(state.encode()); err != nil {
		return err
	}
	if err := m.writeDirtyPages(m.pageWriter); err != nil {
		return err
	}
	if err := m.pageWriter.End(); err != nil {
		return err
	}
	pages := m.pageWriter.Stats()
	m.stats.stops++
	m.stats.stopBytes += uint64(delta.Len())
	m.stats.stopPages += pages.Pages()
	for p := delta.Bytes(); ; {
		n := min(len(p), wire.MaxDeltaPart)
		m.door.Stopped(p[:n], n == len(p))
		if p = p[n:]; len(p) == 0 {
			return m.door.Err()
		}
	}
}

// dirtyPages is what is known of a region's pages beyond the kernel's dirty log, which forgets when it is asked.
type dirtyPages struct {
	stop   []uint64 // written by the guest since the last forced stop
	verify []uint64 // written by the guest or a device since hashes were last logged
}

// readDirtyLog brings what is known of a region's pages up to date.
func (m *Machine) readDirtyLog(slot int) error {
	for len(m.dirty) <= slot {
		words := (m.memory.RegionPages(len(m.dirty)) + 63) / 64
		m.dirty = append(m.dirty, dirtyPages{make([]uint64, words), make([]uint64, words)})
	}
	d := &m.dirty[slot]
	fresh := make([]uint64, len(d.stop))
	if err := m.vm.DirtyLog(slot, fresh); err != nil {
		return err
	}
	for i, w := range fresh {
		d.stop[i] |= w
		d.verify[i] |= w
	}
	m.memory.TakeWritten(slot, d.verify)
	return nil
}

// How often a recorded machine forgets, at an exit, which pages were written: a forced stop then needs those written
// since. Forgetting costs as much as there are pages to be noticed again, so it is done more rarely where few are written,
// and not while the kernel boots.
const (
	forgetLeastNS   = 500_000_000
	forgetFirstNS   = 2_000_000_000
	forgetMostNS    = 8_000_000_000
	forgetBootedNS  = 6_000_000_000 // a guest has booted at this time, whatever it is seen at
	forgetFewPages  = 512
	forgetManyPages = 4096
)

// forgetWritten takes the present exit as what forced stops start from, when it is time for that.
func (m *Machine) forgetWritten() error {
	if m.forgetEvery == 0 {
		m.forgetEvery = forgetFirstNS
	}
	now := m.time()
	if now-m.forgotten < m.forgetEvery || now < forgetBootedNS && !m.recorder.Booted() {
		return nil
	}
	m.forgotten = now
	pages := 0
	for slot := range m.memory.Regions() {
		if err := m.readDirtyLog(slot); err != nil {
			return err
		}
		for _, word := range m.dirty[slot].stop {
			pages += bits.OnesCount64(word)
		}
		clear(m.dirty[slot].stop)
	}
	switch {
	case pages > forgetManyPages:
		m.forgetEvery = max(m.forgetEvery/2, forgetLeastNS)
	case pages < forgetFewPages:
		m.forgetEvery = min(m.forgetEvery*2, forgetMostNS)
	}
	return nil
}

// takeDirty returns the pages of a region that were written, by whomever, since the last call.
func (m *Machine) takeDirty(slot int) ([]uint64, error) {
	if err := m.readDirtyLog(slot); err != nil {
		return nil, err
	}
	taken := append([]uint64(nil), m.dirty[slot].verify...)
	clear(m.dirty[slot].verify)
	return taken, nil
}

// writeDirtyPages writes the pages that the guest has written since the last forced stop, in rising order.
func (m *Machine) writeDirtyPages(w *wire.PageWriter) error {
	for slot, region := range m.memory.Regions() {
		if err := m.readDirtyLog(slot); err != nil {
			return err
		}
		err := eachBit(m.dirty[slot].stop, func(page uint64) error {
			gpa := region.Base + page*kvm.PageBytes
			content, err := m.memory.Bytes(gpa, kvm.PageBytes)
			if err != nil {
				return err
			}
			return w.Page(gpa/kvm.PageBytes, content)
		})
		if err != nil {
			return err
		}
		clear(m.dirty[slot].stop)
	}
	return nil
}

// eachBit calls f with the number of each set bit, in rising order, until f fails.
func eachBit(words []uint64, f func(uint64) error) error {
	for i, word := range words {
		for ; word != 0; word &= word - 1 {
			if err := f(uint64(i)*64 + uint64(bits.TrailingZeros64(word))); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyDelta makes the machine's state that of a forced stop in the log.
func (m *Machine) applyDelta(delta []byte) error {
	if m.pageReader == nil {
		m.pageReader = wire.NewPageReader(wire.NewShadow(wire.DefaultShadow), m.pageLimit())
	}
	m.pageReader.Begin(bytes.NewReader(delta))
	encoded, err := m.pageReader.State()
	if err != nil {
		return fmt.Errorf("a delta of the log: %w", err)
	}
	var state cpuState
	if err := state.decode(encoded); err != nil {
		return fmt.Errorf("a delta of the log: %w", err)
	}
	if err := m.readPages(m.pageReader); err != nil {
		return fmt.Errorf("a delta of the log: %w", err)
	}
	m.stats.stops++
	return state.restore(m.vcpu)
}

// readPages writes the pages of a stream into guest memory.
func (m *Machine) readPages(r *wire.PageReader) error {
	for {
		number, content, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := m.memory.WriteAt(content, number*kvm.PageBytes); err != nil {
			return err
		}
	}
}

// pageLimit is one more than the highest page number of the machine.
func (m *Machine) pageLimit() uint64 {
	regions := m.memory.Regions()
	last := regions[len(regions)-1]
	return (last.Base + last.Bytes) / kvm.PageBytes
}
