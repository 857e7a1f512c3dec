package vmm

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tandem/kvm"
	"tandem/testdata/guests"
)

// storage is an MMIO device of plain bytes.
type storage [kvm.PageBytes]byte

func (s *storage) Read(offset uint64, p []byte)  { copy(p, s[offset:]) }
func (s *storage) Write(offset uint64, p []byte) { copy(s[offset:], p) }

// TestGuestBehaviours runs the guests that report by themselves whether the machine did what they expect.
func TestGuestBehaviours(t *testing.T) {
	tests := []struct {
		guest          string
		param          uint64
		debug, console string
		cause          Cause
		exits          map[kvm.Reason]uint64 // exact counts of what must be so on every host
		injected       uint64
	}{
		{guest: "halt", cause: CauseHalt, exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 1, kvm.ReasonIO: 0, kvm.ReasonMMIO: 0}},
		{guest: "port-io", cause: CauseHalt, debug: "string output\nok\n", exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 1, kvm.ReasonMMIO: 0}},
		{guest: "port-loop", param: 100, cause: CauseHalt, exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 1, kvm.ReasonIO: 100}},
		{guest: "mmio", cause: CauseHalt, debug: "ok\n", exits: map[kvm.Reason]uint64{kvm.ReasonMMIO: 15, kvm.ReasonIO: 3}},
		{guest: "bad-memory", cause: CauseHalt, debug: "ok\n", exits: map[kvm.Reason]uint64{kvm.ReasonMMIO: 7, kvm.ReasonIO: 3}},
		{guest: "hlt-irq", cause: CauseHalt, debug: "wait\nwoken\n", injected: 1},
		{guest: "irq-window", cause: CauseHalt, debug: "pending\ntaken\n", injected: 1, exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 1}},
		{guest: "pmtimer", cause: CauseHalt, debug: "ok\n"},
		{guest: "uart", cause: CauseHalt, debug: "ok\n", console: "hello!"},
		{guest: "rtc", cause: CauseHalt, debug: "20260102 0304 80\n"},
		{guest: "rtc-irq", cause: CauseHalt, debug: "ok\n"},
		{guest: "triple-fault", cause: CauseTripleFault, debug: "fault\n", exits: map[kvm.Reason]uint64{kvm.ReasonShutdown: 1, kvm.ReasonHLT: 0}},
		{guest: "reset-i8042", cause: CauseReset, debug: "reset\n", exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 0}},
		{guest: "reset-port92", cause: CauseReset, debug: "reset\n", exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 0}},
		{guest: "reset-cf9", cause: CauseReset, debug: "reset\n", exits: map[kvm.Reason]uint64{kvm.ReasonHLT: 0}},
	}
	for _, test := range tests {
		t.Run(test.guest, func(t *testing.T) {
			g := loadGuest(t, guests.Image(test.guest), test.param)
			if err := g.pc.MMIO.Attach(guests.MMIODevice, kvm.PageBytes, &storage{}); err != nil {
				t.Fatal(err)
			}
			if cause := g.run(t); cause != test.cause {
				t.Errorf("%v, not %v", cause, test.cause)
			}
			if got := g.debug.String(); got != test.debug {
				t.Errorf("debug port %q, want %q", got, test.debug)
			}
			if got := g.console.String(); got != test.console {
				t.Errorf("console %q, want %q", got, test.console)
			}
			for reason, want := range test.exits {
				if got := g.exits(reason); got != want {
					t.Errorf("%d exits %v, want %d", got, reason, want)
				}
			}
			if test.injected != 0 && g.Stats().Injected() != test.injected {
				t.Errorf("%d interrupts injected, want %d", g.Stats().Injected(), test.injected)
			}
		})
	}
}

// TestEveryGuestIsTested fails if a guest is added that no test runs.
func TestEveryGuestIsTested(t *testing.T) {
	tested := []string{
		"halt", "port-io", "port-loop", "mmio", "bad-memory", "hlt-irq", "irq-window", "pmtimer", "uart", "rtc", "rtc-irq",
		"triple-fault", "reset-i8042", "reset-port92", "reset-cf9", // TestGuestBehaviours
		"pit-tick", "pattern", "uart-echo", // tests of their own
		"compute", "sleep", "idle", // TestStop
		"writer",       // TestForcedStopsCarryAll
		"disk-journal", // vmm/protect: TestSharedDiskOutlivesItsHosts
	}
	slices.Sort(tested)
	if names := guests.Names(); !slices.Equal(names, tested) {
		t.Errorf("guests %q, tested %q", names, tested)
	}
}

// TestPITTicks compares the ticks that a guest counts with the PM timer and with what was injected.
func TestPITTicks(t *testing.T) {
	const ticks = 20
	g := loadGuest(t, guests.Image("pit-tick"), ticks)
	if cause := g.run(t); cause != CauseHalt {
		t.Errorf("%v", cause)
	}
	var counted, pm uint64
	if _, err := fmt.Sscanf(g.debug.String(), "ticks %x pm %x\n", &counted, &pm); err != nil {
		t.Fatalf("%q: %v", g.debug, err)
	}
	if counted < ticks || counted != g.Stats().Injected() {
		t.Errorf("the guest counted %d ticks, was given %d and waited for %d", counted, g.Stats().Injected(), ticks)
	}
	// 1193 PIT pulses are 3 × 1193 PM timer counts; the first tick may come a pulse early.
	if least := uint64((ticks*1193 - 1) * 3); pm < least {
		t.Errorf("%d ticks within %d counts of the PM timer, fewer than %d", ticks, pm, least)
	}
}

// TestDirtyLog has a guest write known pages, and looks for exactly those in KVM's log.
func TestDirtyLog(t *testing.T) {
	const pages = 24
	g := loadGuest(t, guests.Image("pattern"), pages)
	if err := g.vm.SetMemory(g.memory, true); err != nil {
		t.Fatal(err)
	}
	if cause := g.run(t); cause != CauseHalt {
		t.Errorf("%v", cause)
	}
	if got := g.debug.String(); got != strings.Repeat(".", pages) {
		t.Errorf("%q", got)
	}
	bitmap := make([]uint64, guestMemoryBytes/kvm.PageBytes/64)
	if err := g.vm.DirtyLog(0, bitmap); err != nil {
		t.Fatal(err)
	}
	for page := uint64(guests.PatternAddress); page < guests.PatternAddress+(2*pages+4)*kvm.PageBytes; page += kvm.PageBytes {
		number := (page - guests.PatternAddress) / kvm.PageBytes
		written := number%2 == 0 && number < 2*pages
		if logged := bitmap[page/kvm.PageBytes/64]>>(page/kvm.PageBytes%64)&1 != 0; logged != written {
			t.Errorf("page %#x: logged %v, written %v", page, logged, written)
		}
		want := uint64(0)
		if written {
			want = ^page
		}
		p, err := g.Memory().Bytes(page+8, 8)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint64(p); got != want {
			t.Errorf("page %#x holds %#x, want %#x", page, got, want)
		}
	}
}

// TestRandomGuests runs random programs to their digest.
func TestRandomGuests(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			g := loadGuest(t, guests.Random(seed, 600), 0)
			if cause := g.run(t); cause != CauseHalt {
				t.Errorf("%v", cause)
			}
			lines := strings.Split(strings.TrimSuffix(g.debug.String(), "\n"), "\n")
			var digest uint64
			if _, err := fmt.Sscanf(lines[len(lines)-1], "digest %016x", &digest); err != nil || digest == 0 {
				t.Errorf("last line %q: %v", lines[len(lines)-1], err)
			}
			if g.exits(kvm.ReasonIO) < 20 {
				t.Errorf("%d port accesses: hardly a test", g.exits(kvm.ReasonIO))
			}
		})
	}
}
