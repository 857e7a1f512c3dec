package protect

import (
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

// executedEvery is after how many records the pair is told how far the machine is, if more are there.
const executedEvery = 64

// lagEvery is how often the pair is told where nothing but the display of the lag depends on it.
const lagEvery = 50 * time.Millisecond

// replica is the machine of a host that follows a primary. Its fields belong to the loop's goroutine, up to pushed.
type replica struct {
	host  *Host
	conn  *conn
	sync  uint64
	pages *feed
	disks *feedOfParts
	cut   chan uint64 // the number of the last record that is in the state already
	inbox *lockstep.Inbox
	m     *vmm.Machine // once it follows
	row   *blk.Row
	gone  chan struct{}
	left  *remains
	term  uint64
	asks  map[pair.Realm]chan *pair.Ask

	movedTo  uint64 // the record that the machine was last seen to have used, and when that was news
	movedNS  int64
	ended    *ending // how Run has returned
	draining bool
	live     bool // the machine has been handed over

	pushed atomic.Uint64 // the number of the last record that has come
	used   atomic.Uint64 // and of the last that the machine has used
	told   uint64        // and of the last that the pair has been told of; the machine's goroutine's
	toldAt time.Time     // when that was

	machine atomic.Pointer[vmm.Machine] // as m, and before

	mu      sync.Mutex
	outputs []vmm.Output // made here, and not known to have left the primary
}

// storePages takes a part of a machine. The first part of a transfer begins the replica.
func (h *Host) storePages(p *pair.Pages) {
	if h.replica == nil {
		h.beginReplica(p.Sync)
	}
	h.replica.pages.push(p.Data)
}

// storeDisk takes a part of the disks' replica.
func (h *Host) storeDisk(d *pair.Disk) {
	if h.replica == nil {
		h.beginReplica(d.Sync)
	}
	h.replica.disks.push(d.Data)
}

func (h *Host) beginReplica(sync uint64) {
	c := h.conns.open[h.node.Status().Conn]
	r := &replica{
		host: h, conn: c, sync: sync, pages: newFeed(c.taken), disks: newFeedOfParts(c.taken), cut: make(chan uint64, 1),
		gone: make(chan struct{}), left: newRemains(), term: h.node.Status().Term,
		asks: map[pair.Realm]chan *pair.Ask{pair.Memory: make(chan *pair.Ask, maxAsks), pair.Disks: make(chan *pair.Ask, maxAsks)},
	}
	before := h.last
	h.replica, h.last = r, r.left
	from := int64(h.node.Status().ReplicaBytes)
	h.wait.Go(func() {
		defer close(r.left.closed)
		before.wait() // its files are this one's
		r.build(from, before)
		if r.left.memory == nil && !r.live {
			r.left.memory = before.take()
		}
	})
}

// build makes the machine of what comes, and runs it.
func (r *replica) build(from int64, before *remains) {
	h := r.host
	m, disks, err := r.receive(from, before)
	if err != nil {
		r.give(disks)
		h.post(func() { h.refuse(r, err) })
		return
	}
	sequence, ok := r.awaitCut()
	if !ok {
		r.give(disks)
		r.left.keep(m, h.c.Log)
		return
	}
	if err := r.finish(m, disks, sequence); err != nil {
		r.left.keep(m, h.c.Log)
		h.post(func() { h.refuse(r, err) })
		return
	}
	r.run(m)
}

// give closes replicas that are not a machine's.
func (r *replica) give(disks *blk.Replicas) {
	r.disks.close()
	if disks == nil {
		return
	}
	// The pair counts what has come as stored, and goes on from there.
	if err := errors.Join(r.disks.drain(), disks.Close()); err != nil {
		r.host.c.Log.Warn("closing the replica of the disks", "cause", err)
	}
}

// receive reads the machine, and the disks beside it.
func (r *replica) receive(from int64, before *remains) (m *vmm.Machine, disks *blk.Replicas, err error) {
	h := r.host
	first, err := readPreface(r.pages)
	if err != nil {
		return nil, nil, err
	}
	reception, err := vmm.Receive(h.c.System, r.pages, before.take, func(c *vmm.Config) error {
		if err := h.complete(c); err != nil {
			return err
		}
		disks, err = blk.OpenReplicas(h.c.Devices.Disks(), first.Disks, from)
		if err != nil {
			return err
		}
		h.wait.Go(func() { r.disks.store(disks, r) })
		return nil
	})
	if err != nil {
		return nil, disks, err
	}
	h.wait.Go(func() {
		r.answerAll(pair.Memory, func(a *pair.Ask) ([]sums.Sum, error) {
			return reception.Sums(a.Key, a.First, int(a.Count)), nil
		})
	})
	h.wait.Go(func() {
		r.answerAll(pair.Disks, func(a *pair.Ask) ([]sums.Sum, error) {
			return disks.Sums(a.Key, int64(a.First), int(a.Count))
		})
	})
	m, r.left.memory, err = reception.Machine(r.pages)
	return m, disks, err
}

// awaitCut waits for the number of the record from which the log goes on.
func (r *replica) awaitCut() (uint64, bool) {
	select {
	case sequence := <-r.cut:
		return sequence, true
	case <-r.gone:
		return 0, false
	}
}

// finish makes the machine one that follows the log.
func (r *replica) finish(m *vmm.Machine, disks *blk.Replicas, sequence uint64) error {
	h := r.host
	if err := r.disks.drain(); err != nil {
		return errors.Join(err, disks.Close())
	}
	images, err := disks.Finish()
	if err != nil {
		return err
	}
	if err := m.SetImages(images); err != nil {
		return err
	}
	h.watchDisks(m)
	row, err := m.TrackDisks()
	if err != nil {
		return err
	}
	r.used.Store(sequence)
	r.told = sequence
	r.machine.Store(m)
	m.Follow(vmm.Following{Source: r.inbox, First: sequence + 1, Used: r.useRecord, Hold: r.hold, Log: h.c.Log})
	h.post(func() {
		if h.replica != r {
			return
		}
		r.m, r.row = m, row
		h.event(false, "the backup has the guest's state and follows it")
		h.step(pair.StateApplied{Sync: r.sync})
	})
	return nil
}

// run follows the primary to the end of its log.
func (r *replica) run(m *vmm.Machine) {
	h := r.host
	cause, err := m.Run()
	if err == nil && cause != vmm.CauseLogEnd {
		// A primary that was lost before it could log how its guest ended leaves an end without a record: the guest's own.
		if err = m.FollowEnd(); errors.Is(err, lockstep.ErrLogIncomplete) {
			err = nil
		}
	}
	if err == nil {
		r.used.Store(m.Followed())
	}
	h.post(func() {
		switch r {
		case h.replica:
			r.stopped(r.used.Load(), cause, err)
		case h.parting:
			r.ended, h.parting = &ending{cause, err}, nil
			h.guestEnded(r)
			h.farewell = false
			r.discard()
		}
	})
	<-r.gone
	if r.live {
		return // the machine is the guest
	}
	r.left.keep(m, h.c.Log)
	h.post(func() { h.step(pair.Discarded{}) })
}

// applyState makes this host's machine of what has come.
func (h *Host) applyState(a pair.ApplyState) {
	if h.replica == nil {
		h.beginReplica(a.Sync) // there is nothing to make it of, which it will say
	}
	h.replica.apply(a.Sequence)
}

// apply says that the machine is complete with what has come, as of a record.
func (r *replica) apply(sequence uint64) {
	r.inbox = lockstep.NewInbox(sequence+1, r.conn.taken)
	r.pushed.Store(sequence)
	r.pages.close(nil)
	r.disks.close()
	r.cut <- sequence
}

// records takes a part of the log.
func (r *replica) records(m *pair.Records) {
	if err := r.inbox.Push(m.First, m.Count, m.Frame); err != nil {
		r.host.refuse(r, err)
		return
	}
	r.pushed.Store(m.Last())
	r.host.meter.received(len(m.Frame))
}

// useRecord tells the pair how far the machine is, but not of each record. It is called by the machine's goroutine.
func (r *replica) useRecord(sequence uint64) {
	r.used.Store(sequence)
	h := r.host
	switch {
	case sequence-r.told >= executedEvery:
	case sequence < r.pushed.Load():
		return
	case h.c.Rule == pair.RuleReceived && time.Since(r.toldAt) < lagEvery: // nobody waits for it
		return
	}
	r.told, r.toldAt = sequence, time.Now()
	h.post(func() {
		if h.replica == r {
			h.step(pair.Executed{Sequence: sequence})
		}
	})
}

// hold keeps output that the primary may not have let go. It is called by the machine's goroutine.
func (r *replica) hold(o vmm.Output) {
	r.mu.Lock()
	r.outputs = append(r.outputs, o)
	r.mu.Unlock()
	r.host.addresses.learn(o)
}

// forget drops output that has left the primary.
func (r *replica) forget(released uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for n < len(r.outputs) && r.outputs[n].Sequence <= released {
		n++
	}
	r.outputs = r.outputs[n:]
}

// drain executes what has come, and no more.
func (r *replica) drain() {
	r.draining = true
	r.inbox.Close()
	if r.ended != nil {
		r.drained()
	}
}

// hungNS is for how long a machine may take one record. A primary waits for its backup to execute, and must not wait for one
// that does not: whose disk has stalled, or whose guest has gone astray where it has no exits.
const hungNS = 10_000_000_000

// watch looks whether the machine moves while there are records.
func (r *replica) watch(nowNS int64) {
	h, used := r.host, r.used.Load()
	if r.m == nil || r.ended != nil || used != r.movedTo || used >= r.pushed.Load() || h.node.Status().State != pair.Protected {
		r.movedTo, r.movedNS = used, nowNS
		return
	}
	if nowNS-r.movedNS >= hungNS {
		r.parts(used, fmt.Errorf("its machine has not moved for %v", time.Duration(hungNS)))
	}
}

// parts tells that the machine is not the guest's any more, behind a record. The primary reports and counts it too.
func (r *replica) parts(used uint64, cause error) {
	h := r.host
	h.step(pair.Executed{Sequence: used})
	h.meter.diverged()
	text := fmt.Sprintf("the backup can't follow behind record %d: %v", used, cause)
	if h.node.Status().State == pair.Protected {
		text += ": this host joins again and is brought up to date"
	}
	h.event(true, text)
	h.step(pair.FoundDivergence{Sequence: used + 1, Text: cause.Error()})
}

// stopped takes note that the machine has come to the end of what it can follow.
func (r *replica) stopped(used uint64, cause vmm.Cause, err error) {
	h := r.host
	r.ended = &ending{cause, err}
	if err != nil {
		r.parts(used, err)
	} else {
		h.step(pair.Executed{Sequence: used})
	}
	if r.draining && h.replica == r {
		r.drained()
	}
}

func (r *replica) drained() {
	h, used := r.host, r.used.Load()
	if st := h.node.Status(); used < st.Received && !st.Diverged {
		h.step(pair.FoundDivergence{Sequence: used + 1, Text: "the log goes on behind the guest's end"})
	}
	h.step(pair.Drained{Sequence: used})
}

// discard stops the machine and forgets it.
func (r *replica) discard() {
	if r.inbox != nil {
		r.inbox.Abort()
	}
	r.pages.close(io.ErrClosedPipe)
	r.disks.close()
	if m := r.machine.Load(); m != nil && r.ended == nil {
		m.Stop()
	}
	close(r.gone)
}

// refuse parts from a primary whose machine this host can't have.
func (h *Host) refuse(r *replica, cause error) {
	if h.replica != r {
		return
	}
	h.event(true, fmt.Sprintf("this host can't be the backup: %v", cause))
	h.conns.refuse(r.conn, cause)
	if st := h.node.Status(); st.State == pair.Joining {
		h.newNode(pair.Backup, st.Term, pair.Digest{}) // nothing that was stored is gone on from
	}
}

// takeOver makes this host's machine the guest.
func (h *Host) takeOver(a pair.TakeOver) {
	r := h.replica
	h.wait.Go(func() {
		var err error
		// The guest itself may have ended before its host was lost.
		over := r.ended.err == nil && r.knowsEnd()
		if err = r.m.DiskFailure(); err == nil {
			r.sendAgain(a.Released)
		}
		if err == nil && !over {
			err = r.m.TakeOver()
		}
		h.post(func() { h.tookOver(r, over, err) })
	})
}

// sendAgain sends output that may not have left the primary. What the guest puts out from here on comes behind it.
func (r *replica) sendAgain(released uint64) {
	r.forget(released)
	r.mu.Lock()
	outputs := r.outputs
	r.outputs = nil
	r.mu.Unlock()
	for _, o := range outputs {
		o.Release()
	}
}

// tookOver lets the guest go on here.
func (h *Host) tookOver(r *replica, over bool, err error) {
	if h.replica != r {
		return
	}
	if err != nil {
		h.event(true, fmt.Sprintf("the guest is lost: this host's replica can't go on: %v", err))
		h.end = &ending{err: fmt.Errorf("take the guest over: %w", err)}
		return
	}
	g := newGuest(h, r.m, r.row, r.used.Load())
	g.live = true
	if over {
		g.ended = r.ended
		g.ended.cause = causeOf(r)
	}
	r.live = true
	close(r.gone)
	h.guest, h.replica = g, nil
	h.devices(func(d Devices) { d.Connect(g.m) })
	h.addresses.announce(h, g.m.NICs())
	h.healed = h.node.Status().Divergences // this host's own, as a backup
	h.step(pair.TookOver{Replica: r.row.Name()})
}

// knowsEnd tells whether the log has told how the guest ended.
func (r *replica) knowsEnd() bool {
	return r.ended.cause != vmm.CauseLogEnd || r.m.Logged() != 0
}

// causeOf tells how the guest has ended that the log tells of.
func causeOf(r *replica) vmm.Cause {
	if r.ended.cause != vmm.CauseLogEnd {
		return r.ended.cause
	}
	return vmm.CauseStopped
}
