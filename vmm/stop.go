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

// writeDirtyPages writes the pages that the guest has written since the last forced stop, in rising order.
func (m *Machine) writeDirtyPages(w *wire.PageWriter) error {
	for slot, region := range m.memory.Regions() {
		d, err := m.readDirtyLog(slot)
		if err != nil {
			return err
		}
		err = eachBit(d.stop, func(page uint64) error {
			gpa := region.Base + page*kvm.PageBytes
			content, err := m.memory.Bytes(gpa, kvm.PageBytes)
			if err != nil {
				return err
			}
			same := w.Stats().Same
			err = w.Page(gpa/kvm.PageBytes, content)
			if w.Stats().Same == same {
				d.changed(page)
			}
			return err
		})
		if err != nil {
			return err
		}
		d.foundWritten()
		if err := m.protect(slot, d.stop); err != nil {
			return err
		}
		clear(d.stop)
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
