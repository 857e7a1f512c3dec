package main

import (
	"encoding/binary"
	"net/netip"

	"tandem/vmm/netdev/frame"
)

// EtherTypes and lengths of what a guest that has moved announces.
const (
	etherARP  = 0x0806
	etherRARP = 0x8035
	etherIPv6 = 0x86dd

	minEtherBytes = 60 // the shortest Ethernet frame, without its checksum
	etherBytes    = 14
	arpBytes      = 28
	ipv6Bytes     = 40
	naBytes       = 32 // with one option

	arpRequest   = 1
	rarpRequest  = 3
	icmpv6       = 58
	icmpv6NA     = 136
	naOverride   = 0x20
	naTargetLink = 2 // the option "target link-layer address"
)

// maxAnnounced bounds the addresses that are announced for a network device.
const maxAnnounced = 64

var (
	etherBroadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	etherAllNodes  = [6]byte{0x33, 0x33, 0, 0, 0, 1} // RFC 2464 §7 of ff02::1
	ipv6AllNodes   = netip.MustParseAddr("ff02::1")
)

// announcements are the frames by which a network learns where a guest's addresses are now: an ARP announcement for each
// IPv4 address (RFC 5227 §3), an unsolicited neighbour advertisement for each IPv6 one (RFC 4861 §7.2.6). Without an address
// it is a RARP request (RFC 903), which tells switches where the MAC address is and nobody else anything.
func announcements(mac [6]byte, addresses []netip.Addr) [][]byte {
	var frames [][]byte
	for _, a := range addresses {
		a = a.Unmap().WithZone("")
		switch {
		case len(frames) == maxAnnounced:
			return frames
		case !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast():
		case a.Is4():
			frames = append(frames, arpFrame(etherARP, arpRequest, mac, [6]byte{}, a.As4()))
		default:
			frames = append(frames, advertisement(mac, a))
		}
	}
	if frames == nil {
		frames = append(frames, arpFrame(etherRARP, rarpRequest, mac, mac, [4]byte{}))
	}
	return frames
}

func etherHead(size int, to, from [6]byte, kind uint16) []byte {
	f := make([]byte, max(size, minEtherBytes))
	copy(f[0:], to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], kind)
	return f
}

// arpFrame is an ARP or RARP packet about one's own address (RFC 826, RFC 903).
func arpFrame(kind, operation uint16, mac, target [6]byte, address [4]byte) []byte {
	f := etherHead(etherBytes+arpBytes, etherBroadcast, mac, kind)
	p := f[etherBytes:]
	binary.BigEndian.PutUint16(p[0:], 1)      // Ethernet
	binary.BigEndian.PutUint16(p[2:], 0x0800) // IPv4
	p[4], p[5] = 6, 4                         // lengths of their addresses
	binary.BigEndian.PutUint16(p[6:], operation)
	copy(p[8:], mac[:])
	copy(p[14:], address[:])
	copy(p[18:], target[:])
	copy(p[24:], address[:])
	return f
}

// advertisement is an unsolicited neighbour advertisement (RFC 4861 §4.4), with the override flag: caches are to forget the
// link-layer address that they have.
func advertisement(mac [6]byte, address netip.Addr) []byte {
	f := etherHead(etherBytes+ipv6Bytes+naBytes, etherAllNodes, mac, etherIPv6)
	ip, own, all := f[etherBytes:], address.As16(), ipv6AllNodes.As16()
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:], naBytes)
	ip[6], ip[7] = icmpv6, 255 // a router lowers the hop limit, so 255 is from this link
	copy(ip[8:], own[:])
	copy(ip[24:], all[:])
	na := ip[ipv6Bytes:]
	na[0] = icmpv6NA
	na[4] = naOverride
	copy(na[8:], own[:])
	na[24], na[25] = naTargetLink, 1 // in units of 8 bytes
	copy(na[26:], mac[:])
	binary.BigEndian.PutUint16(na[2:], icmpv6Checksum(ip[8:40], na))
	return f
}

// icmpv6Checksum is the Internet checksum over the pseudo-header of RFC 8200 §8.1 and a message of which the checksum is zero.
func icmpv6Checksum(addresses, message []byte) uint16 {
	sum := uint32(len(message)) + icmpv6
	for _, part := range [][]byte{addresses, message} {
		for i := 0; i < len(part); i += 2 { // both have an even length
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// send puts frames on a network as if the guest had sent them.
func (n *networkCard) send(frames [][]byte) {
	for _, f := range frames {
		n.backend.Output(frame.Plain(f))
	}
}
