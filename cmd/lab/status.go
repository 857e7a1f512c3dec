package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"tandem/cmd/internal/lab/control"
	"tandem/cmd/internal/lab/ether"
)

func writeJSON(w io.Writer, st control.Status) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(st)
}

// printStatus prints tab-separated columns.
func printStatus(w io.Writer, st control.Status) {
	fmt.Fprintln(w, "HOST\tSTATE\tPID\tBOOT\tADDRESSES")
	for _, h := range st.Hosts {
		state := "up"
		switch {
		case !h.Alive:
			state = "dead"
		case h.Frozen:
			state = "frozen"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f s\t%s\n", h.Name, state, h.PID, float64(h.BootMS)/1000, strings.Join(h.Addresses, " "))
	}
	for n, net := range st.Networks {
		fmt.Fprintf(w, "\nNETWORK %d\tLINK\tSENT\tRECEIVED\tCUT\tDROPPED\tOVERFLOW\n", n)
		for _, p := range net.Ports {
			c := p.Counters
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", p.Name, describeLink(p.Link),
				c.SentFrames, c.ReceivedFrames, c.CutFrames, c.DroppedFrames, c.OverflowFrames)
		}
		for _, p := range net.Pairs {
			fmt.Fprintf(w, "%s → %s\t%s\n", p.From, p.To, describeLink(p.Link))
		}
	}
}

func describeLink(l ether.Link) string {
	var parts []string
	if l.Cut {
		parts = append(parts, "cut")
	}
	if l.Drop > 0 {
		parts = append(parts, fmt.Sprintf("drops %g %%", l.Drop*100))
	}
	if l.Delay > 0 {
		parts = append(parts, "delays "+l.Delay.String())
	}
	if l.RateBitsPerSecond > 0 {
		parts = append(parts, fmt.Sprintf("%g Mbit/s", float64(l.RateBitsPerSecond)/1e6))
	}
	if len(parts) == 0 {
		return "whole"
	}
	return strings.Join(parts, ", ")
}
