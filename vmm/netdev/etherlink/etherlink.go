// Package etherlink is the end of an Ethernet cable at gVisor's network stack, for stacks whose frames go to and come from Go
// code. Ethernet headers are made and read by the stack's own endpoint around it (pkg/tcpip/link/ethernet).
//
// An [Endpoint] may be used by any goroutine. The stack calls the send function from many.
package etherlink

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Config is an endpoint's. Nothing in it changes.
type Config struct {
	MAC tcpip.LinkAddress
	// MTUBytes is the length of the longest IP packet.
	MTUBytes     int
	Capabilities stack.LinkEndpointCapabilities
	// Send takes a packet that has its Ethernet header, and keeps nothing of it. It may wait. False says that the cable is
	// gone.
	Send func(*stack.PacketBuffer) bool
}

// Endpoint is the end of a cable.
type Endpoint struct {
	config Config

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher // nil before the stack is there
}

var _ stack.LinkEndpoint = (*Endpoint)(nil)

// New returns an endpoint, to be put into a stack.
func New(c Config) *Endpoint { return &Endpoint{config: c} }

// Deliver hands a frame to the stack, which copies it. Before there is a stack it is lost.
func (e *Endpoint) Deliver(frame []byte) {
	e.mu.RLock()
	d := e.dispatcher
	e.mu.RUnlock()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	defer pkt.DecRef()
	d.DeliverNetworkPacket(0, pkt)
}

// Frame returns room bytes of zeros, and a packet's bytes behind them.
func Frame(room int, pkt *stack.PacketBuffer) []byte {
	p := make([]byte, room, room+pkt.Size())
	for _, s := range pkt.AsSlices() {
		p = append(p, s...)
	}
	return p
}

// WritePackets implements stack.LinkEndpoint.
func (e *Endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		if !e.config.Send(pkt) {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// Attach implements stack.LinkEndpoint.
func (e *Endpoint) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (e *Endpoint) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// MTU implements stack.LinkEndpoint; the endpoint around it takes the Ethernet header off.
func (e *Endpoint) MTU() uint32 { return uint32(e.config.MTUBytes + header.EthernetMinimumSize) }

// Capabilities implements stack.LinkEndpoint.
func (e *Endpoint) Capabilities() stack.LinkEndpointCapabilities { return e.config.Capabilities }

// LinkAddress implements stack.LinkEndpoint.
func (e *Endpoint) LinkAddress() tcpip.LinkAddress { return e.config.MAC }

// The rest of stack.LinkEndpoint has nothing to do.

func (e *Endpoint) SetMTU(uint32)                           {}
func (e *Endpoint) MaxHeaderLength() uint16                 { return 0 }
func (e *Endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *Endpoint) Wait()                                   {}
func (e *Endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (e *Endpoint) AddHeader(*stack.PacketBuffer)           {}
func (e *Endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (e *Endpoint) Close()                                  {}
func (e *Endpoint) SetOnCloseAction(func())                 {}
