package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxConnections bounds the TCP connections, in and out together. Each holds two sockets and two copy buffers.
	maxConnections = 512
	// maxDialing bounds the guest's connections that are not yet established.
	maxDialing = 128
	// dialTimeout is how long a connection may take to be established, on either side.
	dialTimeout = 20 * time.Second
)

// stream is a TCP connection, of the host or of the stack.
type stream interface {
	net.Conn
	CloseWrite() error
}

// tcpForwarder takes the guest's connections and makes their other half on the host.
func (n *Network) tcpForwarder() *tcp.Forwarder {
	return tcp.NewForwarder(n.stack, 0, maxDialing, func(r *tcp.ForwarderRequest) {
		if !n.start(func() { n.connectOut(r) }) {
			r.Complete(false)
		}
	})
}

func (n *Network) connectOut(r *tcp.ForwarderRequest) {
	id := r.ID()
	to, ok := n.destination(hostAddress(id.LocalAddress), id.LocalPort)
	if !ok || !n.acquire(n.connections) {
		r.Complete(true)
		return
	}
	defer n.free(n.connections)
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	conn, err := n.dial(ctx, "tcp", to.String())
	if err != nil {
		r.Complete(true) // refused, whatever the reason
		return
	}
	var queue waiter.Queue
	ep, stackErr := r.CreateEndpoint(&queue)
	r.Complete(stackErr != nil)
	if stackErr != nil {
		conn.Close()
		return
	}
	n.join(gonet.NewTCPConn(&queue, ep), conn.(stream))
}

// destination says where on the host a packet of the guest's goes, if anywhere.
func (n *Network) destination(to netip.Addr, port uint16) (netip.AddrPort, bool) {
	switch {
	case to == gateway && n.config.Loopback:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), true
	case to == dns && port == dnsPort:
		servers := n.config.Resolvers()
		if len(servers) == 0 {
			return netip.AddrPort{}, false
		}
		return servers[0], true
	case subnet.Contains(to) || !to.IsGlobalUnicast():
		// Loopback, link-local (which has cloud metadata services), multicast, broadcast: not the guest's to reach.
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(to, port), true
}

// acquire takes a token if one is left.
func (n *Network) acquire(tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}:
		return true
	default:
		return false
	}
}

func (n *Network) free(tokens chan struct{}) { <-tokens }

// join copies between two connections until both directions have ended, or one has failed, or the network is closed.
// The end of one direction is passed on and leaves the other open.
func (n *Network) join(a, b stream) {
	stop := context.AfterFunc(n.ctx, func() {
		a.Close()
		b.Close()
	})
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]stream{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		both.Go(func() {
			if _, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}); err != nil {
				a.Close()
				b.Close()
				return
			}
			_ = to.CloseWrite()
		})
	}
	both.Wait()
	a.Close()
	b.Close()
}

// listen opens the forwarded ports of the host.
func (n *Network) listen() error {
	for _, f := range n.config.Forwards {
		l, err := net.Listen("tcp", f.Host.String())
		if err != nil {
			return listenError(f, err)
		}
		n.listeners = append(n.listeners, l)
	}
	return nil
}

func listenError(f Forward, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("forward %v: %v is taken by another program: choose another port", f, f.Host)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("forward %v: this host has no address %v: use 127.0.0.1 or one that it has", f, f.Host.Addr())
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("forward %v: this user may not open port %d: choose one from 1024 on", f, f.Host.Port())
	}
	return fmt.Errorf("forward %v: %w", f, err)
}

// Addresses returns the addresses of the forwarded ports, in the order of Config.Forwards. A port that was given as 0 has
// its number here.
func (n *Network) Addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range n.listeners {
		all = append(all, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return all
}

// accept makes connections to a host's port ones to a guest's. It ends when the listener is closed.
func (n *Network) accept(l net.Listener, port uint16) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select { // out of files, say: it may pass
			case <-n.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		if !n.acquire(n.connections) {
			conn.Close()
			continue
		}
		started := n.start(func() {
			defer n.free(n.connections)
			n.connectIn(conn.(*net.TCPConn), port)
		})
		if !started {
			conn.Close()
			return
		}
	}
}

func (n *Network) connectIn(conn *net.TCPConn, port uint16) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	to := tcpip.FullAddress{NIC: nic, Addr: stackAddress(firstGuest), Port: port}
	from := tcpip.FullAddress{NIC: nic, Addr: stackAddress(gateway)}
	guest, err := gonet.DialTCPWithBind(ctx, n.stack, from, to, ipv4.ProtocolNumber)
	if err != nil {
		_ = conn.SetLinger(0) // the client is to see a reset, not an empty answer
		conn.Close()
		return
	}
	n.join(guest, conn)
}
