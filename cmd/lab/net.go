package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tandem/cmd/internal/lab/control"
)

func netCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "net",
		Short: "Break and mend the network of a lab that is up",
		Long: "Break and mend the network of a lab that is up. With two hosts, what is between the two\n" +
			"changes; with one, that host's cable; with none, every host's cable. Changes add up until\n" +
			"\"lab net heal\" takes them back.",
	}
	c.AddCommand(
		linkCommand("cut [HOST [HOST]]", "Let nothing through", 0, func(ch *control.Change, _ string) error {
			cut := true
			ch.Cut = &cut
			return nil
		}),
		linkCommand("heal [HOST [HOST]]", "Take cuts, losses, delays and rates back", 0, func(ch *control.Change, _ string) error {
			ch.Heal = true
			return nil
		}),
		linkCommand("delay DURATION [HOST [HOST]]", "Delay every frame, such as by 20ms", 1, setDelay),
		linkCommand("drop PROBABILITY [HOST [HOST]]", "Lose frames at random: 0.1 or 10%", 1, setDrop),
		linkCommand("rate BITS [HOST [HOST]]", "Limit the bits per second: 512k, 10M, 1G; 0 for no limit", 1, setRate),
	)
	return c
}

// linkCommand is the frame of the commands above; values is how many arguments
// come before the hosts, 0 or 1.
func linkCommand(use, short string, values int, set func(*control.Change, string) error) *cobra.Command {
	var name string
	var network int
	var oneWay bool
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.RangeArgs(values, values+2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ch := control.Change{Hosts: args[values:], OneWay: oneWay}
			if cmd.Flags().Changed("network") {
				ch.Network = &network
			}
			if oneWay && len(ch.Hosts) != 2 {
				return fmt.Errorf("--one-way needs two hosts")
			}
			value := ""
			if values > 0 {
				value = args[0]
			}
			if err := set(&ch, value); err != nil {
				return err
			}
			_, err := call(name, control.Request{Op: control.OpLink, Change: ch})
			return err
		},
	}
	c.Flags().IntVar(&network, "network", 0, "only on this network, from 0 (default all)")
	c.Flags().BoolVar(&oneWay, "one-way", false, "only from the first host to the second")
	registerName(c, &name)
	return c
}

func setDelay(ch *control.Change, value string) error {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no delay: want one such as 20ms", value)
	}
	ch.Delay = &d
	return nil
}

func setDrop(ch *control.Change, value string) error {
	number, percent := strings.CutSuffix(value, "%")
	p, err := strconv.ParseFloat(number, 64)
	if percent {
		p /= 100
	}
	if err != nil || !(p >= 0 && p <= 1) {
		return fmt.Errorf("%q is no probability: want one such as 0.1 or 10%%", value)
	}
	ch.Drop = &p
	return nil
}

func setRate(ch *control.Change, value string) error {
	number, factor := value, int64(1)
	for suffix, f := range map[string]int64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if n, ok := strings.CutSuffix(value, suffix); ok {
			number, factor = n, f
		}
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no rate in bits per second: want one such as 512k, 10M or 1G", value)
	}
	bits := n * factor
	ch.RateBitsPerSecond = &bits
	return nil
}
