package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/lockstep/wire"
)

// recordLog writes a log with records of several kinds into a new directory: two seconds of a guest, with a tick every
// 4 ms, one delta and a typed line.
func recordLog(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	ring := wire.NewRing(wire.MinRing, wire.Base{Sequence: 1}, nil)
	header := &wire.Header{Fingerprint: wire.FingerprintOf(), Configuration: []byte(`{"memory":1024}`)}
	w, err := wire.CreateFile(filepath.Join(dir, wire.LogName), header, ring)
	if err != nil {
		t.Fatal(err)
	}
	position := uint64(0)
	add := func(r wire.Record) {
		t.Helper()
		r.Position = position
		if err := ring.Append(&r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		position += 5
		add(wire.Record{Kind: wire.KindTick})
		if i%50 == 49 {
			add(wire.Record{Kind: wire.KindClock, Time: int64(i+1) * 4_000_000})
		}
	}
	add(wire.Record{Kind: wire.KindConsole, Payload: []byte("ls\n")})
	position++
	p, d := wire.NewPageWriter(nil), wire.NewDeltaWriter(ring, position)
	p.Begin(d)
	for _, err := range []error{p.State([]byte("state")), p.Page(3, bytes.Repeat([]byte("page"), 1024)), p.Page(4, make([]byte, wire.PageSize)), p.End(), d.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var regs wire.Registers
	regs[16] = 0x1000
	add(wire.Record{Kind: wire.KindDigest, Time: 2_000_000_000, Hash: 0xfeed, Registers: &regs})
	add(wire.Record{Kind: wire.KindEnd, Time: 2_000_000_000, Cause: wire.EndPowerOff})
	if err := ring.Flush(); err != nil {
		t.Fatal(err)
	}
	ring.Close()
	if err := w.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runLog runs `tandem log` and returns what it prints and its exit status.
func runLog(args ...string) (string, int, error) {
	cmd := newLogCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(context.Background())
	var s *statusError
	switch {
	case err == nil:
		return out.String(), statusOK, nil
	case errors.As(err, &s):
		return out.String(), s.status, err
	}
	return out.String(), statusUsage, err
}

func TestLogDump(t *testing.T) {
	dir := recordLog(t)
	table := []struct {
		name  string
		args  []string
		lines int
		want  string
	}{
		{"all", nil, 514, "#1 exit 5 tick\n"},
		{"kind", []string{"--kind", "clock"}, 10, "#51 exit 250 clock 0.200000000s\n"},
		{"kinds", []string{"--kind", "console,end"}, 2, `#511 exit 2500 console 0: 3 bytes "ls\n"` + "\n#514 exit 2501 end at 2.000000000s: the guest powered off\n"},
		{"from", []string{"--from", "2501"}, 3, "#512 exit 2501 delta"},
		{"range", []string{"--from", "10", "--to", "20"}, 3, "#2 exit 10 tick\n#3 exit 15 tick\n#4 exit 20 tick\n"},
		{"follow", []string{"--follow", "--kind", "end"}, 1, "#514 "},
		{"JSON", []string{"--json", "--kind", "digest"}, 1, `{"sequence":513,"exit":2501,"kind":"digest","time_ns":2000000000,"hash":"000000000000feed","registers":{`},
		{"JSON payload", []string{"--json", "--payload", "--kind", "console"}, 1, `"device":0,"length":3,"payload":"6c730a"}`},
	}
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			out, status, err := runLog(append([]string{"dump", dir}, c.args...)...)
			if status != statusOK {
				t.Fatalf("status %d: %v", status, err)
			}
			if n := strings.Count(out, "\n"); n != c.lines || !strings.Contains(out, c.want) {
				t.Errorf("%d lines, want %d with %q:\n%.500s", n, c.lines, c.want, out)
			}
		})
	}
}

func TestLogSummary(t *testing.T) {
	dir := recordLog(t)
	out, status, err := runLog("summary", filepath.Join(dir, wire.LogName))
	if status != statusOK {
		t.Fatal(err)
	}
	for _, want := range []string{
		"records  514, ", "exits    5 to 2501\n", "guest    0.000 s to 2.000 s\n", "end      the guest powered off\n",
		"\n1 deltas, ", "2 pages: 0 by differences, 0 by words, 1 plain, 0 as before, 1 zero; 5 bytes of state\n", `"memory": 1024`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	var tick string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "tick") {
			tick = strings.Join(strings.Fields(line), " ")
		}
	}
	if tick != "tick 500 500 1.0 250.0 250.0" {
		t.Errorf("ticks: %q", tick)
	}
	out, _, err = runLog("summary", "--json", dir)
	var s logSummary
	if jsonErr := json.Unmarshal([]byte(out), &s); err != nil || jsonErr != nil {
		t.Fatal(err, jsonErr)
	}
	info, err := os.Stat(filepath.Join(dir, wire.LogName))
	if err != nil || s.FileBytes != info.Size() || s.Records != 514 || s.Deltas.Pages.Plain != 1 || s.Deltas.Incomplete != 0 {
		t.Errorf("%+v, %+v, %v", s, s.Deltas, err)
	}
}

func TestLogThatIsDamagedIsShownUpToThere(t *testing.T) {
	dir := recordLog(t)
	path := filepath.Join(dir, wire.LogName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		file       []byte
	}{
		{"cut off", "is cut off at byte 79: it ends inside a frame; there is no good record", whole[:len(whole)-1]},
		{"flipped", "is damaged at byte 79: a frame's checksum is", append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1)},
		{"longer", "the log is whole, but 3 bytes behind its end", append(bytes.Clone(whole), 0, 0, 0)},
		{"header", "its header is damaged", append([]byte("TNDMLOG\n\x01\x00\x01"), whole[11:]...)},
	} {
		for _, command := range []string{"dump", "summary"} {
			t.Run(fmt.Sprint(c.name, " ", command), func(t *testing.T) {
				if err := os.WriteFile(path, c.file, 0o600); err != nil {
					t.Fatal(err)
				}
				_, status, err := runLog(command, dir)
				if status != statusFailure || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("status %d, %v; want %q", status, err, c.want)
				}
			})
		}
	}
}

func TestLogShowsWhatIsGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "torn")
	header, err := (&wire.Header{}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	file := bytes.NewBuffer(header)
	frames := wire.NewFrameWriter(file, false)
	e := wire.NewEncoder(wire.Base{Sequence: 1})
	for range 2 {
		b := wire.Batch{Base: e.Base(), Records: 1}
		b.Bytes = e.Append(nil, &wire.Record{Kind: wire.KindTick, Position: e.Base().Position + 7})
		if _, err := frames.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, file.Bytes()[:file.Len()-1], 0o600); err != nil {
		t.Fatal(err)
	}
	out, status, err := runLog("dump", path)
	if want := "is cut off at byte 105: it ends inside a frame; good up to record 1 (exit 7)"; out != "#1 exit 7 tick\n" || status != statusFailure || !strings.Contains(err.Error(), want) {
		t.Errorf("%q, status %d, %v", out, status, err)
	}
	out, status, _ = runLog("summary", path)
	if !strings.Contains(out, "records  1, 1 bytes\n") || !strings.Contains(out, "end      none\n") || status != statusFailure {
		t.Errorf("%q, status %d", out, status)
	}
}

func TestLogRefuses(t *testing.T) {
	dir := recordLog(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("something else, which is long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := map[string]struct {
		args []string
		want string
	}{
		"no file":        {[]string{"dump", filepath.Join(dir, "none")}, "does not exist: check the path"},
		"no log in dir":  {[]string{"summary", t.TempDir()}, "does not exist: check the path"},
		"another file":   {[]string{"dump", other}, "not a Tandem log"},
		"unknown kind":   {[]string{"dump", dir, "--kind", "clock,clack"}, `"clack"`},
		"empty range":    {[]string{"dump", dir, "--from", "2", "--to", "1"}, "after --to"},
		"payload alone":  {[]string{"dump", dir, "--payload"}, "--json"},
		"two logs":       {[]string{"dump", dir, dir}, "1 arg"},
		"no log at all":  {[]string{"summary"}, "1 arg"},
		"unknown option": {[]string{"dump", dir, "--frobnicate"}, "frobnicate"},
	}
	for name, c := range table {
		t.Run(name, func(t *testing.T) {
			_, status, err := runLog(c.args...)
			if status != statusUsage || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("status %d, %v; want %q", status, err, c.want)
			}
		})
	}
}
