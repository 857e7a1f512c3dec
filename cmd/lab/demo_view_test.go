package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/cmd/internal/failover"
	"tandem/cmd/internal/imapload"
	"tandem/vmm/protect"
)

func someSnapshot(sessions int) imapload.Snapshot {
	var s imapload.Snapshot
	for i := range sessions {
		s.Sessions = append(s.Sessions, imapload.SessionState{Appends: i, Fetches: 1, Longest: time.Duration(i) * 100 * time.Millisecond})
	}
	return s
}

func TestTable(t *testing.T) {
	s := someSnapshot(7)
	s.Sessions[2].Pending = 2 * slow
	s.Sessions[4].Broken = "the connection ended"
	lines := strings.Split(strings.TrimSuffix(table(&s), "\n"), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	if !strings.Contains(lines[1], "7 sessions, 1 broken, 1 wait; 28 requests answered, 21 messages acknowledged") {
		t.Errorf("the head is %q", lines[1])
	}
	for _, cell := range []string{"  1    1   0.00 ", "  3    3   0.20…", "  5    5 BROKEN "} {
		if !strings.Contains(lines[3], cell) {
			t.Errorf("there is no %q in %q", cell, lines[3])
		}
	}
	for _, line := range lines[2:] {
		if len([]rune(line)) > 80 {
			t.Errorf("%q has %d columns", line, len([]rune(line)))
		}
	}
}

// TestView checks that lines and the table don't get into each other's way, and that a log's lines are kept whole.
func TestView(t *testing.T) {
	var out bytes.Buffer
	v := newDemoView(&out)
	for _, part := range []string{"image: one\nimage: t", "wo\r\nrest"} {
		if n, err := v.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	v.note("%d things", 3)
	v.close()
	v.close()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{"image: one", "image: two", "3 things"} {
		if !strings.HasSuffix(lines[i], " s  "+want) {
			t.Errorf("line %d is %q, want %q", i, lines[i], want)
		}
	}
	v.drawn = 4
	out.Reset()
	v.note("over the table")
	if got := out.String(); !strings.HasPrefix(got, "\x1b[4A\x1b[J") || v.drawn != 0 {
		t.Errorf("the table is not erased: %q", got)
	}
}

func TestSummary(t *testing.T) {
	loss := &failover.Loss{
		Lost: "h1", Survivor: "h2", Pauses: []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}, Returned: time.Second, Protected: 2 * time.Second,
		Failover: protect.Failover{TotalMS: 400, Steps: []protect.Step{{Name: "detection", MS: 300}, {Name: "drain", MS: 100}}},
		Transfer: protect.Transfer{Bytes: 3 << 20, Round: 2, ElapsedMS: 1500, StopMS: 40},
	}
	tests := []struct {
		name   string
		change func(*imapload.Snapshot, *imapload.Verification)
		fails  string
	}{
		{"all well", func(*imapload.Snapshot, *imapload.Verification) {}, ""},
		{"broken session", func(s *imapload.Snapshot, _ *imapload.Verification) { s.Sessions[1].Broken = "BYE" }, "session 2 is broken: BYE"},
		{"lost message", func(_ *imapload.Snapshot, v *imapload.Verification) { v.Faults = []string{"message 7 is not there"} }, "message 7 is not there"},
		{"many", func(_ *imapload.Snapshot, v *imapload.Verification) {
			for i := range 100 {
				v.Faults = append(v.Faults, fmt.Sprint(i))
			}
		}, "100 things went wrong"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			d := &failoverDemo{view: newDemoView(&out), losses: []*failover.Loss{loss}}
			s, v := someSnapshot(3), &imapload.Verification{Acknowledged: 3, Found: 3}
			tt.change(&s, v)
			err := d.summary(s, v)
			if (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%v, want %q", err, tt.fails)
			}
			for _, want := range []string{
				"3 acknowledged, 3 found", "the guest is on h2, 400 ms after h1 was last heard: detection 300 ms, drain 100 ms",
				"median 2.00 s, p99 3.00 s, longest 3.00 s", "h1 booted in 1.00 s, and 2.00 s later", "3 MiB in 1.5 s, 2 rounds; the guest stood still for 40 ms",
			} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("there is no %q in:\n%s", want, &out)
				}
			}
		})
	}
}
