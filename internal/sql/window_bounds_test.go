package sql

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// bounds is one question to tiergate.window_bounds, with what is expected.
type bounds struct {
	kind        loops.WindowKind
	period      loops.Period
	zone        *time.Location
	bills, ends time.Time // the billing period; zero: none
	at, floor   time.Time
	start, end  time.Time
}

// TestWindowBounds compares the function with references that walk through time, and with the windows of
// the core.
func TestWindowBounds(t *testing.T) {
	a := newConventional(t)
	r := rand.New(rand.NewPCG(4, 2001))
	var cases []bounds
	for _, name := range []string{"Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "UTC"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range []loops.Unit{loops.UnitHour, loops.UnitDay, loops.UnitWeek, loops.UnitMonth, loops.UnitYear} {
			for range 120 {
				b := bounds{kind: loops.Calendar, period: loops.Period{Unit: unit}, zone: zone, at: moment(r, zone)}
				b.start, b.end = walkCalendar(unit, b.at.In(zone))
				cases = append(cases, b.after(r))
			}
		}
	}
	for _, period := range []loops.Period{{Length: 90 * time.Minute}, {Length: 30 * 24 * time.Hour}, {Unit: loops.UnitDay, Length: 24 * time.Hour}, {Unit: loops.UnitMonth}, {Unit: loops.UnitYear}} {
		for range 300 {
			b := bounds{kind: loops.Anchored, period: period, at: moment(r, time.UTC)}
			if r.IntN(3) == 0 {
				b.kind = loops.Billing // nobody who pays: as anchored
				if r.IntN(2) == 0 {
					b.bills, b.ends = b.at, b.at
				}
			}
			b.start = b.at.Add(-time.Duration(b.at.UnixMicro()%60e6)*time.Microsecond - time.Minute)
			b = b.after(r)
			b.end = b.start.Add(period.Length)
			if months := map[loops.Unit]int{loops.UnitMonth: 1, loops.UnitYear: 12}[period.Unit]; months > 0 {
				b.end = clamped(b.start, months)
			}
			cases = append(cases, b)
		}
	}
	for range 3000 {
		cases = append(cases, billing(r).after(r))
	}
	a.compareBounds(t, cases)
}

// compareBounds asks for all of the windows at once.
func (a *app) compareBounds(t *testing.T, cases []bounds) {
	t.Helper()
	batch := &pgx.Batch{}
	for _, b := range cases {
		w := loops.Window{Kind: b.kind, Period: b.period, Zone: b.zone}
		zone := ""
		if b.zone != nil {
			zone = b.zone.String()
		}
		batch.Queue(`SELECT period_start, resets_at FROM tiergate.window_bounds($1, $2, $3::text::interval, $4, $5, $6, $7, $8)`,
			string(b.kind), nullText(string(b.period.Unit)), postgres{}.length(w), nullText(zone), nullTime(b.bills), nullTime(b.ends), b.at, nullTime(b.floor)).
			QueryRow(func(row pgx.Row) error {
				var start, end time.Time
				if err := row.Scan(&start, &end); err != nil {
					return fmt.Errorf("%+v: %w", b, err)
				}
				if !start.Equal(b.start) || !end.Equal(b.end) {
					t.Errorf("%+v\n got [%s, %s)\nwant [%s, %s)", b, start.UTC(), end.UTC(), b.start.UTC(), b.end.UTC())
				}
				if b.kind != loops.Billing {
					if s, e := w.Open(b.at, b.floor); !s.Equal(start) || !e.Equal(end) {
						t.Errorf("%+v\nthe function has [%s, %s)\n    the core has [%s, %s)", b, start.UTC(), end.UTC(), s.UTC(), e.UTC())
					}
				}
				return nil
			})
	}
	// Whatever the session's zone is, the windows are the same.
	a.exec(`SET timezone = 'America/Havana'`)
	if err := a.conn.SendBatch(t.Context(), batch).Close(); err != nil {
		t.Fatal(err)
	}
}

// moment is some time from 2001 to 2036, often one near a change of the zone's clock or the end of a month.
func moment(r *rand.Rand, zone *time.Location) time.Time {
	first := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	at := first.Add(time.Duration(r.Int64N(int64(35*365*24*time.Hour/time.Microsecond))) * time.Microsecond)
	switch r.IntN(4) {
	case 0:
		if _, change := at.In(zone).ZoneBounds(); !change.IsZero() && change.Year() < 2036 {
			at = change.Add(time.Duration(r.IntN(96)-48) * 30 * time.Minute).Add(time.Duration(r.IntN(3)-1) * time.Microsecond)
		}
	case 1:
		at = time.Date(at.Year(), time.Month(1+r.IntN(12)), 28+r.IntN(5), r.IntN(24), r.IntN(60), r.IntN(60), 0, time.UTC)
	}
	return at.UTC()
}

// after gives the window that came before an end, now and then.
func (b bounds) after(r *rand.Rand) bounds {
	if r.IntN(3) > 0 {
		return b
	}
	b.floor = b.at.Add(-time.Duration(r.Int64N(int64(5 * 24 * time.Hour)))).Truncate(time.Microsecond)
	if r.IntN(3) == 0 {
		b.floor = b.at.Add(-time.Duration(r.Int64N(int64(2 * time.Minute)))).Truncate(time.Microsecond)
	}
	if b.floor.After(b.start) {
		b.start = b.floor
	}
	return b
}

// walkCalendar walks from a moment to both ends of its unit: by the hour, then by the minute.
func walkCalendar(unit loops.Unit, at time.Time) (start, end time.Time) {
	if unit == loops.UnitHour {
		start = at.Truncate(time.Minute)
		start = start.Add(-time.Duration(start.Minute()) * time.Minute)
		return start, start.Add(time.Hour)
	}
	same := func(t time.Time) bool {
		switch unit {
		case loops.UnitDay:
			return t.YearDay() == at.YearDay() && t.Year() == at.Year()
		case loops.UnitWeek:
			y, w := t.ISOWeek()
			year, week := at.ISOWeek()
			return y == year && w == week
		case loops.UnitMonth:
			return t.Month() == at.Month() && t.Year() == at.Year()
		default:
			return t.Year() == at.Year()
		}
	}
	start = at.Truncate(time.Minute)
	end = start
	for _, step := range []time.Duration{time.Hour, time.Minute} {
		for same(start.Add(-step)) {
			start = start.Add(-step)
		}
		for same(end.Add(step)) {
			end = end.Add(step)
		}
	}
	return start, end.Add(time.Minute)
}

// clamped is a moment some months later, on the last day of a month that is too short.
func clamped(t time.Time, months int) time.Time {
	t = t.UTC()
	first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	clock := t.Sub(time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC))
	month := first.AddDate(0, months, 0)
	for day := t.Day(); ; day-- {
		if d := month.AddDate(0, 0, day-1); d.Month() == month.Month() {
			return d.Add(clock)
		}
	}
}

// billing is a use of somebody who pays, and walks through the periods until it is met.
func billing(r *rand.Rand) bounds {
	b := bounds{kind: loops.Billing, period: loops.Period{Unit: loops.UnitMonth}, bills: moment(r, time.UTC)}
	months := []int{1, 2, 3, 6, 12, 24, 36}[r.IntN(7)]
	length := time.Duration(0)
	b.ends = clamped(b.bills, months)
	if r.IntN(3) == 0 {
		length = time.Duration(1+r.IntN(400*24*60)) * time.Minute
		b.ends = b.bills.Add(length)
		for _, n := range []int{36, 24, 12, 6, 3, 2, 1} {
			if clamped(b.bills, n).Equal(b.ends) {
				months, length = n, 0
			}
		}
	}
	period := func(k int) time.Time {
		if length > 0 {
			return b.bills.Add(time.Duration(k) * length)
		}
		return clamped(b.bills, k*months)
	}
	b.at = b.bills.Add(time.Duration(r.Int64N(int64(8*365*24*time.Hour)) - int64(4*365*24*time.Hour))).Truncate(time.Microsecond)
	if r.IntN(3) == 0 {
		b.at = period(r.IntN(40) - 20).Add(time.Duration(r.IntN(3)-1) * time.Microsecond)
	}
	k := 0
	for period(k).After(b.at) {
		k--
	}
	for !period(k + 1).After(b.at) {
		k++
	}
	b.start, b.end = period(k), period(k+1)
	return b
}
