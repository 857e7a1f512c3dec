package main

import (
	"errors"

	"github.com/spf13/cobra"

	"tandem/lockstep"
)

func newRecordCommand() *cobra.Command {
	f := kernelFlags{rewrite: true}
	var s session
	var noRewrite bool
	cmd := &cobra.Command{
		Use:   "record --output DIR --kernel FILE [flags]",
		Short: "Run a guest and write down all that enters it",
		Long: `Record runs a guest like run, and writes a log of every input with the point in the instruction stream at which it
entered. tandem replay runs the same instruction stream again from that.

Exit status:
` + statusHelp,
		Example: `  tandem record -o session --kernel vmlinuz --initrd initrd.img
  tandem replay session`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if s.record == "" {
				return usage(errors.New("--output is missing: name a new folder for the recording"))
			}
			f.rewrite = !noRewrite
			return s.run(&f)
		},
	}
	f.register(cmd)
	s.register(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&s.record, "output", "o", "", "new `folder` for the recording")
	flags.DurationVar(&s.recording.MaxDefer, "max-defer", lockstep.DefaultMaxDefer, "how long an input may wait for an exit of the guest before the guest is stopped")
	flags.DurationVar(&s.recording.MinRun, "min-run", lockstep.DefaultMinRun, "how long the guest runs between two such stops at the least")
	flags.Uint64Var(&s.recording.DigestEvery, "digest", lockstep.DefaultDigestEvery, "log a digest of all exits every so many `exits`")
	flags.Uint64Var(&s.recording.VerifyEvery, "verify-memory", 0, "log hashes of all RAM that changed every so many `exits`; 0 never")
	flags.DurationVar(&s.recording.CheckpointEvery, "checkpoint", 0, "save the machine every so much guest time; 0 never")
	flags.BoolVar(&noRewrite, "no-rewrite", false, "leave the kernel's instructions alone: a replay will then differ where it reads the time-stamp counter")
	return cmd
}
