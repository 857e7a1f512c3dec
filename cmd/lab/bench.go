package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/labrun"
)

// benchmark is a named measurement on an engine.
type benchmark struct {
	name, short string
	run         func(ctx context.Context, e *labrun.Engine, o benchOptions) error
}

// benchmarks are all there are, in the order in which they run.
func benchmarks() []benchmark {
	return []benchmark{
		{"boot", "Boot Debian's kernel: time, exits, memory, the cost of an idle guest", benchBoot},
		{"record", "Record and replay a guest: log by workload, slowdown, forced stops, speed of a replay", benchRecord},
		{"io", "Disk and network of a guest: throughput, time, exits and interrupts of each request", benchIO},
	}
}

// benchOptions are the flags of every benchmark.
type benchOptions struct {
	out   io.Writer
	runs  int
	other otherVMM
}

// benchFlags are benchOptions as the user gives them, with the engine's.
type benchFlags struct {
	engine engineFlags
	runs   int
	other  string
}

func (f *benchFlags) register(c *cobra.Command) {
	f.engine.register(c)
	c.Flags().IntVarP(&f.runs, "runs", "r", 3, "how often each measurement is made; medians are reported")
	c.Flags().StringVar(&f.other, "other", "", "measure the same guest with another VMM too: `COMMAND`, whose first word is a static program of this machine, "+
		"with {kernel}, {initrd}, {memory} (in MiB) and {cmdline} to be filled in; of disk and network only if it has {disk}, and guest_host=ADDR guest_address=ADDR/BITS behind {cmdline}")
}

// run runs benchmarks on one engine.
func (f *benchFlags) run(cmd *cobra.Command, list []benchmark) error {
	if f.runs < 1 {
		return fmt.Errorf("--runs must be at least 1, not %d", f.runs)
	}
	other, err := parseOther(f.other)
	if err != nil {
		return err
	}
	e, err := f.engine.open(cmd.Context(), cmd.ErrOrStderr(), other.files())
	if err != nil {
		return err
	}
	defer e.Close()
	for _, b := range list {
		if err := b.run(cmd.Context(), e, benchOptions{out: cmd.OutOrStdout(), runs: f.runs, other: other}); err != nil {
			return fmt.Errorf("bench %s: %w", b.name, err)
		}
	}
	return nil
}

func benchCommand() *cobra.Command {
	var all benchFlags
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure guests on this machine or in the lab",
		Long:  "Measure guests on this machine if its own /dev/kvm can run Linux, else in the lab. Without a name all is measured but the pair, which needs two hosts.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return all.run(cmd, benchmarks()) },
	}
	all.register(c)
	for _, b := range benchmarks() {
		var f benchFlags
		one := &cobra.Command{
			Use: b.name, Short: b.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, []benchmark{b}) },
		}
		f.register(one)
		c.AddCommand(one)
	}
	c.AddCommand(benchPairCommand())
	return c
}

// median returns the middle of the values, the lower one of two. There is at least one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
