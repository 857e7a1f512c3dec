package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab"
)

func setupCommand() *cobra.Command {
	var refresh bool
	c := &cobra.Command{
		Use:   "setup",
		Short: "Download what the lab needs (QEMU, a kernel, busybox) into the cache",
		Long: "Download what the lab needs into the cache: QEMU 10 or newer with its libraries unless\n" +
			"one is installed, Debian's cloud kernel, and a static busybox. The mirror is the one in\n" +
			"this machine's apt sources. Nothing is installed; no root is needed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := lab.Setup(cmd.Context(), lab.SetupOptions{Log: cmd.ErrOrStderr(), Refresh: refresh})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "QEMU     %s\nkernel   %s\nmodules  %s\nbusybox  %s\n",
				a.QEMU.Version, a.Kernel, a.ModulesDir, a.Busybox)
			return nil
		},
	}
	c.Flags().BoolVar(&refresh, "refresh", false, "look for newer packages even if everything is there")
	return c
}
