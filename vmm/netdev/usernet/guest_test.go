package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tandem/vmm/netdev/frame"
)

// deadline bounds what a test waits for.
const deadline = 30 * time.Second

var guestMAC = [6]byte{0x52, 0x54, 0, 0, 0, 1}

// loopbackOnly is a dialer that goes nowhere else, whatever a test's packets say.
func loopbackOnly(ctx context.Context, network, address string) (net.Conn, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("a test may not reach %s", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// guest is a machine behind a network: a stack of its own, with the first lease's address.
type guest struct {
	*testing.T
	net   *Network
	stack *stack.Stack
}

// newGuest starts a network and a guest behind it.
func newGuest(t *testing.T, c Config) *guest {
	t.Helper()
	c.MAC, c.MTU = guestMAC, max(c.MTU, 1500)
	cable := channel.New(4096, uint32(c.MTU+header.EthernetMinimumSize), tcpip.LinkAddress(guestMAC[:]))
	n, err := newNetwork(c, func(p []byte) error {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(p[frame.HeaderBytes:])})
		defer pkt.DecRef()
		cable.InjectInbound(0, pkt)
		return nil
	}, loopbackOnly)
	if err != nil {
		t.Fatal(err)
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := s.CreateNIC(nic, ethernet.New(cable)); err != nil {
		t.Fatal(err)
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(firstGuest), PrefixLen: subnet.Bits()},
	}
	if err := s.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: stackSubnet(subnet), NIC: nic},
		{Destination: header.IPv4EmptySubnet, Gateway: stackAddress(gateway), NIC: nic},
	})
	ctx, stop := context.WithCancel(context.Background())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			pkt := cable.ReadContext(ctx)
			if pkt == nil {
				return
			}
			n.Output(frame.Plain(pkt.ToView().AsSlice()))
			pkt.DecRef()
		}
	}()
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		stop()
		<-sent
		s.Destroy()
	})
	return &guest{T: t, net: n, stack: s}
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: stackAddress(a.Addr()), Port: a.Port()}
}

func (g *guest) dialTCP(to netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := gonet.DialContextTCP(ctx, g.stack, full(to), ipv4.ProtocolNumber)
	if err == nil {
		g.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(deadline))
	}
	return conn, err
}

func (g *guest) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	g.Helper()
	a := full(to)
	conn, err := gonet.DialUDP(g.stack, nil, &a, ipv4.ProtocolNumber)
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	return conn
}

// wire is a network without a guest: a test writes and reads packets.
type wire struct {
	*testing.T
	net      *Network
	received chan []byte
}

func newWire(t *testing.T, c Config) *wire {
	t.Helper()
	w := &wire{T: t, received: make(chan []byte, 1024)}
	c.MAC, c.MTU = guestMAC, 1500
	var err error
	w.net, err = newNetwork(c, func(p []byte) error {
		w.received <- p
		return nil
	}, loopbackOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.net.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// next returns the next frame of an EtherType that the network sends.
func (w *wire) next(kind tcpip.NetworkProtocolNumber) []byte {
	w.Helper()
	late := time.After(deadline)
	for {
		select {
		case p := <-w.received:
			if eth := header.Ethernet(p[frame.HeaderBytes:]); eth.Type() == kind {
				return p[frame.HeaderBytes+header.EthernetMinimumSize:]
			}
		case <-late:
			w.Fatal("the network does not answer")
		}
	}
}

// send sends an IP packet of the guest's, from address src.
func (w *wire) send(src, dst netip.Addr, protocol tcpip.TransportProtocolNumber, payload []byte) {
	ip := make([]byte, header.IPv4MinimumSize+len(payload))
	h := header.IPv4(ip)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(protocol), SrcAddr: stackAddress(src), DstAddr: stackAddress(dst),
	})
	h.SetChecksum(^h.CalculateChecksum())
	copy(ip[header.IPv4MinimumSize:], payload)
	w.sendEthernet(header.IPv4ProtocolNumber, ip)
}

func (w *wire) sendEthernet(kind tcpip.NetworkProtocolNumber, payload []byte) {
	f := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(f).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guestMAC[:]), DstAddr: header.EthernetBroadcastAddress, Type: kind,
	})
	w.net.Output(frame.Plain(append(f, payload...)))
}

// sendUDP sends a datagram without a checksum, which UDP allows.
func (w *wire) sendUDP(src, dst netip.AddrPort, payload []byte) {
	u := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	header.UDP(u).Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(u) + len(payload))})
	w.send(src.Addr(), dst.Addr(), udp.ProtocolNumber, append(u, payload...))
}
