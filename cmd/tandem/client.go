package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tandem/lockstep/arbiter"
	"tandem/vmm/control"
)

// clientFlags say which running tandem a command talks to.
type clientFlags struct {
	control, guest string
}

func (f *clientFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.control, "control", "", "control `socket` of the guest's tandem (default: that of --guest, or the only one there is)")
	cmd.Flags().StringVar(&f.guest, "guest", "", "`name` of the guest, which names its socket")
}

// socket finds the control socket.
func (f *clientFlags) socket() (string, error) {
	if f.control != "" {
		return f.control, nil
	}
	folder, err := controlFolder()
	if err != nil {
		return "", err
	}
	return socketIn(folder, f.guest)
}

// socketIn finds a guest's socket in a folder, or the only one if no guest is named.
func socketIn(folder, guest string) (string, error) {
	if guest != "" {
		if err := arbiter.CheckGuest(guest); err != nil {
			return "", fmt.Errorf("--guest: %w", err)
		}
		return filepath.Join(folder, guest+socketSuffix), nil
	}
	found, err := filepath.Glob(filepath.Join(folder, "*"+socketSuffix))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no guest has a control socket in %s: start one with --guest, or name a socket with --control", folder)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, path := range found {
		names = append(names, strings.TrimSuffix(filepath.Base(path), socketSuffix))
	}
	return "", fmt.Errorf("there are several guests here: name one with --guest (%s)", strings.Join(names, ", "))
}

// ask connects to the guest's tandem and does something there.
func (f *clientFlags) ask(cmd *cobra.Command, do func(*control.Client) error) error {
	path, err := f.socket()
	if err != nil {
		return usage(err)
	}
	c, err := control.Dial(cmd.Context(), path, 0)
	if err != nil {
		return failure(err)
	}
	defer c.Close()
	if err := do(c); err != nil {
		return failure(err)
	}
	return nil
}

func newProtectCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "protect ADDR:PORT",
		Short: "Give a running guest a backup",
		Long: `Protect tells a running tandem where the guest's backup listens (tandem backup --listen there). The guest runs on while its
state is copied; tandem status shows how far that is. The address stays: when the backup is lost, it is dialled again.

The guest must have been started with --guest, --backup, --listen or --control.`,
		Example: `  tandem protect hostb:7400 --guest mail`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAddress(args[0], false); err != nil {
				return usage(fmt.Errorf("%q: %w", args[0], err))
			}
			return f.ask(cmd, func(c *control.Client) error {
				if err := c.Protect(args[0]); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "The backup at %s is dialled from now on: tandem status tells how it goes.\n", args[0])
				return nil
			})
		},
	}
	f.register(cmd)
	return cmd
}

func newStatusCommand() *cobra.Command {
	var f clientFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--guest NAME | --control SOCKET] [--json]",
		Short: "Show how a guest's pair is",
		Long: `Status shows the part that a tandem on this host has in a guest's pair: its role and state, its peer, how far the backup is
behind, how long output waits, and what happened last.`,
		Example: `  tandem status
  tandem status --guest mail --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.ask(cmd, func(c *control.Client) error {
				s, err := c.Status()
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), s)
				}
				_, err = io.WriteString(cmd.OutOrStdout(), statusPage(s))
				return err
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything, for programs")
	return cmd
}

// printJSON prints a value for programs, and for people who read along.
func printJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return errors.Join(errors.New("encode the status"), err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}
