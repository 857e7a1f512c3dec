package vmm

import "fmt"

// Cause says how a guest came to its end.
type Cause uint8

const (
	// CauseHalt is HLT with interrupts off: nothing can wake the processor. It is what a kernel without ACPI does when it
	// powers off.
	CauseHalt Cause = iota + 1
	// CauseReset is a reset through the keyboard controller, port 0x92 or the reset control register: a reboot.
	CauseReset
	// CauseTripleFault is a fault while a double fault was delivered (SDM vol. 3 §6.15): a crash, or a reboot of last resort.
	CauseTripleFault
	// CauseStopped is a stop by the VMM: the user left, or a signal came.
	CauseStopped
	// CauseLogEnd is the end of the log that the machine followed.
	CauseLogEnd
)

func (c Cause) String() string {
	switch c {
	case CauseHalt:
		return "the guest powered off (halted with interrupts off)"
	case CauseReset:
		return "the guest reset the machine"
	case CauseTripleFault:
		return "the guest crashed (triple fault)"
	case CauseStopped:
		return "stopped by the VMM"
	case CauseLogEnd:
		return "the log ends here"
	}
	return fmt.Sprintf("cause %d", uint8(c))
}
