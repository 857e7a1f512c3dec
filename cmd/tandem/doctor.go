package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/kvm"
	"tandem/vmm/doctor"
)

const doctorHelp = `Doctor runs guests of a few instructions on /dev/kvm and tells what the host's KVM can do: whether it can run
bare-metal guests, Linux, and Linux in lockstep, and what is missing. It takes a second or so and changes nothing.

Exit status:
   0  the host can run Linux (whether also in lockstep is in the report)
   1  /dev/kvm failed so badly that there is nothing to report
   2  a flag is wrong
   3  the host has no /dev/kvm, or it may not be opened
  20  the host can run bare-metal guests, but not Linux
  21  the host can't run even those
`

func newDoctorCommand() *cobra.Command {
	var device string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this host's KVM can do",
		Long:  doctorHelp,
		Example: `  tandem doctor
  tandem doctor --json | jq '.abilities'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return examine(cmd.OutOrStdout(), device, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "report as JSON")
	cmd.Flags().StringVar(&device, "kvm", "/dev/kvm", "KVM `device`")
	return cmd
}

// examine reports on a host's KVM, and returns the status of what it found as an error without a message.
func examine(w io.Writer, device string, asJSON bool) error {
	system, err := kvm.Open(device)
	if err != nil {
		return incapable(err)
	}
	defer system.Close()
	report, err := doctor.Examine(system)
	if err != nil {
		return failure(fmt.Errorf("%s: %w", device, err))
	}
	if err := writeReport(w, report, asJSON); err != nil {
		return failure(fmt.Errorf("write the report: %w", err))
	}
	if status := report.Status(); status != doctor.StatusLinux {
		return &statusError{status: status}
	}
	return nil
}

func writeReport(w io.Writer, report *doctor.Report, asJSON bool) error {
	if !asJSON {
		return report.WriteText(w, colourful(w))
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(report)
}

// colourful tells whether w is a terminal whose user has not asked for plain text (no-color.org).
func colourful(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
