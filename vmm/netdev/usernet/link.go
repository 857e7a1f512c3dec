package usernet

import (
	"encoding/binary"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"tandem/vmm/netdev/etherlink"
	"tandem/vmm/netdev/frame"
)

// link is the stack's end of the cable to the guest.
type link struct {
	*etherlink.Endpoint
	// segments says that the guest cuts long TCP segments itself, and does without their checksums.
	segments atomic.Bool
}

var _ stack.GSOEndpoint = (*link)(nil)

// newLink returns a link that puts packets of up to mtu bytes into a queue, waiting for room: a connection that is too fast is
// slowed down. Checksums of received packets are not looked at: the cable is memory, and a guest may leave them to the device.
func newLink(mtu int, out *frame.Queue) *link {
	return &link{Endpoint: etherlink.New(etherlink.Config{
		MAC: gatewayMAC, MTUBytes: mtu, Capabilities: stack.CapabilityRXChecksumOffload,
		Send: func(pkt *stack.PacketBuffer) bool {
			p := etherlink.Frame(frame.HeaderBytes, pkt)
			describe(p, pkt)
			return out.Put(p)
		},
	})}
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
