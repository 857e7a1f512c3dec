package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"tandem/cmd/internal/lab/agent"
)

func stdinIsTerminal() bool { return term.IsTerminal(int(os.Stdin.Fd())) }

// attachTerminal runs a command on a terminal of its own in the host, with this
// one in raw mode: keys, signals among them, and changes of size go through.
func attachTerminal(ctx context.Context, c *agent.Client, cmd agent.Cmd) error {
	in := int(os.Stdin.Fd())
	cmd.TTY, cmd.Rows, cmd.Cols = true, 24, 80
	if cols, rows, err := term.GetSize(int(os.Stdout.Fd())); err == nil && cols > 0 && rows > 0 {
		cmd.Rows, cmd.Cols = uint16(rows), uint16(cols)
	}
	if t := os.Getenv("TERM"); t != "" {
		cmd.Env = append(cmd.Env, "TERM="+t)
	}
	if term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return err
		}
		defer term.Restore(in, old)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	p, err := c.Start(ctx, cmd)
	if err != nil {
		return err
	}
	for {
		select {
		case <-p.Done():
			return p.Wait()
		case <-resized:
			if cols, rows, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
				_ = p.Resize(ctx, uint16(rows), uint16(cols))
			}
		}
	}
}
