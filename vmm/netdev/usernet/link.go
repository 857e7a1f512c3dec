package usernet

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"tandem/vmm/netdev/frame"
)

// link is the stack's end of the cable to the guest. Ethernet headers are made and read by the endpoint around it.
type link struct {
	mtu int // of IP packets, in bytes
	out *frame.Queue

	// segments says that the guest cuts long TCP segments itself, and does without their checksums.
	segments atomic.Bool

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(mtu int, out *frame.Queue) *link { return &link{mtu: mtu, out: out} }

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

// WritePackets queues the stack's packets for the guest, waiting for room: a connection that is too fast is slowed down.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range list.AsSlice() {
		p := make([]byte, frame.HeaderBytes+pkt.Size())
		n := frame.HeaderBytes
		for _, s := range pkt.AsSlices() {
			n += copy(p[n:], s)
		}
		describe(p, pkt)
		if !l.out.Put(p) {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// Fields of struct virtio_net_hdr, and what they say (virtio 1.2 §5.1.6).
const (
	hdrFlags      = 0
	hdrGSOType    = 1
	hdrHdrLen     = 2
	hdrGSOSize    = 4
	hdrCsumStart  = 6
	hdrCsumOffset = 8

	flagNeedsCsum = 1
	gsoTCPv4      = 1
)

// describe says in a packet's header what the stack has left to do: the checksum, and cutting it.
func describe(p []byte, pkt *stack.PacketBuffer) {
	o := &pkt.GSOOptions
	if o.Type != stack.GSOTCPv4 {
		return
	}
	le := binary.LittleEndian
	if o.NeedsCsum {
		p[hdrFlags] = flagNeedsCsum
		le.PutUint16(p[hdrCsumStart:], header.EthernetMinimumSize+o.L3HdrLen)
		le.PutUint16(p[hdrCsumOffset:], o.CsumOffset)
	}
	if pkt.Data().Size() > int(o.MSS) {
		p[hdrGSOType] = gsoTCPv4
		le.PutUint16(p[hdrHdrLen:], uint16(pkt.HeaderSize()))
		le.PutUint16(p[hdrGSOSize:], o.MSS)
	}
}

// SupportedGSO implements stack.GSOEndpoint. A connection keeps what it began with.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.segments.Load() {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize implements stack.GSOEndpoint: the stack leaves some room below it for headers.
func (l *link) GSOMaxSize() uint32 { return maxSegment }

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

// Capabilities implements stack.LinkEndpoint. Checksums of received packets are not looked at: the cable is memory, and
// a guest may leave them to the device.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// MTU implements stack.LinkEndpoint; the endpoint around it takes the Ethernet header off.
func (l *link) MTU() uint32 { return uint32(l.mtu + header.EthernetMinimumSize) }

// The rest of stack.LinkEndpoint has nothing to do.

func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return gatewayMAC }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}

// wanted keeps from the stack what it would answer wrongly: since it stands for every address, it would answer a ping to
// any. Only the network's own addresses are alive.
func wanted(f []byte) bool {
	eth := header.Ethernet(f)
	if eth.Type() != header.IPv4ProtocolNumber {
		return eth.Type() == header.ARPProtocolNumber && wantedARP(f[header.EthernetMinimumSize:])
	}
	ip := header.IPv4(f[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) {
		return false
	}
	dst := hostAddress(ip.DestinationAddress())
	return ip.TransportProtocol() != header.ICMPv4ProtocolNumber || dst == gateway || dst == dns
}

// wantedARP keeps requests for other addresses than the network's own from being answered: a guest probes its address
// before it takes it (RFC 5227 §2.1).
func wantedARP(p []byte) bool {
	a := header.ARP(p)
	if !a.IsValid() || a.Op() != header.ARPRequest {
		return a.IsValid()
	}
	target := tcpip.AddrFromSlice(a.ProtocolAddressTarget())
	return target == stackAddress(gateway) || target == stackAddress(dns)
}
