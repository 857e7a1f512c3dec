package usernet

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxFlows bounds the UDP flows (a pair of addresses and ports each). A flow holds two buffers of maxDatagram bytes.
	maxFlows = 96
	// flowIdle ends a flow that has seen no datagram for so long (RFC 4787 §4.3 asks for two minutes at least).
	flowIdle = 2 * time.Minute

	maxDatagram = 65535
)

// udpForwarder takes the guest's datagrams to addresses that no endpoint of the stack has yet.
func (n *Network) udpForwarder() *udp.Forwarder {
	return udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) bool {
		id := r.ID()
		local := hostAddress(id.LocalAddress)
		queries := local == dns && id.LocalPort == dnsPort
		to, ok := n.destination(local, id.LocalPort)
		if !ok && !queries || !n.acquire(n.flows) {
			return false // the stack answers that the port is unreachable
		}
		var queue waiter.Queue
		ep, err := r.CreateEndpoint(&queue)
		if err != nil {
			n.free(n.flows)
			return false
		}
		guest := gonet.NewUDPConn(&queue, ep)
		started := n.start(func() {
			defer n.free(n.flows)
			defer guest.Close()
			if queries {
				n.answerQueries(guest)
				return
			}
			conn, err := n.dial(n.ctx, "udp", to.String())
			if err != nil {
				return
			}
			defer conn.Close()
			n.relay(guest, conn)
		})
		if !started {
			guest.Close()
		}
		return true
	})
}

// relay copies datagrams in both directions until none has come for a while.
func (n *Network) relay(guest, host net.Conn) {
	end := func() {
		guest.Close()
		host.Close()
	}
	stop := context.AfterFunc(n.ctx, end)
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		copyDatagrams(guest, host)
		end()
	})
	copyDatagrams(host, guest)
	end()
	back.Wait()
}

// copyDatagrams ends when nothing can be read any more. A datagram in one direction keeps the other alive too. One that
// can't be written is lost, as datagrams are.
func copyDatagrams(to, from net.Conn) {
	p := make([]byte, maxDatagram)
	for {
		_ = from.SetReadDeadline(time.Now().Add(flowIdle))
		size, err := from.Read(p)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue // the answer to an earlier datagram: nobody listens there, so far
		}
		if err != nil {
			return
		}
		_ = to.SetReadDeadline(time.Now().Add(flowIdle))
		_, _ = to.Write(p[:size])
	}
}
