// Package doctor finds out what a host's KVM can do, by running guests of a few instructions on it and looking at what
// becomes of them: a host may offer every capability and still interpret guest code, lack instructions, or let user code
// see the host's CPUID.
//
// [Examine] makes every probe and returns a [Report]; [CanRunLinux] makes the few that tell a host that cannot run Linux.
// Both stay on the calling goroutine, which they lock to its thread, and leave nothing behind: each probe has a machine of
// its own, of 1 MiB, that no other package knows.
//
// The probes' programs are machine code beside the assembly text it was made from; a test holds them against each other.
package doctor
