package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/failover"
	"tandem/cmd/internal/imapload"
	"tandem/cmd/internal/lab"
)

// demoTimeout bounds the demonstration of a failover.
const demoTimeout = 30 * time.Minute

// demoFlags are the flags of demo.
type demoFlags struct {
	engine       engineFlags
	boot, script bool
	failover     failoverDemo
}

func demoCommand() *cobra.Command {
	var f demoFlags
	c := &cobra.Command{
		Use:   "demo",
		Short: "Unplug the host of a mail server while 50 people use it, twice",
		Long: `Demo runs a mail server (dovecot, in a guest with Debian's stock kernel) as a pair on two emulated hosts. From outside, 50
sessions log in once and then append, fetch and search. The host that runs the guest is killed with SIGKILL; the other takes
over. The dead host comes back and is the backup. Then the second one is killed too. At the end every message that the
server has acknowledged is asked for. The status is 0 only if no session broke and nothing is missing.

With --boot it shows something smaller: Debian's kernel boots to its shell with "tandem run", on this machine if its own
/dev/kvm can run Linux, else in the lab. At a terminal you get the guest's shell; elsewhere, or with --script, a few commands
are typed and their answers checked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.boot {
				return f.runBoot(cmd)
			}
			return f.runFailover(cmd)
		},
	}
	f.engine.register(c)
	flags := c.Flags()
	flags.BoolVar(&f.boot, "boot", false, "show a boot instead")
	flags.BoolVar(&f.script, "script", false, "with --boot: type the commands even at a terminal")
	flags.IntVar(&f.failover.sessions, "sessions", 50, "how many clients there are")
	flags.DurationVar(&f.failover.think, "think", 8*time.Second, "how long a client pauses between an answer and its next request, on average")
	flags.DurationVar(&f.failover.detect, "detect", 0, "after how much silence a host is lost (default tandem's own)")
	flags.StringVar(&f.failover.keep, "keep", "", "`folder` to leave what the hosts said in")
	return c
}

func (f *demoFlags) runBoot(cmd *cobra.Command) error {
	e, err := f.engine.open(cmd.Context(), cmd.ErrOrStderr(), nil)
	if err != nil {
		return err
	}
	defer e.Close()
	d := &bootDemo{engine: e, out: cmd.OutOrStdout()}
	if f.script || !stdinIsTerminal() {
		return d.scripted(cmd.Context())
	}
	return d.interactive(cmd.Context())
}

func (f *demoFlags) runFailover(cmd *cobra.Command) error {
	if n := f.failover.sessions; n < 1 || n > failover.MaxSessions {
		return fmt.Errorf("--sessions must be from 1 to %d, not %d", failover.MaxSessions, n)
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), demoTimeout, fmt.Errorf("not done after %v", demoTimeout))
	defer cancel()
	d := &f.failover
	d.view = newDemoView(cmd.OutOrStdout())
	cfg := failover.Config{Tandem: f.engine.tandem, KeepDir: d.keep, Log: d.view}
	if d.detect != 0 {
		cfg.Flags = []string{"--detect", d.detect.String()}
	}
	p, err := openPair(ctx, cfg)
	if err != nil {
		return err
	}
	err = d.run(ctx, p)
	d.view.close()
	return errors.Join(err, p.Close())
}

// openPair boots the two hosts, with the programs beside this one where they are static.
func openPair(ctx context.Context, cfg failover.Config) (*failover.Pair, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if lab.IsStatic(exe) {
		cfg.Agent = exe
	}
	if beside := filepath.Join(filepath.Dir(exe), "tandem"); cfg.Tandem == "" && lab.IsStatic(beside) {
		cfg.Tandem = beside
	}
	key, err := fileDigest(exe)
	if err != nil {
		return nil, err
	}
	// The builder is part of this program: another build may make another image.
	if cfg.Image, err = failover.BuildImage(ctx, key, cfg.Log); err != nil {
		return nil, err
	}
	return failover.Open(ctx, cfg)
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// failoverDemo is the demonstration of two failovers.
type failoverDemo struct {
	sessions int
	think    time.Duration
	detect   time.Duration
	keep     string

	view   *demoView
	losses []*failover.Loss
}

const (
	// calm is for how long the clients work before a host is killed.
	calm = 10 * time.Second
	// backlog is how long the clients get to be answered at the usual pace again, after what slowed the guest down.
	backlog = time.Minute
	// patience is how long the clients wait for an answer before they give their sessions up.
	patience = 3 * time.Minute
)

func (d *failoverDemo) run(ctx context.Context, p *failover.Pair) error {
	d.view.note("the guest starts on h1")
	if err := d.protect(ctx, p); err != nil {
		return err
	}
	d.view.note("%d clients log in", d.sessions)
	load, err := imapload.Start(ctx, imapload.Config{
		Dial: p.Dial, Address: failover.IMAPAddress, Sessions: d.sessions, User: failover.User, Run: "demo", Think: d.think, Patience: patience, Seed: 1,
	})
	if err != nil {
		return err
	}
	defer func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		load.Stop(ended)
	}()
	d.view.show(load)
	for _, primary := range p.Sides {
		if err := d.lose(ctx, p, primary, load); err != nil {
			return err
		}
	}
	if err := pass(ctx, calm); err != nil {
		return err
	}
	d.view.note("the clients finish, and every message is asked for")
	load.Stop(ctx)
	verification, err := load.Verify(ctx)
	if err != nil {
		return err
	}
	return d.summary(load.Snapshot(), verification)
}

// protect starts the guest and waits until it serves and is protected.
func (d *failoverDemo) protect(ctx context.Context, p *failover.Pair) error {
	start := time.Now()
	if err := p.Sides[0].Run(ctx); err != nil {
		return err
	}
	if err := p.AwaitServers(ctx); err != nil {
		return err
	}
	d.view.note("the guest serves, %s after its start; its backup starts on h2", seconds(time.Since(start)))
	if err := p.Sides[1].Back(ctx); err != nil {
		return err
	}
	status, err := p.AwaitProtected(ctx, p.Sides[0])
	if err != nil {
		return err
	}
	d.view.note("protected: %s", transferText(status.LastTransfer))
	return nil
}

// lose kills the host of the guest and brings it back as the backup.
func (d *failoverDemo) lose(ctx context.Context, p *failover.Pair, primary *failover.Side, load *imapload.Load) error {
	if err := awaitCalm(ctx, load); err != nil {
		return err
	}
	d.view.note("%s is killed", primary.Name)
	loss, err := p.Lose(ctx, primary, load)
	if err != nil {
		return err
	}
	d.losses = append(d.losses, loss)
	d.view.note("%s", failoverText(loss))
	d.view.note("pauses at the clients: %s", pausesText(loss.Pauses))
	if len(d.losses) == len(p.Sides) {
		return nil // the show ends here
	}
	d.view.note("%s boots again", primary.Name)
	if err := p.Return(ctx, primary, loss); err != nil {
		return err
	}
	d.view.note("protected again: %s", returnText(loss))
	return nil
}

// awaitCalm lets the clients work for a while, until none waits for long, so that the next pauses are of the next kill.
func awaitCalm(ctx context.Context, load *imapload.Load) error {
	if err := pass(ctx, calm); err != nil {
		return err
	}
	for deadline := time.Now().Add(backlog); time.Now().Before(deadline); {
		s := load.Snapshot()
		if waiting(&s) == 0 {
			return nil
		}
		if err := pass(ctx, drawEvery); err != nil {
			return err
		}
	}
	return nil
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
