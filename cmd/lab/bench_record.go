package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tandem/cmd/internal/lab/agent"
	"tandem/cmd/internal/labrun"
)

// recordTimeout bounds one guest of these measurements.
const recordTimeout = 10 * time.Minute

// workloads are what a guest does while it is recorded, each as a command of its shell. The first is the boot.
var workloads = []struct{ name, command string }{
	{"boot", ""},
	{"idle", "sleep 10"},
	{"shell loop", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"},
	{"md5sum", "head -c 100000000 /dev/zero | md5sum"},
	{"gzip", "head -c 10000000 /dev/zero | gzip | wc -c"},
	{"processes", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done"},
}

// logSize is what is measured of a log: parts of what `tandem log summary --json` prints.
type logSize struct {
	Records    uint64 `json:"records"`
	FileBytes  int64  `json:"file_bytes"`
	LastTimeNS int64  `json:"last_time_ns"`
	Deltas     *struct {
		Deltas uint64 `json:"deltas"`
	} `json:"deltas"`
}

// workloadTime is how long a workload took, and what the log had at its end if it was recorded.
type workloadTime struct {
	seconds float64
	log     logSize
}

// benchRecord records a guest under several loads and says what that costs.
func benchRecord(ctx context.Context, e *labrun.Engine, o benchOptions) error {
	fmt.Fprintf(o.out, "record: Debian's kernel %s with %s; %s\n", e.Artifacts.Release, labrun.GuestMemory, e.Reason)
	live, recorded := make([][]float64, len(workloads)), make([][]float64, len(workloads))
	var replays []float64
	for i := range o.runs {
		times, _, err := runWorkloads(ctx, e, "run", "")
		if err != nil {
			return err
		}
		dir := e.Path(fmt.Sprintf("bench-record-%d", i))
		logged, said, err := runWorkloads(ctx, e, "record", dir)
		if err != nil {
			return err
		}
		took := 0.0
		for w := range workloads {
			live[w], recorded[w] = append(live[w], times[w].seconds), append(recorded[w], logged[w].seconds)
			took += logged[w].seconds
		}
		printLogged(o.out, i+1, logged, said)
		start := time.Now()
		if err := replay(ctx, e, dir); err != nil {
			return err
		}
		replays = append(replays, time.Since(start).Seconds()/took)
	}
	for w := range workloads {
		l, r := median(live[w]), median(recorded[w])
		fmt.Fprintf(o.out, "  median %-11s live %.2f s, recorded %.2f s (%+.1f %%)\n", workloads[w].name, l, r, 100*(r/l-1))
	}
	fmt.Fprintf(o.out, "  median replay of all of it: %.2f of the recording's time\n", median(replays))
	return nil
}

// printLogged prints what each workload put into the log, and what the guest stood still for. The first checkpoint is part of
// the boot's time.
func printLogged(w io.Writer, run int, logged []workloadTime, said string) {
	before := logSize{}
	for i, l := range logged {
		seconds := float64(l.log.LastTimeNS-before.LastTimeNS) / 1e9
		kilobytes, records := float64(l.log.FileBytes-before.FileBytes)/1000, l.log.Records-before.Records
		fmt.Fprintf(w, "  run %d: %-11s %8.1f KB of log, %6d records, %3d forced stops in %6.2f s of guest time: %.2f KB/s, %.0f records/s\n",
			run, workloads[i].name, kilobytes, records, l.log.stops()-before.stops(), seconds, kilobytes/seconds, float64(records)/seconds)
		before = l.log
	}
	for line := range strings.Lines(said) {
		if strings.Contains(line, "forced stops") || strings.Contains(line, "checkpoints") {
			fmt.Fprintf(w, "  run %d: %s", run, strings.TrimPrefix(line, "tandem: "))
		}
	}
}

func (s *logSize) stops() uint64 {
	if s.Deltas == nil {
		return 0
	}
	return s.Deltas.Deltas
}

// runWorkloads has a guest do all workloads, recorded into dir if verb is "record". said is what tandem printed.
func runWorkloads(ctx context.Context, e *labrun.Engine, verb, dir string) (times []workloadTime, said string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, recordTimeout, fmt.Errorf("not done after %v", recordTimeout))
	defer cancel()
	args := []string{e.Tandem(), verb, "--kernel", e.Kernel(), "--initrd", e.Initrd(), "--memory", labrun.GuestMemory, "--cmdline", "quiet", "--stats"}
	if dir != "" {
		args = append(args, "--output", dir)
	}
	start := time.Now()
	s, err := e.Start(ctx, labrun.Options{}, args...)
	if err != nil {
		return nil, "", err
	}
	for _, w := range workloads {
		if w.command != "" {
			start = time.Now()
			if err := s.Type(w.command + "\n"); err != nil {
				return nil, "", err
			}
		}
		if err := s.Out.Await(ctx, labrun.Prompt); err != nil {
			return nil, "", fmt.Errorf("%w; tandem said: %s", err, s.Err)
		}
		t := workloadTime{seconds: time.Since(start).Seconds()}
		if dir != "" {
			if t.log, err = measureLog(ctx, e, dir); err != nil {
				return nil, "", err
			}
		}
		times = append(times, t)
	}
	if err := s.Type("poweroff -f\n"); err != nil {
		return nil, "", err
	}
	if status, err := s.Status(); err != nil || status != 0 {
		return nil, "", errors.Join(fmt.Errorf("tandem ended with status %d: %s", status, s.Err), err)
	}
	return times, s.Err.String(), nil
}

// measureLog looks at a log that may still be written: then what was logged in the last instant is not in it yet.
func measureLog(ctx context.Context, e *labrun.Engine, dir string) (logSize, error) {
	var out bytes.Buffer
	err := e.Run(ctx, agent.Cmd{Args: []string{e.Tandem(), "log", "summary", "--json", dir}, Stdout: &out})
	var exit *agent.ExitError
	if err != nil && !errors.As(err, &exit) { // a log without an end gives a status
		return logSize{}, err
	}
	var size logSize
	if err := json.Unmarshal(out.Bytes(), &size); err != nil {
		return logSize{}, fmt.Errorf("the log's summary: %w: %s", err, out.Bytes())
	}
	return size, nil
}

// replay replays a recording, which must be equal at its end, and removes it.
func replay(ctx context.Context, e *labrun.Engine, dir string) error {
	var errs bytes.Buffer
	err := e.Run(ctx, agent.Cmd{Args: []string{e.Tandem(), "replay", "--console", "none", dir}, Stderr: &errs})
	if err != nil {
		return fmt.Errorf("replay: %w: %s", err, errs.Bytes())
	}
	return e.Run(ctx, agent.Cmd{Args: []string{"rm", "-r", dir}})
}
