package virtio

import (
	"bytes"
	"strings"
	"testing"
)

// asked collects requests for entropy.
type asked struct{ sizes []int }

func (a *asked) Request(n int) { a.sizes = append(a.sizes, n) }

func TestRngDeliversWhatItAskedFor(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, a := newGuest(t), &asked{}
		r := NewRng(g.mem, a)
		attach(g, &r.Core)
		g.start(^uint64(0), 1, 16)
		q := g.queues[0]
		first, second := g.bytes(64, true), g.bytes(1000, true)
		q.add(first)
		q.kick(1)
		q.add(second)
		q.kick(1)
		if len(a.sizes) != 2 || a.sizes[0] != 64 || a.sizes[1] != MaxRandomBytes {
			t.Fatalf("asked for %v", a.sizes)
		}
		state := saved(t, r)
		if err := r.LoadState([]byte(state)); err != nil || saved(t, r) != state {
			t.Fatalf("state %s: %v", state, err)
		}
		if p := r.Pending(); len(p) != 2 || p[0] != 64 || p[1] != MaxRandomBytes {
			t.Fatalf("pending %v", p)
		}
		for i, n := range a.sizes {
			if err := r.Deliver(bytes.Repeat([]byte{byte(0x11 * (i + 1))}, n)); err != nil {
				t.Fatal(err)
			}
			if head, length := q.mustTake(); head != uint16(i) || length != uint32(n) || g.isr() != isrQueue {
				t.Errorf("delivery %d: chain %d of %d bytes", i, head, length)
			}
			q.setUsedEvent(q.usedIdx)
		}
		if g.mem[first.addr+63] != 0x11 || g.mem[second.addr+255] != 0x22 || g.mem[second.addr+256] != 0 {
			t.Error("the buffers have not what was delivered")
		}
	})
}

func TestRngRefusesForeignBytes(t *testing.T) {
	g, a := newGuest(t), &asked{}
	r := NewRng(g.mem, a)
	g.registers = onPCI(g, &r.Core)
	g.start(0, 1, 16)
	if err := r.Deliver(make([]byte, 8)); err == nil || !strings.Contains(err.Error(), "no one has asked for") {
		t.Errorf("error %v", err)
	}
	g.queues[0].add(g.bytes(64, true))
	g.queues[0].kick(1)
	before := saved(t, r)
	if err := r.Deliver(make([]byte, 63)); err == nil || !strings.Contains(err.Error(), "63 random bytes where 64") {
		t.Errorf("error %v", err)
	}
	if saved(t, r) != before {
		t.Error("the device has changed")
	}
}

func TestRngBoundsItsRequests(t *testing.T) {
	g, a := newGuest(t), &asked{}
	r := NewRng(g.mem, a)
	g.registers = onPCI(g, &r.Core)
	// A guest that asks and resets, again and again.
	for range 5 {
		g.start(0, 1, 16)
		for range 5 {
			g.queues[0].add(g.bytes(32, true))
		}
		g.queues[0].kick(5)
	}
	if len(a.sizes) != maxRandomRequests {
		t.Fatalf("%d requests wait", len(a.sizes))
	}
	for i := 0; i < len(a.sizes); i++ {
		if err := r.Deliver(make([]byte, a.sizes[i])); err != nil {
			t.Fatal(err)
		}
		if i < maxRandomRequests-1 && g.mem.u16(g.queues[0].used+2) != 0 {
			t.Fatal("bytes that were asked for before a reset reached the guest")
		}
	}
	if len(a.sizes) != maxRandomRequests+5 || g.mem.u16(g.queues[0].used+2) != 5 {
		t.Errorf("%d requests in all, %d answered", len(a.sizes), g.mem.u16(g.queues[0].used+2))
	}
}

func TestHostileRng(t *testing.T) {
	for name, b := range map[string]buffer{
		"nothing to fill": {0x1000, 8, false}, "empty": {0x1000, 0, true}, "outside of RAM": {ramSize, 8, true},
	} {
		g, a := newGuest(t), &asked{}
		r := NewRng(g.mem, a)
		g.registers = onPCI(g, &r.Core)
		g.start(0, 1, 16)
		g.queues[0].add(b)
		g.queues[0].kick(1)
		for _, n := range a.sizes {
			if err := r.Deliver(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		if !g.needsReset() {
			t.Errorf("%s: the device goes on", name)
		}
	}
}
