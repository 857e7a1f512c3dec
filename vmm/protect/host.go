package protect

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/lockstep/pair"
	"tandem/vmm"
)

const (
	// tickEvery is how often the pair is told the time.
	tickEvery = 10 * time.Millisecond
	// shownEvery is how often what people look at is brought up to date.
	shownEvery = 50 * time.Millisecond
	// maxTick is how much of the time between two ticks counts: a host that stood still itself has not listened either,
	// and must not take its own absence for its peer's.
	maxTick = 50 * time.Millisecond
	// beatsToMiss is how many heartbeats in a row a peer is silent before it is lost. Each costs a host some time.
	beatsToMiss = 4
	// askTimeout is how long an arbiter may take.
	askTimeout = 2 * time.Second
	// endPatience is how long the end of this host's part waits for its peer.
	endPatience = 5 * time.Second
)

// Host is one host's part of a pair.
type Host struct {
	c        Config
	run      string // names this run of the program; the owner at the arbiter is made of it
	started  time.Time
	listener *link.Listener

	work chan func()   // for the loop
	done chan struct{} // closed when the loop has ended
	wait sync.WaitGroup

	devicesMu sync.Mutex // held while Devices is called

	// The rest belongs to the loop's goroutine, up to mu.
	ctx      context.Context
	identity pair.Identity
	node     *pair.Node
	owners   int // how many owners this run has been
	nowNS    int64
	ticked   time.Time
	pending  []pair.Event
	stepping bool
	leaving  time.Time // when this host's part was to end; zero: it goes on
	deciding bool      // this host was told to leave while it may become the guest's only one
	end      *ending   // how it ended

	guest      *guest   // the machine of a host that is the guest
	replica    *replica // the machine of a host that follows
	last       *remains // of the machine that this host had last, or nil
	farewell   bool     // the primary has left in order
	parting    *replica // a machine that is yet to tell how the guest of such a primary ended, or nil
	addresses  addresses
	progressed time.Time // when Config.Progress was last called
	conns      connections
	times      timeline
	release    *releaser
	healed     uint64    // divergences of backups after which there was a whole transfer
	shown      time.Time // when the status was last brought up to date

	mu     sync.Mutex
	status Status
	peers  []string
	meter  meter
}

// ending is how a guest, or this host's part, has ended.
type ending struct {
	cause vmm.Cause
	err   error
}

// New checks a configuration and opens the listener.
func New(c Config) (*Host, error) {
	var name [4]byte
	_, _ = rand.Read(name[:]) // never fails
	h := &Host{
		c: c, run: fmt.Sprintf("%.40s-%s", c.Credentials.Own().Name, hex.EncodeToString(name[:])), started: time.Now(), peers: c.Peers,
		work: make(chan func(), 256), done: make(chan struct{}),
	}
	h.conns.host, h.meter.host, h.release = h, h, newReleaser()
	if c.Listen == "" {
		return h, nil
	}
	listener, err := link.Listen(context.Background(), c.Listen, h.link())
	if err != nil {
		return nil, err
	}
	h.listener = listener
	h.c.Listen = listener.Addr().String()
	return h, nil
}

// Close releases what New opened. Run must have returned, or never have been called.
func (h *Host) Close() error {
	if h.listener == nil {
		return nil
	}
	return h.listener.Close()
}

// RunPrimary runs a machine that is loaded and has no door yet, to its guest's end. The machine is closed whatever happens.
func (h *Host) RunPrimary(ctx context.Context, m *vmm.Machine) (vmm.Cause, error) {
	h.watchDisks(m)
	row, err := m.TrackDisks()
	if err != nil {
		return 0, errors.Join(err, m.Close())
	}
	g := newGuest(h, m, row, 0)
	if err := h.begin(ctx, pair.Primary, row.Name()); err != nil {
		return 0, errors.Join(err, m.Close())
	}
	h.guest = g
	return h.loop()
}

// RunBackup waits for a primary and follows it, to the guest's end.
func (h *Host) RunBackup(ctx context.Context) (vmm.Cause, error) {
	if err := h.begin(ctx, pair.Backup, pair.Digest{}); err != nil {
		return 0, err
	}
	return h.loop()
}

// watchDisks has it told when another host takes a shared disk from a machine. Usually that host is the peer, and the pair is about
// to find out; the guest here waits for its disk meanwhile.
func (h *Host) watchDisks(m *vmm.Machine) {
	m.OnDiskLost(func(cause error) {
		h.post(func() { h.event(true, fmt.Sprintf("the guest can't go on here: %v", cause)) })
	})
}

// begin makes the pair's Node.
func (h *Host) begin(ctx context.Context, role pair.Role, replica pair.Digest) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	leaves, err := vmm.GuestCPUID(h.c.System)
	if err != nil {
		return err
	}
	processor, err := json.Marshal(leaves)
	if err != nil {
		return err
	}
	asked, err := h.c.Arbiter.Identity(ask)
	if err != nil {
		return fmt.Errorf("the arbiter: %w", err)
	}
	latest, err := h.c.Arbiter.Latest(ask)
	if err != nil {
		return fmt.Errorf("the arbiter: %w", err)
	}
	if role == pair.Primary && !h.c.TakeGuest && latest.Term > 0 && hostOf(latest.Owner) != hostOf(h.run+"-0") {
		return fmt.Errorf("%w: guest %q is %q's since %s (term %d)", ErrElsewhere, h.c.Guest, hostOf(latest.Owner), latest.At.Format(time.RFC3339), latest.Term)
	}
	h.ctx = ctx
	h.identity = pair.Identity{
		Machine:       sha256.Sum256([]byte("tandem machine 1")),
		CPUID:         sha256.Sum256(processor),
		Configuration: sha256.Sum256([]byte("guest " + h.c.Guest)),
		Arbiter:       sha256.Sum256([]byte(asked)),
		Rule:          h.c.Rule,
	}
	if role == pair.Primary && latest.Term > 0 {
		h.event(false, fmt.Sprintf("%q had term %d since %s: it is fenced now if it still runs the guest", latest.Owner, latest.Term, latest.At.Format(time.RFC3339)))
	}
	h.newNode(role, latest.Term, replica)
	h.mu.Lock()
	h.status.Arbiter = asked
	h.mu.Unlock()
	return nil
}

// ErrElsewhere says that a guest is not started anew on a host that did not have it last: it may run on the other one, and its
// latest data are there.
var ErrElsewhere = errors.New("another host had the guest last")

// hostOf returns the name of the host that an owner is a run of.
func hostOf(owner string) string {
	for range 2 { // the run's, and how many owners it has been
		owner = owner[:max(0, strings.LastIndexByte(owner, '-'))]
	}
	return owner
}

// newNode begins this host's part, or begins it anew under another name.
func (h *Host) newNode(role pair.Role, term uint64, replica pair.Digest) {
	h.owners++
	c := pair.DefaultConfig()
	c.Identity, c.Role, c.Term, c.Replica = h.identity, role, term, replica
	c.Owner = fmt.Sprintf("%s-%d", h.run, h.owners)
	c.UnsafeWithoutArbiter = h.c.UnsafeWithoutArbiter
	if h.c.Detect > 0 {
		c.DetectNS = h.c.Detect.Nanoseconds()
		c.StallNS = max(c.StallNS, c.DetectNS)
	}
	c.BeatNS = c.DetectNS / beatsToMiss
	h.node = pair.New(c)
	if role == pair.Backup {
		h.step(pair.Tick{NowNS: h.nowNS}) // a peer that comes before the next tick was not silent since time began
	}
	h.mu.Lock()
	h.status.Owner = c.Owner
	h.mu.Unlock()
}

// loop does what happens, one thing after another, until the guest or this host's part has ended.
func (h *Host) loop() (vmm.Cause, error) {
	defer hurry()()
	ctx, cancel := context.WithCancel(context.Background())
	if h.listener != nil {
		h.wait.Go(func() { h.conns.accept(ctx, h.listener) })
	}
	h.wait.Go(h.release.run)
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	h.ticked = time.Now()
	leave := h.ctx.Done()
	for h.end == nil {
		select {
		case f := <-h.work:
			f()
		case <-ticker.C:
			h.tick()
		case <-leave:
			leave = nil
			h.leave()
		}
		h.settle()
	}
	close(h.done)
	cancel()
	h.abandon()
	h.release.close()
	h.wait.Wait()
	h.last.discard(h.c.Log)
	return h.end.cause, h.end.err
}

// loopNiceness is the scheduling priority of the loop's thread: heartbeats must leave in time, whatever the guest does.
const loopNiceness = -10

// transferNiceness is that of a state transfer's threads: on a host with one processor the guest goes on beside it.
const transferNiceness = 5

// hurry keeps the calling goroutine on a thread of its own that is scheduled before others, where this program may ask for
// that, until the function that it returns is called.
func hurry() func() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), loopNiceness) // without the right to it the usual priority must do
	return func() {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 0)
		runtime.UnlockOSThread()
	}
}

// giveWay lets the calling goroutine run behind others, on a thread that ends with it.
func giveWay() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), transferNiceness)
}

// post has f called by the loop, unless that has ended. It may be called from any goroutine but the loop's.
func (h *Host) post(f func()) {
	select {
	case h.work <- f:
	case <-h.done:
	}
}

// tick tells the pair the time. What has come before is done first: it may be a sign of life.
func (h *Host) tick() {
	for range len(h.work) {
		(<-h.work)()
	}
	now := time.Now()
	h.nowNS += min(now.Sub(h.ticked), maxTick).Nanoseconds()
	h.ticked = now
	st := h.node.Status()
	if c := h.conns.open[st.Conn]; c != nil && (st.State == pair.Syncing || st.State == pair.Protected) && c.isFull() {
		// There is more of the peer than this host has the time for: it must not be taken for dead before that is read.
		h.step(pair.Received{Conn: c.id, Term: st.Term, Message: &pair.Beat{}})
	}
	h.step(pair.Tick{NowNS: h.nowNS})
	if h.replica != nil {
		h.replica.watch(h.nowNS)
	}
}

// step gives the pair an event and does what it says. An action that has an event at once leaves it to the round after.
func (h *Host) step(e pair.Event) {
	h.pending = append(h.pending, e)
	if h.stepping {
		return
	}
	h.stepping = true
	for len(h.pending) > 0 {
		e := h.pending[0]
		h.pending = h.pending[1:]
		before := h.node.Status()
		for _, a := range h.node.Step(e) {
			h.act(a)
		}
		h.times.note(h, before.State, h.node.Status().State)
	}
	h.stepping = false
}

// act does what the pair says.
func (h *Host) act(a pair.Action) {
	switch a := a.(type) {
	case pair.Send:
		h.conns.send(a)
	case pair.SendBeat:
		h.conns.beat(a)
	case pair.Hangup:
		h.conns.hangup(a.Conn)
	case pair.Dial:
		h.conns.dial()
	case pair.Arbitrate:
		h.arbitrate(a)
	case pair.SendDisks:
		h.guest.beginSync(a)
	case pair.SendRound:
		h.guest.sendRound(a)
	case pair.AbortSync:
		h.abortSync(a.Sync)
	case pair.AnswerAsk:
		h.answer(a.Ask)
	case pair.TakeSums:
		h.takeSums(a.Sums)
	case pair.StorePages:
		h.storePages(a.Pages)
	case pair.StoreDisk:
		h.storeDisk(a.Disk)
	case pair.ApplyState:
		h.applyState(a)
	case pair.StoreRecords:
		h.replica.records(a.Records)
	case pair.Drain:
		h.replica.drain()
	case pair.TakeOver:
		h.takeOver(a)
	case pair.Release:
		h.guest.letGo(a.IDs)
	case pair.Drop:
		h.guest.drop(a.IDs)
	case pair.Pace:
		h.guest.setPace(a.Pace)
	case pair.RunGuest:
		h.guest.goOn()
	case pair.PauseGuest:
		h.pauseGuest()
	case pair.DiscardGuest:
		h.discard()
	case pair.Report:
		if cause, ok := strings.CutPrefix(a.Text, "lost the peer: "); ok {
			h.times.cause = cause
		}
		h.event(a.Alarm, a.Text)
	}
}

// arbitrate asks the arbiter.
func (h *Host) arbitrate(a pair.Arbitrate) {
	h.wait.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		won, holder, err := h.c.Arbiter.TestAndSet(ctx, a.Term, a.Owner)
		outcome := pair.Lost
		switch {
		case err != nil:
			outcome = pair.NoAnswer
		case won:
			outcome = pair.Won
		}
		h.post(func() {
			if err != nil {
				h.event(!errors.Is(err, arbiter.ErrUnreachable), fmt.Sprintf("the arbiter: %v", err))
			}
			h.step(pair.Arbitrated{Term: a.Term, Outcome: outcome, Latest: holder.Term})
		})
	})
}

// pauseGuest stops the guest and keeps it. A machine that follows stands still by itself where its log ends.
func (h *Host) pauseGuest() {
	if h.guest != nil {
		h.guest.pause()
	}
}

// discard stops this host's machine and forgets it.
func (h *Host) discard() {
	if h.guest != nil {
		h.last = h.guest.left
		h.guest.discard()
		h.guest = nil
	}
	r := h.replica
	if r == nil {
		return
	}
	h.replica = nil
	if h.farewell && r.m != nil && r.ended == nil {
		h.parting = r // it may have records to come of how the guest ended
		r.inbox.Close()
		return
	}
	h.guestEnded(r)
	r.discard()
}

// guestEnded ends this host's part if the guest has ended on the primary, and the primary has said farewell.
func (h *Host) guestEnded(r *replica) {
	if h.farewell && h.end == nil && r.ended != nil && r.ended.err == nil && r.knowsEnd() {
		h.end = &ending{cause: causeOf(r)}
	}
}

// leave ends this host's part in order: a guest goes on at its backup or, if there is none, is stopped; a backup says
// farewell.
func (h *Host) leave() {
	h.leaving = time.Now()
	h.deciding = false
	switch st := h.node.Status().State; {
	case h.guest != nil && st == pair.Protected:
		h.guest.handOver()
		return
	case h.guest != nil:
		h.guest.m.Stop()
		return
	case takesOver(st): // what it has received may be on no other host's disks
		h.deciding = true
		return
	}
	h.step(pair.Ended{Text: "the host was told to leave"})
	h.end = &ending{cause: vmm.CauseStopped}
}

// takesOver tells whether a host that follows is on its way to being the guest.
func takesOver(s pair.State) bool {
	return s == pair.Contending || s == pair.Paused || s == pair.Draining || s == pair.Live
}

// settle does what depends on several things at once.
func (h *Host) settle() {
	st := h.node.Status()
	if h.guest != nil {
		h.guest.settle(st)
	}
	if h.replica != nil {
		h.replica.forget(st.Released)
	}
	if st.State == pair.Joining && st.Role == pair.Backup && st.Conn == 0 {
		h.conns.seek()
	}
	if h.deciding && (h.guest != nil || !takesOver(st.State)) && h.end == nil {
		h.leave()
	}
	// While a machine is being taken over it can't be closed.
	if !h.leaving.IsZero() && h.end == nil && st.State != pair.Live && time.Since(h.leaving) > endPatience {
		h.event(true, "the peer did not take this host's farewell in time")
		h.end = &ending{cause: vmm.CauseStopped}
	}
	// What people look at need not be up to date with every record.
	if now := time.Now(); st.State.String() != h.status.State || now.Sub(h.shown) >= shownEvery {
		h.shown = now
		h.publish(st)
	}
}

// abandon lets everything go that is left at the end.
func (h *Host) abandon() {
	h.discard()
	if r := h.parting; r != nil {
		h.parting = nil
		r.discard()
	}
	h.conns.close()
}

// Protect gives the guest a backup: its address is dialled from now on, before all others.
func (h *Host) Protect(address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%q is no address: give HOST:PORT of a host that runs tandem backup", address)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	peers := []string{address}
	for _, p := range h.peers {
		if p != address {
			peers = append(peers, p)
		}
	}
	h.peers = peers
	return nil
}

// link is what all connections need.
func (h *Host) link() link.Config {
	return link.Config{
		Credentials: h.c.Credentials, Version: pair.Version, Log: h.c.Log,
		MaxPayloadBytes: pair.HeaderBytes + pair.MaxBody,
	}
}

// devices calls a host's devices, one at a time.
func (h *Host) devices(f func(Devices)) {
	h.devicesMu.Lock()
	defer h.devicesMu.Unlock()
	f(h.c.Devices)
}

// complete makes a machine's configuration this host's.
func (h *Host) complete(c *vmm.Config) (err error) {
	h.devices(func(d Devices) { err = d.Complete(c) })
	return err
}
