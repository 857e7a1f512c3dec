package devices

import (
	"testing"
	"time"
)

func (pc *testPC) cmos(register byte) byte {
	pc.out(0x70, register)
	return pc.in(0x71)
}

func (pc *testPC) setCMOS(register, v byte) {
	pc.out(0x70, register)
	pc.out(0x71, v)
}

// clockTime reads the time as a guest does that takes the registers for what they say, in BCD and 24-hour form.
func (pc *testPC) clockTime() time.Time {
	bcd := func(register byte) int {
		v := pc.cmos(register)
		return int(v>>4)*10 + int(v&0xf)
	}
	return time.Date(bcd(rtcCentury)*100+bcd(rtcYear), time.Month(bcd(rtcMonth)), bcd(rtcDay),
		bcd(rtcHours), bcd(rtcMinutes), bcd(rtcSeconds), 0, time.UTC)
}

func TestRTCShowsTheEpoch(t *testing.T) {
	const year = 365 * 24 * 3600 * secondNS
	for _, now := range []int64{0, 749_999_999, 750_000_000, 1_750_000_000, 3600 * secondNS, year, 80 * year} {
		pc := newTestPC(t)
		pc.clock.now = now
		want := time.Unix(0, testEpochNS).Add(time.Duration(now)).Truncate(time.Second).UTC()
		if got := pc.clockTime(); !got.Equal(want) {
			t.Errorf("after %d ns: %v, want %v", now, got, want)
		}
		if got := pc.cmos(rtcWeekday); int(got) != int(want.Weekday())+1 {
			t.Errorf("after %d ns: weekday %d, want %d", now, got, int(want.Weekday())+1)
		}
	}
}

func TestRTCCalendar(t *testing.T) {
	day := time.Date(1599, 12, 25, 0, 0, 0, 0, time.UTC)
	for ; day.Year() < 2402; day = day.AddDate(0, 0, 1) {
		days := day.Unix() / 86400
		if day.Unix() < 0 {
			days = -(-day.Unix() / 86400)
		}
		d := dateOf(days)
		if d.year != int64(day.Year()) || d.month != int64(day.Month()) || d.day != int64(day.Day()) {
			t.Fatalf("day %d is %+v, want %v", days, d, day)
		}
		if got := daysOf(d); got != days {
			t.Fatalf("%v is day %d, want %d", day, got, days)
		}
	}
}

func TestRTCForms(t *testing.T) {
	for _, c := range []struct {
		b             byte
		hour          int
		hours, minute byte
	}{
		{rtc24Hours, 0, 0x00, 0x59},
		{rtc24Hours, 23, 0x23, 0x59},
		{rtc24Hours | rtcBinary, 23, 23, 59},
		{0, 0, 0x12, 0x59},
		{0, 11, 0x11, 0x59},
		{0, 12, 0x92, 0x59},
		{0, 23, 0x91, 0x59},
		{rtcBinary, 0, 12, 59},
		{rtcBinary, 13, 0x81, 59},
	} {
		pc := newTestPC(t)
		pc.setCMOS(rtcB, c.b)
		pc.clock.now = int64(c.hour+1)*3600*secondNS - 30*secondNS // it starts two seconds before midnight
		if h, m := pc.cmos(rtcHours), pc.cmos(rtcMinutes); h != c.hours || m != c.minute {
			t.Errorf("register B %#x, hour %d: %#x:%#x, want %#x:%#x", c.b, c.hour, h, m, c.hours, c.minute)
		}
		pc.setCMOS(rtcHours, c.hours) // the same time again
		if h := pc.cmos(rtcHours); h != c.hours {
			t.Errorf("register B %#x: hours %#x after %#x was set", c.b, h, c.hours)
		}
	}
}

// TestRTCSetTime plays Linux's mc146818_set_time.
func TestRTCSetTime(t *testing.T) {
	pc := newTestPC(t)
	pc.clock.now = 12*secondNS + 345
	control, frequency := pc.cmos(rtcB), pc.cmos(rtcA)
	pc.setCMOS(rtcB, control|rtcSet)
	pc.setCMOS(rtcA, frequency|0x70)
	for register, v := range map[byte]byte{rtcSeconds: 0x58, rtcMinutes: 0x59, rtcHours: 0x23, rtcDay: 0x31, rtcMonth: 0x12, rtcYear: 0x99, rtcCentury: 0x20} {
		pc.setCMOS(register, v)
	}
	pc.clock.now += 5 * secondNS
	if got := pc.cmos(rtcSeconds); got != 0x58 {
		t.Errorf("seconds %#x while the clock is held, want 0x58", got)
	}
	if got := pc.cmos(rtcA); got&rtcUpdating != 0 {
		t.Error("an update in progress while the clock is held")
	}
	pc.setCMOS(rtcB, control)
	pc.setCMOS(rtcA, frequency)
	want := time.Date(2099, 12, 31, 23, 59, 58, 0, time.UTC)
	for _, c := range []struct {
		after   int64
		seconds int
	}{{0, 0}, {499_999_999, 0}, {1, 1}, {secondNS - 1, 1}, {1, 2}} {
		pc.clock.now += c.after
		if got := pc.clockTime(); !got.Equal(want.Add(time.Duration(c.seconds) * time.Second)) {
			t.Errorf("%v, want %v and %d s", got, want, c.seconds)
		}
	}
}

func TestRTCSetKeepsThePhase(t *testing.T) {
	pc := newTestPC(t)
	pc.setCMOS(rtcB, rtc24Hours|rtcSet)
	pc.setCMOS(rtcSeconds, 0x10)
	pc.clock.now = 10 * secondNS
	pc.setCMOS(rtcB, rtc24Hours)
	if got := pc.cmos(rtcSeconds); got != 0x10 {
		t.Errorf("seconds %#x, want 0x10", got)
	}
	pc.clock.now += 749_999_999
	if got := pc.cmos(rtcSeconds); got != 0x10 {
		t.Errorf("seconds %#x, want 0x10: the update is a nanosecond early", got)
	}
	pc.clock.now++
	if got := pc.cmos(rtcSeconds); got != 0x11 {
		t.Errorf("seconds %#x, want 0x11", got)
	}
}

func TestRTCInvalidTimesCountOn(t *testing.T) {
	pc := newTestPC(t)
	pc.setCMOS(rtcB, rtc24Hours|rtcSet)
	for register, v := range map[byte]byte{rtcSeconds: 0x61, rtcMinutes: 0x00, rtcHours: 0x10, rtcDay: 0x30, rtcMonth: 0xff, rtcYear: 0x23, rtcCentury: 0x20} {
		pc.setCMOS(register, v)
	}
	pc.setCMOS(rtcB, rtc24Hours)
	if got, want := pc.clockTime(), time.Date(2023, 12, 30, 10, 1, 1, 0, time.UTC); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestRTCUpdateInProgress(t *testing.T) {
	pc := newTestPC(t)
	const update = 750_000_000 // the epoch is a quarter of a second old
	for _, c := range []struct {
		now  int64
		want bool
	}{{update - 244_001, false}, {update - 244_000, true}, {update - 1, true}, {update, false}} {
		pc.clock.now = c.now
		if got := pc.cmos(rtcA)&rtcUpdating != 0; got != c.want {
			t.Errorf("at %d ns: UIP %v, want %v", c.now, got, c.want)
		}
	}
}

// rtcInterrupt takes the RTC's interrupt and returns register C, or 0 if there was none.
func (pc *testPC) rtcInterrupt() byte {
	if !pc.PIC.Pending() {
		return 0
	}
	if got := pc.PIC.Acknowledge(); got != 0x38 {
		pc.t.Fatalf("vector %#x", got)
	}
	pc.out(0xa0, nonspecificEOI)
	pc.out(0x20, specificEOI|2)
	return pc.cmos(rtcC)
}

func rtcPC(t *testing.T) *testPC {
	pc := newTestPC(t)
	pc.initialisePICs()
	pc.out(0xa1, 0xfe)
	return pc
}

func TestRTCUpdateInterrupt(t *testing.T) {
	pc := rtcPC(t)
	if at, armed := pc.RTC.Deadline(); armed {
		t.Fatalf("armed for %d without an interrupt enabled", at)
	}
	pc.setCMOS(rtcB, rtc24Hours|rtcUpdated)
	for i := range int64(3) {
		want := i*secondNS + 750_000_000
		if at, armed := pc.RTC.Deadline(); !armed || at != want {
			t.Fatalf("due at %d, want %d", at, want)
		}
		pc.advanceTo(want)
		if _, armed := pc.RTC.Deadline(); armed {
			t.Error("armed although the interrupt was not taken")
		}
		if got := pc.rtcInterrupt(); got&(rtcAsserted|rtcUpdated) != rtcAsserted|rtcUpdated {
			t.Errorf("register C %#x", got)
		}
	}
	pc.setCMOS(rtcB, rtc24Hours|rtcUpdated|rtcSet)
	if got := pc.cmos(rtcB); got&rtcUpdated != 0 {
		t.Error("SET does not clear UIE")
	}
}

func TestRTCPeriodicInterrupt(t *testing.T) {
	for _, c := range []struct {
		rate byte
		hz   int64
	}{{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {15, 2}} {
		pc := rtcPC(t)
		pc.setCMOS(rtcA, 0x20|c.rate)
		pc.setCMOS(rtcB, rtc24Hours|rtcPeriodic)
		n := int64(0)
		for {
			at, armed := pc.RTC.Deadline()
			if !armed {
				t.Fatal("not armed")
			}
			if at > 10*secondNS {
				break
			}
			pc.advanceTo(at)
			if got := pc.rtcInterrupt(); got&(rtcAsserted|rtcPeriodic) != rtcAsserted|rtcPeriodic {
				t.Fatalf("register C %#x", got)
			}
			n++
		}
		if n != 10*c.hz {
			t.Errorf("rate %d: %d interrupts in 10 s, want %d", c.rate, n, 10*c.hz)
		}
	}
	pc := rtcPC(t)
	pc.setCMOS(rtcA, 0x20)
	pc.setCMOS(rtcB, rtc24Hours|rtcPeriodic)
	if _, armed := pc.RTC.Deadline(); armed {
		t.Error("armed with rate 0")
	}
}

func TestRTCAlarm(t *testing.T) {
	for _, c := range []struct {
		what                    string
		hours, minutes, seconds byte
		want                    int64 // seconds after 23:59:58, or -1
	}{
		{"a time", 0x00, 0x01, 0x00, 62},
		{"every second", 0xff, 0xff, 0xff, 1},
		{"every minute", 0xff, 0xc0, 0x30, 32},
		{"every hour", 0xff, 0x30, 0x00, 1802},
		{"the present second comes in a day", 0x23, 0x59, 0x58, 86400},
		{"a time that is none", 0x25, 0x00, 0x00, -1},
		{"seconds that are none", 0x00, 0x00, 0x60, -1},
	} {
		t.Run(c.what, func(t *testing.T) {
			pc := rtcPC(t)
			pc.setCMOS(rtcHoursAlarm, c.hours)
			pc.setCMOS(rtcMinutesAlarm, c.minutes)
			pc.setCMOS(rtcSecondsAlarm, c.seconds)
			pc.setCMOS(rtcB, rtc24Hours|rtcAlarm)
			at, armed := pc.RTC.Deadline()
			if c.want < 0 {
				if armed {
					t.Errorf("armed for %d", at)
				}
				return
			}
			if want := c.want*secondNS - 250_000_000; !armed || at != want {
				t.Fatalf("due at %d, want %d", at, want)
			}
			pc.clock.now = at + 100*86400*secondNS
			pc.RTC.Advance(pc.clock.now)
			if got := pc.rtcInterrupt(); got&(rtcAsserted|rtcAlarm) != rtcAsserted|rtcAlarm {
				t.Errorf("register C %#x", got)
			}
		})
	}
}

func TestRTCFlagsWithoutInterrupts(t *testing.T) {
	pc := newTestPC(t)
	if got := pc.cmos(rtcC); got != 0 {
		t.Errorf("register C %#x at the start", got)
	}
	pc.clock.now = secondNS
	if got := pc.cmos(rtcC); got != rtcPeriodic|rtcUpdated {
		t.Errorf("register C %#x after a second, want PF and UF", got)
	}
	if got := pc.cmos(rtcC); got != 0 {
		t.Errorf("register C %#x read again", got)
	}
	pc.expect(0x70, 0xff, "the index can't be read")
}

func TestCMOSMemory(t *testing.T) {
	pc := newTestPC(t)
	for register, want := range map[byte]byte{
		0x0d: 0x80, 0x0e: 0, 0x10: 0, 0x14: 0x02,
		0x15: 0x80, 0x16: 0x02, // 640 KiB
		0x17: 0xff, 0x18: 0xff, 0x30: 0xff, 0x31: 0xff, // 255 MiB in KiB don't fit
		0x34: 0x00, 0x35: 0x0f, // 240 MiB in 64 KiB
		0x5b: 0, 0x5c: 0, 0x5d: 0, 0x7f: 0,
	} {
		if got := pc.cmos(register); got != want {
			t.Errorf("register %#x is %#x, want %#x", register, got, want)
		}
	}
	pc.setCMOS(0x40, 0x5a)
	if got := pc.cmos(0x40 | 0x80); got != 0x5a {
		t.Errorf("memory reads %#x with NMIs masked, want 0x5a", got)
	}
	pc.setCMOS(rtcD, 0x12)
	if got := pc.cmos(rtcD); got != rtcValid {
		t.Errorf("register D %#x", got)
	}
	var cmos [cmosBytes]uint8
	fillCMOS(&cmos, 5<<30)
	if cmos[0x34] != 0x00 || cmos[0x35] != 0xbf || cmos[0x5b] != 0x00 || cmos[0x5c] != 0x80 || cmos[0x5d] != 0 {
		t.Errorf("5 GiB are told as % x and % x", cmos[0x34:0x36], cmos[0x5b:0x5e])
	}
}
