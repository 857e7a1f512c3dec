package main

import (
	"fmt"

	"tandem/vmm"
)

// Exit statuses. Scripts rely on them: they are never renumbered.
const (
	statusOK            = 0  // done; for a guest: it powered off
	statusFailure       = 1  // the host failed
	statusUsage         = 2  // a flag or a file is wrong
	statusIncapable     = 3  // this host's KVM can't do what was asked for
	statusDiverged      = 4  // a replay is not what was recorded
	statusLogIncomplete = 5  // a log was replayed to its last good record, and has no end
	statusReset         = 10 // the guest reset the machine
	statusTripleFault   = 11 // the guest crashed
	statusStopped       = 12 // the user or a signal stopped the VMM
)

const statusHelp = `   0  the guest powered off
   1  the host failed
   2  a flag or a file is wrong
   3  this host's KVM can't do what was asked for (tandem doctor says why)
   4  the guest differs from its recording or its copy: the first difference is named
   5  a log is cut off or damaged, and was followed up to its last good record
  10  the guest reset the machine (reboot)
  11  the guest crashed (triple fault)
  12  stopped by the user or a signal
`

// statusError is an error with the exit status that it makes. Without err there is nothing to print.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

func failure(err error) error   { return &statusError{statusFailure, err} }
func usage(err error) error     { return &statusError{statusUsage, err} }
func incapable(err error) error { return &statusError{statusIncapable, err} }

// endStatus returns the error that carries a guest's end as an exit status; nil for a power-off.
func endStatus(cause vmm.Cause) error {
	switch cause {
	case vmm.CauseHalt:
		return nil
	case vmm.CauseReset:
		return &statusError{status: statusReset}
	case vmm.CauseTripleFault:
		return &statusError{status: statusTripleFault}
	}
	return &statusError{status: statusStopped}
}
