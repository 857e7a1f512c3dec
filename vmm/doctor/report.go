package doctor

import "strings"

// Verdict is what a probe found.
type Verdict string

const (
	OK      Verdict = "ok"
	Missing Verdict = "missing"
	// Unknown is a probe that could not be made.
	Unknown Verdict = "unknown"
)

// Use is something that a host may be good for. Each needs what the one before it needs, and more.
type Use string

const (
	BareMetal Use = "bare-metal" // guests without an operating system
	Linux     Use = "linux"
	Lockstep  Use = "lockstep" // a Linux guest that is recorded and replayed
	// NoUse marks a feature that is told for information: nothing depends on it.
	NoUse Use = ""
)

// uses are in ascending order of what they need.
var uses = []Use{BareMetal, Linux, Lockstep}

// Feature is the finding of one probe.
type Feature struct {
	ID      string  `json:"id"`    // stable, for scripts
	Title   string  `json:"title"` // a few words, for a person
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"` // one line: what was seen
	// Use is the first of the uses that needs the feature; those after it need it too.
	Use Use `json:"use,omitempty"`
	// NeededFor says what of the program depends on it.
	NeededFor string `json:"needed_for"`
	// Value and Unit are there if the probe measured something.
	Value float64 `json:"value,omitempty"`
	Unit  string  `json:"unit,omitempty"`
}

// what says in words what a use is.
func (u Use) what() string {
	switch u {
	case BareMetal:
		return "run bare-metal guests"
	case Linux:
		return "run Linux"
	case Lockstep:
		return "record and replay Linux (lockstep)"
	}
	return "for information"
}

// Ability says whether the host is good for a use.
type Ability struct {
	Use    Use      `json:"use"`
	OK     bool     `json:"ok"`
	Lacks  []string `json:"lacks,omitempty"`  // IDs of the features that this use, and not one before it, is missing
	Reason string   `json:"reason,omitempty"` // why not, for a person
}

// Report is all that was found out about a host.
type Report struct {
	Host      Host      `json:"host"`
	Features  []Feature `json:"features"`
	Abilities []Ability `json:"abilities"`
}

// Exit statuses of a program that reports on a host whose KVM could be opened. They are never renumbered.
const (
	StatusLinux     = 0  // can run Linux
	StatusBareMetal = 20 // can run bare-metal guests, not Linux
	StatusNothing   = 21 // can't run even those
)

// Status returns the exit status for scripts: StatusLinux, StatusBareMetal or StatusNothing.
func (r *Report) Status() int {
	switch {
	case r.Can(Linux):
		return StatusLinux
	case r.Can(BareMetal):
		return StatusBareMetal
	}
	return StatusNothing
}

// Can tells whether the host is good for a use.
func (r *Report) Can(u Use) bool {
	for _, a := range r.Abilities {
		if a.Use == u {
			return a.OK
		}
	}
	return false
}

// Feature returns a finding by its ID, or nil.
func (r *Report) Feature(id string) *Feature {
	for i := range r.Features {
		if r.Features[i].ID == id {
			return &r.Features[i]
		}
	}
	return nil
}

// judge draws the conclusions. A feature whose probe could not be made counts as missing: a host is not called good on
// the strength of what nobody saw.
func judge(features []Feature) []Ability {
	var abilities []Ability
	before := NoUse // the use before, if the host is not good for it
	for _, use := range uses {
		a := Ability{Use: use}
		var reasons []string
		if before != NoUse {
			reasons = append(reasons, "can't "+before.what())
		}
		for _, f := range features {
			if f.Use == use && f.Verdict != OK {
				a.Lacks = append(a.Lacks, f.ID)
				reasons = append(reasons, f.lack())
			}
		}
		if a.OK = len(reasons) == 0; !a.OK {
			a.Reason = strings.Join(reasons, "; ")
			before = use
		}
		abilities = append(abilities, a)
	}
	return abilities
}

func (f *Feature) lack() string {
	if f.Verdict == Unknown {
		return f.Title + " could not be probed"
	}
	return "no " + f.Title
}
