package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tandem/lockstep/wire"
)

func newLogSummaryCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "summary FILE|DIR",
		Short: "Print what the log holds: records and bytes by kind, in all and per guest second",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return summariseLog(cmd.OutOrStdout(), args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// logSummary is what a log holds. The JSON names are for scripts and stay.
type logSummary struct {
	Fingerprint   string          `json:"fingerprint"`
	Configuration json.RawMessage `json:"configuration,omitempty"`
	Frames        uint64          `json:"frames"`
	Records       uint64          `json:"records"`
	// RecordBytes is the size of the records, FileBytes that of the good part of the file: with headers, compressed.
	RecordBytes uint64 `json:"record_bytes"`
	FileBytes   int64  `json:"file_bytes"`
	FirstExit   uint64 `json:"first_exit"`
	LastExit    uint64 `json:"last_exit"`
	FirstTimeNS int64  `json:"first_time_ns"`
	LastTimeNS  int64  `json:"last_time_ns"`
	// Kinds has the kinds that occur, in the order of their numbers.
	Kinds  []kindSummary `json:"kinds"`
	Deltas *deltaSummary `json:"deltas,omitempty"`
	End    string        `json:"end"`
	counts map[wire.Kind]*kindSummary
}

type kindSummary struct {
	Kind    string `json:"kind"`
	Records uint64 `json:"records"`
	Bytes   uint64 `json:"bytes"`
}

// deltaSummary is what forced stops cost: the numbers are sums.
type deltaSummary struct {
	Deltas     uint64         `json:"deltas"`
	Incomplete uint64         `json:"incomplete"`
	MostBytes  uint64         `json:"most_bytes"`
	Pages      wire.PageStats `json:"pages"`
	scanner    *wire.PageReader
}

func summariseLog(out io.Writer, path string, asJSON bool) error {
	file, err := openLog(path)
	if err != nil {
		return err
	}
	defer file.Close()
	l, err := readLog(file, file)
	if err != nil {
		return err
	}
	s := newLogSummary(l.Header())
	readErr := s.read(l)
	if asJSON {
		err = json.NewEncoder(out).Encode(s)
	} else {
		err = s.print(out)
	}
	if err != nil {
		return failure(err)
	}
	return logEnd(file, l, readErr)
}

func newLogSummary(h *wire.Header) *logSummary {
	s := &logSummary{Fingerprint: h.Fingerprint.String(), End: "none", counts: make(map[wire.Kind]*kindSummary)}
	if json.Valid(h.Configuration) {
		s.Configuration = h.Configuration
	}
	return s
}

// read counts all records and returns how the log ended: io.EOF, or another error.
func (s *logSummary) read(l *wire.Reader) error {
	next := func(r *wire.Record) error {
		if err := l.Next(r); err != nil {
			return err
		}
		s.count(l, r)
		return nil
	}
	var r wire.Record
	for {
		if err := next(&r); err != nil {
			s.finish(l)
			return err
		}
		if r.Kind != wire.KindDelta {
			continue
		}
		if err := s.delta(&r, next); err != nil {
			s.finish(l)
			return err
		}
	}
}

func (s *logSummary) count(l *wire.Reader, r *wire.Record) {
	frame := l.Frame()
	if r.Sequence == frame.Base.Sequence {
		s.Frames++
		s.FileBytes = l.Offset() + frame.Stored
	}
	if s.Records == 0 {
		s.FirstExit, s.FirstTimeNS = r.Position, frame.Base.Time
	}
	s.Records++
	s.RecordBytes += uint64(l.Size())
	s.LastExit, s.LastTimeNS = r.Position, l.Base().Time
	k := s.counts[r.Kind]
	if k == nil {
		k = &kindSummary{Kind: r.Kind.String()}
		s.counts[r.Kind] = k
	}
	k.Records++
	k.Bytes += uint64(l.Size())
	if r.Kind == wire.KindEnd {
		s.End = r.Cause.String()
		if len(r.Payload) > 0 {
			s.End += ": " + string(r.Payload)
		}
	}
}

// delta counts what is in a delta, whose parts next reads. Parts that are no stream of pages count as incomplete, and only
// a log that ends inside the delta is an error.
func (s *logSummary) delta(first *wire.Record, next func(*wire.Record) error) error {
	if s.Deltas == nil {
		s.Deltas = &deltaSummary{scanner: wire.NewPageScanner()}
	}
	d := s.Deltas
	d.Deltas++
	var end error // how the log ended, if it did
	parts := wire.NewDeltaReader(first, func(r *wire.Record) error {
		end = next(r)
		return end
	})
	err := d.scan(parts)
	if err != nil {
		d.Incomplete++
		_, _ = io.Copy(io.Discard, parts)
	}
	return end
}

func (d *deltaSummary) scan(parts io.Reader) error {
	d.scanner.Begin(parts)
	_, err := d.scanner.State()
	for err == nil {
		_, _, err = d.scanner.Next()
	}
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	got := d.scanner.Stats()
	d.MostBytes = max(d.MostBytes, got.StoredBytes)
	d.Pages.Zero += got.Zero
	d.Pages.Plain += got.Plain
	d.Pages.Same += got.Same
	d.Pages.Differences += got.Differences
	d.Pages.Words += got.Words
	d.Pages.StateBytes += got.StateBytes
	d.Pages.StoredBytes += got.StoredBytes
	return nil
}

func (s *logSummary) finish(l *wire.Reader) {
	if s.Frames == 0 {
		s.FileBytes = l.Offset()
	}
	for _, k := range wire.Kinds() {
		if c := s.counts[k]; c != nil {
			s.Kinds = append(s.Kinds, *c)
		}
	}
}

// seconds returns the guest time that the log covers.
func (s *logSummary) seconds() float64 { return float64(s.LastTimeNS-s.FirstTimeNS) / 1e9 }

func (s *logSummary) print(out io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "machine  %s\n", s.Fingerprint)
	fmt.Fprintf(&b, "file     %d bytes, %d frames\n", s.FileBytes, s.Frames)
	fmt.Fprintf(&b, "records  %d, %d bytes\n", s.Records, s.RecordBytes)
	fmt.Fprintf(&b, "exits    %d to %d\n", s.FirstExit, s.LastExit)
	fmt.Fprintf(&b, "guest    %.3f s to %.3f s\n", float64(s.FirstTimeNS)/1e9, float64(s.LastTimeNS)/1e9)
	fmt.Fprintf(&b, "end      %s\n\n", s.End)
	s.printKinds(&b)
	if d := s.Deltas; d != nil {
		d.print(&b)
	}
	if len(s.Configuration) > 0 {
		b.WriteString("\nconfiguration\n")
		if err := json.Indent(&b, s.Configuration, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
	}
	_, err := out.Write(b.Bytes())
	return err
}

func (s *logSummary) printKinds(b *bytes.Buffer) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kind\trecords\tbytes\tbytes each\trecords/guest s\tbytes/guest s\t")
	row := func(k kindSummary) {
		rates := "-\t-"
		if seconds := s.seconds(); seconds > 0 {
			rates = fmt.Sprintf("%.1f\t%.1f", float64(k.Records)/seconds, float64(k.Bytes)/seconds)
		}
		each := "-"
		if k.Records > 0 {
			each = fmt.Sprintf("%.1f", float64(k.Bytes)/float64(k.Records))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t\n", k.Kind, k.Records, k.Bytes, each, rates)
	}
	for _, k := range s.Kinds {
		row(k)
	}
	row(kindSummary{"all", s.Records, s.RecordBytes})
	_ = w.Flush() // to memory
}

func (d *deltaSummary) print(b *bytes.Buffer) {
	p := &d.Pages
	fmt.Fprintf(b, "\n%d deltas, %d bytes, the largest %d", d.Deltas, p.StoredBytes, d.MostBytes)
	if d.Incomplete > 0 {
		fmt.Fprintf(b, "; %d of them incomplete", d.Incomplete)
	}
	fmt.Fprintf(b, "\n%d pages: %d by differences, %d by words, %d plain, %d as before, %d zero; %d bytes of state\n",
		p.Pages(), p.Differences, p.Words, p.Plain, p.Same, p.Zero, p.StateBytes)
}
