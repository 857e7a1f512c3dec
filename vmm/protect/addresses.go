package protect

import (
	"net/netip"
	"slices"
	"sync"

	"tandem/lockstep"
	"tandem/vmm"
	"tandem/vmm/netdev/frame"
)

// maxAddresses bounds the addresses that are remembered of a network device.
const maxAddresses = 16

// addresses are those that the guest was seen to use as its own, by network device, so that the network can be told where
// they are when the guest moves.
type addresses struct {
	mu   sync.Mutex
	seen [][]netip.Addr
}

// Offsets in an Ethernet frame of what tells a sender's address.
const (
	etherType     = 12
	etherHeader   = 14
	ipv4Source    = etherHeader + 12
	ipv6Source    = etherHeader + 8
	arpSender     = etherHeader + 14
	typeIPv4      = 0x0800
	typeARP       = 0x0806
	typeIPv6      = 0x86dd
	networkPacket = lockstep.KindFrame
)

// learn takes note of a packet's sender.
func (a *addresses) learn(o vmm.Output) {
	if o.Kind != networkPacket || len(o.Data) < frame.HeaderBytes+etherHeader {
		return
	}
	from, ok := sender(o.Data[frame.HeaderBytes:])
	if !ok || from.IsUnspecified() || from.IsMulticast() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.seen) <= int(o.Device) {
		a.seen = append(a.seen, nil)
	}
	seen := a.seen[o.Device]
	if i := slices.Index(seen, from); i >= 0 {
		return
	}
	if len(seen) == maxAddresses {
		seen = seen[1:]
	}
	a.seen[o.Device] = append(seen, from)
}

// sender returns the network address of a frame's sender.
func sender(f []byte) (netip.Addr, bool) {
	at, n := 0, 4
	switch uint16(f[etherType])<<8 | uint16(f[etherType+1]) {
	case typeIPv4:
		at = ipv4Source
	case typeARP:
		at = arpSender
	case typeIPv6:
		at, n = ipv6Source, 16
	default:
		return netip.Addr{}, false
	}
	if len(f) < at+n {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(f[at : at+n])
}

// announce tells the networks that the guest is behind this host.
func (a *addresses) announce(h *Host, nics int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for nic := range nics {
		var known []netip.Addr
		if nic < len(a.seen) {
			known = slices.Clone(a.seen[nic])
		}
		h.devices(func(d Devices) { d.Announce(nic, known) })
	}
}
