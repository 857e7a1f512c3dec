// Package usernet is a network for one guest, made of ordinary sockets of the host: no root, no tap, no route.
//
// # What the guest sees
//
// One Ethernet segment, 10.0.2.0/24, as other user-mode networks have it:
//
//	10.0.2.2   gateway; answers ping. With Config.Loopback it is the host's 127.0.0.1
//	10.0.2.3   name server; hands queries to the host's own, over UDP and TCP
//	10.0.2.15  the guest, by DHCP
//
// TCP and UDP to other addresses go out through sockets of this process, so the guest reaches what the user who runs it
// reaches, except the host's loopback and link-local addresses. ICMP goes no further than the gateway. There is no IPv6.
//
// Config.Forwards opens TCP ports of the host that lead to ports of the guest.
//
// # Ownership, and bounds
//
// The guest's packets are handed to [Network.Output], which never waits: they wait in a queue, and what does not fit is
// dropped, as on a wire. Packets for the guest wait in a second queue; when it is full, the connections wait, and so do
// their peers by TCP's own means. Connections, flows and queries are bounded by the constants beside them.
//
// A guest whose driver takes long TCP segments gets them, up to 64 KiB in a packet: see [Network.SetSegments].
//
// The stack is gVisor's pkg/tcpip. A guest's packets may be anything: the stack takes them as those of a hostile network.
package usernet
