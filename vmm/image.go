package vmm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"tandem/devices"
	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// A saved machine is a checkpoint of package wire: a header with the machine's configuration and the place in the log,
// then one stream of pages whose state is a savedState in JSON and whose pages are all those of RAM that are not zero.

// savedState is all of a machine but its configuration and its RAM.
type savedState struct {
	Position uint64      `json:"position"`
	TimeNS   int64       `json:"time_ns"`
	Digest   uint64      `json:"digest"`
	Halted   bool        `json:"halted"`
	Handler  uint64      `json:"gp_handler"`
	CPU      []byte      `json:"cpu"`
	Parts    []savedPart `json:"parts"`
}

// savedPart is one device's state.
type savedPart struct {
	Name  string          `json:"name"`
	State json.RawMessage `json:"state"`
}

// parts returns all devices that have a state, in a fixed order.
func (m *Machine) parts() []devices.Part { return append(m.pc.Parts(), m.virtio.parts...) }

// capture reads the machine's state. The machine stands at a position whose inputs are applied.
func (m *Machine) capture() (*savedState, error) {
	var cpu cpuState
	if err := m.captureCPU(&cpu); err != nil {
		return nil, err
	}
	s := &savedState{
		Position: uint64(m.position), TimeNS: m.time(), Digest: m.digest.sum, Halted: m.halted,
		Handler: m.tsc.handler, CPU: cpu.encode(),
	}
	for _, part := range m.parts() {
		state, err := part.SaveState()
		if err != nil {
			return nil, fmt.Errorf("save the state of %s: %w", part.Name, err)
		}
		s.Parts = append(s.Parts, savedPart{part.Name, state})
	}
	return s, nil
}

// Save writes the whole machine as a checkpoint with a number, at a place in its log. The machine stands at a position
// whose inputs are applied.
func (m *Machine) Save(w io.Writer, number uint64, base wire.Base) error {
	state, err := m.capture()
	if err != nil {
		return err
	}
	blob, err := json.Marshal(state)
	if err != nil {
		return err
	}
	header, err := m.header()
	if err != nil {
		return err
	}
	place := wire.Checkpoint{Header: *header, Number: number, Base: base}
	head, err := place.Append(nil)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	pages := wire.NewPageWriter(nil)
	pages.Begin(w)
	if err := pages.State(blob); err != nil {
		return err
	}
	if err := m.writeUsedPages(pages); err != nil {
		return err
	}
	return pages.End()
}

// writeUsedPages writes every page of RAM that is not zero.
func (m *Machine) writeUsedPages(w *wire.PageWriter) error {
	for slot, region := range m.memory.Regions() {
		for page := range uint64(m.memory.RegionPages(slot)) {
			gpa := region.Base + page*kvm.PageBytes
			content, err := m.memory.Bytes(gpa, kvm.PageBytes)
			if err != nil {
				return err
			}
			if isZero(content) {
				continue
			}
			if err := w.Page(gpa/kvm.PageBytes, content); err != nil {
				return err
			}
		}
	}
	return nil
}

var zeroPage [kvm.PageBytes]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// SaveFile writes the whole machine to a new file, which is there whole or not at all.
func (m *Machine) SaveFile(path string, number uint64, base wire.Base) (err error) {
	start := time.Now()
	defer func() {
		m.stats.saves++
		m.stats.saveTime += time.Since(start)
	}()
	temporary := path + ".part"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary)
		}
	}()
	buffered := bufio.NewWriterSize(file, 1<<20)
	err = errors.Join(m.Save(buffered, number, base), buffered.Flush(), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("save the machine: %w", err)
	}
	return os.Rename(temporary, path)
}

// LoadSaved makes a new machine what was saved. r stands behind the checkpoint's head.
func (m *Machine) LoadSaved(r io.Reader) error {
	pages := wire.NewPageReader(nil, m.pageLimit())
	pages.Begin(r)
	blob, err := pages.State()
	if err != nil {
		return fmt.Errorf("a saved machine: %w", err)
	}
	state, err := decodeState(blob)
	if err != nil {
		return err
	}
	if err := m.readPages(pages); err != nil {
		return fmt.Errorf("a saved machine: %w", err)
	}
	return m.restore(state)
}

func decodeState(blob []byte) (*savedState, error) {
	var state savedState
	decoder := json.NewDecoder(bytes.NewReader(blob))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&state); err != nil {
		return nil, fmt.Errorf("a saved machine's state: %w", err)
	}
	return &state, nil
}

func (m *Machine) restore(s *savedState) error {
	var cpu cpuState
	if err := cpu.decode(s.CPU); err != nil {
		return err
	}
	parts := m.parts()
	if len(parts) != len(s.Parts) {
		return fmt.Errorf("a saved machine of %d devices, not %d: it is another machine's", len(s.Parts), len(parts))
	}
	for i, part := range parts {
		if s.Parts[i].Name != part.Name {
			return fmt.Errorf("a saved machine has a device %q in place of %q: it is another machine's", s.Parts[i].Name, part.Name)
		}
		if err := part.LoadState(s.Parts[i].State); err != nil {
			return fmt.Errorf("the saved state of %s: %w", part.Name, err)
		}
	}
	m.position, m.start, m.digest.sum, m.halted = lockstep.Position(s.Position), s.TimeNS, s.Digest, s.Halted
	m.tsc.handler = s.Handler
	if err := m.armBreakpoint(); err != nil {
		return err
	}
	return cpu.restore(m.vcpu)
}
