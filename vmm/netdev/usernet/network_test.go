package usernet

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"

	"tandem/vmm/netdev/frame"
)

// echo is a TCP server of the host that gives back what it gets and ends when the client does.
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveEcho(l)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			c.Close()
		}()
	}
}

// exchange sends bytes, ends its direction and checks that they come back whole.
func exchange(t *testing.T, conn stream, size int) {
	t.Helper()
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(data)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		failed <- errors.Join(err, conn.CloseWrite())
	}()
	back, err := io.ReadAll(conn)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(back) != sha256.Sum256(data) {
		t.Errorf("sent %d bytes, got %d others back", len(data), len(back))
	}
}

func TestTCPOut(t *testing.T) {
	for _, mtu := range []int{1500, MaxMTU} {
		g := newGuest(t, Config{Loopback: true, MTU: mtu})
		conn, err := g.dialTCP(netip.AddrPortFrom(gateway, echo(t).Port()))
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, 3<<20)
	}
}

func TestTCPOutIsRefused(t *testing.T) {
	port := echo(t).Port()
	closed := newGuest(t, Config{})
	open := newGuest(t, Config{Loopback: true})
	for name, c := range map[string]struct {
		g  *guest
		to netip.AddrPort
	}{
		"loopback, not allowed":  {closed, netip.AddrPortFrom(gateway, port)},
		"nobody listens":         {open, netip.AddrPortFrom(gateway, 1)},
		"no such machine":        {open, netip.MustParseAddrPort("203.0.113.1:80")},
		"link-local":             {open, netip.MustParseAddrPort("169.254.169.254:80")},
		"name server, no server": {newGuest(t, Config{Resolvers: func() []netip.AddrPort { return nil }}), netip.AddrPortFrom(dns, dnsPort)},
	} {
		if _, err := c.g.dialTCP(c.to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestForward(t *testing.T) {
	any := netip.MustParseAddrPort("127.0.0.1:0")
	g := newGuest(t, Config{Forwards: []Forward{{any, 22}, {any, 23}}})
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Port: 22}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveEcho(l)
	for range 3 {
		conn, err := net.Dial("tcp", g.net.Addresses()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(deadline))
		exchange(t, conn.(stream), 1<<20)
		conn.Close()
	}
	// The reset may come so soon that the connection does not even open.
	conn, err := net.Dial("tcp", g.net.Addresses()[1].String())
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(deadline))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port on which the guest does not listen gives %v, not a reset", err)
	}
}

func TestForwardErrors(t *testing.T) {
	taken := echo(t)
	for want, host := range map[string]netip.AddrPort{
		"taken by another": taken,
		"has no address":   netip.MustParseAddrPort("203.0.113.7:2222"),
	} {
		_, err := New(Config{MTU: 1500, Forwards: []Forward{{host, 22}}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), host.Addr().String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v", host, err)
		}
	}
}

func TestUDPOut(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		p := make([]byte, maxDatagram)
		for {
			size, from, err := server.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(bytes.ToUpper(p[:size]), from)
		}
	}()
	port := server.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	g := newGuest(t, Config{Loopback: true})
	conn := g.dialUDP(netip.AddrPortFrom(gateway, port))
	for _, size := range []int{1, 1400, 9000} {
		if _, err := conn.Write(bytes.Repeat([]byte("a"), size)); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, maxDatagram)
		got, err := conn.Read(p)
		if err != nil || !bytes.Equal(p[:got], bytes.Repeat([]byte("A"), size)) {
			t.Errorf("sent %d bytes, got %d, %v", size, got, err)
		}
	}
}

func ping(t *testing.T, w *wire, to netip.Addr, id uint16) {
	t.Helper()
	p := make([]byte, header.ICMPv4MinimumSize+8)
	h := header.ICMPv4(p)
	h.SetType(header.ICMPv4Echo)
	h.SetIdent(id)
	h.SetChecksum(header.ICMPv4Checksum(h, 0))
	w.send(firstGuest, to, icmp.ProtocolNumber4, p)
}

// TestPing sends to machines that are not there first: answers come in the order of requests.
func TestPing(t *testing.T) {
	w := newWire(t, Config{})
	w.learn()
	ping(t, w, netip.MustParseAddr("203.0.113.1"), 1)
	ping(t, w, netip.MustParseAddr("10.0.2.77"), 2)
	ping(t, w, gateway, 3)
	ip := header.IPv4(w.next(header.IPv4ProtocolNumber))
	h := header.ICMPv4(ip.Payload())
	if hostAddress(ip.SourceAddress()) != gateway || h.Type() != header.ICMPv4EchoReply || h.Ident() != 3 {
		t.Errorf("answer %v of ping %d from %v", h.Type(), h.Ident(), ip.SourceAddress())
	}
}

// learn makes the network know the guest's MAC address, by a request for the gateway's, and returns the answer.
func (w *wire) learn() header.ARP {
	w.arp(gateway)
	return header.ARP(w.next(header.ARPProtocolNumber))
}

func (w *wire) arp(target netip.Addr) {
	p := make([]byte, header.ARPSize)
	a := header.ARP(p)
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), guestMAC[:])
	copy(a.ProtocolAddressSender(), firstGuest.AsSlice())
	copy(a.ProtocolAddressTarget(), target.AsSlice())
	w.sendEthernet(header.ARPProtocolNumber, p)
}

func TestARPAnswersForItsOwnAlone(t *testing.T) {
	w := newWire(t, Config{})
	w.arp(firstGuest) // the guest's own probe: an answer would make it think that its address is taken
	w.arp(netip.MustParseAddr("10.0.2.99"))
	a := w.learn()
	if got, _ := netip.AddrFromSlice(a.ProtocolAddressSender()); got != gateway || a.Op() != header.ARPReply {
		t.Errorf("answer %v for %v", a.Op(), got)
	}
}

func TestDestination(t *testing.T) {
	server := netip.MustParseAddrPort("127.0.0.1:5353")
	resolvers := func() []netip.AddrPort { return []netip.AddrPort{server} }
	for _, c := range []struct {
		to       string
		loopback bool
		want     string
	}{
		{"192.0.2.7:80", false, "192.0.2.7:80"},
		{"10.1.2.3:443", false, "10.1.2.3:443"},
		{"10.0.2.2:80", false, ""},
		{"10.0.2.2:80", true, "127.0.0.1:80"},
		{"10.0.2.3:53", false, "127.0.0.1:5353"},
		{"10.0.2.3:54", true, ""},
		{"10.0.2.15:80", true, ""},
		{"127.0.0.1:80", true, ""},
		{"169.254.169.254:80", true, ""},
		{"224.0.0.1:80", true, ""},
		{"255.255.255.255:67", true, ""},
		{"0.0.0.0:80", true, ""},
	} {
		n := &Network{config: Config{Loopback: c.loopback, Resolvers: resolvers}}
		to := netip.MustParseAddrPort(c.to)
		got, ok := n.destination(to.Addr(), to.Port())
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s with loopback %v goes to %v, %v; want %q", c.to, c.loopback, got, ok, c.want)
		}
	}
}

// TestStalledGuest has a guest that takes no packet: what it sends is dropped in the end, and it never waits.
func TestStalledGuest(t *testing.T) {
	release := make(chan struct{})
	n, err := newNetwork(Config{MTU: 1500}, func([]byte) error {
		<-release
		return errors.New("ended")
	}, loopbackOnly)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{T: t, net: n}
	for i := 0; n.Dropped() == 0; i++ {
		if i > 1<<20 {
			t.Fatal("nothing is dropped: a queue has no bound")
		}
		w.arp(gateway)
	}
	close(release)
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	n.Output(frame.Plain(make([]byte, 60))) // after the end: nothing happens
}

// TestCloseEndsConnections closes a network in which connections of both kinds are open.
func TestCloseEndsConnections(t *testing.T) {
	g := newGuest(t, Config{Loopback: true, Forwards: []Forward{{netip.MustParseAddrPort("127.0.0.1:0"), 22}}})
	out, err := g.dialTCP(netip.AddrPortFrom(gateway, echo(t).Port()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Port: 22}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveEcho(l)
	in, err := net.Dial("tcp", g.net.Addresses()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := g.net.Close(); err != nil {
		t.Error(err)
	}
	_ = in.SetReadDeadline(time.Now().Add(deadline))
	if _, err := in.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's connection is still open: %v", err)
	}
	if g.net.start(func() {}) {
		t.Error("something can still be started")
	}
}
