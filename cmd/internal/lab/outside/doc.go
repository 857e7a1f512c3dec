// Package outside makes a host on a lab's network out of Go code: a client, or
// a server, that outlives every emulated host, in the process of the test
// itself.
//
// A Client is a TCP/IP stack of its own (gVisor's) with one card, plugged into a
// port of an ether.Switch, and one IPv4 address. It is meant to be on the far
// end of connections while a host dies and another takes over, so it is patient
// and quick: a connection is given up only after minutes of silence, and what is
// lost is sent again every fifth of a second. Checksums of what it receives are
// verified: a frame that a host left to its card to finish doesn't get through.
//
// All methods may be called from any goroutine. One goroutine belongs to a
// Client: it brings frames from the port to the stack, and ends the stack when
// the port is closed.
package outside
