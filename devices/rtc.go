package devices

import (
	"encoding/json"

	"tandem/lockstep"
)

// CMOS registers (Motorola MC146818A data sheet; IBM AT technical reference for those above 0x0d).
const (
	rtcSeconds      = 0x00
	rtcSecondsAlarm = 0x01
	rtcMinutes      = 0x02
	rtcMinutesAlarm = 0x03
	rtcHours        = 0x04
	rtcHoursAlarm   = 0x05
	rtcWeekday      = 0x06
	rtcDay          = 0x07
	rtcMonth        = 0x08
	rtcYear         = 0x09
	rtcA            = 0x0a
	rtcB            = 0x0b
	rtcC            = 0x0c
	rtcD            = 0x0d
	rtcCentury      = 0x32

	cmosBytes = 128
)

// Bits of registers A to D.
const (
	rtcUpdating     = 1 << 7 // A: UIP
	rtcDividerReset = 0x60   // A: DV bits that hold the divider
	rtcRate         = 0x0f   // A

	rtcSet          = 1 << 7 // B
	rtcPeriodic     = 1 << 6 // B enables, C flags
	rtcAlarm        = 1 << 5
	rtcUpdated      = 1 << 4
	rtcInterrupts   = rtcPeriodic | rtcAlarm | rtcUpdated
	rtcBinary       = 1 << 2 // B
	rtc24Hours      = 1 << 1 // B
	rtcAsserted     = 1 << 7 // C: IRQF
	rtcValid        = 1 << 7 // D
	rtcAlarmAny     = 0xc0   // an alarm register with both bits set matches everything
	rtcAfternoon    = 1 << 7 // hours, in 12-hour form
	rtcDefaultA     = 0x26   // 32768 Hz divider, 1024 Hz rate
	secondNS        = 1_000_000_000
	updateWarningNS = 244_000      // how long before an update UIP is set
	dividerReleased = secondNS / 2 // the first update comes so long after the divider's release
)

// RTC is the MC146818A clock and CMOS memory of a PC. Its time is the guest clock plus an offset, so that nothing has to
// happen each second; an update takes no time, and UIP is set just for the 244 us before it, so it is never stuck.
//
// The interrupts' flags come up to date when register C is read or an enabled interrupt is due. While the interrupt line
// is high there is no deadline, since the guest could not tell whether another one has come.
type RTC struct {
	clock lockstep.Clock
	irq   Line
	s     rtcState
	// due is the guest time in ns of the next enabled interrupt, or -1. It follows from s.
	due int64
}

type rtcState struct {
	Index uint8 `json:"index"`
	// CMOS holds all registers but D. Those of the time are valid only while the clock is held.
	CMOS [cmosBytes]uint8 `json:"cmos"`
	// The time is OffsetS plus the whole seconds in the guest clock plus PhaseNS.
	OffsetS int64 `json:"offset_s"`
	PhaseNS int64 `json:"phase_ns"`
	// Checked is the guest time in ns up to which the flags in register C are right.
	Checked int64 `json:"checked_ns"`
}

// NewRTC returns an RTC that shows epochNS (Unix time in ns, UTC) at guest time 0, and whose memory tells memoryBytes of
// RAM as a BIOS would. It interrupts by irq.
func NewRTC(clock lockstep.Clock, irq Line, epochNS int64, memoryBytes uint64) *RTC {
	r := &RTC{clock: clock, irq: irq, due: -1}
	r.s.PhaseNS = (epochNS%secondNS + secondNS) % secondNS
	r.s.OffsetS = (epochNS - r.s.PhaseNS) / secondNS
	r.s.CMOS[rtcA] = rtcDefaultA
	r.s.CMOS[rtcB] = rtc24Hours
	fillCMOS(&r.s.CMOS, memoryBytes)
	return r
}

// fillCMOS writes what a BIOS would: the equipment, the sizes of memory, and the checksum over those.
func fillCMOS(cmos *[cmosBytes]uint8, memoryBytes uint64) {
	const mib, gib = 1 << 20, 1 << 30
	word := func(at int, v uint64) {
		cmos[at], cmos[at+1] = uint8(v), uint8(v>>8)
	}
	above := func(limit uint64) uint64 { return max(memoryBytes, limit) - limit }
	cmos[0x14] = 0x02 // equipment: a coprocessor
	word(0x15, min(memoryBytes/1024, 640))
	word(0x17, min(above(mib)/1024, 0xffff))
	word(0x30, min(above(mib)/1024, 0xffff))
	// Up to 3 GiB are below the PCI hole, the rest is from 4 GiB on; both in units of 64 KiB.
	word(0x34, (min(max(memoryBytes, 16*mib), 3*gib)-16*mib)/(64*1024))
	word(0x5b, above(3*gib)/(64*1024))
	cmos[0x5d] = uint8(above(3*gib) / (64 * 1024) >> 16)
	sum := uint64(0)
	for _, v := range cmos[0x10:0x2e] {
		sum += uint64(v)
	}
	cmos[0x2e], cmos[0x2f] = uint8(sum>>8), uint8(sum)
}

// Attach puts the ports on the bus: 0x70, 0x71.
func (r *RTC) Attach(ports *Bus) error {
	return attachAll(ports, attachment{0x70, 2, &bytePorts{r.read, r.write}})
}

// Deadline implements Timer.
func (r *RTC) Deadline() (int64, bool) {
	return max(0, r.due), r.due >= 0
}

// Advance implements Timer.
func (r *RTC) Advance(now int64) {
	if now <= r.s.Checked {
		return
	}
	r.s.CMOS[rtcC] |= r.events(now)
	r.s.Checked = now
	r.update()
}

// events returns the flags of what has happened since Checked.
func (r *RTC) events(now int64) uint8 {
	flags := uint8(0)
	if r.dividerHeld() {
		return 0
	}
	if rate := r.rate(); rate != 0 && r.periods(now, rate) != r.periods(r.s.Checked, rate) {
		flags |= rtcPeriodic
	}
	first, last := r.seconds(r.s.Checked), r.seconds(now)
	if first == last || r.held() {
		return flags
	}
	if at, ok := r.nextAlarm(first); ok && at <= last {
		flags |= rtcAlarm
	}
	return flags | rtcUpdated
}

// update sets IRQF, the interrupt line and the deadline from the flags and enables.
func (r *RTC) update() {
	c := &r.s.CMOS[rtcC]
	*c &= rtcInterrupts
	r.due = -1
	if *c&r.s.CMOS[rtcB] != 0 {
		*c |= rtcAsserted
		r.irq.Set(true)
		return
	}
	r.irq.Set(false)
	r.plan()
}

// plan sets due for a clock whose interrupt line is low.
func (r *RTC) plan() {
	r.due = -1
	enabled := r.s.CMOS[rtcB] & rtcInterrupts
	if enabled == 0 || r.s.CMOS[rtcC]&rtcAsserted != 0 || r.dividerHeld() {
		return
	}
	at := int64(-1)
	earliest := func(ns int64) {
		if at < 0 || ns < at {
			at = ns
		}
	}
	if rate := r.rate(); enabled&rtcPeriodic != 0 && rate != 0 {
		n := r.periods(r.s.Checked, rate) + 1
		earliest(n/rate*secondNS + (n%rate*secondNS+rate-1)/rate - r.s.PhaseNS)
	}
	if !r.held() {
		second := r.seconds(r.s.Checked)
		if enabled&rtcUpdated != 0 {
			earliest((second+1)*secondNS - r.s.PhaseNS)
		}
		if enabled&rtcAlarm != 0 {
			if s, ok := r.nextAlarm(second); ok {
				earliest(s*secondNS - r.s.PhaseNS)
			}
		}
	}
	r.due = at
}

// seconds returns how often the second has changed at a guest time.
func (r *RTC) seconds(ns int64) int64 { return (ns + r.s.PhaseNS) / secondNS }

// rate returns the frequency of the periodic interrupt in Hz, or 0 for none (data sheet, table 5).
func (r *RTC) rate() int64 {
	switch n := r.s.CMOS[rtcA] & rtcRate; n {
	case 0:
		return 0
	case 1, 2:
		return 512 >> n
	default:
		return 65536 >> n
	}
}

// periods returns how often the periodic interrupt has come at a guest time.
func (r *RTC) periods(ns, rate int64) int64 {
	ns += r.s.PhaseNS
	return ns/secondNS*rate + ns%secondNS*rate/secondNS
}

// nextAlarm returns the first second after the given one (both as of seconds) at which the alarm matches.
func (r *RTC) nextAlarm(after int64) (int64, bool) {
	const day = 24 * 3600
	second, anySecond := r.alarmField(rtcSecondsAlarm, 60)
	minute, anyMinute := r.alarmField(rtcMinutesAlarm, 60)
	hour, anyHour := r.alarmField(rtcHoursAlarm, 24)
	if second < 0 || minute < 0 || hour < 0 {
		return 0, false
	}
	at := after + 1
	for at <= after+day {
		ofDay := floorMod(at+r.s.OffsetS, day)
		switch {
		case !anyHour && ofDay/3600 != hour:
			at += 3600 - ofDay%3600
		case !anyMinute && ofDay/60%60 != minute:
			at += 60 - ofDay%60
		case !anySecond && ofDay%60 != second:
			at++
		default:
			return at, true
		}
	}
	return 0, false
}

// alarmField returns an alarm register's value, -1 for one that no time has, and whether it matches everything.
func (r *RTC) alarmField(register uint8, limit int64) (value int64, matchesAll bool) {
	v := r.s.CMOS[register]
	if v&rtcAlarmAny == rtcAlarmAny {
		return 0, true
	}
	if register == rtcHoursAlarm {
		value = r.decodeHour(v)
	} else {
		value = r.decode(v)
	}
	if value >= limit {
		return -1, false
	}
	return value, false
}

// held tells whether the registers of the time stand still: SET, or the divider held.
func (r *RTC) held() bool { return r.s.CMOS[rtcB]&rtcSet != 0 || r.dividerHeld() }

func (r *RTC) dividerHeld() bool { return r.s.CMOS[rtcA]&rtcDividerReset == rtcDividerReset }

func (r *RTC) read(port uint64) byte {
	if port == 0 {
		return 0xff // the index can't be read
	}
	switch i := r.s.Index; i {
	case rtcSeconds, rtcMinutes, rtcHours, rtcWeekday, rtcDay, rtcMonth, rtcYear, rtcCentury:
		if !r.held() {
			r.show(r.clock.Now())
		}
		return r.s.CMOS[i]
	case rtcA:
		return r.s.CMOS[rtcA] | r.updating()
	case rtcC:
		r.Advance(r.clock.Now())
		v := r.s.CMOS[rtcC]
		r.s.CMOS[rtcC] = 0
		r.update()
		return v
	case rtcD:
		return rtcValid
	default:
		return r.s.CMOS[i]
	}
}

// updating returns UIP.
func (r *RTC) updating() byte {
	if r.held() {
		return 0
	}
	if (r.clock.Now()+r.s.PhaseNS)%secondNS >= secondNS-updateWarningNS {
		return rtcUpdating
	}
	return 0
}

func (r *RTC) write(port uint64, v byte) {
	if port == 0 {
		r.s.Index = v & 0x7f // bit 7 masks NMIs, of which this machine has none
		return
	}
	switch i := r.s.Index; i {
	case rtcSeconds, rtcMinutes, rtcHours, rtcWeekday, rtcDay, rtcMonth, rtcYear, rtcCentury:
		r.setTime(i, v)
	case rtcSecondsAlarm, rtcMinutesAlarm, rtcHoursAlarm:
		r.Advance(r.clock.Now())
		r.s.CMOS[i] = v
		r.update()
	case rtcA, rtcB:
		r.control(i, v)
	case rtcC, rtcD:
	default:
		r.s.CMOS[i] = v
	}
}

// setTime writes a register of the time. A clock that isn't held goes on from the new time at once.
func (r *RTC) setTime(register, v uint8) {
	if r.held() {
		r.s.CMOS[register] = v
		return
	}
	now := r.clock.Now()
	r.Advance(now)
	r.show(now)
	r.s.CMOS[register] = v
	r.settle(now)
	r.update()
}

// control writes register A or B, by which the clock is held and released.
func (r *RTC) control(register, v uint8) {
	now := r.clock.Now()
	r.Advance(now)
	wasHeld, dividerWasHeld := r.held(), r.dividerHeld()
	if !wasHeld {
		r.show(now)
	}
	if register == rtcA {
		v &^= rtcUpdating
	} else if v&rtcSet != 0 {
		v &^= rtcUpdated // data sheet: SET clears UIE
	}
	r.s.CMOS[register] = v
	if dividerWasHeld && !r.dividerHeld() {
		seconds := r.seconds(now)
		r.s.PhaseNS = floorMod(dividerReleased-now, secondNS)
		r.s.OffsetS += seconds - r.seconds(now)
	}
	if wasHeld && !r.held() {
		r.settle(now)
	}
	r.update()
}

// SaveState implements Stateful.
func (r *RTC) SaveState() ([]byte, error) { return json.Marshal(&r.s) }

// LoadState implements Stateful.
func (r *RTC) LoadState(state []byte) error {
	s, err := decodeState("RTC", state, checkRTC)
	if err != nil {
		return err
	}
	r.s = s
	r.plan()
	return nil
}

// maxGuestNS bounds the guest times that a state may have, short of where sums overflow: 146 years.
const maxGuestNS = 1 << 62

// maxOffsetS bounds the RTC's offset: more than all years that its registers can show.
const maxOffsetS = 1 << 40

func checkRTC(s *rtcState) error {
	flags := s.CMOS[rtcC]
	return firstError(
		condition{s.Index < cmosBytes, "index: there is no such register"},
		condition{s.OffsetS >= -maxOffsetS && s.OffsetS <= maxOffsetS, "offset: beyond what the registers can show"},
		condition{s.PhaseNS >= 0 && s.PhaseNS < secondNS, "phase: not within a second"},
		condition{s.Checked >= 0 && s.Checked <= maxGuestNS, "checked: no guest has run so long"},
		condition{s.CMOS[rtcA]&rtcUpdating == 0 && s.CMOS[rtcD] == 0, "registers A and D: bits that aren't kept"},
		condition{s.CMOS[rtcB]&(rtcSet|rtcUpdated) != rtcSet|rtcUpdated, "register B: SET and UIE at once"},
		condition{flags&^(rtcAsserted|rtcInterrupts) == 0, "register C: bits that can't be set"},
		condition{flags&rtcAsserted != 0 == (flags&s.CMOS[rtcB]&rtcInterrupts != 0), "register C: IRQF differs from the flags"},
	)
}
