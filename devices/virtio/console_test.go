package virtio

import (
	"bytes"
	"testing"
)

func newConsole(t testing.TB) (*guest, *Console, *wire) {
	g, w := newGuest(t), &wire{}
	return g, NewConsole(g.mem, ConsoleConfig{Columns: 80, Rows: 25}, w), w
}

func TestConsole(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, c, w := newConsole(t)
		attach(g, &c.Core)
		g.start(^uint64(0), 2, 16)
		out := g.bytes(5, false)
		copy(g.mem[out.addr:], "hello")
		g.queues[consoleTransmit].add(buffer{out.addr, 2, false}, buffer{out.addr + 2, 3, false})
		g.queues[consoleTransmit].kick(1)
		if len(w.sent) != 1 || string(w.sent[0]) != "hello" || g.isr() != isrQueue {
			t.Fatalf("sent %q", w.sent)
		}
		g.queues[consoleTransmit].mustTake()

		if c.Room() != 0 {
			t.Error("room without a buffer")
		}
		q := g.queues[consoleReceive]
		a, b := g.bytes(3, true), g.bytes(100, true)
		q.add(a)
		q.kick(1)
		q.add(b)
		before, state := bytes.Clone(g.mem), saved(t, c)
		if got := c.Room(); got != 103 {
			t.Errorf("room %d", got)
		}
		if !bytes.Equal(before, g.mem) || saved(t, c) != state {
			t.Error("asking for room has changed the machine")
		}
		if got := c.Receive([]byte("typed")); got != 5 || string(g.mem[a.addr:][:3]) != "typ" || string(g.mem[b.addr:][:2]) != "ed" {
			t.Errorf("received %d", got)
		}
		if _, n := q.mustTake(); n != 3 {
			t.Errorf("%d bytes in the first buffer", n)
		}
		if _, n := q.mustTake(); n != 2 || g.isr() != isrQueue {
			t.Errorf("%d bytes in the second buffer", n)
		}
		if !q.wantsKick(0) && g.features&featEventIdx == 0 {
			t.Error("the driver of an empty queue is not asked to notify")
		}
		if got := c.Receive([]byte("lost")); got != 0 {
			t.Errorf("received %d without a buffer", got)
		}
		size := make([]byte, 4)
		if g.config(0, size); !bytes.Equal(size, []byte{80, 0, 25, 0}) {
			t.Errorf("size %v", size)
		}
		if err := c.LoadState([]byte(saved(t, c))); err != nil {
			t.Error(err)
		}
	})
}

func TestConsoleEmergencyWrite(t *testing.T) {
	g, c, w := newConsole(t)
	g.registers = onPCI(g, &c.Core)
	g.setConfig(consoleEmergencyOffset, []byte{'!', 0, 0, 0})
	g.setConfig(0, []byte{'?'})
	if len(w.sent) != 1 || string(w.sent[0]) != "!" {
		t.Errorf("sent %q", w.sent)
	}
}

func TestHostileConsole(t *testing.T) {
	for name, b := range map[string]buffer{
		"a huge write": {0, maxConsoleWrite + 1, false}, "outside of RAM": {ramSize, 8, false},
	} {
		g, c, w := newConsole(t)
		g.registers = onPCI(g, &c.Core)
		g.start(0, 2, 16)
		g.queues[consoleTransmit].add(b)
		g.queues[consoleTransmit].kick(1)
		if !g.needsReset() || len(w.sent) != 0 {
			t.Errorf("%s: the device goes on", name)
		}
	}
	g, c, _ := newConsole(t)
	g.registers = onPCI(g, &c.Core)
	g.start(0, 2, 16)
	g.mem.put16(g.queues[consoleReceive].avail+2, 100)
	if c.Room() != 1 || g.needsReset() {
		t.Error("asking for room has found the guest out")
	}
	if c.Receive([]byte("x")) != 0 || !g.needsReset() {
		t.Error("a broken receive queue goes unseen")
	}
}
