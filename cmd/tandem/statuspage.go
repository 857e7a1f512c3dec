package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/docker/go-units"

	"tandem/vmm/protect"
)

// Widths of the page, in columns.
const (
	labelWidth = 11
	barWidth   = 24
)

// statusEvents is how many of the latest events the page shows.
const statusEvents = 8

// page is a status in lines, each with a label.
type page struct{ strings.Builder }

// line writes a line. A label that is "" continues the one before.
func (p *page) line(label, format string, args ...any) {
	text := printable(fmt.Sprintf(format, args...))
	p.WriteString(strings.TrimRight(fmt.Sprintf("%-*s%s", labelWidth, label, text), " ") + "\n")
}

// printable takes what would move a terminal's cursor out of a text, some of which comes from the peer.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// statusPage is a status for people.
func statusPage(s *protect.Status) string {
	var p page
	p.line("guest", "%s: %s, %s", s.Guest, s.Role, s.State)
	p.line("term", "%d, %s by this run as %s", s.Term, holds(s), s.Owner)
	p.line("arbiter", "%s", s.Arbiter)
	p.peer(s)
	p.clock(s)
	p.log(s)
	p.output(s)
	if s.Divergences == 0 {
		p.line("diverged", "never")
	} else {
		p.line("diverged", "%d time(s)", s.Divergences)
	}
	p.transfers(s)
	p.failover(s.LastFailover)
	p.events(s.Events)
	return p.String()
}

// clock tells where the guest is, if this host has it, and how long this host has had its part.
func (p *page) clock(s *protect.Status) {
	if s.Position > 0 {
		p.line("guest time", "%s, exit %s", since(float64(s.GuestTimeNS)/1e6), grouped(s.Position))
	}
	p.line("up", "%s", since(float64(s.UptimeMS)))
}

// primaryRole is the role of a host that runs the guest.
const primaryRole = "primary"

// holds says what a host has to do with its term.
func holds(s *protect.Status) string {
	if s.Role == primaryRole {
		return "held"
	}
	return "seen"
}

func (p *page) peer(s *protect.Status) {
	if s.Listen != "" {
		p.line("listens", "%s", s.Listen)
	}
	switch {
	case s.Peer != nil:
		p.line("peer", "%s at %s, key %.16s", s.Peer.Name, s.Peer.Address, s.Peer.Fingerprint)
	case s.Role == primaryRole:
		p.line("peer", "none: the guest is not protected")
	default:
		p.line("peer", "none: no host runs the guest, as far as this one knows")
	}
}

// log tells of the log between the hosts, if there is one.
func (p *page) log(s *protect.Status) {
	if s.Peer == nil {
		return
	}
	behind := "the backup has executed all of it"
	if s.Log.LagRecords > 0 {
		behind = fmt.Sprintf("the backup is %s records and %s behind", grouped(s.Log.LagRecords), duration(s.Log.LagMS))
	}
	p.line("log", "%s records, %s, %s/s; %s", grouped(s.Log.Records), units.BytesSize(float64(s.Log.Bytes)), bitsPerSecond(s.Log.BytesPerSecond), behind)
}

// output tells of what leaves a guest that runs here.
func (p *page) output(s *protect.Status) {
	switch {
	case s.Role != primaryRole:
	case s.Peer == nil && s.Output.Held == 0:
		p.line("output", "leaves at once; pace %s", s.Output.Pace)
	default:
		p.line("output", "leaves when %s: %s have left, %d wait; delay median %s, p99 %s; pace %s", s.Release, grouped(s.Output.Released), s.Output.Held,
			duration(s.Output.DelayMedianUS/1e3), duration(s.Output.DelayP99US/1e3), s.Output.Pace)
	}
}

func (p *page) transfers(s *protect.Status) {
	if t := s.Transfer; t != nil {
		done, total := transferred(*t)
		p.line("transfer", "%s %d%% of %s", bar(done, total), percent(done, total), units.BytesSize(float64(total)))
		p.line("", "round %d: %s sent in %s, %s pages changed meanwhile", t.Round, units.BytesSize(float64(t.Bytes)), duration(t.ElapsedMS), grouped(t.Dirty))
	}
	if t := s.LastTransfer; t != nil {
		p.line("last sync", "%s in %s, %d rounds; the guest stood still for %s", units.BytesSize(float64(t.Bytes)), duration(t.ElapsedMS), t.Round, duration(t.StopMS))
		if sent, all := t.Content(); sent < all {
			p.line("", "a delta of %s of %s: the backup had the rest", units.BytesSize(float64(sent)), units.BytesSize(float64(all)))
		}
	}
}

// bar draws how much of total is done.
func bar(done, total uint64) string {
	n := percent(done, total) * barWidth / 100
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "]"
}

func (p *page) failover(f *protect.Failover) {
	if f == nil {
		return
	}
	cause := ""
	if f.Cause != "" {
		cause = ": " + f.Cause
	}
	p.line("failover", "%s, %s in all%s", clock(f.At), duration(f.TotalMS), cause)
	for _, step := range f.Steps {
		p.line("", "%10s  %s", duration(step.MS), step.Name)
	}
}

func (p *page) events(events []protect.Event) {
	events = events[max(0, len(events)-statusEvents):]
	for i, e := range events {
		label := ""
		if i == 0 {
			label = "events"
		}
		alarm := ""
		if e.Alarm {
			alarm = "ALARM: "
		}
		p.line(label, "%s  %s%s", clock(e.At), alarm, e.Text)
	}
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + "Z" }

// duration is a time in ms with three digits.
func duration(ms float64) string {
	switch {
	case ms < 0.9995: // as the digits below round
		return fmt.Sprintf("%.0f µs", ms*1e3)
	case ms < 999.5:
		return fmt.Sprintf("%.3g ms", ms)
	case ms < 59_995:
		return fmt.Sprintf("%.3g s", ms/1e3)
	}
	return since(ms)
}

// since is a long time in ms, to the second.
func since(ms float64) string {
	return time.Duration(ms * float64(time.Millisecond)).Truncate(time.Second).String()
}

func bitsPerSecond(bytes float64) string {
	return units.CustomSize("%.3g %s", bytes*8, 1000, []string{"bit", "kbit", "Mbit", "Gbit", "Tbit"})
}

// grouped is a number with its thousands apart.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(d)
	}
	return b.String()
}
