package protect

import (
	"time"

	"tandem/kvm"
)

// Status is what a host's part of a pair looks like from outside. It is what `tandem status --json` prints: a name that is
// there stays, with its meaning.
type Status struct {
	Guest    string `json:"guest"`
	Owner    string `json:"owner"` // this run of the program, as the arbiter knows it
	Role     string `json:"role"`  // primary or backup
	State    string `json:"state"` // of package pair
	Term     uint64 `json:"term"`
	Arbiter  string `json:"arbiter"`
	Release  string `json:"release"` // received or verified
	Listen   string `json:"listen,omitempty"`
	UptimeMS int64  `json:"uptime_ms"`

	Peer *Peer `json:"peer,omitempty"` // nil while there is none

	GuestTimeNS int64  `json:"guest_time_ns"`
	Position    uint64 `json:"position"` // exits of the guest's

	Log    LogStatus    `json:"log"`
	Output OutputStatus `json:"output"`

	Divergences uint64 `json:"divergences"`

	// Transfer is the state transfer that is under way, LastTransfer the last one that was completed.
	Transfer     *Transfer `json:"transfer,omitempty"`
	LastTransfer *Transfer `json:"last_transfer,omitempty"`
	// LastFailover is the last time that this host took the guest over or lost its backup.
	LastFailover *Failover `json:"last_failover,omitempty"`
	// Events are the latest reports, oldest first.
	Events []Event `json:"events"`
}

// Peer is the other host.
type Peer struct {
	Name        string `json:"name"` // as given to keygen
	Address     string `json:"address"`
	Fingerprint string `json:"fingerprint"`
}

// LogStatus tells of the log between the hosts.
type LogStatus struct {
	Records        uint64  `json:"records"`          // the last record's number
	Received       uint64  `json:"received"`         // what the backup has
	Verified       uint64  `json:"verified"`         // what the backup has executed with equal digests
	LagRecords     uint64  `json:"lag_records"`      // what the backup has yet to execute
	LagMS          float64 `json:"lag_ms"`           // how long ago the primary logged what the backup executes now
	Bytes          uint64  `json:"bytes"`            // since protection began
	BytesPerSecond float64 `json:"bytes_per_second"` // over the last seconds
}

// OutputStatus tells of what waits for the backup before it leaves.
type OutputStatus struct {
	Held          int     `json:"held"`
	Released      uint64  `json:"released"` // how many have left since protection began
	DelayMedianUS float64 `json:"delay_median_us"`
	DelayP99US    float64 `json:"delay_p99_us"`
	Pace          string  `json:"pace"` // full, slow or stalled
}

// Transfer tells of a state transfer.
type Transfer struct {
	Round      uint32 `json:"round"`
	Pages      uint64 `json:"pages"`       // sent so far
	SamePages  uint64 `json:"same_pages"`  // not sent, because the backup had them
	PagesTotal uint64 `json:"pages_total"` // of the guest's memory
	Bytes      uint64 `json:"bytes"`       // sent so far, disks included
	Dirty      uint64 `json:"dirty_pages"` // after the last round
	DiskBytes  uint64 `json:"disk_bytes"`  // done of the disks
	DiskTotal  uint64 `json:"disk_total"`
	DiskSent   uint64 `json:"disk_sent"` // bytes of content sent so far; holes and zeros are none
	DiskSame   uint64 `json:"disk_same"` // bytes of content not sent, because the backup had them
	// ElapsedMS is how long it takes or took, StopMS for how long the guest stood still.
	ElapsedMS float64 `json:"elapsed_ms"`
	StopMS    float64 `json:"stop_ms"`
}

// Content returns how many bytes of memory and disks were sent, before they were compressed, and how many there were to send, with
// those that the backup had.
func (t *Transfer) Content() (sent, all uint64) {
	sent = t.Pages*kvm.PageBytes + t.DiskSent
	return sent, sent + t.SamePages*kvm.PageBytes + t.DiskSame
}

// Failover tells what happened when a peer was lost.
type Failover struct {
	At    time.Time `json:"at"`
	Cause string    `json:"cause"`
	// Steps are in order: last heard, detected, arbitrated, drained, live (of a backup that took over).
	Steps   []Step  `json:"steps"`
	TotalMS float64 `json:"total_ms"` // from the last sign of life to the guest going on
}

// Step is a part of a failover and how long it took.
type Step struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Event is something that people should know.
type Event struct {
	At    time.Time `json:"at"`
	Alarm bool      `json:"alarm"`
	Text  string    `json:"text"`
}
