package protect

import (
	"context"
	"errors"

	"tandem/vmm"
)

// Host is one host's part of a pair.
type Host struct{ config Config }

// New checks a configuration and opens what it needs: the listener and the second path.
func New(c Config) (*Host, error) { return &Host{c}, nil }

// RunPrimary runs a machine that is loaded and has no door yet, to its end. The machine is closed whatever happens.
func (h *Host) RunPrimary(ctx context.Context, m *vmm.Machine) (vmm.Cause, error) {
	return 0, errors.Join(errors.New("no driver"), m.Close())
}

// RunBackup waits for a primary and follows it, to the guest's end.
func (h *Host) RunBackup(ctx context.Context) (vmm.Cause, error) { return 0, errors.New("no driver") }

// Protect gives the guest a backup: its address is dialled from now on, before all others.
func (h *Host) Protect(address string) error { return errors.New("no driver") }

// Status tells how the host's part is. It may be called from any goroutine.
func (h *Host) Status() Status { return Status{Guest: h.config.Guest} }

// Close releases what New opened. Run must have returned.
func (h *Host) Close() error { return nil }
