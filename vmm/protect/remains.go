package protect

import (
	"log/slog"

	"tandem/kvm"
	"tandem/vmm"
)

// remains are what is left of a machine that this host had: its memory, which the next transfer compares with the guest's. It is
// kept as long as this host is to be the backup, which needs as much for the guest anyway.
type remains struct {
	closed chan struct{} // closed when the machine is, and its files are free
	// memory is set before closed is closed, and taken by whoever comes next. It may be nil.
	memory *kvm.Memory
}

func newRemains() *remains { return &remains{closed: make(chan struct{})} }

// keep closes a machine but its memory.
func (r *remains) keep(m *vmm.Machine, log *slog.Logger) {
	memory, err := m.CloseButMemory()
	if err != nil {
		log.Warn("closing the guest's machine", "cause", err)
	}
	r.memory = memory
}

// wait waits until the machine is closed. Of nothing, nothing is left.
func (r *remains) wait() {
	if r != nil {
		<-r.closed
	}
}

// take returns the memory, which is the caller's now, or nil. The machine is closed.
func (r *remains) take() *kvm.Memory {
	if r == nil {
		return nil
	}
	memory := r.memory
	r.memory = nil
	return memory
}

// discard closes what is left.
func (r *remains) discard(log *slog.Logger) {
	if memory := r.take(); memory != nil {
		if err := memory.Close(); err != nil {
			log.Warn("closing the guest's memory", "cause", err)
		}
	}
}
