package outside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"tandem/cmd/internal/lab/ether"
)

const (
	addrA = "10.1.2.3"
	addrB = "10.1.2.4"
)

// plug makes a client on a port that is named after its address.
func plug(t testing.TB, s *ether.Switch, addr string) *Client {
	t.Helper()
	port, err := s.Attach(addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(port, netip.PrefixFrom(netip.MustParseAddr(addr), 24))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newPair(t testing.TB) (s *ether.Switch, a, b *Client) {
	t.Helper()
	s = ether.NewSwitch(ether.SystemClock{}, 1)
	t.Cleanup(s.Close)
	return s, plug(t, s, addrA), plug(t, s, addrB)
}

// deadline bounds a test that hangs.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// connected makes a TCP connection from a to b.
func connected(t *testing.T, a, b *Client) (near, far net.Conn) {
	t.Helper()
	l, err := b.Listen("tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	near, err = a.DialContext(deadline(t), "tcp", addrB+":7000")
	if err != nil {
		t.Fatal(err)
	}
	far = <-accepted
	for _, c := range []net.Conn{near, far} {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	return near, far
}

func TestTCP(t *testing.T) {
	_, a, b := newPair(t)
	near, far := connected(t, a, b)
	if got := far.RemoteAddr().(*net.TCPAddr).IP.String(); got != addrA {
		t.Errorf("the connection comes from %s", got)
	}
	sent := bytes.Repeat([]byte("all of it, in order "), 50_000)
	go func() {
		if _, err := near.Write(sent); err != nil {
			t.Error(err)
		}
		if err := near.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d came, %v", len(got), len(sent), err)
	}
	if _, err := far.Write([]byte("thanks")); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if got, err := io.ReadAll(near); err != nil || string(got) != "thanks" {
		t.Errorf("got back %q, %v", got, err)
	}
}

func TestUDP(t *testing.T) {
	_, a, b := newPair(t)
	far, err := b.ListenPacket("udp", addrB+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := a.DialContext(deadline(t), "udp", addrB+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if _, err := near.Write([]byte("ask")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	n, from, err := far.ReadFrom(p)
	if err != nil || string(p[:n]) != "ask" {
		t.Fatalf("got %q, %v", p[:n], err)
	}
	if _, err := far.WriteTo([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(p); err != nil || string(p[:n]) != "answer" {
		t.Errorf("got %q, %v", p[:n], err)
	}
}

// TestPauseIsSurvived cuts a connection for several retransmissions, in both directions' midst.
func TestPauseIsSurvived(t *testing.T) {
	s, a, b := newPair(t)
	near, far := connected(t, a, b)
	if err := s.SetPair(addrA, addrB, ether.Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{near, far} {
		if _, err := c.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
	}
	const lost = 10 // at a retransmission each 200 ms, two seconds
	for end := time.Now().Add(time.Minute); b.Port().Counters().CutFrames < lost; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("only %d frames were sent into the cut", b.Port().Counters().CutFrames)
		}
	}
	s.Heal()
	for _, c := range []net.Conn{near, far} {
		p := make([]byte, 4)
		if _, err := io.ReadFull(c, p); err != nil || string(p) != "late" {
			t.Errorf("got %q, %v", p, err)
		}
	}
}

// arpPacket makes an ARP frame from a station that isn't a Client.
func arpPacket(op header.ARPOp, mac, from, to string) []byte {
	f := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(f).Encode(&header.EthernetFields{SrcAddr: tcpip.LinkAddress(mac), DstAddr: header.EthernetBroadcastAddress, Type: header.ARPProtocolNumber})
	a := header.ARP(f[header.EthernetMinimumSize:])
	a.SetIPv4OverEthernet()
	a.SetOp(op)
	copy(a.HardwareAddressSender(), mac)
	sender, target := netip.MustParseAddr(from).As4(), netip.MustParseAddr(to).As4()
	copy(a.ProtocolAddressSender(), sender[:])
	copy(a.ProtocolAddressTarget(), target[:])
	return f
}

// TestAnnouncementIsFollowed lets an address move to another card.
func TestAnnouncementIsFollowed(t *testing.T) {
	for name, op := range map[string]header.ARPOp{"request": header.ARPRequest, "reply": header.ARPReply} {
		t.Run(name, func(t *testing.T) {
			s, a, b := newPair(t)
			near, far := connected(t, a, b)
			defer far.Close()
			b.Close()
			const mac = "\x52M\xff\xff\xff\xff"
			moved, err := s.Attach("moved")
			if err != nil {
				t.Fatal(err)
			}
			defer moved.Close()
			if err := moved.WriteFrame(arpPacket(op, mac, addrB, addrB)); err != nil {
				t.Fatal(err)
			}
			ctx := deadline(t)
			stop := context.AfterFunc(ctx, func() { moved.Close() })
			defer stop()
			if _, err := near.Write([]byte("where are you?")); err != nil {
				t.Fatal(err)
			}
			for {
				f, err := moved.ReadFrame()
				if err != nil {
					t.Fatal("the client never looked for the new card")
				}
				eth := header.Ethernet(f)
				switch {
				case eth.Type() == header.ARPProtocolNumber:
					answer := arpPacket(header.ARPReply, mac, addrB, addrA)
					copy(answer, eth.SourceAddress())
					if err := moved.WriteFrame(answer); err != nil {
						t.Fatal(err)
					}
				case eth.DestinationAddress() == mac && bytes.HasSuffix(f, []byte("where are you?")):
					return
				}
			}
		})
	}
}

// TestChecksumsAreVerified sends a datagram as a host does that leaves its checksum to the card, then a good one.
func TestChecksumsAreVerified(t *testing.T) {
	s, a, b := newPair(t)
	at, err := b.ListenPacket("udp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	port, err := s.Attach("raw")
	if err != nil {
		t.Fatal(err)
	}
	for _, partial := range []bool{true, false} {
		if err := port.WriteFrame(datagram(a, b, partial)); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 100)
	if n, _, err := at.ReadFrom(p); err != nil || string(p[:n]) != "partial: false" {
		t.Errorf("got %q, %v", p[:n], err)
	}
}

// datagram makes a UDP frame whose checksum, if partial, covers the pseudo-header alone (CHECKSUM_PARTIAL of Linux).
func datagram(a, b *Client, partial bool) []byte {
	payload := fmt.Sprintf("partial: %v", partial)
	f := make([]byte, header.EthernetMinimumSize+header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	header.Ethernet(f).Encode(&header.EthernetFields{SrcAddr: "\x52M\xff\xff\xff\xfe", DstAddr: b.link.LinkAddress(), Type: header.IPv4ProtocolNumber})
	ip := header.IPv4(f[header.EthernetMinimumSize:])
	src, dst := tcpip.AddrFrom4(a.addr.As4()), tcpip.AddrFrom4(b.addr.As4())
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: src, DstAddr: dst})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(ip.Payload())
	u.Encode(&header.UDPFields{SrcPort: 1, DstPort: 7000, Length: uint16(len(u))})
	copy(u.Payload(), payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, uint16(len(u)))
	if partial {
		u.SetChecksum(sum)
	} else {
		u.SetChecksum(^u.CalculateChecksum(checksum.Checksum(u.Payload(), sum)))
	}
	return f
}

func TestCloseEndsAll(t *testing.T) {
	s, a, b := newPair(t)
	near, far := connected(t, a, b)
	l, err := b.Listen("tcp", ":7001")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	l.Close()
	if err := <-accepted; err == nil {
		t.Error("a closed listener accepted")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a connection of a closed client goes on: %v", err)
	}
	if _, err := s.Attach(addrA); err != nil {
		t.Errorf("its port isn't free: %v", err)
	}
	s.Close() // takes the other's port away
	if _, err := far.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("a connection outlived the network: %v", err)
	}
	if conn, err := b.DialContext(deadline(t), "tcp", addrA+":1"); err == nil || isTimeout(err) {
		t.Errorf("a client without a network connects: %v, %v", conn, err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestRefused(t *testing.T) {
	s, a, _ := newPair(t)
	port, err := s.Attach("six")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(port, netip.MustParsePrefix("fd00::1/64")); err == nil || !strings.Contains(err.Error(), "IPv4") {
		t.Errorf("an IPv6 address gives %v", err)
	}
	ctx := deadline(t)
	_, unknown := a.DialContext(ctx, "unix", "/x")
	_, name := a.DialContext(ctx, "tcp", "h1:22")
	_, six := a.DialContext(ctx, "tcp", "[::1]:22")
	_, listen := a.Listen("udp", ":1")
	_, packets := a.ListenPacket("tcp", ":1")
	_, closed := a.DialContext(ctx, "tcp", addrB+":9")
	for want, err := range map[string]error{
		`"unix"`: unknown, `"h1:22"`: name, `"[::1]:22"`: six, "no connections": listen, "no datagrams": packets, "refused": closed,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %s", err, want)
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.DialContext(ended, "tcp", addrB+":7000"); !errors.Is(err, context.Canceled) {
		t.Errorf("an attempt without time gives %v", err)
	}
}

// FuzzReceive gives a client what a hostile host may send; that it still answers shows that it lives.
func FuzzReceive(f *testing.F) {
	f.Add(arpPacket(header.ARPRequest, "\x52M\xff\xff\xff\xff", addrB, addrB))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := ether.NewSwitch(ether.SystemClock{}, 1)
		defer s.Close()
		a := plug(t, s, addrA)
		a.follow(raw)
		a.link.Deliver(raw)
		probe, err := s.Attach("probe")
		if err != nil {
			t.Fatal(err)
		}
		const mac = "\x52M\xff\xff\xff\xff"
		if err := probe.WriteFrame(arpPacket(header.ARPRequest, mac, addrB, addrA)); err != nil {
			t.Fatal(err)
		}
		for {
			f, err := probe.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if header.Ethernet(f).DestinationAddress() == mac {
				return
			}
		}
	})
}
