package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/agent"
)

// labFlags are those of every command that makes a lab.
type labFlags struct {
	hosts, networks, cpus, memoryMB int
	puts, disks                     []string
	agent, keep, share              string
	seed                            uint64
	quiet                           bool
}

func (f *labFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.IntVarP(&f.hosts, "hosts", "n", 1, "how many hosts, named h1, h2, ...")
	fl.IntVar(&f.networks, "networks", 1, "how many networks join them")
	fl.IntVar(&f.cpus, "cpus", 1, "CPUs of each host")
	fl.IntVarP(&f.memoryMB, "memory", "m", 1024, "memory of each host in MB")
	fl.StringArrayVar(&f.puts, "put", nil, "put a file of this machine into every host, `SRC:DST` (repeatable)")
	fl.StringArrayVar(&f.disks, "disk", nil, "attach a raw image `[HOST:]PATH[:ro]` as /dev/vda, ... (repeatable)")
	fl.StringVar(&f.share, "share", "", "give every host this folder, at "+lab.SharePath)
	fl.StringVar(&f.agent, "agent", "", "static build of this program for use inside the hosts (default: itself, or built from source)")
	fl.StringVar(&f.keep, "keep", "", "leave the consoles' logs in this folder")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of the networks' losses")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress lines")
}

// config turns the flags into a lab's configuration.
func (f *labFlags) config(ctx context.Context, cmd *cobra.Command) (lab.Config, error) {
	if f.hosts < 1 {
		return lab.Config{}, fmt.Errorf("--hosts must be at least 1, not %d", f.hosts)
	}
	cfg := lab.Config{
		Hosts: make([]lab.HostConfig, f.hosts), Networks: f.networks, CPUs: f.cpus, MemoryMB: f.memoryMB,
		Agent: f.agent, KeepDir: f.keep, Share: f.share, Seed: f.seed, Files: map[string]string{},
	}
	if !f.quiet {
		cfg.Log = cmd.ErrOrStderr()
	}
	for i := range cfg.Hosts {
		cfg.Hosts[i].Name = fmt.Sprintf("h%d", i+1)
	}
	for _, p := range f.puts {
		src, dst, ok := strings.Cut(p, ":")
		if !ok || src == "" || !strings.HasPrefix(dst, "/") {
			return cfg, fmt.Errorf("--put %q: want SRC:DST with an absolute DST", p)
		}
		cfg.Files[dst] = src
	}
	for _, d := range f.disks {
		if err := addDisk(&cfg, d); err != nil {
			return cfg, err
		}
	}
	if cfg.Agent == "" && lab.IsStatic("/proc/self/exe") {
		exe, err := os.Executable()
		if err != nil {
			return cfg, err
		}
		cfg.Agent = exe
	}
	return cfg, nil
}

// addDisk reads [HOST:]PATH[:ro]; without HOST the disk is the first host's.
func addDisk(cfg *lab.Config, arg string) error {
	path, readOnly := strings.CutSuffix(arg, ":ro")
	host := &cfg.Hosts[0]
	for i := range cfg.Hosts {
		if rest, ok := strings.CutPrefix(path, cfg.Hosts[i].Name+":"); ok {
			path, host = rest, &cfg.Hosts[i]
			break
		}
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("--disk %q: %w", arg, err)
	}
	host.Disks = append(host.Disks, lab.Disk{Path: path, ReadOnly: readOnly})
	return nil
}

func runCommand() *cobra.Command {
	var f labFlags
	c := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG]...",
		Short: "Boot hosts, run a command in the first, and take its exit status",
		Long: "Boot hosts, run a command in the first one, and exit with its status. Standard input,\n" +
			"output and error are the command's. The hosts go away with it. A failure of the lab itself\n" +
			"exits with status 125.",
		Example: "  lab run -- uname -a\n" +
			"  lab run --hosts 2 -- ping -c 3 h2\n" +
			"  lab run --put ./tandem:/usr/local/bin/tandem -- tandem doctor",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.withLab(cmd, func(ctx context.Context, l *lab.Lab) error {
				return attach(ctx, l.Host("h1").Client, args, execFlags{})
			})
		},
	}
	f.register(c)
	return c
}

func shellCommand() *cobra.Command {
	var f labFlags
	c := &cobra.Command{
		Use:     "shell [flags]",
		Short:   "Boot hosts and give a shell in the first",
		Example: "  lab shell --hosts 2 --put ./tandem:/usr/local/bin/tandem",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.withLab(cmd, func(ctx context.Context, l *lab.Lab) error {
				return attach(ctx, l.Host("h1").Client, []string{"sh", "-l"}, execFlags{tty: stdinIsTerminal()})
			})
		},
	}
	f.register(c)
	return c
}

// withLab boots a lab for the time of fn.
func (f *labFlags) withLab(cmd *cobra.Command, fn func(context.Context, *lab.Lab) error) error {
	ctx := cmd.Context()
	cfg, err := f.config(ctx, cmd)
	if err != nil {
		return err
	}
	l, err := lab.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	reportBoot(cfg.Log, l)
	return fn(ctx, l)
}

func reportBoot(log io.Writer, l *lab.Lab) {
	if log == nil {
		return
	}
	for _, h := range l.Hosts() {
		fmt.Fprintf(log, "lab: %s is up at %s after %.1f s\n", h.Name, h.Addr(0), h.BootTime.Seconds())
	}
}

// execFlags say how a command runs.
type execFlags struct {
	tty bool
	dir string
	env []string
}

// attach runs a command with this process's standard streams.
func attach(ctx context.Context, c *agent.Client, args []string, f execFlags) error {
	cmd := agent.Cmd{Args: args, Dir: f.dir, Env: f.env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if !f.tty {
		return c.Run(ctx, cmd)
	}
	return attachTerminal(ctx, c, cmd)
}
