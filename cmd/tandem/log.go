package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tandem/lockstep/wire"
)

func newLogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Look into the log of a recording",
		Long: `Log shows what entered a recorded machine, and when. The log is given by its file or by the recording's directory.

A log that is damaged or cut off is shown up to its last good record; then one line on standard error says where and why it
ends, and the exit status is 1.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newLogDumpCommand(), newLogSummaryCommand())
	return cmd
}

// openLog opens a log by its file or its directory.
func openLog(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, usage(fileError("the log", path, err))
	}
	if info.IsDir() {
		path = filepath.Join(path, wire.LogName)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usage(fileError("the log", path, err))
	}
	return f, nil
}

// readLog returns the reader of a log's records.
func readLog(f *os.File, source io.Reader) (*wire.Reader, error) {
	l, err := wire.NewReader(source)
	if errors.Is(err, wire.ErrNoLog) {
		return nil, usage(fmt.Errorf("%s: %w", f.Name(), err))
	}
	if err != nil {
		return nil, failure(fmt.Errorf("%s: %w", f.Name(), err))
	}
	return l, nil
}

// dumpFlags say which records are shown, and how.
type dumpFlags struct {
	kinds          []string
	from, to       uint64
	json, payload  bool
	follow         bool
	kindSet        wire.KindSet
	followInterval time.Duration
}

// followInterval is how often a log that is followed is looked at.
const followInterval = 100 * time.Millisecond

func newLogDumpCommand() *cobra.Command {
	f := dumpFlags{followInterval: followInterval}
	cmd := &cobra.Command{
		Use:   "dump FILE|DIR",
		Short: "Print the log's records, one a line",
		Example: `  tandem log dump recording
  tandem log dump recording --kind console,frame --from 12000
  tandem log dump recording --json | jq 'select(.kind=="clock") | .time_ns'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, unix.SIGTERM)
			defer stop()
			return dumpLog(ctx, cmd.OutOrStdout(), args[0], &f)
		},
	}
	names := make([]string, 0, len(wire.Kinds()))
	for _, k := range wire.Kinds() {
		names = append(names, k.String())
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.kinds, "kind", nil, "only these kinds: "+strings.Join(names, ", "))
	flags.Uint64Var(&f.from, "from", 0, "only from this `exit` on")
	flags.Uint64Var(&f.to, "to", math.MaxUint64, "only up to this `exit`")
	flags.BoolVar(&f.json, "json", false, "one JSON object a line")
	flags.BoolVar(&f.payload, "payload", false, "with --json: whole payloads in hexadecimal")
	flags.BoolVar(&f.follow, "follow", false, "go on while the log grows, until its end")
	flags.Lookup("to").DefValue = ""
	return cmd
}

func (f *dumpFlags) check() error {
	f.kindSet = wire.AllKinds
	if len(f.kinds) > 0 {
		f.kindSet = 0
	}
	for _, name := range f.kinds {
		k, err := wire.ParseKind(name)
		if err != nil {
			return usage(err)
		}
		f.kindSet |= wire.SetOf(k)
	}
	if f.from > f.to {
		return usage(fmt.Errorf("--from %d is after --to %d", f.from, f.to))
	}
	if f.payload && !f.json {
		return usage(errors.New("--payload is for --json"))
	}
	return nil
}

func dumpLog(ctx context.Context, out io.Writer, path string, f *dumpFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	file, err := openLog(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffered := bufio.NewWriter(out)
	var source io.Reader = file
	if f.follow {
		source = wire.Growing(file, func() bool { return buffered.Flush() == nil && pause(ctx, f.followInterval) })
	}
	l, err := readLog(file, source)
	if err != nil {
		return err
	}
	l.Only(f.kindSet)
	err = f.dump(buffered, l)
	if err := buffered.Flush(); err != nil {
		return failure(err)
	}
	if f.follow && ctx.Err() != nil {
		return nil // the user has seen enough
	}
	return logEnd(file, l, err)
}

// dump prints records until the last one that is wanted, or returns how the log ended: io.EOF, or another error.
func (f *dumpFlags) dump(out *bufio.Writer, l *wire.Reader) error {
	for {
		var r wire.Record
		if err := l.Next(&r); err != nil {
			return err
		}
		if r.Position > f.to {
			return nil
		}
		if r.Position < f.from || !f.kindSet.Has(r.Kind) {
			continue
		}
		if err := f.print(out, &r); err != nil {
			return err
		}
	}
}

func (f *dumpFlags) print(out *bufio.Writer, r *wire.Record) error {
	if f.json {
		return json.NewEncoder(out).Encode(jsonRecord(r, f.payload))
	}
	_, err := fmt.Fprintln(out, r.String())
	return err
}

// pause waits, and returns false if the context is done.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// logEnd makes the exit status of how reading a log ended: nil or io.EOF is well. Bytes behind the log's end are not.
func logEnd(f *os.File, l *wire.Reader, err error) error {
	if err == io.EOF {
		err = behindEnd(f, l.Offset()+l.Frame().Stored)
	}
	if err == nil {
		return nil
	}
	return failure(fmt.Errorf("%s: %w", f.Name(), err))
}

// behindEnd returns an error if the file goes on at byte end.
func behindEnd(f *os.File, end int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if more := info.Size() - end; info.Mode().IsRegular() && more > 0 {
		return fmt.Errorf("the log is whole, but %d bytes behind its end at byte %d are no part of it", more, end)
	}
	return nil
}

// logRecord is a record as JSON. The names are for scripts and stay.
type logRecord struct {
	Sequence  uint64            `json:"sequence"`
	Exit      uint64            `json:"exit"`
	Kind      string            `json:"kind"`
	Device    *uint8            `json:"device,omitempty"`
	Of        string            `json:"of,omitempty"`
	TimeNS    *int64            `json:"time_ns,omitempty"`
	Hash      string            `json:"hash,omitempty"`
	Number    *uint64           `json:"number,omitempty"`
	Length    *uint64           `json:"length,omitempty"`
	Last      *bool             `json:"last,omitempty"`
	Cause     string            `json:"cause,omitempty"`
	Message   string            `json:"message,omitempty"`
	Registers map[string]string `json:"registers,omitempty"`
	Payload   string            `json:"payload,omitempty"`
}

func jsonRecord(r *wire.Record, payload bool) logRecord {
	j := logRecord{Sequence: r.Sequence, Exit: r.Position, Kind: r.Kind.String()}
	length := uint64(len(r.Payload))
	switch r.Kind {
	case wire.KindClock:
		j.TimeNS = &r.Time
	case wire.KindConsole, wire.KindFrame, wire.KindDisk, wire.KindRandom:
		j.Device, j.Length = &r.Device, &length
	case wire.KindDigest:
		j.TimeNS, j.Hash, j.Registers = &r.Time, hash(r.Hash), jsonRegisters(r.Registers)
	case wire.KindDelta:
		j.Last, j.Length = &r.Last, &length
	case wire.KindMemory:
		j.Number, j.Length = &r.Number, &length
	case wire.KindDevices:
		j.Length = &length
	case wire.KindCheckpoint:
		j.TimeNS, j.Number = &r.Time, &r.Number
	case wire.KindOutput:
		j.Device, j.Of, j.Length, j.Hash = &r.Device, r.Of.String(), &r.Length, hash(r.Hash)
	case wire.KindEnd:
		j.TimeNS, j.Cause, j.Message = &r.Time, r.Cause.String(), string(r.Payload)
	}
	if payload && r.Kind != wire.KindEnd {
		j.Payload = hex.EncodeToString(r.Payload)
	}
	return j
}

func hash(h uint64) string { return fmt.Sprintf("%016x", h) }

func jsonRegisters(regs *wire.Registers) map[string]string {
	if regs == nil {
		return nil
	}
	m := make(map[string]string, len(regs))
	for i, v := range regs {
		m[wire.RegisterNames[i]] = fmt.Sprintf("%#x", v)
	}
	return m
}
