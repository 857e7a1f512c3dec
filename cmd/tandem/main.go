// Command tandem runs a Linux guest on /dev/kvm, and an identical copy of it on a second host.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"
)

// spareThreads is how many threads run Go code beside one for each processor: a vCPU keeps its own while it is in the guest,
// and what watches a peer must not wait behind a state transfer.
const spareThreads = 3

func main() {
	runtime.GOMAXPROCS(runtime.NumCPU() + spareThreads)
	os.Exit(execute(os.Args[1:]))
}

// execute runs the command line and returns the exit status. Whatever goes wrong is one line on standard error.
func execute(args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		return statusOK
	}
	var s *statusError
	if !errors.As(err, &s) {
		s = &statusError{status: statusUsage, err: fmt.Errorf("%w: %s --help tells more", err, cmd.CommandPath())}
	}
	if s.err != nil {
		fmt.Fprintf(os.Stderr, "tandem: %v\n", s.err)
	}
	return s.status
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tandem",
		Short: "Run a Linux guest on two hosts at once, so that it outlives either",
		Long: `Tandem runs a Linux guest on /dev/kvm with devices of its own, and an identical copy on a second host, instruction for
instruction. When one host is lost, the guest goes on on the other.

Exit status of a command that runs a guest:
` + statusHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newRunCommand(), newBackupCommand(), newProtectCommand(), newStatusCommand(), newKeygenCommand(), newArbiterCommand(),
		newRecordCommand(), newReplayCommand(), newLogCommand(), newDoctorCommand(), newImageCommand(), newVersionCommand())
	for _, c := range root.Commands() {
		refuseUnknown(c)
	}
	return root
}

// refuseUnknown makes a command that only groups others refuse a name that is none of theirs. By itself it would show its
// help as if all were well.
func refuseUnknown(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.NoArgs
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
}
