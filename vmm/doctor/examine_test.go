package doctor

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/kvm"
)

func openKVM(t *testing.T) *kvm.System {
	t.Helper()
	system, err := kvm.Open("/dev/kvm")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = system.Close() })
	return system
}

func examinationOf(t *testing.T) *examination {
	t.Helper()
	x, err := newExamination(openKVM(t))
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	return x
}

// TestExamine examines the host that the test runs on. What it can do is not known here; that the report is whole, and that
// the short cut agrees with it, is.
func TestExamine(t *testing.T) {
	system := openKVM(t)
	r, err := Examine(system)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Features) != len(probes) {
		t.Fatalf("%d findings of %d probes", len(r.Features), len(probes))
	}
	seen := map[string]bool{}
	for _, f := range r.Features {
		t.Logf("%-7s %s: %s", f.Verdict, f.Title, f.Detail)
		switch {
		case seen[f.ID]:
			t.Errorf("%s: twice", f.ID)
		case f.Verdict != OK && f.Verdict != Missing:
			t.Errorf("%s: %s: %s", f.ID, f.Verdict, f.Detail)
		case f.Detail == "" || f.Title == "" || f.NeededFor == "":
			t.Errorf("%s: says too little: %+v", f.ID, f)
		case strings.ContainsAny(f.Detail, "\n\x00"):
			t.Errorf("%s: more than a line: %q", f.ID, f.Detail)
		}
		seen[f.ID] = true
	}
	before := time.Now()
	reason, ok := CanRunLinux(system)
	t.Logf("CanRunLinux took %v", time.Since(before))
	if ok != r.Can(Linux) {
		t.Errorf("CanRunLinux says %v (%s), the report %v", ok, reason, r.Can(Linux))
	}
	if !ok && !strings.Contains(reason, "hardware virtualisation") {
		t.Errorf("no remedy in %q", reason)
	}
	if strings.Contains(reason, "\n") {
		t.Errorf("more than a line: %q", reason)
	}
}

// TestBareMetal holds the facts that every KVM has in common: that of an interpreting host too.
func TestBareMetal(t *testing.T) {
	r, err := Examine(openKVM(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Features {
		if f.Use == BareMetal && f.Verdict != OK {
			t.Errorf("%s: %s", f.Title, f.Detail)
		}
	}
	for _, id := range []string{"speed", "exit-cost", "memory-slots"} {
		if f := r.Feature(id); f == nil || f.Value <= 0 || f.Unit == "" {
			t.Errorf("%s measured nothing: %+v", id, f)
		}
	}
}

func TestCPUFeaturesNamed(t *testing.T) {
	x := examinationOf(t)
	x.leaves = x.leaves.Without(func(e kvm.CPUIDEntry) bool { return e.Function == 0x80000001 })
	f, err := lookCPU(x)
	if err != nil {
		t.Fatal(err)
	}
	if want := "CPUID offers no SYSCALL, NX, LM"; f.verdict != Missing || f.detail != want {
		t.Errorf("%s %q, want %q", f.verdict, f.detail, want)
	}
}

// TestEnds runs guests that end in other ways than the probes want.
func TestEnds(t *testing.T) {
	x := examinationOf(t)
	tests := []struct {
		name    string
		prepare func(*guest) error
		program program
		start   start
		want    string
		err     error
	}{
		{"never", nil, spin, start{}, "", errStuck},
		{"triple fault", func(g *guest) error { return g.memory.WriteAt(make([]byte, 256*16), idtAddr) }, undefined, start{}, "triple fault", nil},
		{"exception", nil, undefined, start{}, "#UD at 0x10000", nil},
		{"exception of a program", nil, haltOnly, start{cpl: 3}, "#GP at 0x20000", nil},
		{"halt", nil, haltOnly, start{}, "exit hlt at 0x10001", nil},
		{"port", nil, portLoop, start{rcx: 1}, "port I/O", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, err := newGuest(x.system, x.leaves)
			if err != nil {
				t.Fatal(err)
			}
			defer g.close()
			g.limit = 20 * time.Millisecond
			if test.prepare != nil {
				if err := test.prepare(g); err != nil {
					t.Fatal(err)
				}
			}
			e, err := g.execute(test.program, test.start)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err == nil && e.String() != test.want {
				t.Errorf("%q, want %q", e, test.want)
			}
		})
	}
}

// TestSyscallFailuresTold gives ends that a host could show, and wants to be told where the way broke off.
func TestSyscallFailuresTold(t *testing.T) {
	tests := []struct {
		end  end
		want string
	}{
		{end{vector: vectorGP, from: kernelAddr + 0x38, user: true}, "SYSCALL enters the kernel without its privileges: #GP at 0x10038"},
		{end{vector: vectorUD, from: kernelAddr}, "the kernel's side fails: #UD at 0x10000"},
		{end{vector: vectorUD, from: userAddr + 5, user: true}, "the program's side fails: #UD at 0x20005"},
		{end{vector: -1, exit: kvm.Exit{Reason: kvm.ReasonShutdown}}, "the program's side fails: triple fault"},
	}
	for _, test := range tests {
		if got := test.end.unanswered(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
		if test.end.answered() {
			t.Errorf("%q counts as answered", test.want)
		}
	}
	good := end{vector: vectorGP, user: true, from: userAddr + uint64(len(callKernel.code)) - 1, regs: kvm.Regs{RDX: 42}}
	if !good.answered() {
		t.Error("a good end does not count as answered")
	}
}

// TestJoinedNames looks up an instruction by where the joined program ended.
func TestJoinedNames(t *testing.T) {
	x := &examination{leaves: kvm.CPUID{}}
	joined, starts := x.joined()
	if !strings.HasSuffix(joined.code, hlt) || len(starts) == 0 {
		t.Fatalf("joined %q, %d starts", joined.code, len(starts))
	}
	for _, s := range starts {
		e := end{vector: -1, regs: kvm.Regs{RIP: kernelAddr + s.offset}, exit: kvm.Exit{Reason: kvm.ReasonInternalError}}
		if got := named(e, starts); !strings.HasPrefix(got, s.name+" (") {
			t.Errorf("at %#x: %q, want %q", s.offset, got, s.name)
		}
	}
	for _, i := range instructions {
		if i.offered == (cpuidBit{}) && !strings.Contains(joined.code, i.program.code) {
			t.Errorf("%s is not in the joined program", i.name)
		}
	}
}
