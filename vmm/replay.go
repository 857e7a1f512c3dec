package vmm

import "tandem/lockstep/wire"

func (m *Machine) replayEnded(cause wire.Cause) error { m.ended = CauseStopped; return nil }
