package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"tandem/kvm"
	"tandem/vmm"
)

// backupFlags are the flags of backup.
type backupFlags struct {
	pair            pairFlags
	devices         deviceFlags
	device          string
	console, escape string
}

func newBackupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup --listen ADDR:PORT --keys FOLDER --arbiter SPEC [flags]",
		Short: "Be the second host of a guest, and go on with it when the first is lost",
		Long: `Backup waits for the host that runs the guest, takes a copy of it and follows it, instruction for instruction. When that
host is lost, the guest goes on here, and this host is the primary: it takes a new backup at --listen, or dials one that
tandem protect names.

Memory, processor and the kinds of devices come from the primary. What is behind them on this host is named here, in the
primary's order: --disk for each disk, this host's own replica, made if it does not exist and then filled, or, if the primary's
is shared, the same one; --net for each network device.

A signal ends this host's part in order, and the other host goes on alone at once.

Exit status, wherever the guest ended:
` + statusHelp,
		Example: `  tandem backup --listen :7400 --keys keys/b --arbiter file:/mnt/shared/tandem --guest mail \
    --disk mail.img --net tap,bridge=br0`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return f.run() },
	}
	f.pair.register(cmd)
	f.pair.registerPeer(cmd)
	f.devices.registerHostSide(cmd)
	cmd.Flags().StringVar(&f.device, "kvm", "/dev/kvm", "KVM `device`")
	registerConsole(cmd, &f.console, &f.escape)
	return cmd
}

func (f *backupFlags) run() error {
	spec, err := f.pair.read()
	if err != nil {
		return usage(err)
	}
	if f.pair.listen == "" && len(f.pair.peers) == 0 {
		return usage(errors.New("--listen is missing: name the port at which the primary finds this host, or the primary with --peer"))
	}
	devices, err := f.devices.read()
	if err != nil {
		return usage(err)
	}
	system, err := kvm.Open(f.device)
	if err != nil {
		return incapable(err)
	}
	defer system.Close()
	c, err := openConsoles(f.console, f.devices.virtioConsole, f.escape)
	if err != nil {
		return usage(err)
	}
	cause, err := f.follow(system, spec, devices, c)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tandem: %v\n", cause)
	return endStatus(cause)
}

// follow closes what it opens, and the console, whatever happens.
func (f *backupFlags) follow(system *kvm.System, spec *pairSpec, devices *deviceSpec, c *console) (cause vmm.Cause, err error) {
	defer closing(&err, c.close)
	p, err := openPart(system, spec, devices, c)
	if err != nil {
		return 0, err
	}
	defer closing(&err, p.close)
	cause, err = p.host.RunBackup(p.ctx)
	if err != nil {
		return 0, failure(err)
	}
	return cause, nil
}
