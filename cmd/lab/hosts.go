package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/lab/control"
)

// hostCommand is the frame of a command that asks for one thing of one host of
// a lab that is up.
func hostCommand(use, short string, op control.Op) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: use + " HOST", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(name, control.Request{Op: op, Host: args[0]})
			return err
		},
	}
	registerName(c, &name)
	return c
}

func killCommand() *cobra.Command {
	return hostCommand("kill", "Take a host's power away (SIGKILL to its QEMU)", control.OpKill)
}

func bootCommand() *cobra.Command {
	return hostCommand("boot", "Boot a dead host again, or a new one", control.OpBoot)
}

func freezeCommand() *cobra.Command {
	return hostCommand("freeze", "Stop a host in its tracks (SIGSTOP)", control.OpFreeze)
}

func thawCommand() *cobra.Command {
	return hostCommand("thaw", "Let a frozen host go on", control.OpThaw)
}

func call(name string, req control.Request) (control.Status, error) {
	p, err := control.SocketPath(name)
	if err != nil {
		return control.Status{}, err
	}
	return control.Call(p, req)
}

func connect(name, host string) (*agent.Client, error) {
	p, err := control.SocketPath(name)
	if err != nil {
		return nil, err
	}
	return control.Attach(p, host)
}

func downCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "down", Short: "End a lab that is up", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := call(name, control.Request{Op: control.OpDown})
			return err
		},
	}
	registerName(c, &name)
	return c
}

func execCommand() *cobra.Command {
	var name string
	var f execFlags
	c := &cobra.Command{
		Use:   "exec [flags] HOST -- COMMAND [ARG]...",
		Short: "Run a command in a host and take its exit status",
		Example: "  lab exec h1 -- dmesg\n  lab exec -t h1 -- sh\n" +
			"  lab exec h1 -- sh -c 'nohup tandem run ... >/tmp/log 2>&1 &'",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			host, command := args[0], args[1:]
			if command[0] == "--" { // flags end at HOST, so pflag leaves it in
				command = command[1:]
			}
			if len(command) == 0 {
				return errors.New("exec needs a command after the host's name")
			}
			client, err := connect(name, host)
			if err != nil {
				return err
			}
			defer client.Close()
			return attach(cmd.Context(), client, command, f)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	c.Flags().StringVarP(&f.dir, "dir", "C", "", "the command's working directory")
	c.Flags().StringArrayVarP(&f.env, "env", "e", nil, "set a variable, `K=V` (repeatable)")
	registerName(c, &name)
	return c
}

func putCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "put HOST SRC DST", Short: "Copy a file or folder of this machine into a host", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connect(name, args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			dst := args[2]
			if strings.HasSuffix(dst, "/") {
				dst = path.Join(dst, filepath.Base(args[1]))
			}
			return client.PutFile(cmd.Context(), args[1], dst)
		},
	}
	registerName(c, &name)
	return c
}

func getCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "get HOST SRC DST", Short: "Copy a file out of a host; DST \"-\" is standard output", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connect(name, args[0])
			if err != nil {
				return err
			}
			defer client.Close()
			if args[2] == "-" {
				_, err := client.Get(cmd.Context(), args[1], cmd.OutOrStdout())
				return err
			}
			return client.GetFile(cmd.Context(), args[1], args[2])
		},
	}
	registerName(c, &name)
	return c
}

func consoleCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "console HOST", Short: "Print what a host wrote to its serial console", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := call(name, control.Request{Op: control.OpStatus})
			if err != nil {
				return err
			}
			for _, h := range st.Hosts {
				if h.Name == args[0] {
					b, err := os.ReadFile(h.Console)
					if err == nil {
						_, err = cmd.OutOrStdout().Write(b)
					}
					return err
				}
			}
			return fmt.Errorf("the lab has no host %q", args[0])
		},
	}
	registerName(c, &name)
	return c
}

func statusCommand() *cobra.Command {
	var name string
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "Show hosts, links and counters of a lab that is up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := call(name, control.Request{Op: control.OpStatus})
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), st)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			printStatus(w, st)
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	registerName(c, &name)
	return c
}
