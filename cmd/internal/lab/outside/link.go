package outside

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"tandem/cmd/internal/lab/ether"
)

// link is the stack's cable to the switch. Ethernet headers are made and read by the endpoint around it.
type link struct {
	port *ether.Port
	mac  tcpip.LinkAddress

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var _ stack.LinkEndpoint = (*link)(nil)

// deliver hands a frame to the stack.
func (l *link) deliver(f []byte) {
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(f)})
	defer pkt.DecRef()
	d.DeliverNetworkPacket(0, pkt)
}

// WritePackets sends the stack's packets. The switch takes them all: what it has no room for is lost on the way.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		f := make([]byte, 0, pkt.Size())
		for _, s := range pkt.AsSlices() {
			f = append(f, s...)
		}
		if l.port.WriteFrame(f) != nil {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// MTU implements stack.LinkEndpoint; the endpoint around it takes the Ethernet header off.
func (l *link) MTU() uint32 { return mtuBytes + header.EthernetMinimumSize }

// Capabilities implements stack.LinkEndpoint: there is no card to leave checksums to.
func (l *link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

func (l *link) LinkAddress() tcpip.LinkAddress { return l.mac }

// The rest of stack.LinkEndpoint has nothing to do.

func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
