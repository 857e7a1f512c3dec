package protect

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tandem/boot"
	"tandem/kvm"
	"tandem/lockstep/arbiter"
	"tandem/lockstep/link"
	"tandem/lockstep/pair"
	"tandem/testdata/guests"
	"tandem/vmm"
)

// aloneHost runs one of the small guests on a host without a backup, within the test's process, to the test's end.
func aloneHost(t *testing.T, name string) *Host {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	credentials, err := link.LoadCredentials(newPair(t, pair.RuleReceived).keys[0])
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	d := &stdio{console: vmm.NewConsoleWriter(out)}
	h, err := New(Config{
		System: system, Guest: "guest", Credentials: credentials, Arbiter: arbiter.Unsafe{}, UnsafeWithoutArbiter: true,
		Rule: pair.RuleReceived, Devices: d, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := vmm.New(system, vmm.Config{MemoryBytes: 32 << 20, Console: d.console, Debug: d.console})
	if err != nil {
		t.Fatal(err)
	}
	k, err := boot.ReadKernel(guests.Image(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(k, boot.Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := h.RunPrimary(ctx, m)
		ended <- err
	}()
	t.Cleanup(func() {
		leave()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_, _, _ = d.console.Close(), out.Close(), system.Close()
	})
	for h.Status().State != pair.Alone.String() {
		h.inLoop(func() {})
	}
	return h
}

// inLoop calls f in a host's loop and returns when it is done.
func (h *Host) inLoop(f func()) {
	done := make(chan struct{})
	h.post(func() {
		defer close(done)
		f()
	})
	select {
	case <-done:
	case <-h.done:
	}
}

// stuckConn is a connection on which nothing is sent: whoever wants to send much waits until it is let go.
type stuckConn struct {
	*conn
	waits chan struct{} // closed when somebody waits
	once  sync.Once
}

func newStuckConn(h *Host) *stuckConn {
	c := &stuckConn{conn: &conn{host: h, queued: sendAhead + 1}, waits: make(chan struct{})}
	c.changed = sync.NewCond(c)
	return c
}

// Lock and Unlock are called by those who wait.
func (c *stuckConn) Lock() { c.mu.Lock() }
func (c *stuckConn) Unlock() {
	c.once.Do(func() { close(c.waits) })
	c.mu.Unlock()
}

func (c *stuckConn) letGo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued = 0
	c.changed.Broadcast()
}

func (c *conn) messages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// A transfer that was given up, and is late to notice, must have left the machine before the next one begins: it ends the
// watch over written pages, and takes marks of written pages and blocks.
func TestTransfersTakeTurns(t *testing.T) {
	h := aloneHost(t, "uart-echo")
	late, next := newStuckConn(h), &conn{host: h}
	next.changed = sync.NewCond(&next.mu)
	begin := func(c *conn, sync uint64) (begun *transfer) {
		h.inLoop(func() {
			h.conns.open = map[pair.Conn]*conn{h.node.Status().Conn: c}
			h.guest.beginSync(pair.SendDisks{Sync: sync})
			h.guest.sendRound(pair.SendRound{Sync: sync, Round: 1})
			begun, h.conns.open = h.guest.sync, nil
		})
		return begun
	}
	first := begin(late.conn, 1)
	<-late.waits
	h.inLoop(func() { h.abortSync(1) })
	second := begin(next, 2)
	for range 100 { // more chances than it needs
		if err := h.guest.m.Visit(func() {}); err != nil {
			t.Fatal(err)
		}
		h.inLoop(func() {})
	}
	if n := next.messages(); n != 0 {
		t.Errorf("%d messages of the second transfer while the first is still at work", n)
	}
	late.letGo()
	<-first.over
	for limit := time.Now().Add(deadline); next.messages() < 2; { // the machine's head and its pages
		if time.Now().After(limit) {
			t.Fatalf("%d messages of the second transfer", next.messages())
		}
		h.inLoop(func() {})
	}
	h.inLoop(func() { h.abortSync(2) })
	<-second.over
}

// protectingHost is a host whose node believes that it follows a primary on connection 1.
func protectingHost() *Host {
	h := &Host{c: Config{Credentials: &link.Credentials{}, Log: slog.New(slog.DiscardHandler)}, identity: pair.Identity{Rule: pair.RuleReceived}}
	h.newNode(pair.Backup, 0, pair.Digest{})
	for _, e := range []pair.Event{
		pair.Connected{Conn: 1},
		pair.Received{Conn: 1, Term: 1, Message: &pair.Hello{Identity: h.identity, Condition: pair.Running, Owner: "other"}},
		pair.Received{Conn: 1, Term: 1, Message: &pair.SyncBegin{Sync: 1}},
		pair.Received{Conn: 1, Term: 1, Message: &pair.RoundEnd{Sync: 1, Round: 1, Final: true}},
		pair.StateApplied{Sync: 1},
	} {
		h.node.Step(e)
	}
	return h
}

// A backup that has so much to do that it does not read on must not take its primary for dead.
func TestUnreadPrimaryIsAlive(t *testing.T) {
	h := protectingHost()
	c := &conn{host: h, id: 1, unread: readAhead + 1}
	c.changed = sync.NewCond(&c.mu)
	h.conns.open = map[pair.Conn]*conn{1: c}
	read := make(chan bool)
	go func() { read <- c.room(1) }()
	for limit := time.Now().Add(deadline); !c.isFull(); {
		if time.Now().After(limit) {
			t.Fatal("the reader reads on")
		}
	}
	for range 100 {
		h.ticked = time.Now().Add(-maxTick)
		h.tick()
	}
	if st := h.node.Status(); st.State != pair.Protected {
		t.Errorf("the backup is %v", st.State)
	}
	c.taken(readAhead)
	<-read
}

// A primary that logs more behind its guest's end, and is lost, does not take its backup with it.
func TestRecordsBehindTheEnd(t *testing.T) {
	h := protectingHost()
	for _, e := range []pair.Event{
		pair.Received{Conn: 1, Term: 1, Message: &pair.Records{First: 1, Count: 3}},
		pair.Disconnected{Conn: 1},
		pair.Arbitrated{Term: 2, Outcome: pair.Won},
	} {
		h.node.Step(e)
	}
	r := &replica{host: h, ended: &ending{cause: vmm.CauseLogEnd}}
	r.used.Store(2)
	h.stepping = true // what there is to do is looked at here
	r.drained()
	for _, e := range h.pending {
		h.node.Step(e)
	}
	if st := h.node.Status(); st.State != pair.Live {
		t.Errorf("the host is %v", st.State)
	}
}

// A host that begins its part anew does not take a peer that comes at once for one that was always silent.
func TestPeerOfANewPart(t *testing.T) {
	h := protectingHost()
	h.nowNS = time.Hour.Nanoseconds()
	h.newNode(pair.Backup, 1, pair.Digest{})
	h.node.Step(pair.Connected{Conn: 2})
	h.ticked = time.Now()
	h.tick()
	if st := h.node.Status(); st.Conn != 2 {
		t.Error("the peer was given up")
	}
}
