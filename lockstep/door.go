package lockstep

import "tandem/lockstep/wire"

// Door is where everything enters the machine that is not decided by the guest itself. There are three: [Live], whose
// inputs come from the world, [Recorder], which logs them too, and [Replayer], which has them from the log alone.
// Nothing behind the door can tell which it is.
//
// All methods are called by the goroutine that owns the machine.
type Door interface {
	Clock

	// At says that the machine stands at position p: exit p is about to be handled. It is called once for each position.
	At(p Position)

	// Exit gives the running hash of all exits up to the present position and the registers at it.
	Exit(hash uint64, registers *wire.Registers)

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

	// Interrupted is asked when the host has taken the vCPU out of the guest between two exits. inProgram tells whether
	// the guest runs a program, not its kernel; finding that out costs a system call.
	Interrupted(inProgram func() bool) Interruption

	// Stopped logs the machine's state at a forced stop; a part at a time, of which the last says so. Inputs may enter
	// then, after a new call of Next.
	Stopped(part []byte, last bool)

	// Err returns the first failure of the door: a log that can't be written, or one that the machine does not follow.
	// Once there is one the machine must stop.
	Err() error
}

// Interruption says what the machine is to do where the host has interrupted the guest between two exits.
type Interruption uint8

const (
	// GoOn enters the guest again: nothing may enter the machine here.
	GoOn Interruption = iota
	// Look lets inputs enter here: nobody will have to find the instant again.
	Look
	// Stop makes a forced stop: the machine hands its state to Stopped, and then inputs may enter.
	Stop
)

// Waiting is what the machine is ready for at a position.
type Waiting struct {
	// Deadline is the guest time in ns of the machine's earliest timer, if Armed.
	Deadline int64
	Armed    bool
	// Room tells how much of an input its device can take now: bytes for a stream (KindConsole), any positive number for
	// another kind as a whole, 0 for nothing yet, a negative number if it will never be wanted and can be dropped. It
	// depends on the machine's state and the input alone, and changes neither.
	Room func(kind Kind, device uint8, payload []byte) int
}
