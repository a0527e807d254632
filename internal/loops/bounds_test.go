package loops

import (
	"testing"
	"time"
)

// The bounds of windows by the simplest means there are: walking. Nothing here calls what it judges.

// unitAround walks from t, back and on, until the local calendar shows another unit. Clocks change on quarters of
// an hour, wherever they do.
func unitAround(unit Unit, z *time.Location, t time.Time) (start, end time.Time) {
	const quarter = 15 * time.Minute
	here := shown(t.In(z), unit)
	same := func(x time.Time) bool { return shown(x.In(z), unit) == here }
	walk := func(from time.Time, direction time.Duration) time.Time {
		for _, step := range []time.Duration{24 * time.Hour, quarter} {
			if unit == UnitHour && step > quarter {
				continue
			}
			for same(from.Add(direction * step)) {
				from = from.Add(direction * step)
			}
		}
		return from
	}
	t = t.UTC().Truncate(quarter)
	return walk(t, -1), walk(t, 1).Add(quarter)
}

// shown names the unit that a local time is in. An hour that the clock repeats is another one.
func shown(t time.Time, unit Unit) [3]int {
	if unit == UnitHour {
		_, offset := t.Zone()
		return [3]int{int(t.Unix()+int64(offset)) / 3600, offset}
	}
	return label(t, unit)
}

// monthsOn is n months after a moment, in UTC. A day that the month does not have is its last.
func monthsOn(t time.Time, n int) time.Time {
	t = t.UTC()
	y, m, d := t.Date()
	for ; n > 0; n-- {
		if m++; m > time.December {
			y, m = y+1, time.January
		}
	}
	for ; n < 0; n++ {
		if m--; m < time.January {
			y, m = y-1, time.December
		}
	}
	days := map[time.Month]int{time.February: 28, time.April: 30, time.June: 30, time.September: 30, time.November: 30}
	last, short := days[m]
	if !short {
		last = 31
	}
	if m == time.February && y%4 == 0 && (y%100 != 0 || y%400 == 0) {
		last = 29
	}
	return time.Date(y, m, min(d, last), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// periodAround is the billing period that holds t, found by renewing [start, end) one by one, or undoing that.
func periodAround(start, end, t time.Time) (time.Time, time.Time) {
	begin := func(k int) time.Time { return start.Add(time.Duration(k) * end.Sub(start)) }
	for _, months := range []int{1, 2, 3, 6, 12, 24, 36} {
		if monthsOn(start, months).Equal(end) {
			begin = func(k int) time.Time { return monthsOn(start, k*months) }
			break
		}
	}
	k := 0
	for begin(k).After(t) {
		k--
	}
	for !begin(k + 1).After(t) {
		k++
	}
	return begin(k), begin(k + 1)
}

// after is one period after t.
func after(p Period, t time.Time) time.Time {
	switch p.Unit {
	case UnitMonth:
		return monthsOn(t, 1)
	case UnitYear:
		return monthsOn(t, 12)
	default:
		return t.Add(p.Length)
	}
}

// bucketWidth is the widest stretch that fits into a rolling period 24 times, as docs/reference.md lists them.
func bucketWidth(p Period) time.Duration {
	widest := time.Minute
	for _, minutes := range []time.Duration{1, 5, 15, 60, 360, 1440, 7 * 1440} {
		if 24*minutes*time.Minute <= p.Length {
			widest = minutes * time.Minute
		}
	}
	return widest
}

// TestWalkedBounds holds the walk itself against dates that anybody can check.
func TestWalkedBounds(t *testing.T) {
	for _, c := range []struct {
		unit           Unit
		zone           string
		at, start, end string // UTC
	}{
		{UnitMonth, "UTC", "2024-02-29 12:00:00", "2024-02-01 00:00:00", "2024-03-01 00:00:00"},
		{UnitDay, "Europe/Berlin", "2026-03-29 12:00:00", "2026-03-28 23:00:00", "2026-03-29 22:00:00"}, // 23 hours
		{UnitDay, "Europe/Berlin", "2026-10-25 12:00:00", "2026-10-24 22:00:00", "2026-10-25 23:00:00"}, // 25 hours
		{UnitWeek, "UTC", "2026-03-01 23:59:59", "2026-02-23 00:00:00", "2026-03-02 00:00:00"},
		{UnitHour, "America/New_York", "2026-11-01 06:30:00", "2026-11-01 06:00:00", "2026-11-01 07:00:00"},
		{UnitDay, "America/Havana", "2026-03-08 05:00:00", "2026-03-08 05:00:00", "2026-03-09 04:00:00"}, // no midnight
		{UnitYear, "Asia/Kolkata", "2024-12-31 18:29:59", "2023-12-31 18:30:00", "2024-12-31 18:30:00"},
	} {
		start, end := unitAround(c.unit, zone(t, c.zone), utc(c.at))
		if !start.Equal(utc(c.start)) || !end.Equal(utc(c.end)) {
			t.Errorf("%s in %s of %s: [%s, %s)", c.unit, c.zone, c.at, start, end)
		}
	}
	for from, to := range map[string]string{"2024-01-31 08:00:00": "2024-02-29 08:00:00", "2023-12-31 08:00:00": "2024-01-31 08:00:00"} {
		if got := monthsOn(utc(from), 1); !got.Equal(utc(to)) {
			t.Errorf("a month after %s: %s", from, got)
		}
	}
	if start, end := periodAround(utc("2026-01-31 08:00:00"), utc("2026-02-28 08:00:00"), utc("2026-03-30 00:00:00")); !start.Equal(utc("2026-02-28 08:00:00")) ||
		!end.Equal(utc("2026-03-31 08:00:00")) {
		t.Errorf("the second renewal: [%s, %s)", start, end)
	}
}
