package main

import (
	"github.com/spf13/cobra"
)

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Emulated hosts with KVM, joined by a network that can be broken",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		setupCommand(), runCommand(), shellCommand(),
		upCommand(), downCommand(), statusCommand(),
		execCommand(), putCommand(), getCommand(), consoleCommand(),
		killCommand(), bootCommand(), freezeCommand(), thawCommand(),
		netCommand(), demoCommand(), benchCommand(),
	)
	return root
}
