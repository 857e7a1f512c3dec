package virtio

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// wire collects what a device sends out.
type wire struct{ sent [][]byte }

func (w *wire) Output(p []byte) { w.sent = append(w.sent, p) }

var testMAC = [6]byte{0x52, 0x54, 0, 1, 2, 3}

func newNet(t testing.TB, config NetConfig) (*guest, *Net, *wire) {
	g, w := newGuest(t), &wire{}
	if config.MAC == [6]byte{} {
		config.MAC = testMAC
	}
	n, err := NewNet(g.mem, config, w)
	if err != nil {
		t.Fatal(err)
	}
	return g, n, w
}

// packet is a header and a frame of n bytes to dst.
func packet(dst [6]byte, n int) []byte {
	p := make([]byte, NetHeader+n)
	copy(p[NetHeader:], dst[:])
	for i := NetHeader + 6; i < len(p); i++ {
		p[i] = byte(i)
	}
	return p
}

func TestNetSends(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, n, w := newNet(t, NetConfig{})
		attach(g, &n.Core)
		g.start(^uint64(0), 3, 256)
		q := g.queues[netTransmit]
		want := packet(testMAC, 100)
		header, body := g.bytes(NetHeader, false), g.bytes(100, false)
		copy(g.mem[body.addr:], want[NetHeader:])
		q.addIndirect(header, buffer{body.addr, 14, false}, buffer{body.addr + 14, 86, false})
		q.kick(1)
		if len(w.sent) != 1 || !bytes.Equal(w.sent[0], want) {
			t.Fatalf("sent %x, want %x", w.sent, want)
		}
		if _, length := q.mustTake(); length != 0 || g.isr() != isrQueue {
			t.Errorf("used length %d", length)
		}
	})
}

func TestNetDropsWhatNoWireCarries(t *testing.T) {
	header := func(flags, gso byte, hdrLen, gsoSize, start, offset uint16) []byte {
		h := make([]byte, NetHeader)
		h[0], h[1] = flags, gso
		for i, v := range []uint16{hdrLen, gsoSize, start, offset, 7} {
			binary.LittleEndian.PutUint16(h[2+2*i:], v)
		}
		return h
	}
	all := NetConfig{Checksum: true, TSO: true}
	tests := []struct {
		name   string
		config NetConfig
		header []byte
		frame  int
		want   []byte // the header sent, nil if the frame is dropped
	}{
		{"plain", all, header(0, 0, 0, 0, 0, 0), 100, header(0, 0, 0, 0, 0, 0)},
		{"junk in fields that mean nothing", all, header(6, 0, 9, 9, 9, 9), 100, header(0, 0, 0, 0, 0, 0)},
		{"too short", all, header(0, 0, 0, 0, 0, 0), 13, nil},
		{"longer than the MTU", all, header(0, 0, 0, 0, 0, 0), 1519, nil},
		{"as long as the MTU", all, header(0, 0, 0, 0, 0, 0), 1518, header(0, 0, 0, 0, 0, 0)},
		{"checksum", all, header(1, 0, 0, 0, 34, 16), 100, header(1, 0, 0, 0, 34, 16)},
		{"checksum outside of the frame", all, header(1, 0, 0, 0, 34, 65), 100, nil},
		{"checksum at the end", all, header(1, 0, 0, 0, 34, 64), 100, header(1, 0, 0, 0, 34, 64)},
		{"checksum not agreed on", NetConfig{}, header(1, 0, 0, 0, 34, 16), 100, nil},
		{"TSO", all, header(1, 1, 54, 1460, 34, 16), 9000, header(1, 1, 54, 1460, 34, 16)},
		{"TSO of IPv6", all, header(1, 4, 54, 1440, 54, 16), 9000, header(1, 4, 54, 1440, 54, 16)},
		{"TSO with a header longer than the frame", all, header(1, 1, 65535, 1460, 34, 16), 200, header(1, 1, 200, 1460, 34, 16)},
		{"TSO without a size", all, header(1, 1, 54, 0, 34, 16), 9000, nil},
		{"TSO without a checksum", all, header(0, 1, 54, 1460, 34, 16), 9000, nil},
		{"TSO not agreed on", NetConfig{Checksum: true}, header(1, 1, 54, 1460, 34, 16), 1000, nil},
		{"UDP fragmentation", all, header(1, 3, 54, 1460, 34, 16), 1000, nil},
		{"TSO with ECN", all, header(1, 0x81, 54, 1460, 34, 16), 1000, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, n, w := newNet(t, test.config)
			g.registers = onPCI(g, &n.Core)
			g.start(^uint64(0), 3, 16)
			p := g.bytes(uint32(NetHeader+test.frame), false)
			copy(g.mem[p.addr:], test.header)
			q := g.queues[netTransmit]
			q.add(p)
			q.kick(1)
			q.mustTake() // the buffer comes back in any case
			switch {
			case n.Failure() != "":
				t.Error(n.Failure())
			case test.want == nil && len(w.sent) != 0:
				t.Errorf("sent with header %x", w.sent[0][:NetHeader])
			case test.want == nil:
			case len(w.sent) != 1 || len(w.sent[0]) != NetHeader+test.frame:
				t.Errorf("sent %d frames", len(w.sent))
			default:
				want := bytes.Clone(test.want)
				want[hdrNumBuffers] = 0
				if !bytes.Equal(w.sent[0][:NetHeader], want) {
					t.Errorf("header %x, want %x", w.sent[0][:NetHeader], want)
				}
			}
		})
	}
}

func TestNetReceivesIntoMergedBuffers(t *testing.T) {
	eachTransport(t, func(t *testing.T, attach func(*guest, *Core)) {
		g, n, _ := newNet(t, NetConfig{})
		attach(g, &n.Core)
		g.start(^uint64(0), 3, 16)
		q := g.queues[netReceive]
		var buffers []buffer
		for range 3 {
			b := g.bytes(600, true)
			buffers = append(buffers, b)
			q.add(b)
		}
		q.kick(3)
		p := packet(testMAC, 1400)
		if !n.Wants(p) || !n.CanReceive(len(p)) || !n.Receive(p) {
			t.Fatal("the packet was not received")
		}
		if g.isr() != isrQueue {
			t.Error("no interrupt")
		}
		var got []byte
		for i := range 3 {
			head, length := q.mustTake()
			if want := []uint32{600, 600, 212}[i]; length != want || uint16(i) != head {
				t.Errorf("buffer %d: chain %d of %d bytes, want %d", i, head, length, want)
			}
			got = append(got, g.mem[buffers[i].addr:][:length]...)
		}
		if count := binary.LittleEndian.Uint16(got[hdrNumBuffers:]); count != 3 {
			t.Errorf("num_buffers is %d", count)
		}
		got[hdrNumBuffers] = 0
		if !bytes.Equal(got, p) {
			t.Error("the guest got another packet")
		}
	})
}

func TestNetHasRoomOrNot(t *testing.T) {
	g, n, _ := newNet(t, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	p := packet(testMAC, 1000)
	if n.CanReceive(len(p)) || n.Receive(p) {
		t.Fatal("received without a driver")
	}
	g.start(^uint64(0), 3, 16)
	q := g.queues[netReceive]
	q.add(g.bytes(800, true))
	q.kick(1)
	before, state := bytes.Clone(g.mem), saved(t, n)
	if n.CanReceive(len(p)) || n.Receive(p) {
		t.Fatal("1012 bytes fit into 800")
	}
	if !bytes.Equal(before, g.mem) || saved(t, n) != state {
		t.Fatal("a packet that does not fit has changed the machine")
	}
	q.add(g.bytes(800, true))
	if !q.wantsKick(1) {
		t.Error("the driver of a nearly empty queue is not asked to notify")
	}
	before, state = bytes.Clone(g.mem), saved(t, n)
	if !n.CanReceive(len(p)) {
		t.Fatal("1012 bytes do not fit into 1600")
	}
	if !bytes.Equal(before, g.mem) || saved(t, n) != state {
		t.Fatal("asking for room has changed the machine")
	}
	if !n.Receive(p) {
		t.Fatal("not received")
	}
}

func TestNetNotificationsOfAFullReceiveQueue(t *testing.T) {
	for _, features := range []uint64{netMrgRxbuf, netMrgRxbuf | featEventIdx} {
		g, n, _ := newNet(t, NetConfig{})
		g.registers = onPCI(g, &n.Core)
		g.start(features, 3, 256)
		q := g.queues[netReceive]
		for range 256 {
			q.add(g.bytes(1600, true))
		}
		q.kick(256)
		for i := range 256 {
			if !n.Receive(packet(testMAC, 64)) {
				t.Fatal("not received")
			}
			q.mustTake()
			left := 255 - i
			// The driver adds nothing; would it have to notify for the next one?
			q.availIdx++
			if got, want := q.wantsKick(1), left < lowReceive; got != want {
				t.Fatalf("features %#x: with %d buffers left the driver would notify: %v", features, left, got)
			}
			q.availIdx--
		}
	}
}

// A burst that comes at one position, or that the driver sends with one notification, interrupts once.
func TestNetBurstInterruptsOnce(t *testing.T) {
	const burst = 64
	for _, features := range []uint64{netMrgRxbuf, netMrgRxbuf | featEventIdx} {
		g, n, w := newNet(t, NetConfig{})
		g.registers = onPCI(g, &n.Core)
		g.start(features, 3, 256)
		in, out := g.queues[netReceive], g.queues[netTransmit]
		for range burst {
			in.add(g.bytes(1600, true))
			out.add(g.bytes(NetHeader, false), g.bytes(1000, false))
		}
		for range burst {
			if !n.Receive(packet(testMAC, 1000)) {
				t.Fatal("not received")
			}
		}
		if g.line.rises != 1 || g.isr() != isrQueue {
			t.Errorf("features %#x: %d frames received, %d interrupts", features, burst, g.line.rises)
		}
		out.kick(burst)
		if len(w.sent) != burst || g.line.rises != 2 || g.isr() != isrQueue || out.kicks != 1 {
			t.Errorf("features %#x: %d frames sent with %d notifications, %d interrupts", features, len(w.sent), out.kicks, g.line.rises-1)
		}
	}
}

func TestNetWithoutMergedBuffers(t *testing.T) {
	g, n, _ := newNet(t, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	g.start(0, 3, 16)
	q := g.queues[netReceive]
	q.add(g.bytes(NetHeader, true), g.bytes(1518, true))
	q.add(g.bytes(100, true))
	q.kick(2)
	if !n.Receive(packet(testMAC, 1400)) {
		t.Fatal("not received")
	}
	if _, length := q.mustTake(); length != NetHeader+1400 {
		t.Errorf("length %d", length)
	}
	// A frame that does not fit into its one buffer is lost, and the buffer comes back empty.
	if n.Receive(packet(testMAC, 1400)) {
		t.Error("received into 100 bytes")
	}
	if _, length := q.mustTake(); length != 0 || n.Failure() != "" {
		t.Errorf("length %d, failure %q", length, n.Failure())
	}
}

func TestNetFillsInChecksums(t *testing.T) {
	p := packet(testMAC, 64)
	p[hdrFlags] = hdrNeedsCsum
	binary.LittleEndian.PutUint16(p[hdrCsumStart:], 34)
	binary.LittleEndian.PutUint16(p[hdrCsumOffset:], 16)
	for _, accepts := range []bool{false, true} {
		g, n, _ := newNet(t, NetConfig{Checksum: true, TSO: true})
		g.registers = onPCI(g, &n.Core)
		var told Offloads
		n.OnOffloads(func(o Offloads) { told = o })
		features := uint64(0)
		if accepts {
			features = netGuestCsum | netGuestTSO4
		}
		g.start(features, 3, 16)
		if want := (Offloads{accepts, accepts, false}); told != want || n.Offloads() != want {
			t.Errorf("offloads %+v, want %+v", told, want)
		}
		b := g.bytes(2000, true)
		g.queues[netReceive].add(b)
		g.queues[netReceive].kick(1)
		if !n.Receive(p) {
			t.Fatal("not received")
		}
		got := g.mem[b.addr:][:len(p)]
		if accepts {
			if got[hdrFlags] != hdrNeedsCsum || !bytes.Equal(got[NetHeader:], p[NetHeader:]) {
				t.Error("the frame was changed for a driver that understands its header")
			}
			continue
		}
		sum := uint32(0)
		for i := NetHeader + 34; i < len(got); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(got[i:]))
		}
		// What the field held before, the pseudo-header's sum, was part of the sum; with the checksum in its place the
		// sum is all ones less that.
		sum += uint32(binary.BigEndian.Uint16(p[NetHeader+50:]))
		if sum = sum>>16 + sum&0xffff; sum>>16+sum&0xffff != 0xffff || got[hdrFlags] != 0 {
			t.Errorf("the checksum is wrong, or the flags are %#x", got[hdrFlags])
		}
		p := bytes.Clone(p)
		p[hdrGSOType] = gsoTCPv4
		if n.Wants(p) || n.Receive(p) {
			t.Error("a segment of 64 KiB for a driver that cannot take it")
		}
	}
}

// control sends a command and returns the answer.
func (g *guest) control(class, command byte, data []byte) byte {
	g.t.Helper()
	p := g.bytes(uint32(2+len(data)), false)
	g.mem[p.addr], g.mem[p.addr+1] = class, command
	copy(g.mem[p.addr+2:], data)
	answer := g.statusByte()
	q := g.queues[netControl]
	q.add(p, answer)
	q.kick(1)
	q.mustTake()
	return g.mem[answer.addr]
}

func TestNetFilter(t *testing.T) {
	other, group := [6]byte{2, 2, 2, 2, 2, 2}, [6]byte{1, 0, 0x5e, 0, 0, 1}
	broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	tables := func(unicast, multicast [][6]byte) []byte {
		var p []byte
		for _, list := range [][][6]byte{unicast, multicast} {
			p = binary.LittleEndian.AppendUint32(p, uint32(len(list)))
			for _, a := range list {
				p = append(p, a[:]...)
			}
		}
		return p
	}
	g, n, _ := newNet(t, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	g.start(^uint64(0), 3, 16)
	steps := []struct {
		name           string
		class, command byte
		data           []byte
		answer         byte
		passes         [4]bool // own, other, group, broadcast
	}{
		{"an unknown command", 9, 9, nil, 1, [4]bool{true, true, true, true}},
		{"promiscuous off", 0, 0, []byte{0}, 0, [4]bool{true, false, false, true}},
		{"all multicast", 0, 1, []byte{1}, 0, [4]bool{true, false, true, true}},
		{"not all multicast", 0, 1, []byte{0}, 0, [4]bool{true, false, false, true}},
		{"tables", 1, 0, tables([][6]byte{other}, [][6]byte{group}), 0, [4]bool{true, true, true, true}},
		{"a table cut short", 1, 0, tables([][6]byte{other}, nil)[:9], 1, [4]bool{true, true, true, true}},
		{"bytes behind the tables", 1, 0, append(tables(nil, nil), 0), 1, [4]bool{true, true, true, true}},
		{"a count that wraps", 1, 0, []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, 1, [4]bool{true, true, true, true}},
		{"empty tables", 1, 0, tables(nil, nil), 0, [4]bool{true, false, false, true}},
		{"too many of one kind", 1, 0, tables(make([][6]byte, 65), nil), 0, [4]bool{true, true, false, true}},
		{"too many to be read", 1, 0, tables(make([][6]byte, 200), nil), 0, [4]bool{true, true, true, true}},
		{"empty tables again", 1, 0, tables(nil, nil), 0, [4]bool{true, false, false, true}},
		{"another address", 1, 1, other[:], 0, [4]bool{false, true, false, true}},
		{"half an address", 1, 1, other[:3], 1, [4]bool{false, true, false, true}},
	}
	for _, step := range steps {
		if got := g.control(step.class, step.command, step.data); got != step.answer {
			t.Errorf("%s: answer %d, want %d", step.name, got, step.answer)
		}
		for i, dst := range [][6]byte{testMAC, other, group, broadcast} {
			if got := n.Wants(packet(dst, 60)); got != step.passes[i] {
				t.Errorf("%s: frame to %x passes: %v", step.name, dst, got)
			}
		}
	}
	state := saved(t, n)
	g2, n2, _ := newNet(t, NetConfig{})
	copy(g2.mem, g.mem)
	if err := n2.LoadState([]byte(state)); err != nil {
		t.Fatal(err)
	}
	if saved(t, n2) != state || n2.Wants(packet(testMAC, 60)) || !n2.Wants(packet(other, 60)) {
		t.Error("the filter is not part of the state")
	}
	g.start(0, 3, 16)
	if !n.Wants(packet(testMAC, 60)) || !n.Wants(packet(other, 60)) {
		t.Error("a reset does not bring back the address")
	}
}

func TestNetConfigurationSpace(t *testing.T) {
	g, n, _ := newNet(t, NetConfig{MTU: 9000})
	g.registers = onPCI(g, &n.Core)
	g.start(^uint64(0), 3, 16)
	p := make([]byte, 12)
	for i := range p {
		g.config(uint64(i), p[i:i+1])
	}
	if want := []byte{0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0x28, 0x23}; !bytes.Equal(p, want) {
		t.Errorf("configuration %x, want %x", p, want)
	}
}

func TestNetAnnounces(t *testing.T) {
	g, n, _ := newNet(t, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	if n.Announce() {
		t.Error("announced without a driver")
	}
	g.start(^uint64(0), 3, 16)
	status := make([]byte, 2)
	if !n.Announce() || g.isr() != isrConfig {
		t.Fatal("no configuration change interrupt")
	}
	if g.config(6, status); status[0] != netLinkUp|netAnnounceFlag {
		t.Errorf("status %#x", status)
	}
	if got := g.control(controlAnnounce, controlAck, nil); got != controlOK {
		t.Errorf("answer %d", got)
	}
	if g.config(6, status); status[0] != netLinkUp {
		t.Errorf("status %#x after the answer", status)
	}
	g.start(0, 3, 16)
	if n.Announce() {
		t.Error("announced to a driver that can't")
	}
}

func TestHostileNet(t *testing.T) {
	tests := []struct {
		name  string
		queue int
		chain []buffer
		want  string
	}{
		{"packet without a header", netTransmit, []buffer{{0x1000, 11, false}}, "has no header"},
		{"empty packet", netTransmit, []buffer{{0x1000, 0, false}}, "has no header"},
		{"packet outside of RAM", netTransmit, []buffer{{ramSize, 100, false}}, "outside of RAM"},
		{"receive buffer that can't be written", netReceive, []buffer{{0x1000, 2000, false}}, "0 bytes is too short"},
		{"receive buffer of less than a header", netReceive, []buffer{{0x1000, 11, true}}, "11 bytes is too short"},
		{"receive buffer outside of RAM", netReceive, []buffer{{ramSize, 2000, true}}, "outside of RAM"},
		{"command without an answer", netControl, []buffer{{0x1000, 3, false}}, "no header or no status"},
		{"command without a header", netControl, []buffer{{0x1000, 1, false}, {0x1000, 1, true}}, "no header or no status"},
		{"command outside of RAM", netControl, []buffer{{ramSize, 3, false}, {0x1000, 1, true}}, "outside of RAM"},
		{"answer outside of RAM", netControl, []buffer{{0x1000, 3, false}, {ramSize, 1, true}}, "outside of RAM"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, n, w := newNet(t, NetConfig{})
			g.registers = onPCI(g, &n.Core)
			g.start(^uint64(0), 3, 16)
			g.queues[test.queue].add(test.chain...)
			// Room for the rest of the frame, if it comes to that.
			if test.queue == netReceive {
				g.queues[test.queue].add(g.bytes(2000, true))
			}
			g.notify(test.queue)
			if test.queue == netReceive && n.Receive(packet(testMAC, 100)) {
				t.Error("received")
			}
			if !g.needsReset() || !strings.Contains(n.Failure(), test.want) || len(w.sent) != 0 {
				t.Errorf("failure %q, want one about %q", n.Failure(), test.want)
			}
			if n.CanReceive(100) || n.Wants(packet(testMAC, 100)) {
				t.Error("a stopped device wants packets")
			}
		})
	}
}

func TestNetMakesNoGarbageWhenItReceives(t *testing.T) {
	g, n, _ := newNet(t, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	g.start(^uint64(0), 3, 16)
	q := g.queues[netReceive]
	q.add(g.bytes(2000, true))
	p := packet(testMAC, 1400)
	step := func() {
		if !n.Wants(p) || !n.CanReceive(len(p)) || !n.Receive(p) {
			t.Fatal("not received")
		}
		q.offer(0)
	}
	step()
	if got := testing.AllocsPerRun(1000, step); got != 0 {
		t.Errorf("%v allocations a packet", got)
	}
}

func TestNetRefusesImpossibleConfigurations(t *testing.T) {
	for name, config := range map[string]NetConfig{
		"no address":           {},
		"multicast address":    {MAC: [6]byte{1}},
		"tiny MTU":             {MAC: testMAC, MTU: 67},
		"TSO without checksum": {MAC: testMAC, TSO: true},
	} {
		if _, err := NewNet(ram{}, config, &wire{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// BenchmarkNetReceive is a packet of 1500 bytes into the guest, from the question whether it is wanted on.
func BenchmarkNetReceive(b *testing.B) {
	g, n, _ := newNet(b, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	g.start(^uint64(0), 3, 256)
	q := g.queues[netReceive]
	q.add(g.bytes(2000, true))
	p := packet(testMAC, 1514)
	b.ReportAllocs()
	for b.Loop() {
		if !n.Wants(p) || !n.CanReceive(len(p)) || !n.Receive(p) {
			b.Fatal("not received")
		}
		q.offer(0)
	}
}

// BenchmarkNetSend is a packet of 1500 bytes out of the guest.
func BenchmarkNetSend(b *testing.B) {
	g, n, w := newNet(b, NetConfig{})
	g.registers = onPCI(g, &n.Core)
	g.start(^uint64(0), 3, 256)
	q := g.queues[netTransmit]
	q.add(g.bytes(NetHeader, false), g.bytes(1514, false))
	ports := g.registers.(*pciRegisters).bus.Ports()
	b.ReportAllocs()
	for b.Loop() {
		ports.Write(notifyOffset, []byte{netTransmit, 0})
		w.sent = w.sent[:0]
		q.offer(0)
	}
}
