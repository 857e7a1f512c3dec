package devices

// Calendar arithmetic for the RTC, which must not know the host's notion of time. The algorithm counts years from March,
// so that the leap day is the last of its year and months have a regular pattern of lengths.

const (
	daysIn400Years = 146097
	// daysToEpoch are those from 1 March 0000 to 1 January 1970.
	daysToEpoch = 719468
)

// date is a day of the proleptic Gregorian calendar.
type date struct {
	year, month, day int64
}

// daysOf returns the days from 1 January 1970. A month is 1 to 12; a day beyond the month's end counts on.
func daysOf(d date) int64 {
	year, month := d.year, d.month-3
	if month < 0 {
		year, month = year-1, month+12
	}
	era := floorDiv(year, 400)
	ofEra := year - era*400
	ofYear := (153*month+2)/5 + d.day - 1
	return era*daysIn400Years + ofEra*365 + ofEra/4 - ofEra/100 + ofYear - daysToEpoch
}

// dateOf is the inverse of daysOf.
func dateOf(days int64) date {
	days += daysToEpoch
	era := floorDiv(days, daysIn400Years)
	ofEra := days - era*daysIn400Years
	year := (ofEra - ofEra/1460 + ofEra/36524 - ofEra/(daysIn400Years-1)) / 365
	ofYear := ofEra - (365*year + year/4 - year/100)
	month := (5*ofYear + 2) / 153
	d := date{year: year + era*400, month: month + 3, day: ofYear - (153*month+2)/5 + 1}
	if d.month > 12 {
		d.year, d.month = d.year+1, d.month-12
	}
	return d
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - floorDiv(a, b)*b }

// show puts the time of a guest time into the registers.
func (r *RTC) show(now int64) {
	const day = 24 * 3600
	unix := r.s.OffsetS + r.seconds(now)
	days, ofDay := floorDiv(unix, day), floorMod(unix, day)
	d := dateOf(days)
	cmos := &r.s.CMOS
	cmos[rtcSeconds] = r.encode(ofDay % 60)
	cmos[rtcMinutes] = r.encode(ofDay / 60 % 60)
	cmos[rtcHours] = r.encodeHour(ofDay / 3600)
	cmos[rtcWeekday] = r.encode(floorMod(days+4, 7) + 1) // Sunday is 1; 1 January 1970 was a Thursday
	cmos[rtcDay] = r.encode(d.day)
	cmos[rtcMonth] = r.encode(d.month)
	cmos[rtcYear] = r.encode(floorMod(d.year, 100))
	cmos[rtcCentury] = r.encode(floorMod(floorDiv(d.year, 100), 100))
}

// settle makes the clock go on from the time in the registers. The weekday follows from the date. A value that no time
// has counts on (61 seconds are a minute and one), a month is taken to be the nearest there is.
func (r *RTC) settle(now int64) {
	cmos := &r.s.CMOS
	days := daysOf(date{
		year:  r.decode(cmos[rtcCentury])*100 + r.decode(cmos[rtcYear]),
		month: min(max(r.decode(cmos[rtcMonth]), 1), 12),
		day:   r.decode(cmos[rtcDay]),
	})
	unix := days*24*3600 + r.decodeHour(cmos[rtcHours])*3600 + r.decode(cmos[rtcMinutes])*60 + r.decode(cmos[rtcSeconds])
	r.s.OffsetS = unix - r.seconds(now)
}

func (r *RTC) encode(v int64) uint8 {
	if r.s.CMOS[rtcB]&rtcBinary != 0 {
		return uint8(v)
	}
	return uint8(v/10<<4 | v%10)
}

func (r *RTC) decode(v uint8) int64 {
	if r.s.CMOS[rtcB]&rtcBinary != 0 {
		return int64(v)
	}
	return int64(v>>4)*10 + int64(v&0xf)
}

func (r *RTC) encodeHour(hour int64) uint8 {
	if r.s.CMOS[rtcB]&rtc24Hours != 0 {
		return r.encode(hour)
	}
	v := r.encode((hour+11)%12 + 1)
	if hour >= 12 {
		v |= rtcAfternoon
	}
	return v
}

func (r *RTC) decodeHour(v uint8) int64 {
	if r.s.CMOS[rtcB]&rtc24Hours != 0 {
		return r.decode(v)
	}
	hour := r.decode(v&^rtcAfternoon) % 12
	if v&rtcAfternoon != 0 {
		hour += 12
	}
	return hour
}
