package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tandem/kvm"
	"tandem/lockstep/arbiter"
	"tandem/vmm/control"
	"tandem/vmm/protect"
)

// part is this host's part of a pair, with all that has to be open for it.
type part struct {
	// ctx ends when this host is to leave the pair in order.
	ctx   context.Context
	leave context.CancelFunc

	console *console
	display *display
	devices *hostDevices
	arbiter arbiter.Arbiter
	host    *protect.Host
	server  *control.Server
}

// openPart opens everything but a machine. On failure nothing stays open.
func openPart(system *kvm.System, s *pairSpec, devices *deviceSpec, c *console) (*part, error) {
	p := &part{console: c, display: newDisplay(os.Stderr, s.json)}
	p.ctx, p.leave = context.WithCancel(context.Background())
	if err := p.open(system, s, devices); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *part) open(system *kvm.System, s *pairSpec, devices *deviceSpec) (err error) {
	slog.SetDefault(p.display.log) // of parts of the machine that are given none
	if p.arbiter, err = openArbiter(p.ctx, s.arbiter, s.config.Guest); err != nil {
		return err
	}
	if s.config.UnsafeWithoutArbiter {
		p.display.log.Warn("there is no arbiter: if the hosts lose each other while both are there, the guest runs twice")
	}
	if p.devices, err = openHostDevices(devices, p, p.display.log); err != nil {
		return usage(err)
	}
	p.devices.warnUserNetworks()
	c := s.config
	c.System, c.Arbiter, c.Devices, c.Log, c.Progress = system, p.arbiter, p.devices, p.display.log, p.display.update
	if p.host, err = protect.New(c); err != nil {
		return pairUsage(err)
	}
	if err := s.makeControlFolder(); err != nil {
		return usage(err)
	}
	if p.server, err = control.Serve(s.control, controlled{p.host, p.leave}, p.display.log, 0); err != nil {
		return usage(fmt.Errorf("--control: %w", err))
	}
	p.leaveOnSignals()
	return nil
}

// pairUsage says what is wrong with an address that can't be listened at.
func pairUsage(err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w: another program has this port; name another one with --listen or --heartbeat", err)
	}
	return usage(err)
}

func (s *pairSpec) makeControlFolder() error {
	if !s.ownFolder {
		return nil
	}
	folder := filepath.Dir(s.control)
	err := os.MkdirAll(folder, 0o700)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s can't be made by this user: name a socket with --control", folder)
	}
	return err
}

// close closes what is open. All machines have ended.
func (p *part) close() error {
	p.leave()
	var errs []error
	if p.server != nil {
		errs = append(errs, p.server.Close())
	}
	if p.host != nil {
		errs = append(errs, p.host.Close())
	}
	if p.devices != nil {
		errs = append(errs, p.devices.close())
	}
	if p.arbiter != nil {
		errs = append(errs, p.arbiter.Close())
	}
	p.display.close()
	return errors.Join(errs...)
}

// leaveOnSignals makes the usual signals end this host's part in order, so that its peer goes on alone at once. A second one
// ends the program as it stands.
func (p *part) leaveOnSignals() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		s := <-signals
		p.display.log.Info("this host leaves the pair", "signal", s.String())
		p.leave()
		<-signals
		p.console.restore()
		os.Exit(statusStopped)
	}()
}

// controlled does what the control socket asks for.
type controlled struct {
	*protect.Host
	leave func()
}

// Protect implements control.Handler.
func (c controlled) Protect(address string) error {
	if err := checkAddress(address, false); err != nil {
		return fmt.Errorf("%q: %w", address, err)
	}
	return c.Host.Protect(address)
}

// Stop implements control.Handler.
func (c controlled) Stop() { c.leave() }
