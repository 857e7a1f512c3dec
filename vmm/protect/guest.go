package protect

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"tandem/lockstep"
	"tandem/lockstep/pair"
	"tandem/lockstep/wire"
	"tandem/vmm"
	"tandem/vmm/blk"
)

const (
	// ringBytes is how much of the log may wait for the backup before the guest has to wait.
	ringBytes = 16 << 20
	// frameBytes is up to how many bytes of records go into one message, as far as they are there.
	frameBytes = 64 << 10
	// maxHeldBytes bounds the output that waits. A guest that sends more waits with it.
	maxHeldBytes = 8 << 20
)

// guest is the machine of the host that is the guest. Its fields belong to the loop's goroutine, up to mu.
type guest struct {
	host    *Host
	m       *vmm.Machine
	row     *blk.Row
	gone    chan struct{} // closed when the machine is to be forgotten
	left    *remains
	live    bool          // it has its door to the world
	running bool          // Run has been called
	resume  chan struct{} // not nil while the guest stands still; closing it lets it go on
	sync    *transfer     // the state transfer that is under way, or nil
	logging chan struct{} // closed when nobody is at work to begin or to end the log; nil: nobody was
	ended   *ending       // how Run has returned
	pace    pair.Speed

	handed    bool // the guest stands still for its backup to go on
	attached  bool // the machine logs, or is about to
	detaching bool
	reader    *wire.RingReader
	acked     uint64        // what the ring has been told to forget
	settled   chan struct{} // closed when nothing waits any more
	settledAt uint64        // settled is to be closed when records up to here are known and no output waits

	held   map[uint64]made // by the number that the pair knows it by
	lastID uint64

	// sequence is the number of the log's last record; ring is the log, or nil. They belong to the machine's goroutine.
	sequence uint64
	ring     *wire.Ring
	stopPump context.CancelFunc

	mu        sync.Mutex
	made      []made // output whose record may not have been told to the pair
	heldBytes int
	heavy     bool // too much output waits
}

// made is output and when it was made.
type made struct {
	vmm.Output
	at time.Time
}

// newGuest takes a machine over whose log has ended with record number sequence.
func newGuest(h *Host, m *vmm.Machine, row *blk.Row, sequence uint64) *guest {
	return &guest{host: h, m: m, row: row, sequence: sequence, gone: make(chan struct{}), left: newRemains(), held: map[uint64]made{}, pace: pair.Full}
}

// goOn starts the guest, or lets it go on.
func (g *guest) goOn() {
	switch {
	case g.resume != nil:
		close(g.resume)
		g.resume = nil
	case !g.running && g.ended == nil:
		g.running = true
		if !g.live {
			g.live = true
			g.m.GoLive()
			g.host.devices(func(d Devices) { d.Connect(g.m) })
		}
		g.host.wait.Go(g.run)
	}
}

// run runs the guest to its end.
func (g *guest) run() {
	h := g.host
	cause, err := g.m.Run()
	select {
	case <-g.gone:
	default:
		if err == nil { // a host that failed has not ended the guest: its log is a dead host's
			g.m.EndLog(cause)
		}
		last := g.lastRecord()
		h.post(func() {
			g.ended = &ending{cause, err}
			if err == nil {
				g.settledAt = last
			}
		})
		<-g.gone
	}
	if g.stopPump != nil {
		g.stopPump()
	}
	g.close()
}

// close closes the machine, which is not running.
func (g *guest) close() {
	h := g.host
	h.devices(func(d Devices) { d.Disconnect() })
	g.left.keep(g.m, h.c.Log)
	close(g.left.closed)
	h.post(func() { h.step(pair.Discarded{}) })
}

// lastRecord returns the number of the log's last record. It belongs to the machine's goroutine.
func (g *guest) lastRecord() uint64 {
	if g.ring != nil {
		return g.ring.Base().Sequence - 1
	}
	return g.sequence
}

// pause lets the guest stand still.
func (g *guest) pause() {
	if g.resume != nil || !g.running {
		return
	}
	resume := make(chan struct{})
	g.resume = resume
	g.host.wait.Go(func() {
		_ = g.m.Visit(func() { // a guest that has ended stands still
			select {
			case <-resume:
			case <-g.gone:
			}
		})
	})
}

// handOver lets the guest stand still, so that its backup can go on where it stands.
func (g *guest) handOver() {
	h := g.host
	h.wait.Go(func() {
		_ = g.m.Visit(func() { // a guest that has ended has no place to go on from
			g.m.LogOutput()
			last := g.lastRecord()
			h.post(func() { g.handed, g.settledAt = true, last })
			<-g.gone
		})
	})
}

// discard stops the machine and forgets it, at once.
func (g *guest) discard() {
	if g.sync != nil {
		g.sync.cancel()
	}
	if g.reader != nil {
		g.reader.Close()
		g.reader = nil
	}
	if !g.running {
		close(g.gone)
		g.host.wait.Go(g.close)
		return
	}
	g.m.SetPace(vmm.FullPace)
	g.m.Stop()
	close(g.gone)
}

// hold takes what wants to leave the machine. It is called by the machine's goroutine.
func (g *guest) hold(o vmm.Output) {
	g.mu.Lock()
	g.made = append(g.made, made{o, time.Now()})
	g.heldBytes += len(o.Data)
	heavy := g.heldBytes > maxHeldBytes && !g.heavy
	if heavy {
		g.heavy = true
		g.m.SetPace(vmm.StalledPace) // under the lock, so that applyPace does not undo it
	}
	g.mu.Unlock()
}

// newRing makes the log when a transfer cuts the machine off. It is called by the machine's goroutine.
func (g *guest) newRing(base wire.Base) *wire.Ring {
	ctx, stop := context.WithCancel(context.Background())
	g.ring, g.stopPump = wire.NewRing(ringBytes, base, nil), stop
	reader := g.ring.NewReader()
	g.host.post(func() {
		g.attached, g.reader, g.acked = true, reader, base.Sequence-1
		g.host.wait.Go(func() { g.pump(ctx, reader) })
	})
	return g.ring
}

// pump tells the pair of the log and of output, in the order in which they are caused.
func (g *guest) pump(ctx context.Context, reader *wire.RingReader) {
	var buffer bytes.Buffer
	frames := wire.NewFrameWriter(&buffer, true)
	for {
		batch, err := reader.Next(ctx, frameBytes)
		if err != nil {
			return
		}
		buffer.Reset()
		if _, err := frames.Write(batch); err != nil {
			return
		}
		frame, first, last := bytes.Clone(buffer.Bytes()), batch.Base.Sequence, batch.Last()
		outputs := g.madeUpTo(last)
		g.host.post(func() { g.logged(first, last, frame, outputs) })
	}
}

// madeUpTo takes the output that was caused by records up to a number.
func (g *guest) madeUpTo(sequence uint64) []made {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for n < len(g.made) && g.made[n].Sequence <= sequence {
		n++
	}
	taken := g.made[:n:n]
	g.made = g.made[n:]
	return taken
}

func (g *guest) logged(first, last uint64, frame []byte, outputs []made) {
	h := g.host
	if h.guest != g {
		return
	}
	h.meter.logged(last, len(frame))
	h.step(pair.Logged{First: first, Count: uint32(last - first + 1), Frame: frame})
	for _, o := range outputs {
		g.lastID++
		g.held[g.lastID] = o
		h.step(pair.Output{ID: g.lastID, Sequence: o.Sequence})
	}
}

// letGo releases output.
func (g *guest) letGo(ids []uint64) {
	for _, id := range ids {
		o := g.held[id]
		delete(g.held, id)
		g.host.meter.released(time.Since(o.at))
		if o.Kind == lockstep.KindConsole { // it may wait for somebody who reads
			g.host.release.add(func() {
				o.Release()
				if g.lighter(len(o.Data)) {
					g.host.post(g.applyPace)
				}
			})
			continue
		}
		o.Release()
		if g.lighter(len(o.Data)) {
			g.applyPace()
		}
	}
}

// lighter says that n bytes of output wait no longer, and tells whether the guest may go on for that. It may be called from
// any goroutine.
func (g *guest) lighter(n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heldBytes -= n
	light := g.heavy && g.heldBytes <= maxHeldBytes/2
	if light {
		g.heavy = false
	}
	return light
}

func (g *guest) drop(ids []uint64) {
	for _, id := range ids {
		delete(g.held, id)
	}
}

func (g *guest) setPace(s pair.Speed) {
	g.pace = s
	g.applyPace()
}

// applyPace gives the machine the slower of what the pair wants and what its output allows.
func (g *guest) applyPace() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.heavy || g.pace == pair.Stalled:
		g.m.SetPace(vmm.StalledPace)
	case g.pace == pair.Slow:
		g.m.SetPace(vmm.SlowPace)
	default:
		g.m.SetPace(vmm.FullPace)
	}
}

// settle does what depends on the pair's status.
func (g *guest) settle(st pair.Status) {
	if g.reader != nil {
		// The ring keeps what the backup does not have. Without a backup nobody wants it.
		seq := st.Logged
		if st.Conn != 0 && st.Gated {
			seq = st.Received
		}
		if seq > g.acked {
			g.acked = seq
			if err := g.reader.Acknowledge(seq); err != nil {
				g.host.event(true, fmt.Sprintf("the log: %v", err))
			}
		}
	}
	quiet := st.HeldOutputs == 0 && st.Logged >= g.settledAt
	if g.handed && quiet && st.State == pair.Protected && st.Received == st.Logged && g.host.end == nil {
		g.host.event(false, "the guest is handed over to the backup")
		g.host.end = &ending{cause: vmm.CauseStopped} // without a farewell: the backup takes the connection's end for a death
		return
	}
	if g.ended != nil && g.ended.err != nil && st.State == pair.Protected && g.host.end == nil {
		g.host.event(true, fmt.Sprintf("this host can't run the guest any more, the backup goes on with it: %v", g.ended.err))
		g.host.end = g.ended // without a farewell, as above
		return
	}
	if settled := g.settled; settled != nil && quiet {
		g.settled = nil
		g.host.release.add(func() { close(settled) }) // behind what is on its way to a console
	}
	if g.ended != nil && g.host.end == nil && (quiet || !g.attached) {
		g.finish()
		return
	}
	if st.State == pair.Alone && !st.Gated && g.attached && !g.detaching && g.ended == nil {
		g.detach()
	}
}

// finish ends this host's part with the guest's.
func (g *guest) finish() {
	h := g.host
	ended := g.ended
	text := "the guest failed"
	if ended.err == nil {
		text = ended.cause.String()
	}
	h.end = ended
	h.step(pair.Ended{Text: text})
}

// takeTurn lets those take turns who begin or end the machine's log and the watch over its memory and disks: what one that
// was given up takes or ends late is lost to the next. before is closed when it is the caller's turn, who closes over.
func (g *guest) takeTurn() (before <-chan struct{}, over chan struct{}) {
	last := g.logging
	if last == nil {
		last = make(chan struct{})
		close(last)
	}
	g.logging = make(chan struct{})
	return last, g.logging
}

// detach ends the log of a guest that has no backup any more.
func (g *guest) detach() {
	h := g.host
	g.detaching = true
	before, over := g.takeTurn()
	h.wait.Go(func() {
		defer close(over)
		<-before
		_ = g.m.Visit(func() { // a guest that has ended needs no detaching
			g.m.LogOutput()
			settled := make(chan struct{})
			last := g.lastRecord()
			h.post(func() { g.settled, g.settledAt = settled, last })
			select {
			case <-settled:
			case <-g.gone:
				return
			}
			g.leaveLog()
		})
		h.post(func() { g.attached, g.detaching, g.reader = false, false, nil })
	})
}

// leaveLog lets the machine go on without a log. It is called in a visit.
func (g *guest) leaveLog() {
	g.sequence = g.lastRecord()
	if err := g.m.Detach(); err != nil {
		g.host.c.Log.Warn("the guest's memory goes on being watched for writes", "cause", err)
	}
	if g.ring != nil {
		g.stopPump()
		g.ring.Close()
		g.ring = nil
	}
}
