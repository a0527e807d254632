package loops

import (
	"fmt"
	"time"
)

// WindowKind is how a window finds its start.
type WindowKind string

const (
	// Lifetime never closes: the limit of a step without a period.
	Lifetime WindowKind = "lifetime"
	// Anchored opens with the subject's first use and lasts the period.
	Anchored WindowKind = "anchored"
	// Calendar begins with the hour, day, week, month or year of its time zone.
	Calendar WindowKind = "calendar"
	// Billing is the period of the subscription that the tier comes from. Who has none has an anchored window.
	Billing WindowKind = "billing"
	// Rolling trails behind the present: a use counts for the period, and at most one resolution longer.
	Rolling WindowKind = "rolling"
)

// Window is the time in which uses add up.
type Window struct {
	Kind   WindowKind
	Period Period
	Zone   *time.Location // Calendar; never nil there
}

// Period is a length of time: a fixed one, or calendar months.
type Period struct {
	Text   string // as written: "30d", "month"
	Unit   Unit
	Length time.Duration // of a fixed period; zero for UnitMonth and UnitYear
}

// Unit is a calendar unit that a period may name instead of a number.
type Unit string

// The units of a calendar window. A fixed period ("30d") has none and can only be anchored.
const (
	UnitNone  Unit = ""
	UnitHour  Unit = "hour"
	UnitDay   Unit = "day"
	UnitWeek  Unit = "week" // begins on Monday
	UnitMonth Unit = "month"
	UnitYear  Unit = "year"
)

// Add returns the moment one period after t, counted in t's zone. The 31st plus a month is the last
// day of the next month.
func (p Period) Add(t time.Time) time.Time {
	switch p.Unit {
	case UnitMonth:
		return addMonths(t, 1)
	case UnitYear:
		return addMonths(t, 12)
	default:
		return t.Add(p.Length)
	}
}

// Back returns the moment one period before t.
func (p Period) Back(t time.Time) time.Time {
	switch p.Unit {
	case UnitMonth:
		return addMonths(t, -1)
	case UnitYear:
		return addMonths(t, -12)
	default:
		return t.Add(-p.Length)
	}
}

// Resolution is the width of a rolling window's buckets: uses of one bucket roll off together. It is the
// widest of these that fits into the period two dozen times: 30 days roll off by the day, a day by the hour.
func (p Period) Resolution() time.Duration {
	const day = 24 * time.Hour
	for _, width := range []time.Duration{7 * day, day, 6 * time.Hour, time.Hour, 15 * time.Minute, 5 * time.Minute} {
		if p.Length >= 24*width {
			return width
		}
	}
	return time.Minute
}

func addMonths(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := time.Date(first.Year(), first.Month()+1, 0, 0, 0, 0, 0, t.Location()).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// Open returns the window that a use at t opens: [start, end). floor is the end of the last one, so
// that two windows never overlap; zero where there was none. A Lifetime window has no bounds. A Billing one is
// that of somebody without a billing period.
func (w Window) Open(t, floor time.Time) (start, end time.Time) {
	switch w.Kind {
	case Anchored, Billing:
		start = t.UTC().Truncate(time.Minute).Add(-time.Minute)
		if start.Before(floor) {
			start = floor.UTC()
		}
		return start, w.Period.Add(start)
	case Calendar:
		start, end = w.calendar(t)
		if start.Before(floor) {
			start = floor.UTC()
		}
		return start, end
	default:
		return time.Time{}, time.Time{}
	}
}

func (w Window) calendar(t time.Time) (start, end time.Time) {
	local := t.In(w.Zone)
	y, m, d := local.Date()
	day := func(y int, m time.Month, d int) time.Time { return dawn(time.Date(y, m, d, 12, 0, 0, 0, w.Zone)) }
	switch w.Period.Unit {
	case UnitHour:
		// Absolute hours, so that the hour a clock change repeats is two windows and not one.
		start = local.Add(-time.Duration(local.Minute())*time.Minute - time.Duration(local.Second())*time.Second - time.Duration(local.Nanosecond()))
		end = start.Add(time.Hour)
	case UnitDay:
		start, end = day(y, m, d), day(y, m, d+1)
	case UnitWeek:
		monday := d - (int(local.Weekday())+6)%7
		start, end = day(y, m, monday), day(y, m, monday+7)
	case UnitMonth:
		start, end = day(y, m, 1), day(y, m+1, 1)
	case UnitYear:
		start, end = day(y, 1, 1), day(y+1, 1, 1)
	default:
		panic(fmt.Sprintf("calendar window of %q: the validator let it through", w.Period.Text))
	}
	return start.UTC(), end.UTC()
}

// dawn returns the first moment of a day, of which noon is given: a change of the clock may skip midnight
// or repeat it, and time.Date does not say what it then returns.
func dawn(noon time.Time) time.Time {
	y, m, d := noon.Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	var first time.Time
	for _, near := range []time.Time{noon.AddDate(0, 0, -1), noon} {
		_, offset := near.Zone()
		t := midnight.Add(-time.Duration(offset) * time.Second).In(noon.Location())
		if t.Day() == d && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// Horizon returns the earliest moment whose use could still be in an open window at now: what a
// first count has to look at. It is a whole minute, and a window that starts there is open at now.
func (w Window) Horizon(now time.Time) time.Time {
	switch w.Kind {
	case Anchored, Billing:
		horizon := w.Period.Back(now.UTC()).Truncate(time.Minute).Add(time.Minute)
		if !w.Period.Add(horizon).After(now) {
			// A month before the 31st may be the 28th, whose window has closed: the next day's has not.
			horizon = horizon.Truncate(24 * time.Hour).Add(24 * time.Hour)
		}
		return horizon
	case Calendar:
		start, _ := w.calendar(now)
		return start
	case Rolling:
		width := w.Period.Resolution()
		return w.bucketOf(now.Add(-w.Period.Length - width)).Start.Add(width)
	default:
		return time.Time{}
	}
}
