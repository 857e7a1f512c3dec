// Package protect is one host's part of a pair: it joins the protocol core (lockstep/pair), the authenticated connection
// (lockstep/link), the arbiter (lockstep/arbiter) and a machine.
package protect
