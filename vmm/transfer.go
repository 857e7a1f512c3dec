package vmm

import (
	"encoding/json"
	"fmt"
	"io"
	"math/bits"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
)

// A machine on its way to another host is a checkpoint's head (package wire) and streams of pages: first all pages that
// are not zero, then, round by round while the guest runs, those written meanwhile. Their states are empty but for the
// last stream's, which is a savedState: for that one the guest stands still.

// Transfer sends a machine to another host while its guest runs. One goroutine owns it, which is not the machine's.
type Transfer struct {
	machine *Machine
	writer  *wire.PageWriter
	begun   bool
	dirty   [][]uint64 // by region: pages to be sent in the next round
	pages   uint64
}

// BeginTransfer makes ready to send the machine. The machine runs, and is not recorded.
func (m *Machine) BeginTransfer() (*Transfer, error) {
	t := &Transfer{machine: m, writer: wire.NewPageWriter(nil)}
	var failure error
	err := m.Visit(func() {
		if failure = m.vm.SetMemory(m.memory, true); failure == nil {
			failure = t.takeDirty() // what was written before now goes with all pages
		}
	})
	if err != nil {
		return nil, err
	}
	t.dirty = nil
	return t, failure
}

// Pages returns how many pages have been sent.
func (t *Transfer) Pages() uint64 { return t.pages }

// takeDirty adds the pages that were written since the last call to those to be sent. It belongs to the machine's
// goroutine.
func (t *Transfer) takeDirty() error {
	for slot := range t.machine.memory.Regions() {
		taken, err := t.machine.takeForTransfer(slot)
		if err != nil {
			return err
		}
		if slot == len(t.dirty) {
			t.dirty = append(t.dirty, taken)
			continue
		}
		for i, word := range taken {
			t.dirty[slot][i] |= word
		}
	}
	return nil
}

// Round sends all pages, or those written since the last round, and returns how many have been written again.
func (t *Transfer) Round(w io.Writer) (dirty uint64, err error) {
	if err := t.stream(w, nil); err != nil {
		return 0, err
	}
	var failure error
	if err := t.machine.Visit(func() { failure = t.takeDirty() }); err != nil {
		return 0, err
	}
	for _, words := range t.dirty {
		for _, word := range words {
			dirty += uint64(bits.OnesCount64(word))
		}
	}
	return dirty, failure
}

// Head sends what the machine is. It comes first.
func (t *Transfer) Head(w io.Writer) error {
	header, err := t.machine.header()
	if err != nil {
		return err
	}
	place := wire.Checkpoint{Header: *header, Base: wire.Base{Sequence: 1}}
	head, err := place.Append(nil)
	if err != nil {
		return err
	}
	_, err = w.Write(head)
	return err
}

// stream sends a stream of the pages that are to be sent.
func (t *Transfer) stream(w io.Writer, state []byte) error {
	t.writer.Begin(w)
	if err := t.writer.State(state); err != nil {
		return err
	}
	send := t.writeDirty
	if !t.begun {
		t.begun = true
		send = func() error { return t.machine.writeUsedPages(t.writer) }
	}
	if err := send(); err != nil {
		return err
	}
	if err := t.writer.End(); err != nil {
		return err
	}
	stats := t.writer.Stats()
	t.pages += stats.Pages()
	t.dirty = nil
	return nil
}

func (t *Transfer) writeDirty() error {
	memory := t.machine.memory
	for slot, words := range t.dirty {
		base := memory.Regions()[slot].Base
		err := eachBit(words, func(page uint64) error {
			gpa := base + page*kvm.PageBytes
			content, err := memory.Bytes(gpa, kvm.PageBytes)
			if err != nil {
				return err
			}
			return t.writer.Page(gpa/kvm.PageBytes, content)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Final sends the rest, and from then on the machine's inputs and output go to the log. It is called in a visit: the guest
// stands still. The log's first record is that after the ring's base.
func (t *Transfer) Final(w io.Writer, log PairLog) error {
	m := t.machine
	if err := t.takeDirty(); err != nil {
		return err
	}
	if err := m.attach(log); err != nil {
		return err
	}
	state, err := m.capture()
	if err != nil {
		return err
	}
	blob, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return t.stream(w, blob)
}

// PairLog is where a machine of a pair logs to.
type PairLog struct {
	// NewRing makes the ring for a log that goes on from a place.
	NewRing func(wire.Base) *wire.Ring
	Options lockstep.RecorderOptions
	// Hold is called by the machine's goroutine with everything that wants to leave. It must not wait.
	Hold func(Output)
	// Sequence is the number of the log's last record until now.
	Sequence uint64
}

// attach makes the machine log its inputs and hold its output.
func (m *Machine) attach(log PairLog) error {
	ring := log.NewRing(wire.Base{Sequence: log.Sequence + 1, Position: uint64(m.position), Time: m.time()})
	options := log.Options
	options.Kick = m.vcpu.Kick
	m.recorder = lockstep.Attach(m.live, m.position, ring, options)
	m.door, m.digested = m.recorder, true
	m.devicesLogged, m.devicesEvery = m.position, DefaultDevicesEvery
	m.pageWriter = nil
	m.outputs.mode, m.outputs.hold, m.outputs.ring = outputHeld, log.Hold, ring
	m.forgotten = m.time()
	_, err := m.forget()
	return err
}

// LogOutput logs what still waits at the outlets, and lets all of the log go to its readers. It is called in a visit, or when Run has returned.
func (m *Machine) LogOutput() {
	m.commitOutputs(true)
	if m.recorder != nil {
		m.recorder.Flush()
	}
}

// EndLog logs how the guest ended. Run has returned.
func (m *Machine) EndLog(cause Cause, failure error) {
	if m.recorder == nil {
		return
	}
	m.commitOutputs(true)
	if failure != nil {
		m.recorder.End(wire.EndFailure, truncate(failure.Error(), wire.MaxMessage))
		return
	}
	m.recorder.End(endCauses[cause], "")
}

// Detach ends the log and lets output go by itself. Nothing is held any more. It is called in a visit.
func (m *Machine) Detach() error {
	m.freeOutputs()
	if m.recorder == nil {
		return m.vm.SetMemory(m.memory, false)
	}
	m.door = m.recorder.Detach(m.kick) // which is m.live, where others may be posting
	m.recorder, m.digested, m.pageWriter = nil, false, nil
	return m.vm.SetMemory(m.memory, false)
}

// Receive makes a machine of what a Transfer sends; adapt gives it this host's images and sinks. It returns when the last
// stream is read.
func Receive(system *kvm.System, r io.Reader, adapt func(*Config) error) (m *Machine, err error) {
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
	if m, err = New(system, config); err != nil {
		return nil, err
	}
	if err := m.receive(r); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// receive reads streams up to the one with the state.
func (m *Machine) receive(r io.Reader) error {
	pages := wire.NewPageReader(nil, m.pageLimit())
	for {
		pages.Begin(r)
		blob, err := pages.State()
		if err != nil {
			return fmt.Errorf("a machine's pages: %w", err)
		}
		if err := m.readPages(pages); err != nil {
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
