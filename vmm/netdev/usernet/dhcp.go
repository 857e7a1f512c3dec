package usernet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	dhcpServerPort = 67
	dhcpClientPort = 68
	leaseTime      = 24 * time.Hour
	// maxLeases bounds the addresses given out: those of a guest that has bridged interfaces of its own. They are never
	// taken back, so that a guest that comes up again has its old one.
	maxLeases = 64
)

// leases says which address belongs to which MAC address.
type leases struct {
	byMAC map[[6]byte]netip.Addr
	next  netip.Addr
}

// newLeases reserves the first address for the guest's own interface.
func newLeases(guest [6]byte) *leases {
	return &leases{byMAC: map[[6]byte]netip.Addr{guest: firstGuest}, next: firstGuest.Next()}
}

// of returns the address of a MAC address, giving it one if there is one left.
func (l *leases) of(mac [6]byte) (netip.Addr, bool) {
	a, ok := l.byMAC[mac]
	if ok || len(l.byMAC) >= maxLeases {
		return a, ok
	}
	a = l.next
	l.byMAC[mac], l.next = a, a.Next()
	return a, true
}

// serveDHCP starts the DHCP server (RFC 2131).
func (n *Network) serveDHCP() error {
	var queue waiter.Queue
	ep, err := n.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if err != nil {
		return fmt.Errorf("user-mode network: DHCP: %s", err)
	}
	ep.SocketOptions().SetBroadcast(true)
	if err := ep.Bind(tcpip.FullAddress{NIC: nic, Port: dhcpServerPort}); err != nil {
		ep.Close()
		return fmt.Errorf("user-mode network: DHCP: %s", err)
	}
	conn := gonet.NewUDPConn(&queue, ep)
	n.start(func() {
		<-n.ctx.Done()
		conn.Close()
	})
	n.start(func() { n.answerDHCP(conn) })
	return nil
}

func (n *Network) answerDHCP(conn net.PacketConn) {
	given := newLeases(n.config.MAC)
	// The client has no address yet that could be resolved (RFC 2131 §4.1).
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpClientPort}
	p := make([]byte, maxDatagram)
	for {
		size, _, err := conn.ReadFrom(p)
		if err != nil {
			return
		}
		if answer := given.answer(p[:size], n.config.MTU); answer != nil {
			_, _ = conn.WriteTo(answer, to)
		}
	}
}

// answer returns the answer to a message, or nil if it deserves none.
func (l *leases) answer(message []byte, mtu int) []byte {
	m, err := dhcpv4.FromBytes(message)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != 6 {
		return nil
	}
	if id := m.ServerIdentifier(); id != nil && !id.Equal(gateway.AsSlice()) {
		return nil // another server's
	}
	kind := dhcpv4.MessageTypeNone
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
		kind = dhcpv4.MessageTypeAck
	default:
		return nil
	}
	with := []dhcpv4.Modifier{dhcpv4.WithServerIP(gateway.AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway.AsSlice()))}
	if m.MessageType() != dhcpv4.MessageTypeInform {
		a, ok := l.of([6]byte(m.ClientHWAddr))
		if !ok {
			return nil
		}
		if wants := requested(m); m.MessageType() == dhcpv4.MessageTypeRequest && wants != a {
			kind = dhcpv4.MessageTypeNak // it is from another network
		} else {
			with = append(with, dhcpv4.WithYourIP(a.AsSlice()), dhcpv4.WithOption(dhcpv4.OptIPAddressLeaseTime(leaseTime)))
		}
	}
	if kind != dhcpv4.MessageTypeNak {
		with = append(with, network(mtu)...)
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, append(with, dhcpv4.WithMessageType(kind))...)
	if err != nil {
		return nil
	}
	return reply.ToBytes()
}

// requested is the address that a client asks for, in the option when it chooses, in the header when it renews
// (RFC 2131 §4.3.2).
func requested(m *dhcpv4.DHCPv4) netip.Addr {
	ip := m.RequestedIPAddress()
	if ip == nil || ip.IsUnspecified() {
		ip = m.ClientIPAddr
	}
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// network tells a client about the network.
func network(mtu int) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(subnet.Bits(), 32))),
		dhcpv4.WithOption(dhcpv4.OptRouter(gateway.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptDNS(dns.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(mtu)))),
	}
}
