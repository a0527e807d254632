package loops

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

var fixed30 = Period{Text: "30d", Length: 30 * 24 * time.Hour}

func TestAnchoredWindows(t *testing.T) {
	month, year := Period{Text: "month", Unit: UnitMonth}, Period{Text: "year", Unit: UnitYear}
	for _, c := range []struct {
		period            Period
		use, floor        string
		wantStart, wantTo string
	}{
		{fixed30, "2026-03-01 10:00:30", "", "2026-03-01 09:59:00", "2026-03-31 09:59:00"},
		{fixed30, "2026-03-01 10:00:00", "", "2026-03-01 09:59:00", "2026-03-31 09:59:00"},
		{fixed30, "2026-03-01 10:00:30", "2026-03-01 09:59:30", "2026-03-01 09:59:30", "2026-03-31 09:59:30"},
		{fixed30, "2026-03-01 10:00:30", "2026-02-01 00:00:00", "2026-03-01 09:59:00", "2026-03-31 09:59:00"},
		{Period{Text: "12h", Length: 12 * time.Hour}, "2026-03-01 00:00:10", "", "2026-02-28 23:59:00", "2026-03-01 11:59:00"},
		{month, "2026-01-31 12:01:00", "", "2026-01-31 12:00:00", "2026-02-28 12:00:00"},
		{month, "2024-01-31 12:01:00", "", "2024-01-31 12:00:00", "2024-02-29 12:00:00"},
		{month, "2026-12-15 12:01:00", "", "2026-12-15 12:00:00", "2027-01-15 12:00:00"},
		{year, "2024-02-29 12:01:00", "", "2024-02-29 12:00:00", "2025-02-28 12:00:00"},
	} {
		var floor time.Time
		if c.floor != "" {
			floor = utc(c.floor)
		}
		start, end := Window{Kind: Anchored, Period: c.period}.Open(utc(c.use), floor)
		if start != utc(c.wantStart) || end != utc(c.wantTo) {
			t.Errorf("%s from %s, floor %q: [%s, %s), want [%s, %s)", c.period.Text, c.use, c.floor, start, end, c.wantStart, c.wantTo)
		}
	}
}

func TestCalendarWindows(t *testing.T) {
	for _, c := range []struct {
		unit               Unit
		zone               string
		use, wantStart, to string // UTC
	}{
		{UnitMonth, "UTC", "2026-01-31 23:59:59", "2026-01-01 00:00:00", "2026-02-01 00:00:00"},
		{UnitMonth, "UTC", "2024-02-29 12:00:00", "2024-02-01 00:00:00", "2024-03-01 00:00:00"},
		{UnitMonth, "Europe/Berlin", "2026-03-31 22:30:00", "2026-03-31 22:00:00", "2026-04-30 22:00:00"},
		{UnitMonth, "Europe/Berlin", "2026-03-15 12:00:00", "2026-02-28 23:00:00", "2026-03-31 22:00:00"},
		{UnitYear, "Asia/Kolkata", "2025-12-31 18:30:00", "2025-12-31 18:30:00", "2026-12-31 18:30:00"},
		{UnitWeek, "UTC", "2026-03-01 23:00:00", "2026-02-23 00:00:00", "2026-03-02 00:00:00"}, // a Sunday
		{UnitWeek, "UTC", "2026-03-02 00:00:00", "2026-03-02 00:00:00", "2026-03-09 00:00:00"}, // a Monday
		{UnitDay, "America/New_York", "2026-03-08 12:00:00", "2026-03-08 05:00:00", "2026-03-09 04:00:00"},
		{UnitDay, "America/New_York", "2026-11-01 12:00:00", "2026-11-01 04:00:00", "2026-11-02 05:00:00"},
		{UnitHour, "Asia/Kolkata", "2026-03-01 10:45:00", "2026-03-01 10:30:00", "2026-03-01 11:30:00"},
		{UnitHour, "America/New_York", "2026-11-01 06:30:00", "2026-11-01 06:00:00", "2026-11-01 07:00:00"}, // the hour that repeats
		// Clocks that skip midnight: the day begins at one o'clock, and the day before is whole.
		{UnitDay, "America/Havana", "2026-03-08 04:30:00", "2026-03-07 05:00:00", "2026-03-08 05:00:00"},
		{UnitDay, "America/Havana", "2026-03-08 05:00:00", "2026-03-08 05:00:00", "2026-03-09 04:00:00"},
		{UnitDay, "America/Santiago", "2026-09-06 03:30:00", "2026-09-05 04:00:00", "2026-09-06 04:00:00"},
		{UnitDay, "Africa/Cairo", "2026-04-23 21:30:00", "2026-04-22 22:00:00", "2026-04-23 22:00:00"},
		// Clocks that repeat midnight: the day begins with the first one.
		{UnitDay, "America/Havana", "2026-11-01 05:30:00", "2026-11-01 04:00:00", "2026-11-02 05:00:00"},
		{UnitDay, "Asia/Amman", "2021-10-28 21:30:00", "2021-10-28 21:00:00", "2021-10-29 22:00:00"},
	} {
		w := Window{Kind: Calendar, Period: Period{Text: string(c.unit), Unit: c.unit}, Zone: zone(t, c.zone)}
		start, end := w.Open(utc(c.use), time.Time{})
		if start != utc(c.wantStart) || end != utc(c.to) {
			t.Errorf("%s in %s of %s: [%s, %s), want [%s, %s)", c.unit, c.zone, c.use, start, end, c.wantStart, c.to)
		}
	}
}

// TestCalendarAgainstBruteForce walks from a time backwards and forwards until the local date says
// that another day, week, month or year has begun.
func TestCalendarAgainstBruteForce(t *testing.T) {
	names := []string{"UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Santiago", "Africa/Cairo", "Asia/Kathmandu",
		"Australia/Lord_Howe", "Atlantic/Azores", "Asia/Beirut", "Pacific/Auckland", "America/St_Johns", "Asia/Amman", "America/Asuncion"}
	rapid.Check(t, func(t *rapid.T) {
		z, err := time.LoadLocation(rapid.SampledFrom(names).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		unit := rapid.SampledFrom([]Unit{UnitDay, UnitWeek, UnitMonth, UnitYear}).Draw(t, "unit")
		at := time.Unix(rapid.Int64Range(utc("2015-01-01 00:00:00").Unix(), utc("2035-01-01 00:00:00").Unix()).Draw(t, "at"), 0).UTC()
		if rapid.Bool().Draw(t, "near a clock change") {
			_, change := at.In(z).ZoneBounds()
			if !change.IsZero() {
				at = change.UTC().Add(time.Duration(rapid.IntRange(-7200, 7200).Draw(t, "seconds from it")) * time.Second)
			}
		}
		start, end := Window{Kind: Calendar, Period: Period{Unit: unit}, Zone: z}.Open(at, time.Time{})
		if at.Before(start) || !at.Before(end) {
			t.Fatalf("%s is not in its own window [%s, %s)", at.In(z), start.In(z), end.In(z))
		}
		if label(start.In(z), unit) != label(at.In(z), unit) || label(end.Add(-time.Second).In(z), unit) != label(at.In(z), unit) {
			t.Fatalf("[%s, %s) reaches beyond the %s of %s", start.In(z), end.In(z), unit, at.In(z))
		}
		if label(start.Add(-time.Second).In(z), unit) == label(at.In(z), unit) || label(end.In(z), unit) == label(at.In(z), unit) {
			t.Fatalf("[%s, %s) is not the whole %s of %s", start.In(z), end.In(z), unit, at.In(z))
		}
	})
}

// label names the calendar unit that a local time is in.
func label(t time.Time, unit Unit) [3]int {
	y, m, d := t.Date()
	switch unit {
	case UnitDay:
		return [3]int{y, int(m), d}
	case UnitWeek:
		y, week := t.ISOWeek()
		return [3]int{y, week}
	case UnitMonth:
		return [3]int{y, int(m)}
	default:
		return [3]int{y}
	}
}

// TestWindowsChain holds that every window contains the use that opened it, and begins where the last
// one allows; and that nothing older than the horizon could still be in an open window.
func TestWindowsChain(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	windows := []Window{
		{Kind: Anchored, Period: fixed30}, {Kind: Anchored, Period: Period{Length: time.Hour}},
		{Kind: Anchored, Period: Period{Unit: UnitMonth}}, {Kind: Anchored, Period: Period{Unit: UnitYear}},
		{Kind: Calendar, Period: Period{Unit: UnitHour}, Zone: berlin}, {Kind: Calendar, Period: Period{Unit: UnitMonth}, Zone: berlin},
	}
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SampledFrom(windows).Draw(t, "window")
		at := utc("2023-12-30 00:00:00").Add(time.Duration(rapid.Int64Range(0, 900*24*3600).Draw(t, "use")) * time.Second)
		_, floor := w.Open(at, time.Time{})
		next := floor.Add(time.Duration(rapid.Int64Range(0, 40*24*3600).Draw(t, "pause")) * time.Second)
		start, end := w.Open(next, floor)
		if start.Before(floor) || next.Before(start) || !next.Before(end) {
			t.Fatalf("after %s a use at %s opened [%s, %s)", floor, next, start, end)
		}
		now := next
		horizon := w.Horizon(now)
		if horizon.After(now) {
			t.Fatalf("horizon %s of %s lies ahead", horizon, now)
		}
		if _, end := w.Open(horizon.Add(time.Minute), time.Time{}); w.Kind == Anchored && !end.After(now) {
			t.Fatalf("a use right after the horizon %s is in a window that closed at %s, before %s", horizon, end, now)
		}
		if _, end := w.Open(horizon.Add(-time.Second), time.Time{}); end.After(now.Add(2 * time.Minute)) {
			t.Fatalf("a use before the horizon %s is in a window open until %s, at %s", horizon, end, now)
		}
	})
}

func TestLifetimeWindow(t *testing.T) {
	w := Window{Kind: Lifetime}
	if start, end := w.Open(march, march); !start.IsZero() || !end.IsZero() || !w.Horizon(march).IsZero() {
		t.Errorf("[%s, %s), horizon %s", start, end, w.Horizon(march))
	}
}
