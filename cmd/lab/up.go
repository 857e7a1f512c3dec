package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab"
	"tandem/cmd/internal/lab/control"
)

// The keeper is the process that holds a lab between commands. It tells its
// starter how it gets on by lines on an inherited pipe; the last is one of
// these.
const (
	keeperFlag   = "keeper"
	keeperPipeFD = 3
	keeperReady  = "ready"
	keeperFailed = "failed: "
)

func upCommand() *cobra.Command {
	var f labFlags
	var name string
	var keeper bool
	c := &cobra.Command{
		Use:   "up [flags]",
		Short: "Boot hosts that stay up until \"lab down\"",
		Example: "  lab up --hosts 2\n  lab exec h1 -- ping -c 1 h2\n  lab net cut h1 h2\n  lab kill h1\n" +
			"  lab down",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := control.SocketPath(name)
			if err != nil {
				return err
			}
			if keeper {
				return f.keepUp(cmd, path)
			}
			if _, err := f.config(cmd.Context(), cmd); err != nil {
				return err // here, where it can be seen at once
			}
			return startKeeper(cmd)
		},
	}
	f.register(c)
	registerName(c, &name)
	c.Flags().BoolVar(&keeper, keeperFlag, false, "")
	_ = c.Flags().MarkHidden(keeperFlag)
	return c
}

// startKeeper starts this program again, in a session of its own, and waits
// until the lab is up.
func startKeeper(cmd *cobra.Command) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	keeper := exec.Command(self, append(append([]string{}, os.Args[1:]...), "--"+keeperFlag)...)
	keeper.ExtraFiles = []*os.File{w}
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = keeper.Start()
	w.Close()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- followKeeper(r, cmd.ErrOrStderr()) }()
	select {
	case err := <-done:
		return err
	case <-cmd.Context().Done():
		_ = keeper.Process.Signal(syscall.SIGTERM)
		return errors.New("interrupted")
	}
}

// followKeeper prints progress lines until the last. What follows "failed: "
// may have several lines: the end of a console.
func followKeeper(r io.Reader, progress io.Writer) error {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Text()
		if line == keeperReady {
			return nil
		}
		if msg, ok := strings.CutPrefix(line, keeperFailed); ok {
			rest, _ := io.ReadAll(r)
			for sc.Scan() {
				msg += "\n" + sc.Text()
			}
			return errors.New(strings.TrimSpace(msg + string(rest)))
		}
		fmt.Fprintln(progress, line)
	}
	return errors.New("the lab's process ended before its hosts were up")
}

// keepUp is the keeper: it boots the lab and serves it until it is to end.
func (f *labFlags) keepUp(cmd *cobra.Command, path string) error {
	pipe := os.NewFile(keeperPipeFD, "keeper's pipe")
	cmd.SetErr(pipe)
	err := f.serveLab(cmd, path, pipe)
	if err != nil {
		fmt.Fprintln(pipe, keeperFailed+err.Error())
	}
	return err
}

func (f *labFlags) serveLab(cmd *cobra.Command, path string, pipe *os.File) error {
	ctx := cmd.Context()
	ln, err := control.Listen(path)
	if err != nil {
		return err
	}
	defer ln.Close()
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
	fmt.Fprintln(pipe, keeperReady)
	pipe.Close()
	return control.Serve(ctx, ln, l)
}

func registerName(c *cobra.Command, name *string) {
	c.Flags().StringVar(name, "lab", defaultName(), "the lab's name, for several at once (default from $LAB)")
}

func defaultName() string {
	if n := os.Getenv("LAB"); n != "" {
		return n
	}
	return "default"
}
