// Package control is how a person or a script talks to a running tandem: a unix socket on its host that tells the status of
// the guest's pair, gives the guest a backup and ends this host's part.
//
// # Contract
//
// Whoever may write to the socket is obeyed. It is made with mode 0600, so that is its user and root; nothing else proves
// who asks. The socket never comes in another's way: a path at which a program listens is refused, and what is left there
// of one that has died is replaced. It is gone when the server is closed.
//
// A stranger's harm is bounded: so many connections, so many bytes in a request, so much time for it.
//
// # Goroutines
//
// A Server has a goroutine for each connection and one that accepts. A Handler is called from any of them, several at the
// same time. A Client belongs to one goroutine.
//
// # Format
//
// A request is one line of JSON, and so is its answer; a connection carries any number of them, one after the other:
//
//	{"v":1,"verb":"status"}                          {"v":1,"status":{…}}      package protect's Status
//	{"v":1,"verb":"protect","address":"hostb:7400"}  {"v":1}                   from now on this backup is dialled
//	{"v":1,"verb":"stop"}                            {"v":1}                   this host's part ends in order
//	anything else                                    {"v":1,"error":"…"}       and why not, in one line
//
// v is the format's version. A member that a request's verb does not have is an error; a client skips what it does not
// know, so that a newer server may tell more.
package control
