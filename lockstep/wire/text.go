package wire

import (
	"fmt"
	"strings"
)

const nsPerSecond = 1_000_000_000

// previewBytes is how much of a payload a record's text shows.
const previewBytes = 24

// String returns a line that tells what a record is, for people.
func (r *Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d exit %d %v", r.Sequence, r.Position, r.Kind)
	switch r.Kind {
	case KindClock:
		fmt.Fprintf(&b, " %s", guestTime(r.Time))
	case KindConsole, KindFrame, KindDisk, KindRandom:
		fmt.Fprintf(&b, " %d: %d bytes%s", r.Device, len(r.Payload), r.preview())
	case KindDigest:
		fmt.Fprintf(&b, " %016x at %s", r.Hash, guestTime(r.Time))
		if r.Registers != nil {
			for i, v := range r.Registers {
				fmt.Fprintf(&b, " %s=%x", RegisterNames[i], v)
			}
		}
	case KindDelta:
		fmt.Fprintf(&b, ": %d bytes", len(r.Payload))
		if !r.Last {
			b.WriteString(", more follows")
		}
	case KindMemory:
		fmt.Fprintf(&b, ": hashes of %d pages from %#x", r.PageHashes(), r.Number)
	case KindDevices:
		fmt.Fprintf(&b, ": hashes of %d devices", r.PageHashes())
	case KindCheckpoint:
		fmt.Fprintf(&b, " %d at %s", r.Number, guestTime(r.Time))
	case KindOutput:
		fmt.Fprintf(&b, " to %v %d: %d bytes, hash %016x", r.Of, r.Device, r.Length, r.Hash)
	case KindEnd:
		fmt.Fprintf(&b, " at %s: %v", guestTime(r.Time), r.Cause)
		if len(r.Payload) > 0 {
			fmt.Fprintf(&b, " (%q)", r.Payload)
		}
	}
	return b.String()
}

// preview returns the start of the payload behind a space: text for a console, hexadecimal otherwise.
func (r *Record) preview() string {
	p, more := r.Payload, ""
	if len(p) == 0 {
		return ""
	}
	if len(p) > previewBytes {
		p, more = p[:previewBytes], "…"
	}
	if r.Kind == KindConsole {
		return fmt.Sprintf(" %q%s", p, more)
	}
	return fmt.Sprintf(" %x%s", p, more)
}

// guestTime shows ns to the nanosecond, for a log is read to compare times.
func guestTime(ns int64) string {
	return fmt.Sprintf("%d.%09ds", ns/nsPerSecond, ns%nsPerSecond)
}
