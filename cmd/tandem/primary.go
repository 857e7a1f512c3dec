package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"tandem/kvm"
	"tandem/vmm"
	"tandem/vmm/protect"
)

// readPair reads the flags of a guest that is, or can be, protected, if there are any.
func (s *session) readPair(f *pairFlags, cmd *cobra.Command) error {
	given, err := f.given(cmd)
	if err != nil || !given {
		return err
	}
	if s.stats || s.statsJSON != "" {
		return errors.New("--stats tells of one machine, and a protected guest has several: see tandem status")
	}
	s.pair, err = f.read()
	return err
}

// runPrimary runs the guest as the first host of a pair.
func (s *session) runPrimary(system *kvm.System, g *guest, c *console) (cause vmm.Cause, err error) {
	p, err := openPart(system, s.pair, g.devices, c)
	if err != nil {
		return 0, err
	}
	defer closing(&err, p.close)
	m, err := p.machine(system, g)
	if err != nil {
		return 0, err
	}
	cause, err = p.host.RunPrimary(p.ctx, m) // closes the machine
	if errors.Is(err, protect.ErrElsewhere) {
		return 0, usage(fmt.Errorf("%w: its data are there; start `tandem backup` here, or give --take-guest if that host is gone for good", err))
	}
	if err != nil {
		return 0, failure(err)
	}
	return cause, nil
}

// machine makes the guest's first machine, loaded and without a door.
func (p *part) machine(system *kvm.System, g *guest) (*vmm.Machine, error) {
	config := vmm.Config{MemoryBytes: g.memory, EpochNS: time.Now().UnixNano(), TrapTSC: g.rewritten}
	if err := p.devices.configure(&config); err != nil {
		return nil, usage(err)
	}
	m, err := vmm.New(system, config)
	if err != nil {
		return nil, failure(err)
	}
	if err := m.Load(g.kernel, g.options); err != nil {
		return nil, errors.Join(usage(err), m.Close())
	}
	g.kernel, g.options.Initrd = nil, nil // the guest has them now
	debug.FreeOSMemory()                  // the unpacked kernel is several times what this program needs from here on
	return m, nil
}
