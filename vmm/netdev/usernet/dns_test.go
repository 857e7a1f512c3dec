package usernet

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func query(t testing.TB, id uint16) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// nameServer answers each query, on UDP and TCP, with the query and one byte more.
func nameServer(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go serveEcho(l)
	go func() {
		p := make([]byte, maxDatagram)
		for {
			size, from, err := u.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(append(slices.Clone(p[:size]), '!'), from)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// dead is an address on which nobody listens.
func dead(t *testing.T) netip.AddrPort {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	return u.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestDNS(t *testing.T) {
	live := nameServer(t)
	for name, servers := range map[string][]netip.AddrPort{"first": {live}, "second": {dead(t), live}} {
		g := newGuest(t, Config{Resolvers: func() []netip.AddrPort { return servers }})
		conn := g.dialUDP(netip.AddrPortFrom(dns, dnsPort))
		for id := range uint16(3) {
			q := query(t, id)
			if _, err := conn.Write(q); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, maxDatagram)
			size, err := conn.Read(p)
			if err != nil || string(p[:size]) != string(q)+"!" {
				t.Errorf("%s: answer %q, %v", name, p[:size], err)
			}
		}
	}
}

func TestDNSOverTCP(t *testing.T) {
	live := nameServer(t)
	g := newGuest(t, Config{Resolvers: func() []netip.AddrPort { return []netip.AddrPort{live} }})
	conn, err := g.dialTCP(netip.AddrPortFrom(dns, dnsPort))
	if err != nil {
		t.Fatal(err)
	}
	q := query(t, 1)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 2+len(q))
	if _, err := io.ReadFull(conn, p); err != nil || string(p[2:]) != string(q) {
		t.Errorf("answer %q, %v", p, err)
	}
}

func TestDNSWithoutServer(t *testing.T) {
	for name, servers := range map[string][]netip.AddrPort{"none": nil, "dead": {dead(t)}} {
		g := newGuest(t, Config{Resolvers: func() []netip.AddrPort { return servers }})
		conn := g.dialUDP(netip.AddrPortFrom(dns, dnsPort))
		if _, err := conn.Write(query(t, 77)); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, maxDatagram)
		size, err := conn.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(p[:size]); err != nil {
			t.Fatal(err)
		}
		if m.ID != 77 || !m.Response || m.RCode != dnsmessage.RCodeServerFailure || len(m.Questions) != 1 {
			t.Errorf("%s: %+v", name, m)
		}
	}
}

func TestParseResolvers(t *testing.T) {
	got := parseResolvers([]byte("# x\nsearch example\nnameserver 192.0.2.1 \nnameserver\nnameserver nonsense\nnameserver fd00::1%eth0\nnameserver 127.0.0.53\nnameserver 1.2.3.4\n"))
	want := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fd00::1%eth0]:53"), netip.MustParseAddrPort("127.0.0.53:53"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func FuzzServerFailure(f *testing.F) {
	f.Add(query(f, 1))
	f.Fuzz(func(t *testing.T, p []byte) {
		answer := serverFailure(p)
		if answer == nil {
			return
		}
		var m dnsmessage.Parser
		h, err := m.Start(answer)
		if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(p) {
			t.Errorf("answer %x of %x: %v", answer, p, err)
		}
		if serverFailure(answer) != nil {
			t.Error("an answer is answered: two servers would never stop")
		}
	})
}
