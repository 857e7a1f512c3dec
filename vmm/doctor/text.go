package doctor

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Escape sequences of ECMA-48, SGR.
const (
	plain  = "\x1b[0m"
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
)

// WriteText writes the report for a person: every finding, and the conclusions last, where the eye is. colour marks
// verdicts with escape sequences, for a terminal.
func (r *Report) WriteText(w io.Writer, colour bool) error {
	t := &textWriter{w: w, colour: colour}
	t.printf("%s\n", r.Host.line())
	t.features(r.Features)
	t.abilities(r.Abilities)
	if !r.Can(Linux) {
		t.printf("\nTo run Linux, %s.\n", remedy)
	}
	return t.err
}

func (t *textWriter) features(features []Feature) {
	width := 0
	for _, f := range features {
		width = max(width, utf8.RuneCountInString(f.Title))
	}
	use := Use("-")
	for _, f := range features {
		if f.Use != use {
			use = f.Use
			t.printf("\n%s\n", t.paint(bold, heading(use)))
		}
		t.printf("  %s  %-*s  %s\n", t.verdict(f), width, f.Title, f.Detail)
		if f.Verdict != OK {
			t.printf("  %7s  %-*s  needed for: %s\n", "", width, "", f.NeededFor)
		}
	}
}

func heading(u Use) string {
	if u == NoUse {
		return "For information"
	}
	return "To " + u.what()
}

func (t *textWriter) abilities(abilities []Ability) {
	t.printf("\n%s\n", t.paint(bold, "This host"))
	for _, a := range abilities {
		if a.OK {
			t.printf("  %s  can %s\n", t.paint(green, "yes    "), a.Use.what())
			continue
		}
		t.printf("  %s  can't %s: %s\n", t.paint(red, "no     "), a.Use.what(), a.Reason)
	}
}

// line describes the host in one line.
func (h Host) line() string {
	parts := []string{h.Processor}
	if h.Processor == "" {
		parts[0] = h.Vendor
	}
	parts = append(parts, "Linux "+h.Kernel)
	if h.Module != "" {
		parts = append(parts, h.Module)
	}
	return strings.Join(parts, ", ")
}

// textWriter keeps the first error of many writes.
type textWriter struct {
	w      io.Writer
	colour bool
	err    error
}

func (t *textWriter) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

func (t *textWriter) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return colour + s + plain
}

// verdict is a mark seven columns wide. What nothing depends on is not marked as a fault.
func (t *textWriter) verdict(f Feature) string {
	mark := fmt.Sprintf("%-7s", f.Verdict)
	switch {
	case f.Verdict == OK:
		return t.paint(green, mark)
	case f.Verdict == Missing && f.Use != NoUse:
		return t.paint(red, mark)
	}
	return t.paint(yellow, mark)
}
