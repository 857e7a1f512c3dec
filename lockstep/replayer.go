package lockstep

import (
	"errors"
	"fmt"
	"strings"

	"tandem/lockstep/wire"
)

// Source gives the records of a log in order. io.EOF ends it; any other error says how it is damaged. The record's
// payload is valid until the next call. *wire.Reader is one.
type Source interface {
	Next(r *wire.Record) error
}

// Replayer is the door of a machine whose inputs come from a log alone.
type Replayer struct {
	source   Source
	next     wire.Record
	have     bool  // next is a record that has not been used
	ended    error // the source's last word, io.EOF or how the log is damaged
	position Position
	time     int64
	sampled  bool
	err      error
	recent   [recentRecords]wire.Record // without payloads; for the report of a divergence
	used     uint64
	// onUse, if not nil, is called with how many records have been used when another is wanted: what came of them has been
	// compared then. told is what it was last called with.
	onUse func(used uint64)
	told  uint64
	// present tells the guest time of a machine that may have to go on without its log: the end of the records, however it
	// came, is then no failure. It is nil for a machine that only ever repeats.
	present func() int64
	// lead is in ns how far the log's clock was seen ahead of present: the machine began to follow it so much later.
	lead    int64
	payload []byte // of the input given last: reading on in the log overwrites the record's own
}

// recentRecords is how many records a divergence lists.
const recentRecords = 8

// Divergence says that a machine does not go the way that the log says.
type Divergence struct {
	Position Position
	What     string
	// Guest says what the guest was doing: the exit at Position, and where in its code that is. The machine fills it in.
	Guest string
	// Differ names each general register, device or page that differs, as far as the log tells.
	Differ []string
	// Recent lists the last records used, oldest first.
	Recent []string
}

func (d *Divergence) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "diverged from the log at exit %d: %s", d.Position, d.What)
	if d.Guest != "" {
		fmt.Fprintf(&b, "\n  the guest: %s", d.Guest)
	}
	for _, r := range d.Differ {
		fmt.Fprintf(&b, "\n  %s", r)
	}
	if len(d.Recent) > 0 {
		fmt.Fprintf(&b, "\n  last records: %s", strings.Join(d.Recent, ", "))
	}
	return b.String()
}

// NewReplayer returns a door whose guest clock stands at base ns, at the given position.
func NewReplayer(base int64, at Position, source Source) *Replayer {
	return &Replayer{source: source, time: base, position: at}
}

// NewFollower returns a door like a Replayer's for a machine that follows another one as it runs, and may have to go on
// alone: however the source ends, the machine is told of the end where all that has come is used. present tells the guest
// time from then on.
//
// used, if not nil, is called by the machine's goroutine with how many records it is done with, whenever it wants another.
func NewFollower(base int64, at Position, source Source, present func() int64, used func(records uint64)) *Replayer {
	return &Replayer{source: source, time: base, position: at, present: present, onUse: used}
}

// Used returns how many records have been used.
func (r *Replayer) Used() uint64 { return r.used }

// Present returns the guest time as it would be if the machine whose log is followed were still running, in ns.
func (r *Replayer) Present() int64 {
	if r.present == nil {
		return r.time
	}
	return max(r.time, r.present()+r.lead)
}

// setTime takes a guest time from the log.
func (r *Replayer) setTime(ns int64) {
	r.time = ns
	if r.present != nil {
		r.lead = max(r.lead, ns-r.present())
	}
}

// peek returns the next record that has not been used, or nil at the log's end.
func (r *Replayer) peek() *wire.Record {
	if !r.have && r.ended == nil {
		if r.onUse != nil && r.err == nil && r.used > r.told {
			r.told = r.used
			r.onUse(r.used)
		}
		if r.ended = r.source.Next(&r.next); r.ended == nil {
			r.have = true
		}
	}
	if !r.have {
		return nil
	}
	return &r.next
}

// use takes the record that peek returned.
func (r *Replayer) use() {
	r.have = false
	kept := r.next
	kept.Payload, kept.Registers = nil, nil
	r.recent[r.used%recentRecords] = kept
	r.used++
}

func (r *Replayer) diverge(format string, args ...any) *Divergence {
	d := &Divergence{Position: r.position, What: fmt.Sprintf(format, args...), Recent: r.Recent()}
	if r.err == nil {
		r.err = d
	}
	return d
}

// Recent describes the last records used, oldest first.
func (r *Replayer) Recent() []string {
	var all []string
	for i := r.used - min(r.used, recentRecords); i < r.used; i++ {
		rec := &r.recent[i%recentRecords]
		all = append(all, fmt.Sprintf("%v at exit %d", rec.Kind, rec.Position))
	}
	return all
}

// At implements Door.
func (r *Replayer) At(p Position) {
	if rec := r.peek(); rec != nil && rec.Position < uint64(p) {
		r.diverge("the log has a %v at exit %d that the machine did not take", rec.Kind, rec.Position)
	}
	r.position = p
	r.sampled = false
}

// Now implements Clock.
func (r *Replayer) Now() int64 {
	if r.sampled || r.err != nil {
		return r.time
	}
	r.sampled = true
	rec := r.peek()
	switch {
	case rec == nil:
		// The log was cut off: Next will say so. A machine that only repeats gets no further.
		r.time = r.Present()
	case rec.Kind != KindClock || rec.Position != uint64(r.position):
		r.diverge("the machine reads the clock, the log has a %v at exit %d", rec.Kind, rec.Position)
	default:
		r.setTime(rec.Time)
		r.use()
	}
	return r.time
}

// Exit implements Door.
func (r *Replayer) Exit(hash uint64, registers *wire.Registers) {
	rec := r.peek()
	if r.err != nil || rec == nil || rec.Kind != wire.KindDigest || rec.Position != uint64(r.position) {
		return
	}
	r.use()
	if rec.Hash == hash {
		return
	}
	d := r.diverge("the digest of all exits is %#x, the log's is %#x", hash, rec.Hash)
	if rec.Registers == nil {
		return
	}
	for i, logged := range rec.Registers {
		if registers[i] != logged {
			d.Differ = append(d.Differ, fmt.Sprintf("%s is %#x, was %#x", wire.RegisterNames[i], registers[i], logged))
		}
	}
}

// Time implements Door.
func (r *Replayer) Time() int64 { return r.time }

// Next implements Door. A delta comes as one input, its parts joined.
func (r *Replayer) Next(w Waiting) (Input, bool) {
	if r.err != nil {
		return Input{}, false
	}
	rec := r.peek()
	if rec == nil {
		return r.logEnded()
	}
	if rec.Position != uint64(r.position) {
		return Input{}, false
	}
	switch rec.Kind {
	case KindClock: // the clock leapt to the present after the host had been away
		r.setTime(rec.Time)
		r.sampled = true
	case KindCheckpoint:
		r.sampled = false
	case wire.KindDigest:
		r.diverge("the log has a %v that the machine did not take", rec.Kind)
		return Input{}, false
	case KindTick:
		if !w.Armed {
			r.diverge("the log has a tick, but no timer of the machine is running")
			return Input{}, false
		}
		r.time = max(r.time, w.Deadline)
	case KindDelta:
		return r.delta()
	case KindConsole, KindFrame, KindDisk, KindRandom, KindPower:
		if n := w.Room(rec.Kind, rec.Device, rec.Payload); n <= 0 || rec.Kind == KindConsole && n < len(rec.Payload) {
			r.diverge("the log has a %v of %d bytes for device %d, which has room for %d", rec.Kind, len(rec.Payload), rec.Device, n)
			return Input{}, false
		}
	}
	r.payload = append(r.payload[:0], rec.Payload...)
	in := Input{
		Kind: rec.Kind, Device: rec.Device, Payload: r.payload, Number: rec.Number, Cause: rec.Cause,
		Of: rec.Of, Length: rec.Length, Hash: rec.Hash,
	}
	r.use()
	return in, true
}

// ErrLogIncomplete says that a log ends before its machine did: it was cut off or is damaged. The replay stands at its
// last good record, which is as far as it can be known.
var ErrLogIncomplete = errors.New("the replay can't go on")

// logEnded fails at the position of the last record of a log that has no end: what the guest was given after that is not
// known.
func (r *Replayer) logEnded() (Input, bool) {
	if r.present != nil {
		return Input{Kind: KindEnd}, true // without a cause: the other machine was lost
	}
	if r.err == nil {
		r.err = r.incomplete()
	}
	return Input{}, false
}

func (r *Replayer) incomplete() error {
	return fmt.Errorf("%w behind exit %d: %w", ErrLogIncomplete, r.position, r.ended)
}

// End tells why the log ends, for a guest that has ended by itself at the present position, where the log must end too.
func (r *Replayer) End() (wire.Cause, error) {
	rec := r.peek()
	for rec != nil && rec.Kind == KindOutput && rec.Position == uint64(r.position) { // the guest's last words
		r.use()
		rec = r.peek()
	}
	switch {
	case rec == nil:
		return 0, r.incomplete()
	case rec.Kind != KindEnd || rec.Position != uint64(r.position):
		return 0, r.diverge("the guest has ended, the log goes on with a %v at exit %d", rec.Kind, rec.Position)
	}
	cause := rec.Cause
	r.use()
	return cause, nil
}

// delta joins a delta's parts.
func (r *Replayer) delta() (Input, bool) {
	var joined []byte
	for {
		rec := r.peek()
		if rec == nil || rec.Kind != KindDelta || rec.Position != uint64(r.position) {
			if rec == nil {
				return r.logEnded()
			}
			r.diverge("the log has a delta without an end")
			return Input{}, false
		}
		if len(joined)+len(rec.Payload) > maxDeltaBytes {
			r.err = fmt.Errorf("the log has a delta of more than %d MiB at exit %d: the log is damaged", maxDeltaBytes>>20, r.position)
			return Input{}, false
		}
		joined = append(joined, rec.Payload...)
		last := rec.Last
		r.use()
		if last {
			r.sampled = false
			return Input{Kind: KindDelta, Payload: joined}, true
		}
	}
}

// maxDeltaBytes bounds what is joined of one forced stop's delta.
const maxDeltaBytes = 1 << 30

// Pending implements Door: everything that a replay waits for is in the log already.
func (r *Replayer) Pending() bool { return false }

// Wait implements Door. A guest that is halted where the log has no input for it can't be where the log was made.
func (r *Replayer) Wait(Waiting) {
	if r.err != nil {
		return
	}
	if rec := r.peek(); rec != nil {
		r.diverge("the guest is halted and waits for an input, the log's next record is a %v at exit %d", rec.Kind, rec.Position)
	}
}

// Interrupted implements Door: nothing enters between two exits but by the log.
func (r *Replayer) Interrupted(func() bool) Interruption { return GoOn }

// Stopped implements Door. It is never called, since Interrupted never asks for a stop.
func (r *Replayer) Stopped([]byte, bool) { panic("lockstep: forced stop of a replaying machine") }

// Err implements Door.
func (r *Replayer) Err() error { return r.err }
