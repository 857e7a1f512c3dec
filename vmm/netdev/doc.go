// Package netdev has the back ends of network devices: where a guest's frames go, and where frames for it come from.
//
// Contract: the machine hands each packet that its guest sends to [Backend.Output], which never waits and keeps the slice.
// The back end hands packets for the guest to the post function that it was opened with, from goroutines of its own; post
// may wait, and fails when the machine has ended. The form of a packet is that of package tandem/vmm/netdev/frame.
//
// A back end never stalls the guest and never grows without bound: between it and the machine stands a queue in either
// direction. What a stalled back end does not take is dropped, as on a wire. A back end that has lost its network (a tap
// that was removed, a hub that is gone) says so once in the log, drops what the guest sends, and says when it is back.
//
// Kinds, as [Parse] reads them:
//
//	none                              nothing: frames vanish
//	user[,forward=[ADDR:]PORT:GUEST]…[,loopback]
//	                                  sockets of this process; no root; see package usernet
//	tap,bridge=NAME[,ifname=NAME]     a tap interface on a bridge of the host; needs CAP_NET_ADMIN
//	hub,path=SOCKET                   a unix socket that carries frames; see [Hub]
//
// Each takes mac=ADDR and mtu=BYTES too.
package netdev
