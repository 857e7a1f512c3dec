package doctor

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func feature(id string, use Use, v Verdict) Feature {
	return Feature{ID: id, Title: "the " + id, Use: use, Verdict: v, Detail: "seen " + id, NeededFor: "tests"}
}

func TestJudge(t *testing.T) {
	tests := []struct {
		name     string
		features []Feature
		want     []Ability
		status   int
	}{
		{"all there", []Feature{feature("a", BareMetal, OK), feature("b", Linux, OK), feature("c", Lockstep, OK)},
			[]Ability{{Use: BareMetal, OK: true}, {Use: Linux, OK: true}, {Use: Lockstep, OK: true}}, StatusLinux},
		{"what is for information does not count", []Feature{feature("a", NoUse, Missing)},
			[]Ability{{Use: BareMetal, OK: true}, {Use: Linux, OK: true}, {Use: Lockstep, OK: true}}, StatusLinux},
		{"no lockstep", []Feature{feature("a", BareMetal, OK), feature("c", Lockstep, Missing)},
			[]Ability{{Use: BareMetal, OK: true}, {Use: Linux, OK: true}, {Use: Lockstep, Lacks: []string{"c"}, Reason: "no the c"}}, StatusLinux},
		{"no Linux", []Feature{feature("b", Linux, Missing), feature("c", Lockstep, Missing)},
			[]Ability{{Use: BareMetal, OK: true}, {Use: Linux, Lacks: []string{"b"}, Reason: "no the b"},
				{Use: Lockstep, Lacks: []string{"c"}, Reason: "can't run Linux; no the c"}}, StatusBareMetal},
		{"what could not be probed is missing", []Feature{feature("b", Linux, Unknown)},
			[]Ability{{Use: BareMetal, OK: true}, {Use: Linux, Lacks: []string{"b"}, Reason: "the b could not be probed"},
				{Use: Lockstep, Reason: "can't run Linux"}}, StatusBareMetal},
		{"nothing", []Feature{feature("a", BareMetal, Missing)},
			[]Ability{{Use: BareMetal, Lacks: []string{"a"}, Reason: "no the a"}, {Use: Linux, Reason: "can't run bare-metal guests"},
				{Use: Lockstep, Reason: "can't run Linux"}}, StatusNothing},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := judge(test.features)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("abilities\n%+v, want\n%+v", got, test.want)
			}
			if status := (&Report{Abilities: got}).Status(); status != test.status {
				t.Errorf("status %d, want %d", status, test.status)
			}
		})
	}
}

func TestProbeOutcomes(t *testing.T) {
	tests := []struct {
		name    string
		finding finding
		err     error
		want    Verdict
		detail  string
	}{
		{"found", found("%d of them", 3), nil, OK, "3 of them"},
		{"lacking", lacking("none"), nil, Missing, "none"},
		{"a stuck guest lacks the feature", finding{}, errStuck, Missing, errStuck.Error()},
		{"the host failed", found("x"), errors.New("out of memory"), Unknown, "out of memory"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := probe{id: "x", look: func(*examination) (finding, error) { return test.finding, test.err }}
			if f := p.make(nil); f.Verdict != test.want || f.Detail != test.detail {
				t.Errorf("%s %q, want %s %q", f.Verdict, f.Detail, test.want, test.detail)
			}
		})
	}
}

func TestText(t *testing.T) {
	features := []Feature{feature("one", BareMetal, OK), feature("longer", Linux, Missing), feature("two", NoUse, Missing)}
	r := &Report{Host: Host{Processor: "Some CPU", Kernel: "6.1", Module: "kvm_amd"}, Features: features, Abilities: judge(features)}
	want := `Some CPU, Linux 6.1, kvm_amd

To run bare-metal guests
  ok       the one     seen one

To run Linux
  missing  the longer  seen longer
                       needed for: tests

For information
  missing  the two     seen two
                       needed for: tests

This host
  yes      can run bare-metal guests
  no       can't run Linux: no the longer
  no       can't record and replay Linux (lockstep): can't run Linux

To run Linux, ` + remedy + ".\n"
	var text, coloured bytes.Buffer
	if err := r.WriteText(&text, false); err != nil {
		t.Fatal(err)
	}
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &text, want)
	}
	if err := r.WriteText(&coloured, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(coloured.String(), red+"missing"+plain+"  the longer") || strings.Contains(coloured.String(), red+"missing"+plain+"  the two") {
		t.Errorf("a missing feature is red if something needs it, and only then:\n%q", coloured.String())
	}
	for _, sequence := range []string{plain, bold, red, green, yellow} {
		coloured = *bytes.NewBuffer(bytes.ReplaceAll(coloured.Bytes(), []byte(sequence), nil))
	}
	if coloured.String() != want {
		t.Errorf("colour changes the text:\n%s", &coloured)
	}
}

// TestJSONNames holds the names that scripts use.
func TestJSONNames(t *testing.T) {
	features := []Feature{{ID: "speed", Title: "t", Verdict: Missing, Detail: "d", Use: Linux, NeededFor: "n", Value: 1.5, Unit: "u"}}
	out, err := json.Marshal(&Report{Host: Host{Vendor: "v", Kernel: "k"}, Features: features, Abilities: judge(features)})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"host":{"processor":"","vendor":"v","kernel":"k"},` +
		`"features":[{"id":"speed","title":"t","verdict":"missing","detail":"d","use":"linux","needed_for":"n","value":1.5,"unit":"u"}],` +
		`"abilities":[{"use":"bare-metal","ok":true},{"use":"linux","ok":false,"lacks":["speed"],"reason":"no t"},` +
		`{"use":"lockstep","ok":false,"reason":"can't run Linux"}]}`
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}
