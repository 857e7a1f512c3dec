package vmm

import (
	"encoding/json"
	"io"
	"math/bits"

	"tandem/kvm"
	"tandem/lockstep"
	"tandem/lockstep/wire"
	"tandem/vmm/sums"
)

// A machine on its way to another host is a checkpoint's head (package wire) and streams of pages: first all pages that
// are not zero, then, round by round while the guest runs, those written meanwhile. Their states are empty but for the
// last stream's, which is a savedState: for that one the guest stands still. In the first stream a page may be said to be as
// the other host has it in hand, in the RAM of a machine that it had before.

// Transfer sends a machine to another host while its guest runs. One goroutine owns it, which is not the machine's.
type Transfer struct {
	machine *Machine
	writer  *wire.PageWriter
	begun   bool
	dirty   [][]uint64 // by region: pages to be sent in the next round
	pages   uint64
	same    uint64
	hasher  *sums.Hasher
	asker   sums.Asker
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

// Compare lets the first round ask for the sums, made with a key, of the pages that the other host has in hand, and not send
// what has the same. It is called before that round.
func (t *Transfer) Compare(key sums.Key, asker sums.Asker) {
	t.hasher, t.asker = sums.NewHasher(key), asker
}

// Pages returns how many pages have been sent.
func (t *Transfer) Pages() uint64 { return t.pages }

// Same returns how many pages were not sent, because the other host has them as they are.
func (t *Transfer) Same() uint64 { return t.same }

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
		send = t.writeFirst
	}
	if err := send(); err != nil {
		return err
	}
	if err := t.writer.End(); err != nil {
		return err
	}
	stats := t.writer.Stats()
	t.pages += stats.Pages() - stats.Same
	t.same += stats.Same
	t.dirty = nil
	return nil
}

// askPages is for the sums of how many pages one question asks.
const askPages = 1024

// pageRange is a run of pages that one question is about.
type pageRange struct {
	first uint64
	count int
}

// pageRanges returns the ranges of all RAM, in rising order.
func pageRanges(memory *kvm.Memory) (ranges []pageRange) {
	for _, r := range memory.Regions() {
		first, n := r.Base/kvm.PageBytes, r.Bytes/kvm.PageBytes
		for at := uint64(0); at < n; at += askPages {
			ranges = append(ranges, pageRange{first + at, int(min(n-at, askPages))})
		}
	}
	return ranges
}

// writeFirst writes every page of RAM that is not zero, or that it is the same on the other host. A page that the guest writes
// while it is looked at is sent again in the next round.
func (t *Transfer) writeFirst() error {
	ranges := pageRanges(t.machine.memory)
	asked, toAsk := 0, 0
	if t.asker != nil {
		toAsk = len(ranges)
	}
	for i, r := range ranges {
		for ; asked < toAsk && asked < i+sums.Ahead; asked++ {
			if err := t.asker.Ask(ranges[asked].first, ranges[asked].count); err != nil {
				return err
			}
		}
		var told []sums.Sum
		if i < asked {
			var err error
			if told, err = t.asker.Answer(); err != nil {
				return err
			}
			if len(told) == 0 {
				toAsk = asked // the other host has no memory in hand
			}
		}
		if err := t.writeRange(r, told); err != nil {
			return err
		}
	}
	return nil
}

// writeRange writes what is not zero of a range, whose first pages have the sums that were told on the other host.
func (t *Transfer) writeRange(r pageRange, told []sums.Sum) error {
	for i := range r.count {
		number := r.first + uint64(i)
		content, err := t.machine.memory.Bytes(number*kvm.PageBytes, kvm.PageBytes)
		switch {
		case err != nil:
			return err
		case isZero(content):
			continue
		case i < len(told) && t.hasher.Of(content) == told[i]:
			err = t.writer.Same(number)
		default:
			err = t.writer.Page(number, content)
		}
		if err != nil {
			return err
		}
	}
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
	if err := m.attach(log); err != nil {
		return err
	}
	// This comes before the pages: it completes the last exit, and a string input's bytes go to memory then.
	state, err := m.capture()
	if err != nil {
		return err
	}
	if err := t.takeDirty(); err != nil {
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
	m.recorder = lockstep.Attach(m.live, m.position, ring, m.recorderOptions(log.Options))
	m.door, m.digested = m.recorder, true
	m.devicesLogged, m.devicesEvery = m.position, DefaultDevicesEvery
	m.pageWriter = nil
	m.outputs.mode, m.outputs.hold, m.outputs.ring = outputHeld, log.Hold, ring
	m.forgotten, m.started = m.time(), true
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
func (m *Machine) EndLog(cause Cause) {
	if m.recorder == nil {
		return
	}
	m.commitOutputs(true)
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
