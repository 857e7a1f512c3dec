package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"tandem/lockstep/arbiter"
	"tandem/lockstep/arbiter/etcd"
)

func newArbiterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "arbiter",
		Short: "Set up who decides which of two hosts goes on",
	}
	cmd.AddCommand(newArbiterInitCommand())
	return cmd
}

func newArbiterInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init FOLDER",
		Short: "Make a folder on shared storage an arbiter",
		Long: `Init makes a folder that both hosts reach, on NFS for example, an arbiter: --arbiter file:FOLDER. It is done once, from one
host. Two hosts that lose each other ask the arbiter, which gives the guest to one of them. The folder should be on
neither of the two hosts: with the host that has it the other could not go on.

etcd needs no such step: --arbiter etcd:http://HOST:2379.`,
		Example: `  tandem arbiter init /mnt/shared/tandem`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return initArbiter(args[0], cmd.OutOrStdout())
		},
	}
}

func initArbiter(folder string, out io.Writer) error {
	err := arbiter.CreateFile(folder)
	switch {
	case errors.Is(err, fs.ErrExist):
		return usage(fmt.Errorf("%s is an arbiter already: nothing was changed", folder))
	case errors.Is(err, fs.ErrNotExist):
		return usage(fmt.Errorf("%s does not exist: mount the shared storage, and make the folder", folder))
	case errors.Is(err, fs.ErrPermission):
		return usage(fmt.Errorf("%s may not be written by this user: check its permissions", folder))
	case err != nil:
		return failure(fmt.Errorf("making %s an arbiter: %w", folder, err))
	}
	fmt.Fprintf(out, "%s is an arbiter now: give --arbiter file: with the path that it has on each host.\n", folder)
	return nil
}

// arbiterTimeout bounds how long an arbiter may take to answer when a host starts.
const arbiterTimeout = 5 * time.Second

// openArbiter opens an arbiter and makes sure that it answers.
func openArbiter(ctx context.Context, spec arbiter.Spec, guest string) (arbiter.Arbiter, error) {
	ctx, cancel := context.WithTimeout(ctx, arbiterTimeout)
	defer cancel()
	a, err := connectArbiter(ctx, spec, guest)
	if err != nil {
		return nil, arbiterError(spec, err)
	}
	if _, err := a.Identity(ctx); err != nil {
		return nil, errors.Join(arbiterError(spec, err), a.Close())
	}
	return a, nil
}

func connectArbiter(ctx context.Context, spec arbiter.Spec, guest string) (arbiter.Arbiter, error) {
	switch spec.Kind {
	case arbiter.SpecFile:
		f, err := arbiter.OpenFile(ctx, spec.Folder, guest)
		if err != nil {
			return nil, err // not f, a nil of a type of its own
		}
		return f, nil
	case arbiter.SpecEtcd:
		a, err := etcd.Open(etcd.Config{Endpoints: spec.Endpoints}, guest)
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	return arbiter.Unsafe{}, nil
}

// arbiterError says what to do about an arbiter that can't be used.
func arbiterError(spec arbiter.Spec, err error) error {
	switch {
	case errors.Is(err, arbiter.ErrWrongArbiter) && spec.Kind == arbiter.SpecFile:
		return usage(fmt.Errorf("--arbiter: %s is no arbiter: mount the shared storage, and run `tandem arbiter init %s` once", spec.Folder, spec.Folder))
	case errors.Is(err, arbiter.ErrUnreachable):
		return failure(fmt.Errorf("--arbiter: %w: nobody could go on without it; check its address and the network", err))
	}
	return usage(fmt.Errorf("--arbiter: %w", err))
}
