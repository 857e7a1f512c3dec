package lockstep

// Door is where everything enters the machine that is not decided by the guest itself. There is one implementation for
// a machine whose inputs come from the world, one that logs them too, and one that has them from the log alone; nothing
// behind the door can tell which it is.
//
// All methods are called by the goroutine that owns the machine.
type Door interface {
	Clock

	// At says that the machine stands at position p: exit p is being handled, or is complete.
	At(p Position)

	// Time returns the guest clock in ns without sampling it: the latest value that Now or a tick gave.
	Time() int64

	// Next returns the next input to apply at the present position, or false if there is none. The machine calls it until
	// it returns false, applying each input before it asks again.
	Next(w Waiting) (Input, bool)

	// Pending tells whether something has happened since the last Next, so that the machine must not enter the guest but
	// look again. After the machine has declared that it enters the guest, whatever happens makes a kick instead.
	Pending() bool

	// Wait returns when Next may have an input to give, or when the machine is to look up for another reason. The guest
	// is halted and cannot go on without an input.
	Wait(w Waiting)
}

// Waiting is what the machine is ready for at a position.
type Waiting struct {
	// Deadline is the guest time in ns of the machine's earliest timer, if Armed.
	Deadline int64
	Armed    bool
	// Room tells how much a device can take now: bytes for a stream (KindConsole), any positive number for one whole
	// input of another kind, 0 for nothing. It depends on the machine's state alone.
	Room func(kind Kind, device uint8) int
}
