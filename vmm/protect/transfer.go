package protect

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"tandem/lockstep"
	"tandem/lockstep/pair"
	"tandem/vmm"
	"tandem/vmm/blk"
	"tandem/vmm/sums"
)

// A state transfer's stream of pages begins with what the backup needs to know before the machine: u32 length,
// little-endian, and that many bytes of JSON (preface). The machine follows, as vmm.Transfer sends it.

// preface is what comes before a machine.
type preface struct {
	Disks []blk.Form `json:"disks"`
}

// maxPreface bounds a preface in bytes.
const maxPreface = 64 << 10

// partBytes is the size of a part of a state transfer.
const partBytes = 256 << 10

// transfer sends this host's machine to a backup, on the primary. It belongs to the loop's goroutine; run has one of its own.
type transfer struct {
	g      *guest
	conn   *conn
	id     uint64
	term   uint64
	from   uint64
	rounds chan pair.SendRound
	key    sums.Key
	askers map[pair.Realm]*asker
	ctx    context.Context
	cancel context.CancelFunc
	// before and over are its turn, as guest.takeTurn says. disks is busy while the replica is sent beside the pages.
	before <-chan struct{}
	over   chan struct{}
	disks  sync.WaitGroup

	started          time.Time
	round            atomic.Uint32
	pages, samePages atomic.Uint64
	bytes            atomic.Uint64
	dirty            atomic.Uint64
	diskDone, diskOf atomic.Int64
	diskSent         atomic.Int64
	diskSame         atomic.Int64
	stopNS           atomic.Int64
}

// beginSync begins a state transfer.
func (g *guest) beginSync(a pair.SendDisks) {
	ctx, cancel := context.WithCancel(context.Background())
	st := g.host.node.Status()
	t := &transfer{
		g: g, conn: g.host.conns.open[st.Conn], id: a.Sync, term: st.Term, from: a.From,
		rounds: make(chan pair.SendRound, 1), ctx: ctx, cancel: cancel, started: time.Now(),
	}
	t.before, t.over = g.takeTurn()
	t.key = sums.NewKey()
	t.askers = map[pair.Realm]*asker{pair.Memory: newAsker(t, pair.Memory), pair.Disks: newAsker(t, pair.Disks)}
	g.sync = t
	g.host.wait.Go(t.run)
}

func (g *guest) sendRound(a pair.SendRound) {
	if g.sync != nil && g.sync.id == a.Sync {
		g.sync.rounds <- a // the pair asks for one at a time
	}
}

// abortSync gives a state transfer up.
func (h *Host) abortSync(id uint64) {
	if h.guest != nil && h.guest.sync != nil && h.guest.sync.id == id {
		h.guest.sync.cancel()
	}
}

// run does what the pair asks for until the machine is cut off or the transfer is given up.
func (t *transfer) run() {
	giveWay()
	h, g := t.g.host, t.g
	<-t.before
	defer func() {
		t.cancel()
		t.disks.Wait()
		close(t.over)
	}()
	cut, err := t.send()
	if !cut {
		_ = g.m.Visit(g.leaveLog) // writes to memory need not be watched any more
	}
	givenUp := t.ctx.Err() != nil
	h.post(func() {
		if g.sync == t {
			g.sync = nil
		}
		if err != nil && !givenUp && h.conns.open[t.conn.id] != nil {
			h.event(false, fmt.Sprintf("the state transfer ended: %v", err))
			h.step(pair.Disconnected{Conn: t.conn.id})
			h.conns.hangup(t.conn.id)
		}
	})
}

func (t *transfer) send() (cut bool, err error) {
	w := &pageSink{t: t, round: 1}
	machine, err := t.begin(w)
	if err != nil {
		return false, err
	}
	disks := t.g.row.Begin(int64(t.from))
	disks.Compare(t.key, t.askers[pair.Disks])
	t.diskOf.Store(t.g.row.Size())
	diskFailure := make(chan error, 1)
	t.disks.Go(func() {
		giveWay()
		diskFailure <- t.sendDisks(disks)
	})
	for {
		select {
		case <-t.ctx.Done():
			return false, t.ctx.Err()
		case err := <-diskFailure:
			if err != nil {
				return false, err
			}
			diskFailure = nil
			t.g.host.post(func() { t.g.host.step(pair.DisksSent{Sync: t.id}) })
		case a := <-t.rounds:
			w.round = a.Round
			t.round.Store(a.Round)
			if a.Final {
				return t.final(machine, disks, w)
			}
			if err := t.sendRound(machine, w); err != nil {
				return false, err
			}
		}
	}
}

// begin sends what comes before the pages.
func (t *transfer) begin(w *pageSink) (*vmm.Transfer, error) {
	p, err := json.Marshal(preface{Disks: t.g.row.Forms()})
	if err != nil {
		return nil, err
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(p)))
	if _, err := w.Write(append(head, p...)); err != nil {
		return nil, err
	}
	machine, err := t.g.m.BeginTransfer()
	if err != nil {
		return nil, err
	}
	machine.Compare(t.key, t.askers[pair.Memory])
	return machine, errors.Join(machine.Head(w), w.flush())
}

func (t *transfer) sendRound(machine *vmm.Transfer, w *pageSink) error {
	dirty, err := machine.Round(w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	t.pages.Store(machine.Pages())
	t.samePages.Store(machine.Same())
	t.dirty.Store(dirty)
	round := w.round
	t.g.host.post(func() { t.g.host.step(pair.RoundSent{Sync: t.id, Round: round, DirtyPages: dirty}) })
	return nil
}

// sendDisks sends the replica while the guest runs, until little is left.
func (t *transfer) sendDisks(disks *blk.Transfer) error {
	for !disks.Enough() {
		sent, err := t.sendDisk(disks)
		if err != nil || !sent {
			return err
		}
	}
	return nil
}

// sendDisk sends a part of the replica, and tells whether there was one.
func (t *transfer) sendDisk(disks *blk.Transfer) (bool, error) {
	part, err := disks.Next(nil)
	if err != nil || part == nil {
		return false, err
	}
	done, _ := disks.Done()
	t.diskDone.Store(done)
	content, same := disks.Content()
	t.diskSent.Store(content)
	t.diskSame.Store(same)
	t.bytes.Add(uint64(len(part)))
	return true, t.message(&pair.Disk{Sync: t.id, Through: uint64(disks.Progress()), Data: part})
}

func (t *transfer) message(m pair.Message) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	return t.conn.enqueue(pair.Encode(nil, t.term, m), true)
}

// final cuts the machine off: the guest stands still while the rest is sent, and goes on with its inputs and output in the
// log when the pair knows of it.
func (t *transfer) final(machine *vmm.Transfer, disks *blk.Transfer, w *pageSink) (cut bool, err error) {
	if err := t.sendDisks(disks); err != nil {
		return false, err
	}
	h, g := t.g.host, t.g
	visit := g.m.Visit(func() {
		start := time.Now()
		cut, err = t.cutOff(machine, disks, w)
		if !cut {
			g.leaveLog()
		}
		t.stopNS.Store(time.Since(start).Nanoseconds())
	})
	if err = errors.Join(visit, err); err != nil {
		return false, err
	}
	t.pages.Store(machine.Pages())
	h.post(func() { h.transferred(t) })
	return cut, nil
}

// cutOff is final's part in the machine's goroutine.
func (t *transfer) cutOff(machine *vmm.Transfer, disks *blk.Transfer, w *pageSink) (bool, error) {
	h, g := t.g.host, t.g
	for {
		sent, err := t.sendDisk(disks)
		if err != nil {
			return false, err
		}
		if !sent {
			break
		}
	}
	sequence := g.sequence
	err := machine.Final(w, vmm.PairLog{NewRing: g.newRing, Options: lockstep.RecorderOptions{}, Hold: g.hold, Sequence: sequence})
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return false, err
	}
	accepted := make(chan bool, 1)
	h.post(func() {
		h.step(pair.Cut{Sync: t.id, Sequence: sequence})
		accepted <- h.guest == g && h.node.Status().Gated
	})
	select {
	case ok := <-accepted:
		return ok, nil
	case <-g.gone:
		return true, nil // there is nobody to go on
	}
}

// pageSink makes messages of the stream of a machine's pages.
type pageSink struct {
	t      *transfer
	round  uint32
	buffer []byte
}

func (w *pageSink) Write(p []byte) (int, error) {
	w.buffer = append(w.buffer, p...)
	if len(w.buffer) < partBytes {
		return len(p), nil
	}
	return len(p), w.flush()
}

func (w *pageSink) flush() error {
	for len(w.buffer) > 0 {
		n := min(len(w.buffer), partBytes)
		if err := w.t.message(&pair.Pages{Sync: w.t.id, Round: w.round, Data: w.buffer[:n]}); err != nil {
			return err
		}
		w.t.bytes.Add(uint64(n))
		w.buffer = w.buffer[n:]
	}
	w.buffer = nil
	return nil
}

// readPreface reads what comes before a machine.
func readPreface(r io.Reader) (*preface, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxPreface {
		return nil, fmt.Errorf("a preface of %d bytes, at most %d allowed", n, maxPreface)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return nil, err
	}
	var out preface
	if err := json.Unmarshal(p, &out); err != nil {
		return nil, fmt.Errorf("a preface: %w", err)
	}
	return &out, nil
}
