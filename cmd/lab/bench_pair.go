package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/failover"
	"tandem/cmd/internal/imapload"
	"tandem/cmd/internal/redischeck"
	"tandem/vmm/protect"
)

const (
	pairBenchTimeout = 40 * time.Minute
	// serverWindow is for how long a server's answers are counted.
	serverWindow = 10 * time.Second
	// redisClients and imapClients ask without a pause.
	redisClients, imapClients = 8, 8
)

func benchPairCommand() *cobra.Command {
	var tandem string
	var runs int
	c := &cobra.Command{
		Use: "pair", Short: "Measure what protection costs a guest, and how long failovers take, on two lab hosts",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runs < 1 {
				return fmt.Errorf("--runs must be at least 1, not %d", runs)
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), pairBenchTimeout, fmt.Errorf("not done after %v", pairBenchTimeout))
			defer cancel()
			p, err := openPair(ctx, failover.Config{Tandem: tandem, Log: cmd.ErrOrStderr()})
			if err != nil {
				return err
			}
			b := &pairBench{pair: p, out: cmd.OutOrStdout(), repeat: runs}
			return errors.Join(b.run(ctx), p.Close())
		},
	}
	c.Flags().IntVarP(&runs, "runs", "r", 3, "how often each throughput is measured; medians are reported")
	c.Flags().StringVar(&tandem, "tandem", "", "static build of tandem (default: the one beside this program, or built from source)")
	return c
}

// pairBench measures a pair.
type pairBench struct {
	pair *failover.Pair
	out  io.Writer
	// repeat is how often each throughput is measured; loads numbers the loads on the servers.
	repeat, loads int
}

// workload is something that a guest does, and how fast.
type workload struct {
	name, unit string
	measure    func(ctx context.Context, b *pairBench, s *failover.Side) (perSecond float64, err error)
}

func pairWorkloads() []workload {
	return []workload{
		{"compute", "loops/s", shellRate(50_000, "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done")},
		{"compile-like", "processes/s", shellRate(120, "for i in $(seq 40); do gzip -c /etc/services | gunzip -c | md5sum; done >/tmp/sums")},
		{"redis", "requests/s", redisRate},
		{"imap", "requests/s", imapRate},
	}
}

// median measures a workload several times.
func (w *workload) median(ctx context.Context, b *pairBench, s *failover.Side) (perSecond float64, err error) {
	var rates []float64
	for range b.repeat {
		rate, err := w.measure(ctx, b, s)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", w.name, err)
		}
		rates = append(rates, rate)
	}
	return median(rates), nil
}

// shellRate measures a command at the console that does so much of something.
func shellRate(amount float64, command string) func(context.Context, *pairBench, *failover.Side) (float64, error) {
	return func(ctx context.Context, _ *pairBench, s *failover.Side) (float64, error) {
		took, err := s.Shell(ctx, command)
		return amount / took.Seconds(), err
	}
}

func redisRate(ctx context.Context, b *pairBench, _ *failover.Side) (float64, error) {
	b.loads++
	c, err := redischeck.Start(ctx, redischeck.Config{Dial: b.pair.Dial, Address: failover.RedisAddress, Clients: redisClients, Run: fmt.Sprintf("bench%d", b.loads), Seed: 1})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = pass(ctx, serverWindow)
	s := c.Snapshot()
	took := time.Since(start)
	c.Stop(ctx)
	if broken := s.Broken(); len(broken) > 0 {
		err = errors.Join(err, fmt.Errorf("redis: %q", broken))
	}
	return float64(s.Requests()) / took.Seconds(), err
}

func imapRate(ctx context.Context, b *pairBench, _ *failover.Side) (float64, error) {
	b.loads++
	l, err := imapload.Start(ctx, imapload.Config{
		Dial: b.pair.Dial, Address: failover.IMAPAddress, Sessions: imapClients, User: failover.User, Run: fmt.Sprintf("bench%d", b.loads), Seed: 1,
	})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = pass(ctx, serverWindow)
	s := l.Snapshot()
	took := time.Since(start)
	l.Stop(ctx)
	if s.Broken() > 0 {
		err = errors.Join(err, fmt.Errorf("imap: %d sessions are broken: %+v", s.Broken(), s.Sessions))
	}
	all, _ := s.Requests()
	return float64(all) / took.Seconds(), err
}

func (b *pairBench) run(ctx context.Context) error {
	fmt.Fprintln(b.out, "pair: a guest with Debian's kernel, Redis and dovecot, on two emulated hosts of one CPU each")
	first := b.pair.Sides[0]
	if err := first.RunAlone(ctx); err != nil {
		return err
	}
	if err := b.pair.AwaitServers(ctx); err != nil {
		return err
	}
	var alone []float64
	for _, w := range pairWorkloads() {
		rate, err := w.median(ctx, b, first)
		if err != nil {
			return err
		}
		alone = append(alone, rate)
	}
	if err := first.KillProcess(ctx); err != nil {
		return err
	}
	status, err := b.protect(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  first protection: %s\n", transferText(status.LastTransfer))
	for i, w := range pairWorkloads() {
		if err := b.protected(ctx, w, alone[i]); err != nil {
			return err
		}
	}
	return b.failover(ctx)
}

// protect starts the pair.
func (b *pairBench) protect(ctx context.Context) (*protect.Status, error) {
	first, second := b.pair.Sides[0], b.pair.Sides[1]
	if err := first.Run(ctx); err != nil {
		return nil, err
	}
	if err := b.pair.AwaitServers(ctx); err != nil {
		return nil, err
	}
	if err := second.Back(ctx); err != nil {
		return nil, err
	}
	return b.pair.AwaitProtected(ctx, first)
}

// protected measures a workload of a protected guest, and prints it beside the unprotected one's.
func (b *pairBench) protected(ctx context.Context, w workload, alone float64) error {
	first := b.pair.Sides[0]
	before, err := first.Status(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	rate, err := w.median(ctx, b, first)
	if err != nil {
		return err
	}
	took := time.Since(start)
	after, err := first.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  %-13s unprotected %8.1f %s, protected %8.1f (%.0f %%); log %.2f Mbit/s; output delay median %.1f ms, p99 %.1f ms; %s\n",
		w.name, alone, w.unit, rate, 100*rate/alone, float64(after.Log.Bytes-before.Log.Bytes)*8/1e6/took.Seconds(),
		after.Output.DelayMedianUS/1e3, after.Output.DelayP99US/1e3, unbroken(before, after))
	return nil
}

// unbroken tells whether the guest stayed protected all the time.
func unbroken(before, after *protect.Status) string {
	if !failover.Protected(after) || after.Log.Bytes < before.Log.Bytes || after.Term != before.Term {
		return "protection was lost meanwhile"
	}
	return fmt.Sprintf("%d divergences", after.Divergences-before.Divergences)
}

// failover takes the power of the guest's host away, with clients at Redis.
func (b *pairBench) failover(ctx context.Context) error {
	first := b.pair.Sides[0]
	load, err := imapload.Start(ctx, imapload.Config{
		Dial: b.pair.Dial, Address: failover.IMAPAddress, Sessions: imapClients, User: failover.User, Run: "failover", Think: time.Second, Seed: 1,
	})
	if err != nil {
		return err
	}
	defer load.Stop(ctx)
	if err := pass(ctx, calm); err != nil {
		return err
	}
	loss, err := b.pair.Lose(ctx, first, load)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  failover      %s\n                pauses of %d clients: %s\n", failoverText(loss), imapClients, pausesText(loss.Pauses))
	if err := b.pair.Return(ctx, first, loss); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  re-protection %s\n", returnText(loss))
	return nil
}
