package usernet

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// ask sends a DHCP message as a client without an address does, and returns the answer.
func ask(t *testing.T, w *wire, mac [6]byte, with ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac[:])}, with...)...)
	if err != nil {
		t.Fatal(err)
	}
	src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{}), dhcpClientPort)
	w.sendUDP(src, netip.MustParseAddrPort("255.255.255.255:67"), m.ToBytes())
	ip := header.IPv4(w.next(header.IPv4ProtocolNumber))
	u := header.UDP(ip.Payload())
	if u.DestinationPort() != dhcpClientPort || hostAddress(ip.DestinationAddress()) != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		t.Fatalf("an answer to port %d of %v", u.DestinationPort(), ip.DestinationAddress())
	}
	answer, err := dhcpv4.FromBytes(u.Payload())
	if err != nil {
		t.Fatal(err)
	}
	if answer.TransactionID != m.TransactionID || !bytes.Equal(answer.ClientHWAddr, mac[:]) {
		t.Fatalf("the answer is of another request: %v", answer)
	}
	return answer
}

func TestDHCP(t *testing.T) {
	w := newWire(t, Config{})
	offer := ask(t, w, guestMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if offer.MessageType() != dhcpv4.MessageTypeOffer || !offer.YourIPAddr.Equal(firstGuest.AsSlice()) {
		t.Fatalf("offer %v", offer)
	}
	ack := ask(t, w, guestMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
	if ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(firstGuest.AsSlice()) {
		t.Fatalf("acknowledgement %v", ack)
	}
	if ones, _ := ack.SubnetMask().Size(); ones != 24 || ack.IPAddressLeaseTime(0) != leaseTime ||
		len(ack.Router()) != 1 || !ack.Router()[0].Equal(gateway.AsSlice()) || len(ack.DNS()) != 1 || !ack.DNS()[0].Equal(dns.AsSlice()) ||
		!bytes.Equal(ack.Options.Get(dhcpv4.OptionInterfaceMTU), []byte{0x05, 0xdc}) {
		t.Errorf("options %v", ack.Options)
	}
	stranger := ask(t, w, guestMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 168, 1, 5))))
	if stranger.MessageType() != dhcpv4.MessageTypeNak || !stranger.YourIPAddr.IsUnspecified() {
		t.Errorf("an address of another network is not refused: %v", stranger)
	}
	other := ask(t, w, [6]byte{2, 0, 0, 0, 0, 9}, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if !other.YourIPAddr.Equal(firstGuest.Next().AsSlice()) {
		t.Errorf("a second machine is offered %v", other.YourIPAddr)
	}
	again := ask(t, w, guestMAC, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
	if !again.YourIPAddr.Equal(firstGuest.AsSlice()) {
		t.Errorf("the first is offered %v the second time", again.YourIPAddr)
	}
}

func TestLeasesAreBounded(t *testing.T) {
	l := newLeases(guestMAC)
	given := map[netip.Addr]bool{}
	for i := range 1000 {
		if a, ok := l.of([6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}); ok {
			given[a] = true
			if !subnet.Contains(a) || a == firstGuest {
				t.Errorf("machine %d gets %v", i, a)
			}
		}
	}
	if len(given) != maxLeases-1 {
		t.Errorf("%d addresses were given out", len(given))
	}
}

func FuzzDHCP(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
		m, err := dhcpv4.New(dhcpv4.WithHwAddr(guestMAC[:]), dhcpv4.WithMessageType(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		l := newLeases(guestMAC)
		answer := l.answer(p, 1500)
		if answer == nil {
			return
		}
		m, err := dhcpv4.FromBytes(answer)
		if err != nil {
			t.Fatal(err)
		}
		if a, _ := netip.AddrFromSlice(m.YourIPAddr.To4()); !a.IsUnspecified() && !subnet.Contains(a) {
			t.Errorf("address %v is given out", a)
		}
	})
}

// FuzzOutput gives a live network whatever a guest may send. That it still answers shows that it lives.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x00\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x11\x00\x00\x0a\x00\x02\x0f\x0a\x00\x02\x03\x00\x35\x00\x35\x00\x08\x00\x00"), uint8(2))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\x52\x54\x00\x00\x00\x01\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01"), uint8(0))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, p []byte, parts uint8) {
		w := newWire(t, Config{Resolvers: func() []netip.AddrPort { return nil }})
		size := len(p)/(int(parts%4)+1) + 1
		for len(p) > 0 {
			part := p[:min(size, len(p))]
			p = p[len(part):]
			packet := make([]byte, 12, 12+len(part))
			w.net.Output(append(packet, part...))
		}
		w.learn()
	})
}
