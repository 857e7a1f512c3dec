package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"tandem/vmm/netdev/frame"
)

// The addresses of the network.
var (
	subnet  = netip.MustParsePrefix("10.0.2.0/24")
	gateway = netip.MustParseAddr("10.0.2.2")
	dns     = netip.MustParseAddr("10.0.2.3")
	// firstGuest is the guest's address; more, for further MAC addresses behind the guest, follow it.
	firstGuest = netip.MustParseAddr("10.0.2.15")

	gatewayMAC = tcpip.LinkAddress("\x52\x55\x0a\x00\x02\x02")
)

// MaxMTU is the largest MTU, in bytes: the length of an IP packet, less some so that no buffer is a page too long.
const MaxMTU = 65520

// maxSegment is the longest TCP segment for a guest that cuts them itself, as an IP packet, in bytes.
const maxSegment = 65535

// Bounds of what waits in either direction.
const (
	maxQueuedPackets = 1024
	maxQueuedBytes   = 2 << 20
)

// nic is the stack's only interface.
const nic tcpip.NICID = 1

// Forward is a TCP port of the host that leads to one of the guest.
type Forward struct {
	Host  netip.AddrPort
	Guest uint16
}

func (f Forward) String() string { return fmt.Sprintf("%v:%d", f.Host, f.Guest) }

// Config is a network's.
type Config struct {
	// MAC is the guest's address; the name in its lease is 10.0.2.15.
	MAC [6]byte
	// MTU in bytes, up to MaxMTU; the device must show the same.
	MTU      int
	Forwards []Forward
	// Loopback makes the gateway's ports those of the host's 127.0.0.1.
	Loopback bool
	// Resolvers returns the name servers to ask; nil means those of the host's /etc/resolv.conf.
	Resolvers func() []netip.AddrPort
}

// dialer is the way to the outside.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Network is a running network. All methods may be called from any goroutine.
type Network struct {
	config Config
	stack  *stack.Stack
	link   *link
	post   func([]byte) error
	dial   dialer
	in     *frame.Queue // from the guest
	out    *frame.Queue // to the guest

	ctx       context.Context
	cancel    context.CancelFunc
	listeners []net.Listener

	mu     sync.Mutex
	closed bool           // nothing is started any more
	group  sync.WaitGroup // of all goroutines

	connections chan struct{} // capacity maxConnections: a token for each that is open
	flows       chan struct{} // capacity maxFlows
	queries     chan struct{} // capacity maxQueries
}

// New starts a network. post takes a packet for the guest and may wait; it fails when the machine has ended. A port that
// can't be opened is an error that names it.
func New(c Config, post func(packet []byte) error) (*Network, error) {
	var d net.Dialer
	return newNetwork(c, post, d.DialContext)
}

func newNetwork(c Config, post func(packet []byte) error, dial dialer) (*Network, error) {
	if c.Resolvers == nil {
		c.Resolvers = systemResolvers
	}
	n := &Network{
		config: c, post: post, dial: dial,
		in: frame.NewQueue(maxQueuedPackets, maxQueuedBytes), out: frame.NewQueue(maxQueuedPackets, maxQueuedBytes),
		connections: make(chan struct{}, maxConnections), flows: make(chan struct{}, maxFlows), queries: make(chan struct{}, maxQueries),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	// Ports come first: they are what a user can get wrong.
	for _, prepare := range []func() error{n.listen, n.makeStack, n.serveDHCP} {
		if err := prepare(); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	n.start(n.receive)
	n.start(n.send)
	for i, l := range n.listeners {
		n.start(func() { n.accept(l, c.Forwards[i].Guest) })
	}
	return n, nil
}

// start runs f in a goroutine that Close waits for. It reports false, and f does not run, once Close has been called.
func (n *Network) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.group.Go(f)
	}
	return !n.closed
}

func (n *Network) makeStack() error {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	n.stack = s
	n.link = newLink(n.config.MTU, n.out)
	fail := func(err tcpip.Error) error {
		return fmt.Errorf("user-mode network: %s", err)
	}
	if err := s.CreateNIC(nic, ethernet.New(n.link)); err != nil {
		return fail(err)
	}
	for _, a := range []netip.Addr{gateway, dns} {
		address := tcpip.ProtocolAddress{
			Protocol:          ipv4.ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddress(a), PrefixLen: subnet.Bits()},
		}
		if err := s.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return fail(err)
		}
	}
	// The stack answers for every address that the guest sends to.
	if err := s.SetPromiscuousMode(nic, true); err != nil {
		return fail(err)
	}
	if err := s.SetSpoofing(nic, true); err != nil {
		return fail(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: stackSubnet(subnet), NIC: nic}})
	if err := setBuffers(s); err != nil {
		return fail(err)
	}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, n.tcpForwarder().HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, n.udpForwarder().HandlePacket)
	return nil
}

// setBuffers bounds what a connection may hold, in bytes, and turns on selective acknowledgements.
func setBuffers(s *stack.Stack) tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 256 << 10, Max: 1 << 20}
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &receive); err != nil {
		return err
	}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 256 << 10, Max: 1 << 20}
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &send); err != nil {
		return err
	}
	sack := tcpip.TCPSACKEnabled(true)
	return s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
}

// Output takes a packet from the guest (devices.Sink). It never waits.
func (n *Network) Output(packet []byte) {
	if frame.Valid(packet) {
		n.in.Offer(packet)
	}
}

// SetSegments says whether the guest's driver takes TCP segments that are longer than the MTU and lack their checksum
// (VIRTIO_NET_F_GUEST_TSO4). Connections that are made from then on send such segments: one input of the machine then carries
// what takes up to 44 otherwise.
func (n *Network) SetSegments(on bool) { n.link.segments.Store(on) }

// Dropped returns how many of the guest's packets found no room.
func (n *Network) Dropped() uint64 { return n.in.Dropped() }

// receive brings the guest's packets to the stack.
func (n *Network) receive() {
	for {
		p, ok := n.in.Take()
		if !ok {
			return
		}
		if f := p[frame.HeaderBytes:]; wanted(f) {
			n.link.Deliver(f)
		}
	}
}

// send brings the stack's packets to the guest.
func (n *Network) send() {
	for {
		p, ok := n.out.Take()
		if !ok {
			return
		}
		if n.post(p) != nil {
			n.out.Close() // the machine has ended
			return
		}
	}
}

// Close ends the network with all its connections. The caller must have made post fail, or return.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.in.Close()
	n.out.Close()
	err := n.closeListeners()
	if n.stack != nil {
		n.stack.Destroy()
	}
	n.group.Wait()
	return err
}

func (n *Network) closeListeners() error {
	var all error
	for _, l := range n.listeners {
		all = errors.Join(all, l.Close())
	}
	n.listeners = nil
	return all
}

func stackAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func hostAddress(a tcpip.Address) netip.Addr {
	if a.Len() != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4(a.As4())
}

func stackSubnet(p netip.Prefix) tcpip.Subnet {
	mask := net.CIDRMask(p.Bits(), 32)
	s, err := tcpip.NewSubnet(stackAddress(p.Addr()), tcpip.MaskFromBytes(mask))
	if err != nil {
		panic(err) // the prefix is a constant
	}
	return s
}
