// Package failover has a guest that serves Redis and IMAP on two emulated hosts, takes the hosts away and brings them back.
//
// A Pair is a lab of two hosts and the guest between them. Network 0 carries the log and the heartbeats; network 1 is a
// bridge on each host, with the guest, the second path of the heartbeats, and a client made of Go code that outlives every
// host. What runs on the hosts is tandem as its user would start it. What happens is read from its control socket.
//
// A Pair's methods may be called from any goroutine, but those that start and end things on one Side from one at a time.
package failover
