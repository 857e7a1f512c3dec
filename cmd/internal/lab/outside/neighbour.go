package outside

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// follow forgets where an address was if a frame says that it is elsewhere now: an announcement (RFC 5227 §3), which
// is an ARP request or reply that names its sender as its target. The stack itself heeds neither kind.
func (c *Client) follow(f []byte) {
	if len(f) < header.EthernetMinimumSize+header.ARPSize || header.Ethernet(f).Type() != header.ARPProtocolNumber {
		return
	}
	a := header.ARP(f[header.EthernetMinimumSize:])
	if !a.IsValid() || string(a.ProtocolAddressSender()) != string(a.ProtocolAddressTarget()) {
		return
	}
	addr, at := tcpip.AddrFrom4Slice(a.ProtocolAddressSender()), tcpip.LinkAddress(a.HardwareAddressSender())
	known, err := c.stack.Neighbors(nic, ipv4.ProtocolNumber)
	if err != nil {
		return
	}
	for _, n := range known {
		if n.Addr == addr && n.LinkAddr != at {
			_ = c.stack.RemoveNeighbor(nic, ipv4.ProtocolNumber, addr) // it may be gone already
		}
	}
}
