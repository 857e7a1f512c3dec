package outside

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tandem/cmd/internal/lab/ether"
	"tandem/vmm/netdev/etherlink"
)

const (
	// mtuBytes is Ethernet's, as that of the emulated cards.
	mtuBytes = 1500
	// retransmitEvery is how often a segment that isn't acknowledged is sent again. It doesn't back off: the link
	// that is dead now will be back, and then every doubling would be time that the far end seems dead.
	retransmitEvery = 200 * time.Millisecond
	// maxRetransmits ends a connection after ten minutes.
	maxRetransmits = uint32(10 * time.Minute / retransmitEvery)
	// A neighbour is asked for its address so often, so many times, before it counts as gone.
	askNeighbourEvery = 200 * time.Millisecond
	askNeighbourTimes = 100
	// nic is the stack's only interface.
	nic tcpip.NICID = 1
)

// Client is a host made of Go code.
type Client struct {
	addr  netip.Addr
	port  *ether.Port
	link  *etherlink.Endpoint
	stack *stack.Stack
	ended chan struct{} // closed when the port's reader has returned and the stack is gone
	// alive ends with the port, and with it attempts to connect.
	alive context.Context
	end   context.CancelCauseFunc
}

// New starts a host on a port, which becomes its own, with an address in the network that addr says. There is no
// gateway to other networks.
func New(port *ether.Port, addr netip.Prefix) (*Client, error) {
	if !addr.IsValid() || !addr.Addr().Is4() {
		port.Close()
		return nil, fmt.Errorf("a client needs an IPv4 address with its network's length, not %v", addr)
	}
	ip := addr.Addr().As4()
	c := &Client{
		addr: addr.Addr(), port: port, ended: make(chan struct{}),
		link: etherlink.New(etherlink.Config{
			// Locally administered, and as unique as the address.
			MAC: tcpip.LinkAddress(append([]byte{0x52, 'M'}, ip[:]...)), MTUBytes: mtuBytes,
			// The switch takes all packets: what it has no room for is lost on the way.
			Send: func(pkt *stack.PacketBuffer) bool { return port.WriteFrame(etherlink.Frame(0, pkt)) == nil },
		}),
	}
	c.alive, c.end = context.WithCancelCause(context.Background())
	if err := c.makeStack(addr); err != nil {
		c.end(net.ErrClosed)
		c.stack.Destroy()
		port.Close()
		return nil, fmt.Errorf("making the client's network: %s", err)
	}
	go c.receive()
	return c, nil
}

func (c *Client) makeStack(addr netip.Prefix) tcpip.Error {
	neighbours := stack.DefaultNUDConfigurations()
	neighbours.RetransmitTimer = askNeighbourEvery
	neighbours.MaxMulticastProbes, neighbours.MaxUnicastProbes = askNeighbourTimes, askNeighbourTimes
	c.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		NUDConfigs:         neighbours,
	})
	if err := c.stack.CreateNIC(nic, ethernet.New(c.link)); err != nil {
		return err
	}
	own := tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(addr.Addr().As4()), PrefixLen: addr.Bits()}
	address := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: own}
	if err := c.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
		return err
	}
	c.stack.SetRouteTable([]tcpip.Route{{Destination: own.Subnet(), NIC: nic}})
	return setTCP(c.stack)
}

func setTCP(s *stack.Stack) tcpip.Error {
	longest, shortest := tcpip.TCPMaxRTOOption(retransmitEvery), tcpip.TCPMinRTOOption(retransmitEvery)
	retries := tcpip.TCPMaxRetriesOption(maxRetransmits)
	sack := tcpip.TCPSACKEnabled(true)
	// The lower bound first: the upper one may not be below it.
	for _, o := range []tcpip.SettableTransportProtocolOption{&shortest, &longest, &retries, &sack} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// receive brings frames to the stack until the port is closed, then ends the stack: its connections fail.
func (c *Client) receive() {
	defer close(c.ended)
	defer c.stack.Destroy()
	defer c.end(net.ErrClosed)
	for {
		f, err := c.port.ReadFrame()
		if err != nil {
			return
		}
		c.follow(f)
		c.link.Deliver(f)
	}
}

// Addr is the client's address.
func (c *Client) Addr() netip.Addr { return c.addr }

// Port is the client's place on the switch; its name is the one that links are set by.
func (c *Client) Port() *ether.Port { return c.port }

// Close unplugs the client and ends its connections.
func (c *Client) Close() error {
	err := c.port.Close()
	<-c.ended
	return err
}

// DialContext connects over "tcp" or "udp" to an IPv4 address and port. A TCP connection sends at once what is
// written (no Nagle's algorithm), has no keepalive, and supports CloseWrite.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := fullAddress(network, address)
	if err != nil {
		return nil, err
	}
	if isUDP(network) {
		return result[net.Conn](gonet.DialUDP(c.stack, nil, &to, ipv4.ProtocolNumber))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.alive, func() { cancel(net.ErrClosed) })
	defer stop()
	conn, err := gonet.DialContextTCP(ctx, c.stack, to, ipv4.ProtocolNumber)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return result[net.Conn](conn, err)
}

// Listen waits for TCP connections at an address such as ":7000".
func (c *Client) Listen(network, address string) (net.Listener, error) {
	at, err := fullAddress(network, address)
	if err != nil {
		return nil, err
	}
	if isUDP(network) {
		return nil, fmt.Errorf("network %s has no connections to wait for", network)
	}
	l, err := gonet.ListenTCP(c.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		return nil, err
	}
	return listener{l}, nil
}

// ListenPacket receives datagrams over "udp" at an address such as ":7000".
func (c *Client) ListenPacket(network, address string) (net.PacketConn, error) {
	at, err := fullAddress(network, address)
	if err != nil {
		return nil, err
	}
	if !isUDP(network) {
		return nil, fmt.Errorf("network %s has no datagrams", network)
	}
	return result[net.PacketConn](gonet.DialUDP(c.stack, &at, nil, ipv4.ProtocolNumber))
}

// result keeps a nil pointer from becoming an interface that isn't nil.
func result[I any, T any](v T, err error) (I, error) {
	var i I
	if err == nil {
		i = any(v).(I)
	}
	return i, err
}

// listener is gonet's, whose Close alone leaves Accept waiting.
type listener struct{ *gonet.TCPListener }

func (l listener) Close() error {
	l.Shutdown()
	return l.TCPListener.Close()
}

func isUDP(network string) bool { return network == "udp" || network == "udp4" }

// fullAddress reads "ADDRESS:PORT"; no address is any of the stack's own.
func fullAddress(network, address string) (tcpip.FullAddress, error) {
	if !isUDP(network) && network != "tcp" && network != "tcp4" {
		return tcpip.FullAddress{}, fmt.Errorf("a client has networks tcp and udp, not %q", network)
	}
	if len(address) > 0 && address[0] == ':' {
		address = "0.0.0.0" + address
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !ap.Addr().Is4() {
		return tcpip.FullAddress{}, fmt.Errorf("%q is no IPv4 address with a port", address)
	}
	full := tcpip.FullAddress{NIC: nic, Port: ap.Port()}
	if !ap.Addr().IsUnspecified() {
		full.Addr = tcpip.AddrFrom4(ap.Addr().As4())
	}
	return full, nil
}
