package pair

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
)

const msNS = 1_000_000

// world is two hosts, an arbiter and a network, all of them unreliable, driven by one seed. A guest is a history of
// records: what it took in, in order. Output caused by record n has let the outside see the first n.
type world struct {
	r       *rand.Rand
	rule    Rule
	broken  rules
	nowNS   int64
	queue   []scheduled // in order of time
	order   uint64
	hosts   [2]*host
	conns   map[Conn]*conn
	nextID  uint64
	arbiter struct {
		term  uint64
		owner string
	}
	noArbiter [2]bool
	cut       [2]bool // cut[i]: nothing from host i arrives
	chaos     bool
	calmNS    int64
	// seen is the longest history that the outside has seen the effects of.
	seen   []uint32
	acked  uint64 // the highest record that a primary took as held, in ackTerm
	ackOf  uint64
	failed string
	counts struct{ failovers, crashes, divergences, protections, restarts, pauses, releases, dropped, farewells, answers int }
}

type scheduled struct {
	atNS  int64
	order uint64
	do    func()
}

type host struct {
	id        int
	life      int // rises with each crash: what was scheduled for another life is void
	node      *Node
	alive     bool
	running   bool
	history   []uint32
	incoming  []uint32 // the state that is being transferred
	executed  uint64
	differs   bool
	outputs   map[uint64]uint64
	offsetNS  int64
	rate      float64
	lastState State
}

type conn struct {
	id     Conn
	queues [2][][]byte // to host i; nil is the end
	closed [2]bool     // host i will hear nothing more
}

func newWorld(seed uint64, rule Rule, broken rules) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), rule: rule, broken: broken, conns: map[Conn]*conn{}, chaos: true}
	for i := range w.hosts {
		w.hosts[i] = &host{id: i, rate: 0.9 + 0.2*w.r.Float64(), offsetNS: w.r.Int64N(1e12)}
	}
	w.boot(0, Primary)
	w.boot(1, Backup)
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf("at %d ms: ", w.nowNS/msNS) + fmt.Sprintf(format, args...)
	}
}

func (w *world) after(ns int64, do func()) {
	w.order++
	s := scheduled{w.nowNS + ns, w.order, do}
	at, _ := slices.BinarySearchFunc(w.queue, s, func(a, b scheduled) int {
		if a.atNS != b.atNS {
			return int(a.atNS - b.atNS)
		}
		return int(a.order) - int(b.order)
	})
	w.queue = slices.Insert(w.queue, at, s)
}

func (w *world) delay() int64 {
	if w.r.IntN(50) == 0 {
		return w.r.Int64N(200 * msNS)
	}
	return w.r.Int64N(3 * msNS)
}

func (w *world) chance(n int) bool { return w.chaos && w.r.IntN(n) == 0 }

func (w *world) boot(i int, role Role) {
	h := w.hosts[i]
	h.life++
	c := DefaultConfig()
	c.Owner = fmt.Sprintf("host%d-%d", i, h.life)
	c.Role, c.Term, c.Identity.Rule = role, w.arbiter.term, w.rule
	c.SlowLagRecords, c.StallLagRecords, c.MaxHeldOutputs = 20, 60, 40
	h.node, h.alive, h.running = New(c), true, false
	h.node.broken = w.broken
	h.history, h.incoming, h.executed, h.differs = nil, nil, 0, false
	h.outputs = map[uint64]uint64{}
	h.lastState = Joining
	w.ticks(h, h.life)
}

func (w *world) crash(h *host) {
	w.counts.crashes++
	h.alive, h.running = false, false
	h.life++
	reset := w.r.IntN(2) == 0
	for _, id := range sortedConns(w.conns) {
		c := w.conns[id]
		c.closed[h.id] = true
		if reset {
			w.post(c, 1-h.id, nil)
		}
	}
	w.after(w.r.Int64N(3000*msNS)+500*msNS, func() { w.boot(h.id, Backup) })
}

// leave ends a host in order: what it has sent arrives, if the network lets it.
func (w *world) leave(h *host) {
	w.step(h, Ended{"the user said so"})
	if !h.alive || h.node.state != Stopped {
		return
	}
	w.counts.farewells++
	h.alive, h.running = false, false
	h.life++
	w.after(w.r.Int64N(2000*msNS)+200*msNS, func() { w.boot(h.id, Backup) })
}

func sortedConns(m map[Conn]*conn) []Conn {
	var ids []Conn
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// ticks is a host's clock, its guest and its execution of records.
func (w *world) ticks(h *host, life int) {
	if h.life != life {
		return
	}
	w.step(h, Tick{NowNS: h.offsetNS + int64(float64(w.nowNS)*h.rate)})
	if h.alive && h.life == life {
		w.work(h)
	}
	pause := int64(20 * msNS)
	if w.chance(400) {
		pause = w.r.Int64N(900 * msNS) // a host that is swapped out
	}
	w.after(pause, func() { w.ticks(h, life) })
}

func (w *world) work(h *host) {
	s := h.node.Status()
	if h.running && s.Pace != Stalled {
		n := w.r.IntN(4)
		var frame []byte
		first := uint64(len(h.history)) + 1
		for range n {
			h.history = append(h.history, w.r.Uint32())
			frame = binary.LittleEndian.AppendUint32(frame, h.history[len(h.history)-1])
		}
		if n > 0 {
			w.step(h, Logged{First: first, Count: uint32(n), Frame: frame})
		}
		if w.r.IntN(2) == 0 && h.alive && h.running {
			w.nextID++
			h.outputs[w.nextID] = uint64(len(h.history))
			w.step(h, Output{ID: w.nextID, Sequence: uint64(len(h.history))})
		}
	}
	if s.Role == Backup && s.State == Protected && uint64(len(h.history)) > h.executed {
		w.execute(h)
	}
}

func (w *world) execute(h *host) {
	switch {
	case h.differs:
	case w.chance(60):
		h.differs = true
		w.counts.divergences++
		w.step(h, FoundDivergence{Sequence: h.executed + 1, Text: "rip"})
	default:
		h.executed += uint64(w.r.IntN(len(h.history)-int(h.executed)) + 1)
		w.step(h, Executed{h.executed})
	}
}

// step gives an event to a host and does what it says; the host may die between any two actions.
func (w *world) step(h *host, e Event) {
	if !h.alive || w.failed != "" {
		return
	}
	if r, ok := e.(Received); ok {
		if a, ok := r.Message.(*Ack); ok && h.node.state == Protected && r.Conn == h.node.conn {
			if h.node.term != w.ackOf {
				w.acked, w.ackOf = 0, h.node.term
			}
			w.acked = max(w.acked, min(a.Received, h.node.logged))
		}
	}
	life := h.life
	for _, a := range h.node.Step(e) {
		if w.chance(4000) {
			w.crash(h)
		}
		if h.life != life {
			return
		}
		w.act(h, a)
	}
	w.check(h)
}

func (w *world) check(h *host) {
	live := 0
	for _, o := range w.hosts {
		if o.alive && o.node.isGuest() && !o.node.gated {
			live++
		}
	}
	if live > 1 {
		w.fail("two hosts are live: %v in term %d, %v in term %d", w.hosts[0].node.state, w.hosts[0].node.term,
			w.hosts[1].node.state, w.hosts[1].node.term)
	}
	if s := h.node.state; s != h.lastState {
		switch s {
		case Protected:
			w.counts.protections++
		case Live:
			w.counts.failovers++
		case Paused:
			w.counts.pauses++
		}
		h.lastState = s
	}
}

func prefixes(a, b []uint32) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}

// survives checks that a host that becomes the guest has all that the outside has seen.
func (w *world) survives(h *host) {
	if len(h.history) < len(w.seen) || !prefixes(h.history, w.seen) {
		w.fail("host %d is the guest with %d records, the outside has seen the effects of %d", h.id, len(h.history), len(w.seen))
	}
}

func (w *world) release(h *host, ids []uint64) {
	for _, id := range ids {
		w.counts.releases++
		past := h.history[:h.outputs[id]]
		if !prefixes(past, w.seen) {
			w.fail("host %d releases output of a history that is another than the outside has seen", h.id)
		}
		for _, o := range w.hosts {
			if o != h && o.alive && o.node.isGuest() && !o.node.gated && (len(o.history) < len(past) || !prefixes(past, o.history)) {
				w.fail("host %d releases output whose inputs the live host %d lacks", h.id, o.id)
			}
		}
		if len(past) > len(w.seen) {
			w.seen = slices.Clone(past)
		}
	}
}

func (w *world) act(h *host, a Action) {
	life := h.life
	later := func(ns int64, e func() Event) {
		w.after(ns, func() {
			if h.life == life {
				w.step(h, e())
			}
		})
	}
	switch a := a.(type) {
	case Send:
		w.post(w.conns[a.Conn], 1-h.id, Encode(nil, a.Term, a.Message))
	case SendBeat:
		w.beat(h, a)
	case Dial:
		w.dial(h)
	case Hangup:
		c := w.conns[a.Conn]
		c.closed[h.id] = true
		w.post(c, 1-h.id, nil)
	case Arbitrate:
		w.arbitrate(h, a)
	case SendDisks:
		later(w.r.Int64N(100*msNS), func() Event { return DisksSent{a.Sync} })
	case SendRound:
		if !a.Final {
			ask := &Ask{Sync: a.Sync, Realm: Memory, First: uint64(a.Round), Count: 1 + w.r.Uint32N(MaxAsk)}
			w.post(w.conns[h.node.conn], 1-h.id, Encode(nil, h.node.term, ask))
			later(w.r.Int64N(50*msNS), func() Event { return RoundSent{a.Sync, a.Round, uint64(w.r.IntN(3000))} })
			return
		}
		h.running = false
		later(w.r.Int64N(20*msNS), func() Event {
			if h.node.current(a.Sync) {
				w.post(w.conns[h.node.conn], 1-h.id, Encode(nil, h.node.term, &Pages{Sync: a.Sync, Round: a.Round, Data: words(h.history)}))
			}
			return Cut{a.Sync, uint64(len(h.history))}
		})
	case AnswerAsk: // it may take until after the cut
		c, term := w.conns[h.node.conn], h.node.term
		w.after(w.r.Int64N(100*msNS), func() {
			if h.life == life {
				w.post(c, 1-h.id, Encode(nil, term, &Sums{Sync: a.Ask.Sync, Realm: a.Ask.Realm, First: a.Ask.First}))
			}
		})
	case TakeSums:
		w.counts.answers++
	case StorePages:
		h.incoming = numbers(a.Pages.Data)
	case ApplyState:
		h.history = slices.Clone(h.incoming)
		h.executed, h.differs = a.Sequence, false
		later(w.r.Int64N(50*msNS), func() Event { return StateApplied{a.Sync} })
	case StoreRecords:
		h.history = append(h.history, numbers(a.Records.Frame)...)
	case Release:
		w.release(h, a.IDs)
	case Drop:
		w.counts.dropped += len(a.IDs)
	case RunGuest:
		h.running = true
		if !h.node.gated {
			w.survives(h)
		}
	case PauseGuest:
		h.running = false
	case DiscardGuest:
		h.running = false
		if h.node.state == Fenced {
			later(w.r.Int64N(50*msNS), func() Event { return Discarded{} })
		}
	case Drain:
		later(w.r.Int64N(50*msNS), func() Event {
			if h.differs && w.rule == RuleVerified {
				h.history = h.history[:h.executed]
			}
			return Drained{uint64(len(h.history))}
		})
	case TakeOver:
		w.survives(h)
		if w.ackOf == a.Term-1 && uint64(len(h.history)) < w.acked && !h.differs {
			w.fail("host %d goes live with %d records, %d were acknowledged", h.id, len(h.history), w.acked)
		}
		later(w.r.Int64N(30*msNS), func() Event { return TookOver{} })
	}
}

func words(v []uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

func numbers(b []byte) []uint32 {
	var v []uint32
	for ; len(b) >= 4; b = b[4:] {
		v = append(v, binary.LittleEndian.Uint32(b))
	}
	return v
}

func (w *world) arbitrate(h *host, a Arbitrate) {
	life := h.life
	w.after(w.delay(), func() {
		out := NoAnswer
		if !w.noArbiter[h.id] {
			switch {
			case a.Term > w.arbiter.term:
				w.arbiter.term, w.arbiter.owner = a.Term, a.Owner
				out = Won
			case a.Term == w.arbiter.term && a.Owner == w.arbiter.owner:
				out = Won
			default:
				out = Lost
			}
		}
		latest := w.arbiter.term
		if w.chance(10) {
			out, latest = NoAnswer, 0 // the claim was made, its answer is lost
		}
		w.after(w.delay(), func() {
			if h.life == life {
				w.step(h, Arbitrated{Term: a.Term, Outcome: out, Latest: latest})
			}
		})
	})
}

func (w *world) dial(h *host) {
	other := w.hosts[1-h.id]
	if w.cut[0] || w.cut[1] || !other.alive {
		return
	}
	w.nextID++
	c := &conn{id: Conn(w.nextID)}
	w.conns[c.id] = c
	for _, o := range w.hosts {
		life := o.life
		w.after(w.delay(), func() {
			if o.life != life || c.closed[o.id] {
				c.closed[o.id] = true
				w.post(c, 1-o.id, nil)
				return
			}
			w.step(o, Connected{c.id})
			w.pump(c, o.id)
		})
	}
}

// post sends bytes in order; what a partition holds back comes when it ends, unless the connection breaks before.
func (w *world) post(c *conn, to int, p []byte) {
	c.queues[to] = append(c.queues[to], p)
}

func (w *world) pump(c *conn, to int) {
	if c.closed[to] {
		return
	}
	if w.chance(3000) {
		for i := range c.queues {
			c.queues[i] = [][]byte{nil}
		}
	}
	if len(c.queues[to]) > 0 && !w.cut[1-to] {
		p := c.queues[to][0]
		c.queues[to] = c.queues[to][1:]
		if p == nil {
			c.closed[to] = true
			w.step(w.hosts[to], Disconnected{c.id})
			return
		}
		term, m, err := Decode(p)
		if err != nil {
			w.fail("decode: %v", err)
			return
		}
		w.step(w.hosts[to], Received{c.id, term, m})
	}
	wait := w.r.Int64N(2*msNS) + msNS/10
	if len(c.queues[to]) == 0 || w.cut[1-to] {
		wait = 4 * msNS
	}
	w.after(wait, func() { w.pump(c, to) })
}

func (w *world) beat(h *host, a SendBeat) {
	if w.cut[h.id] || w.chance(5) {
		return
	}
	w.after(w.delay(), func() { w.step(w.hosts[1-h.id], BeatReceived{a.Conn, a.Term, a.Beat}) })
}

// trouble makes and ends partitions and outages, and breaks hosts.
func (w *world) trouble() {
	if w.chaos {
		for i := range w.hosts {
			if w.r.IntN(6) == 0 {
				w.cut[i] = !w.cut[i] && w.r.IntN(3) > 0
			}
			if w.r.IntN(8) == 0 {
				w.noArbiter[i] = !w.noArbiter[i] && w.r.IntN(2) > 0
			}
			if w.hosts[i].alive && w.r.IntN(25) == 0 {
				w.crash(w.hosts[i])
			}
			if w.r.IntN(40) == 0 {
				w.leave(w.hosts[i])
			}
		}
		if w.r.IntN(10) == 0 {
			v := w.r.IntN(2) == 0
			w.cut = [2]bool{v, v}
		}
	}
	w.operate()
	w.after(250*msNS, w.trouble)
}

// operate is the person who starts the guest anew where no host has it any more.
func (w *world) operate() {
	for _, h := range w.hosts {
		if !h.alive || h.node.role == Primary || h.node.state != Joining {
			return
		}
	}
	w.counts.restarts++
	w.seen, w.acked = nil, 0
	for i, h := range w.hosts {
		for _, id := range sortedConns(w.conns) {
			w.conns[id].closed[i] = true
		}
		h.life++
		w.boot(i, Role(i+1))
	}
}

// run lets the world go wrong, then leaves it in peace and expects one guest with a backup.
func (w *world) run(chaosNS, calmNS int64) string {
	w.after(300*msNS, w.trouble)
	for w.failed == "" && len(w.queue) > 0 {
		s := w.queue[0]
		if s.atNS > chaosNS+calmNS {
			break
		}
		if w.chaos && s.atNS > chaosNS {
			w.chaos, w.cut, w.noArbiter = false, [2]bool{}, [2]bool{}
		}
		w.queue, w.nowNS = w.queue[1:], s.atNS
		s.do()
	}
	if w.failed == "" {
		a, b := w.hosts[0].node, w.hosts[1].node
		if a.state != Protected || b.state != Protected || a.role == b.role || a.term != b.term {
			w.fail("in peace again, but a %v %v in term %d and a %v %v in term %d", a.state, a.role, a.term, b.state, b.role, b.term)
		}
	}
	return w.failed
}
