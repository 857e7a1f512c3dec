package doctor

import (
	"errors"
	"fmt"
	"runtime"

	"tandem/kvm"
)

// finding is what a probe says: a verdict, a line, and a number if it measured one.
type finding struct {
	verdict Verdict
	detail  string
	value   float64
	unit    string
}

func found(format string, args ...any) finding {
	return finding{verdict: OK, detail: fmt.Sprintf(format, args...)}
}

func lacking(format string, args ...any) finding {
	return finding{verdict: Missing, detail: fmt.Sprintf(format, args...)}
}

// probe is one feature and the way to find out about it. An error from look means that the host failed in a way that
// says nothing about the feature.
type probe struct {
	id, title string
	use       Use
	neededFor string
	look      func(*examination) (finding, error)
}

// examination is what probes work with.
type examination struct {
	system *kvm.System
	leaves kvm.CPUID // what probes' guests get: all the host can give, under our own signature
}

// The hypervisor leaf of a probe's guest: a signature that no host gives by itself tells whether CPUID is virtualised.
const (
	signatureLeaf = 0x40000000
	signature     = 0x646e6154 // "Tand"
)

func newExamination(system *kvm.System) (*examination, error) {
	leaves, err := system.SupportedCPUID()
	if err != nil {
		return nil, err
	}
	leaves = leaves.Without(func(e kvm.CPUIDEntry) bool { return e.Function>>28 == signatureLeaf>>28 })
	leaves = append(leaves, kvm.CPUIDEntry{Function: signatureLeaf, EAX: signatureLeaf, EBX: signature})
	return &examination{system: system, leaves: leaves}, nil
}

// Examine makes all probes. Making their machines takes most of its time: milliseconds each on hardware, a tenth of a
// second in a host that is emulated itself. An error means that /dev/kvm answers so badly that there is nothing to report.
func Examine(system *kvm.System) (*Report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	x, err := newExamination(system)
	if err != nil {
		return nil, err
	}
	r := &Report{Host: describeHost(x.leaves)}
	for i := range probes {
		r.Features = append(r.Features, probes[i].make(x))
	}
	r.Abilities = judge(r.Features)
	return r, nil
}

func (p *probe) make(x *examination) Feature {
	f := Feature{ID: p.id, Title: p.title, Use: p.use, NeededFor: p.neededFor}
	got, err := p.look(x)
	switch {
	case errors.Is(err, errStuck):
		got = lacking("%v", err)
	case err != nil:
		got = finding{verdict: Unknown, detail: err.Error()}
	}
	f.Verdict, f.Detail, f.Value, f.Unit = got.verdict, got.detail, got.value, got.unit
	return f
}

// with runs look on a fresh guest.
func (x *examination) with(look func(*guest) (finding, error)) (finding, error) {
	g, err := newGuest(x.system, x.leaves)
	if err != nil {
		return finding{}, err
	}
	f, err := look(g)
	return f, errors.Join(err, g.close())
}

// expect runs a program on a fresh guest and judges its end.
func (x *examination) expect(p program, s start, judge func(end) finding) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.execute(p, s)
		if err != nil {
			return finding{}, err
		}
		return judge(e), nil
	})
}
