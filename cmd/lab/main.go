// Command lab makes emulated hosts with a working /dev/kvm, joins them by a
// network, and breaks both on request. It is also the first process inside each
// of those hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tandem/cmd/internal/lab/agent"
)

func main() {
	if agent.IsInit(os.Args) {
		agent.Main(os.Args)
	}
	os.Exit(run(os.Args[1:]))
}

// Exit statuses of the lab itself; a command run in a host reports its own.
const (
	statusFailed = 125 // as env(1), docker run: the tool failed, not the command
)

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *agent.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && err == error(exit):
		return exit.ShellCode() // the command's own; a command of the lab's that failed is wrapped and named
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	return statusFailed
}
