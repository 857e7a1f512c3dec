// Package ether is a virtual Ethernet switch in user space, for joining
// emulated hosts with each other and with Go code, and for breaking what joins
// them.
//
// A Switch learns which port an address is behind and floods what it doesn't
// know. Between each ordered pair of ports, and at each port, a Link says what
// happens to frames: they are cut off, dropped with a probability (seeded, one
// random sequence for each pair, so that other traffic doesn't shift it),
// delayed, or let through at a rate. Each port has a bounded queue; what doesn't
// fit is dropped and counted, so that a frozen host never stalls the others.
//
// A Switch may be used by many goroutines at once. Each port has one goroutine
// of the switch's that hands its frames out when they are due.
package ether

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// MaxFrameBytes is the largest frame taken: what a virtio-net card hands
	// over at once with segmentation offload, and room for its headers.
	MaxFrameBytes = 68 << 10
	// minFrameBytes is an Ethernet header.
	minFrameBytes = 14
	// queueFrames bounds what waits for one port.
	queueFrames = 4096
	// maxAddresses bounds what a switch learns; past it, frames are flooded.
	maxAddresses = 4096
)

// Clock is where a switch gets time from.
type Clock interface {
	Now() time.Time
	// After sends once when d has gone by.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the machine's.
type SystemClock struct{}

func (SystemClock) Now() time.Time                         { return time.Now() }
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Link is what happens to frames on their way. The zero value passes all at
// once.
type Link struct {
	Cut   bool          `json:"cut,omitempty"`
	Drop  float64       `json:"drop,omitempty"` // probability, 0 to 1
	Delay time.Duration `json:"delay,omitempty"`
	// RateBitsPerSecond limits throughput; 0 is no limit.
	RateBitsPerSecond int64 `json:"rate_bits_per_second,omitempty"`
}

// Validate says what is wrong with a link's values.
func (l Link) Validate() error {
	switch {
	case !(l.Drop >= 0 && l.Drop <= 1):
		return fmt.Errorf("drop is a probability from 0 to 1, not %v", l.Drop)
	case l.Delay < 0:
		return fmt.Errorf("delay can't be negative: %v", l.Delay)
	case l.RateBitsPerSecond < 0:
		return fmt.Errorf("rate can't be negative: %d", l.RateBitsPerSecond)
	}
	return nil
}

// Counters count a port's frames, seen from the host behind it.
type Counters struct {
	SentFrames     uint64 `json:"sent_frames"` // by the host, into the switch
	SentBytes      uint64 `json:"sent_bytes"`
	ReceivedFrames uint64 `json:"received_frames"` // handed to the host
	ReceivedBytes  uint64 `json:"received_bytes"`
	// Lost on the way to this port's host, by cause.
	CutFrames      uint64 `json:"cut_frames"`
	DroppedFrames  uint64 `json:"dropped_frames"`
	OverflowFrames uint64 `json:"overflow_frames"`
}

type address [6]byte

// pair is a direction: what port from sends to port to.
type pair struct{ from, to string }

// path is a Link in force with what it needs to remember.
type path struct {
	link Link
	rng  *rand.Rand
	free time.Time // when the last frame has passed a limited rate
}

// Switch joins ports. Lock order: Switch.mu, then Port.mu.
type Switch struct {
	clock Clock
	seed  uint64

	mu      sync.Mutex
	ports   map[string]*Port
	order   []*Port // as attached: flooding must not depend on map order
	table   map[address]*Port
	pairs   map[pair]*path
	inward  map[string]*path // what a port's host sends
	outward map[string]*path // what it receives
	closed  bool
}

// NewSwitch makes a switch without ports. The seed drives all drops.
func NewSwitch(clock Clock, seed uint64) *Switch {
	return &Switch{
		clock: clock, seed: seed,
		ports: map[string]*Port{}, table: map[address]*Port{},
		pairs: map[pair]*path{}, inward: map[string]*path{}, outward: map[string]*path{},
	}
}

// Attach adds a port. Its name must be new.
func (s *Switch) Attach(name string) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	if _, ok := s.ports[name]; ok {
		return nil, fmt.Errorf("the switch already has a port %q", name)
	}
	p := newPort(s, name)
	s.ports[name] = p
	s.order = append(s.order, p)
	go p.run()
	return p, nil
}

// detach forgets a port and what was learned about it; its links stay, for a
// host that comes back under the same name.
func (s *Switch) detach(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[p.name] != p {
		return
	}
	delete(s.ports, p.name)
	for i, o := range s.order {
		if o == p {
			s.order = append(s.order[:i:i], s.order[i+1:]...)
			break
		}
	}
	for a, o := range s.table {
		if o == p {
			delete(s.table, a)
		}
	}
}

// Close detaches all ports.
func (s *Switch) Close() {
	s.mu.Lock()
	s.closed = true
	ports := s.order
	s.mu.Unlock()
	for _, p := range append([]*Port(nil), ports...) {
		p.Close()
	}
}

// SetPair sets what happens between two ports, both ways. The ports need not
// be attached yet.
func (s *Switch) SetPair(a, b string, l Link) error {
	if a == b {
		return fmt.Errorf("a link needs two ports, not %q twice", a)
	}
	return errors.Join(s.SetOneWay(a, b, l), s.SetOneWay(b, a, l))
}

// SetOneWay sets what happens to frames from one port to another.
func (s *Switch) SetOneWay(from, to string, l Link) error {
	if err := l.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := pair{from, to}
	s.pairs[k] = s.renew(s.pairs[k], l, from, to)
	return nil
}

// SetPort sets what happens at one port, to all that it sends and receives:
// its cable.
func (s *Switch) SetPort(name string, l Link) error {
	if err := l.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inward[name] = s.renew(s.inward[name], l, name, "")
	s.outward[name] = s.renew(s.outward[name], l, "", name)
	return nil
}

// renew keeps a path's place in its random sequence when the link changes.
func (s *Switch) renew(old *path, l Link, from, to string) *path {
	if old != nil {
		old.link = l
		return old
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", from, to)
	return &path{link: l, rng: rand.New(rand.NewPCG(s.seed, h.Sum64()))}
}

// Heal takes every cut, drop, delay and rate away.
func (s *Switch) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range []map[string]*path{s.inward, s.outward} {
		for _, p := range m {
			p.link = Link{}
		}
	}
	for _, p := range s.pairs {
		p.link = Link{}
	}
}

// PairLink returns what happens to frames from one port to another, without
// what the ports' own links add.
func (s *Switch) PairLink(from, to string) Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pairs[pair{from, to}]; p != nil {
		return p.link
	}
	return Link{}
}

// PortLink returns what happens at a port.
func (s *Switch) PortLink(name string) Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.inward[name]; p != nil {
		return p.link
	}
	return Link{}
}

// PortState is what a switch knows of a port.
type PortState struct {
	Name     string   `json:"name"`
	Link     Link     `json:"link"`
	Counters Counters `json:"counters"`
}

// Ports lists the ports in the order in which they were attached.
func (s *Switch) Ports() []PortState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]PortState, 0, len(s.order))
	for _, p := range s.order {
		st := PortState{Name: p.name, Counters: p.Counters()}
		if in := s.inward[p.name]; in != nil {
			st.Link = in.link
		}
		out = append(out, st)
	}
	return out
}

// PairState is what a switch does between two ports.
type PairState struct {
	From string `json:"from"`
	To   string `json:"to"`
	Link Link   `json:"link"`
}

// Pairs lists the directions between two ports that are not whole.
func (s *Switch) Pairs() []PairState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []PairState
	for k, p := range s.pairs {
		if p.link != (Link{}) {
			out = append(out, PairState{k.from, k.to, p.link})
		}
	}
	slices.SortFunc(out, func(a, b PairState) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return out
}

// forward takes a frame that port in sent. The frame is kept.
func (s *Switch) forward(in *Port, frame []byte) {
	if len(frame) < minFrameBytes || len(frame) > MaxFrameBytes {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[in.name] != in {
		return
	}
	dst, src := address(frame[0:6]), address(frame[6:12])
	s.learn(src, in)
	if out, ok := s.table[dst]; ok {
		if out != in {
			s.send(in, out, frame)
		}
		return
	}
	for _, out := range s.order {
		if out != in {
			s.send(in, out, frame)
		}
	}
}

// learn notes that an address is behind a port; group addresses (the first
// byte's low bit) never are a source.
func (s *Switch) learn(a address, p *Port) {
	if a[0]&1 != 0 {
		return
	}
	if _, known := s.table[a]; known || len(s.table) < maxAddresses {
		s.table[a] = p
	}
}

// send takes a frame over the three parts of its way: the sender's cable, the
// pair's link, the receiver's cable.
func (s *Switch) send(in, out *Port, frame []byte) {
	due := s.clock.Now()
	for _, p := range []*path{s.inward[in.name], s.pairs[pair{in.name, out.name}], s.outward[out.name]} {
		if p == nil {
			continue
		}
		if p.link.Cut {
			out.count(func(c *Counters) { c.CutFrames++ })
			return
		}
		if p.link.Drop > 0 && p.rng.Float64() < p.link.Drop {
			out.count(func(c *Counters) { c.DroppedFrames++ })
			return
		}
		due = p.pass(due, len(frame))
	}
	out.enqueue(frame, due)
}

// pass returns when a frame that enters a path at t leaves it.
func (p *path) pass(t time.Time, frameBytes int) time.Time {
	if r := p.link.RateBitsPerSecond; r > 0 {
		if p.free.After(t) {
			t = p.free
		}
		t = t.Add(time.Duration(float64(frameBytes*8) / float64(r) * float64(time.Second)))
		p.free = t
	}
	return t.Add(p.link.Delay)
}
