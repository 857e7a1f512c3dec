package protect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"tandem/lockstep/link"
	"tandem/lockstep/pair"
)

const (
	// dialTimeout is how long a peer may take to answer.
	dialTimeout = 2 * time.Second
	// seekLeast and seekMost are how long a backup without a primary waits before it dials again. Hosts that dial each
	// other at the same time refuse each other; chance keeps them from doing so for ever.
	seekLeast, seekMost = 200 * time.Millisecond, 800 * time.Millisecond
	// refusedRest is how long a peer that refused this host is left alone.
	refusedRest = 3 * time.Second
	// sendAhead bounds the bytes of a state transfer that wait to be sent, so that what is urgent does not wait behind.
	sendAhead = 1 << 20
	// readAhead bounds the bytes that have been received and not been taken.
	readAhead = 64 << 20
	// lingering is how long a connection that is given up may take to send what it has.
	lingering = 500 * time.Millisecond
	// beatBytes is the size of a heartbeat: term and released, little-endian.
	beatBytes = 16
)

// connections are those of a host. They belong to the loop's goroutine, but for accept.
type connections struct {
	host    *Host
	open    map[pair.Conn]*conn
	last    pair.Conn
	dialing bool
	next    int       // which peer is dialled next
	after   time.Time // not before
	refused time.Time // when a peer last refused this host
	silent  string    // the last failure to dial that was told
}

// conn is a connection to a peer.
type conn struct {
	host *Host
	id   pair.Conn
	link *link.Conn
	beat *link.Heartbeat // nil: there is no second path
	// dialled is the address that this host dialled; "" if the peer did.
	dialled string

	mu      sync.Mutex
	changed *sync.Cond
	queue   [][]byte
	queued  int  // bytes of queue
	unread  int  // bytes received and not taken
	full    bool // nothing more is read until some are taken
	closing bool // nothing is queued any more
	over    bool // the connection has ended
}

func (cs *connections) accept(ctx context.Context, l *link.Listener) {
	for {
		c, err := l.Accept(ctx)
		if err != nil && ctx.Err() == nil {
			cs.host.post(func() {
				cs.host.event(true, fmt.Sprintf("this host takes no peer's connection any more, and must be started again for that: %v", err))
			})
		}
		if err != nil {
			return
		}
		cs.host.post(func() { cs.add(c, "") })
	}
}

// add takes a connection that has proved itself. dialled is its address if this host dialled it.
func (cs *connections) add(l *link.Conn, dialled string) {
	h := cs.host
	if cs.collides(l, dialled) {
		_ = l.Close()
		return
	}
	cs.last++
	c := &conn{host: h, id: cs.last, link: l, dialled: dialled}
	c.changed = sync.NewCond(&c.mu)
	if cs.open == nil {
		cs.open = map[pair.Conn]*conn{}
	}
	cs.open[c.id] = c
	h.step(pair.Connected{Conn: c.id})
	if h.node.Status().Conn == c.id {
		if err := c.openBeat(); err != nil {
			h.event(false, fmt.Sprintf("no second path to the peer: %v", err))
		}
	}
	h.wait.Go(c.write)
	h.wait.Go(c.read)
	if c.beat != nil {
		h.wait.Go(c.listen)
	}
}

// collides decides what becomes of a second connection to the peer that there is one to already, because both have dialled
// each other: both hosts keep the one that was dialled by the host whose key is the lower, which takes the other's place.
// Once a transfer has begun the first one stays.
func (cs *connections) collides(l *link.Conn, dialled string) bool {
	h := cs.host
	st := h.node.Status()
	present := cs.open[st.Conn]
	if present == nil || present.link.Peer().Fingerprint != l.Peer().Fingerprint || (present.dialled == "") == (dialled == "") {
		return false
	}
	lower := h.c.Credentials.Own().Fingerprint < l.Peer().Fingerprint
	if st.State != pair.Alone && st.State != pair.Joining || lower != (dialled != "") {
		return true
	}
	h.step(pair.Disconnected{Conn: present.id})
	cs.hangup(present.id)
	return false
}

// openBeat opens the second path.
func (c *conn) openBeat() error {
	h, dialled := c.host, c.dialled
	local, peer := h.c.Heartbeat, h.c.HeartbeatPeer
	switch {
	case local == "" && dialled == "":
		local = h.c.Listen
	case local == "":
		local = ":0"
	}
	if peer == "" {
		peer = dialled
	}
	var address netip.AddrPort
	if peer != "" {
		udp, err := net.ResolveUDPAddr("udp", peer)
		if err != nil {
			return err
		}
		address = udp.AddrPort()
	}
	socket, err := net.ListenPacket("udp", local)
	if err != nil {
		return err
	}
	if c.beat, err = c.link.OpenHeartbeat(socket, address); err != nil {
		return errors.Join(err, socket.Close())
	}
	return nil
}

// dial connects to the next peer that the configuration names.
func (cs *connections) dial() {
	h := cs.host
	h.mu.Lock()
	peers := h.peers
	h.mu.Unlock()
	if cs.dialing || len(peers) == 0 || time.Since(cs.refused) < refusedRest {
		return
	}
	cs.dialing = true
	address := peers[cs.next%len(peers)]
	cs.next++
	h.wait.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		defer cancel()
		c, err := link.Dial(ctx, address, h.link())
		h.post(func() {
			cs.dialing = false
			if err != nil {
				cs.tell(fmt.Sprintf("no backup or primary at %s: %v", address, err))
				return
			}
			cs.silent = ""
			cs.add(c, address)
		})
		if c != nil && h.isDone() {
			_ = c.Close()
		}
	})
}

func (h *Host) isDone() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// tell says why nobody can be reached, once.
func (cs *connections) tell(text string) {
	if text != cs.silent {
		cs.silent = text
		cs.host.event(false, text)
	}
}

// seek dials for a backup without a primary, now and then.
func (cs *connections) seek() {
	if now := time.Now(); now.After(cs.after) {
		cs.after = now.Add(seekLeast + rand.N(seekMost-seekLeast))
		cs.dial()
	}
}

func (cs *connections) send(a pair.Send) {
	if c := cs.open[a.Conn]; c != nil {
		c.enqueue(pair.Encode(nil, a.Term, a.Message), false)
	}
}

func (cs *connections) beat(a pair.SendBeat) {
	c := cs.open[a.Conn]
	if c == nil || c.beat == nil {
		return
	}
	var p [beatBytes]byte
	binary.LittleEndian.PutUint64(p[:], a.Term)
	binary.LittleEndian.PutUint64(p[8:], a.Beat.Released)
	_ = c.beat.Send(p[:]) // the next may get through
}

// hangup gives a connection up: what it has is sent if that goes quickly.
func (cs *connections) hangup(id pair.Conn) {
	c := cs.open[id]
	if c == nil {
		return
	}
	delete(cs.open, id)
	if c.beat != nil {
		_ = c.beat.Close()
	}
	c.mu.Lock()
	c.closing = true
	c.changed.Broadcast()
	c.mu.Unlock()
	time.AfterFunc(lingering, c.finish)
}

// refuse tells a peer why this host parts from it, and parts.
func (cs *connections) refuse(c *conn, cause error) {
	h := cs.host
	text := cause.Error()
	_ = c.enqueue(pair.Encode(nil, h.node.Status().Term, &pair.Refuse{Reason: pair.RefusedConfiguration, Text: text[:min(len(text), pair.MaxText)]}), false)
	cs.refused = time.Now()
	h.step(pair.Disconnected{Conn: c.id})
	cs.hangup(c.id)
}

func (cs *connections) close() {
	for id := range cs.open {
		cs.hangup(id)
	}
}

// finish ends the connection and lets everybody go who waits for it.
func (c *conn) finish() {
	c.mu.Lock()
	c.over = true
	c.changed.Broadcast()
	c.mu.Unlock()
	_ = c.link.Close()
}

var errConnectionOver = errors.New("the connection to the peer has ended")

// enqueue puts a message behind those to be sent. One that is patient waits while much is queued.
func (c *conn) enqueue(p []byte, patient bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for patient && c.queued > sendAhead && !c.over && !c.closing {
		c.changed.Wait()
	}
	if c.over || c.closing {
		return errConnectionOver
	}
	c.queue = append(c.queue, p)
	c.queued += len(p)
	c.changed.Broadcast()
	return nil
}

// write sends what is queued.
func (c *conn) write() {
	defer c.finish()
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closing && !c.over {
			c.changed.Wait()
		}
		queue := c.queue
		c.queue, c.queued = nil, 0
		over := c.over || c.closing && len(queue) == 0
		c.changed.Broadcast()
		c.mu.Unlock()
		if over {
			return
		}
		var err error
		for _, p := range queue {
			if err == nil {
				err = c.link.Send(p[6], p)
			}
		}
		if err == nil {
			err = c.link.Flush()
		}
		if err != nil {
			c.lost(err)
			return
		}
	}
}

// lost tells the pair that the connection has ended.
func (c *conn) lost(err error) {
	h := c.host
	h.post(func() {
		if h.conns.open[c.id] == nil {
			return // given up already
		}
		if !errors.Is(err, io.EOF) {
			h.event(false, fmt.Sprintf("the connection to the peer: %v", err))
		}
		h.step(pair.Disconnected{Conn: c.id})
		h.conns.hangup(c.id)
	})
}

// read takes the peer's messages. It reads no further while much of what has come has not been taken: the primary sees
// that as lag.
func (c *conn) read() {
	h := c.host
	for {
		_, payload, err := c.link.Receive()
		if err != nil {
			c.lost(err)
			return
		}
		p := append([]byte(nil), payload...)
		term, m, err := pair.Decode(p)
		if err != nil {
			c.lost(err)
			return
		}
		if n := kept(m); n > 0 && !c.room(n) {
			return
		}
		h.post(func() {
			h.times.heard = time.Now()
			switch m.(type) {
			case *pair.Refuse:
				h.conns.refused = time.Now()
			case *pair.Bye:
				h.farewell = h.conns.open[c.id] != nil
			}
			h.step(pair.Received{Conn: c.id, Term: term, Message: m})
			h.farewell = h.farewell && h.parting != nil
		})
	}
}

// kept returns how many bytes of a message are kept until somebody has the time for them.
func kept(m pair.Message) int {
	switch m := m.(type) {
	case *pair.Pages:
		return len(m.Data)
	case *pair.Disk:
		return len(m.Data)
	case *pair.Records:
		return len(m.Frame)
	}
	return 0
}

// room waits until n bytes more may be kept.
func (c *conn) room(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.unread > readAhead && !c.over && !c.closing {
		c.full = true
		c.changed.Wait()
	}
	c.full = false
	c.unread += n
	return !c.over && !c.closing
}

// isFull tells whether what the peer sends is left unread, so that its silence is this host's own doing.
func (c *conn) isFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}

// taken says that n bytes of messages are kept no longer.
func (c *conn) taken(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread -= n
	c.changed.Broadcast()
}

// listen takes the peer's heartbeats on the second path.
func (c *conn) listen() {
	h := c.host
	for {
		p, err := c.beat.Receive()
		if err != nil {
			return
		}
		if len(p) != beatBytes {
			continue
		}
		term, released := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		h.post(func() {
			h.times.heard = time.Now()
			h.step(pair.BeatReceived{Conn: c.id, Term: term, Beat: pair.Beat{Released: released}})
		})
	}
}
