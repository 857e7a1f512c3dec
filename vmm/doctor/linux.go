package doctor

import (
	"fmt"
	"runtime"
	"strings"

	"tandem/kvm"
)

// remedy is what a host that can't run Linux leaves to be done.
const remedy = "use a host with hardware virtualisation (Intel VT-x or AMD-V, nested on a cloud machine)"

// CanRunLinux tells whether it makes sense to start a Linux kernel on the host, from the probes that a host without
// hardware virtualisation fails first; the reason, if not, is one line with the remedy. It makes one machine and three
// entries into it, so that it costs a good host a few milliseconds at most.
func CanRunLinux(system *kvm.System) (reason string, ok bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	x, err := newExamination(system)
	if err != nil {
		return err.Error(), false
	}
	for _, look := range []func(*examination) (finding, error){quickCapabilities, lookCPU, quickLook} {
		f, err := look(x)
		switch {
		case err != nil:
			return err.Error(), false
		case f.verdict != OK:
			return fmt.Sprintf("%s: %s; tandem doctor shows all", f.detail, remedy), false
		}
	}
	return "", true
}

// quickCapabilities says what the list of missing capabilities is.
func quickCapabilities(x *examination) (finding, error) {
	f, err := lookCapabilities(x)
	if f.verdict == Missing {
		f.detail = "KVM here lacks " + f.detail
	}
	return f, err
}

// quickLook makes the three probes that matter most on one guest, dearest last.
func quickLook(x *examination) (finding, error) {
	return x.with(func(g *guest) (finding, error) {
		e, err := g.syscall()
		if err != nil {
			return finding{}, err
		}
		if !e.answered() {
			return lacking("KVM here can't do a program's system call (%s)", e.unanswered()), nil
		}
		all, starts := x.joined()
		if e, err = g.execute(all, start{cr4: x.cr4()}); err != nil {
			return finding{}, err
		}
		if !e.halted() {
			return lacking("KVM here lacks the instruction %s", named(e, starts)), nil
		}
		return g.quickSpeed()
	})
}

// joined is the program of all instructions that the host offers, one after the other, and the offset of each.
func (x *examination) joined() (program, []offsetName) {
	var sources, codes []string
	var starts []offsetName
	at := uint64(0)
	for _, i := range instructions {
		if !i.offered.in(x.leaves) {
			continue
		}
		starts = append(starts, offsetName{at, i.name})
		sources = append(sources, i.program.source)
		codes = append(codes, i.program.code)
		at += uint64(len(i.program.code))
	}
	return program{strings.Join(append(sources, "hlt"), "; "), strings.Join(codes, "") + hlt}, starts
}

// offsetName is where an instruction's program begins in the joined one.
type offsetName struct {
	offset uint64
	name   string
}

// named finds the instruction at which a joined program ended.
func named(e end, starts []offsetName) string {
	at := e.regs.RIP
	if e.vector >= 0 {
		at = e.from
	}
	name := "at its kernel entry"
	for _, s := range starts {
		if kernelAddr+s.offset <= at {
			name = s.name
		}
	}
	return fmt.Sprintf("%s (%v)", name, e)
}

// quickSpeed times one loop that a host fast enough has behind it in a millisecond, most of that the way in and out. One
// good run of a few is enough.
func (g *guest) quickSpeed() (finding, error) {
	const loops, runs = 20000, 3
	fastest := 0.0
	for range runs {
		took, err := g.timeLoop(loops)
		if err != nil {
			return finding{}, err
		}
		if fastest = max(fastest, loops*loopInstructions/took.Seconds()); fastest >= leastSpeed/4 {
			return found(""), nil
		}
	}
	return lacking("KVM here interprets guest code, at %s", rate(fastest)), nil
}
