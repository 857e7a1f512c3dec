// Package arbiter decides which of a pair's hosts may be live, where the two can't ask each other.
//
// # Contract
//
// A guest's life is cut into terms 1, 2, 3, …; in each, one host is live. Whoever wants to be live in a term claims it at
// the arbiter by an atomic test-and-set: of all that ever claim a term of a guest, one wins, and a claim of a term is lost
// once that term or a later one was won by another. A claim is never given back and does not expire, so a host that was cut
// off for a year still loses its term. A claim is repeatable: the winner that asks again, as it must after an unknown
// outcome, wins again. An owner's name must therefore be unique to one run of the program on one host.
//
// The answer is one of three: won; lost, with the holder; or an error, upon which the host is not live, and may ask again.
// ErrUnreachable says that the arbiter gave no answer: the claim may still have been made, or be made later.
//
// Both hosts must ask the same arbiter. Identity names it; the hosts compare that when they join.
//
// # Two arbiters
//
// File keeps claims in a folder on storage that both hosts share. Package etcd (below this one) keeps them in etcd. Unsafe
// is none, for those who want to go without.
//
// An arbiter may be used from several goroutines.
//
// # Format of a claim
//
// A claim is text of at most MaxClaimBytes, in a file or in etcd, so that a person can read it:
//
//	tandem-claim 1
//	guest mail
//	term 7
//	owner hostb-5f0c2a
//	at 2026-01-02T15:04:05Z
//	crc32c 89abcdef
//
// The checksum is that of the lines before it. The form is canonical: bytes that decode encode to themselves.
package arbiter
