package main

import (
	"testing"
	"time"

	"tandem/vmm/protect"
)

// TestStatusPage compares whole pages.
func TestStatusPage(t *testing.T) {
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	tests := []struct {
		name   string
		status protect.Status
		page   string
	}{
		{"alone", protect.Status{
			Guest: "mail", Owner: "a-1", Role: "primary", State: "alone", Term: 3, Arbiter: "file:/shared", Release: "received",
			Output: protect.OutputStatus{Pace: "full"}, GuestTimeNS: 61e9, Position: 1234567, UptimeMS: 62_500,
		}, `guest      mail: primary, alone
term       3, held by this run as a-1
arbiter    file:/shared
peer       none: the guest is not protected
guest time 1m1s, exit 1 234 567
up         1m2s
output     leaves at once; pace full
diverged   never
`},
		{"protected", protect.Status{
			Guest: "mail", Owner: "b-2", Role: "primary", State: "protected", Term: 4, Arbiter: "etcd:x/mail", Release: "verified", Listen: ":7400",
			Peer: &protect.Peer{Name: "hosta", Address: "10.0.0.1:7400", Fingerprint: "0123456789abcdef0123"},
			Log:  protect.LogStatus{Records: 1000, LagRecords: 12, LagMS: 3.25, Bytes: 3 << 20, BytesPerSecond: 125_000},
			Output: protect.OutputStatus{
				Pace: "slow", Held: 2, Released: 5000, DelayMedianUS: 210, DelayP99US: 1900,
			},
			Divergences:  1,
			Transfer:     &protect.Transfer{Round: 2, Bytes: 5 << 20, Dirty: 64, PagesTotal: 128, DiskBytes: 1 << 18, DiskTotal: 1 << 19, ElapsedMS: 1500},
			LastTransfer: &protect.Transfer{Round: 3, Bytes: 7 << 20, Pages: 512, SamePages: 1024, DiskSent: 6 << 20, DiskSame: 20 << 20, ElapsedMS: 61_000, StopMS: 12.34},
			LastFailover: &protect.Failover{At: at, Cause: "the peer is lost", TotalMS: 412, Steps: []protect.Step{{Name: "detected", MS: 300}, {Name: "live", MS: 0.5}}},
			Events:       []protect.Event{{At: at, Text: "up"}, {At: at.Add(time.Second), Alarm: true, Text: "diverged\x1b[2J\nagain"}},
		}, `guest      mail: primary, protected
term       4, held by this run as b-2
arbiter    etcd:x/mail
listens    :7400
peer       hosta at 10.0.0.1:7400, key 0123456789abcdef
up         0s
log        1 000 records, 3MiB, 1 Mbit/s; the backup is 12 records and 3.25 ms behind
output     leaves when verified: 5 000 have left, 2 wait; delay median 210 µs, p99 1.9 ms; pace slow
diverged   1 time(s)
transfer   [############------------] 50% of 1MiB
           round 2: 5MiB sent in 1.5 s, 64 pages changed meanwhile
last sync  7MiB in 1m1s, 3 rounds; the guest stood still for 12.3 ms
           a delta of 8MiB of 32MiB: the backup had the rest
failover   2026-01-02 15:04:05Z, 412 ms in all: the peer is lost
               300 ms  detected
               500 µs  live
events     2026-01-02 15:04:05Z  up
           2026-01-02 15:04:06Z  ALARM: diverged [2J again
`},
		{"waiting", protect.Status{Guest: "mail", Owner: "b-1", Role: "backup", State: "joining", Arbiter: "unsafe-none", Listen: ":1"},
			`guest      mail: backup, joining
term       0, seen by this run as b-1
arbiter    unsafe-none
listens    :1
peer       none: no host runs the guest, as far as this one knows
up         0s
diverged   never
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := statusPage(&tt.status); got != tt.page {
				t.Errorf("the page is\n%swant\n%s", got, tt.page)
			}
		})
	}
}

// TestDurations checks three digits, whatever the unit.
func TestDurations(t *testing.T) {
	for ms, want := range map[float64]string{
		0: "0 µs", 0.0004: "0 µs", 0.21: "210 µs", 0.9999: "1 ms", 1: "1 ms", 12.345: "12.3 ms", 999.4: "999 ms", 999.9: "1 s", 1500: "1.5 s",
		59_990: "60 s", 60_000: "1m0s", 3_661_000: "1h1m1s",
	} {
		if got := duration(ms); got != want {
			t.Errorf("%v ms is %q, want %q", ms, got, want)
		}
	}
}
