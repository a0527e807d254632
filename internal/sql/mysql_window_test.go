package sql

import (
	"database/sql"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestMySQLWindowBounds compares the procedure with references that walk through time, and with the windows of the core. Calendar
// windows are those that FillMySQLCalendar stores.
func TestMySQLWindowBounds(t *testing.T) {
	a := newMySQL(t)
	r := rand.New(rand.NewPCG(5, 2001))
	var cases []bounds
	for _, name := range []string{"Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "UTC"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, unit := range []loops.Unit{loops.UnitHour, loops.UnitDay, loops.UnitWeek, loops.UnitMonth, loops.UnitYear} {
			w := loops.Window{Kind: loops.Calendar, Period: loops.Period{Unit: unit}, Zone: zone}
			var some []bounds
			for range 20 {
				b := bounds{kind: loops.Calendar, period: w.Period, zone: zone, at: moment(r, zone)}
				b.start, b.end = walkCalendar(unit, b.at.In(zone))
				cases, some = append(cases, b.after(r)), append(some, b)
			}
			for _, b := range some { // around each, and not 35 years of hours
				a.calendar(w, b.at.Add(-time.Hour), b.at.Add(time.Hour))
			}
		}
	}
	for _, period := range []loops.Period{{Length: 90 * time.Minute}, {Length: 30 * 24 * time.Hour}, {Unit: loops.UnitDay, Length: 24 * time.Hour}, {Unit: loops.UnitMonth}, {Unit: loops.UnitYear}} {
		for range 60 {
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
	for range 800 {
		cases = append(cases, billing(r).after(r))
	}
	for i := range cases {
		a.compareBounds(&cases[i])
	}
}

// calendar stores the windows of a stretch of time, as FillMySQLCalendar does.
func (a *myApp) calendar(w loops.Window, from, until time.Time) {
	a.t.Helper()
	for _, c := range windowsOf(w, from, until) {
		a.exec(`INSERT IGNORE INTO tiergate_calendar VALUES (?, ?, ?, ?)`, w.Zone.String(), string(w.Period.Unit), c.starts, c.ends)
	}
}

func (a *myApp) compareBounds(b *bounds) {
	a.t.Helper()
	w := loops.Window{Kind: b.kind, Period: b.period, Zone: b.zone}
	zone := ""
	if b.zone != nil {
		zone = b.zone.String()
	}
	var length *int64
	if b.period.Length > 0 {
		n := b.period.Length.Microseconds()
		length = &n
	}
	a.exec(`CALL tiergate_window_bounds(?, ?, ?, ?, ?, ?, ?, ?, @start, @end)`, string(b.kind), nullText(string(b.period.Unit)), length, nullText(zone),
		nullTime(b.bills), nullTime(b.ends), b.at, nullTime(b.floor))
	var start, end sql.NullString
	if err := a.conn.QueryRowContext(a.t.Context(), `SELECT @start, @end`).Scan(&start, &end); err != nil {
		a.t.Fatal(err)
	}
	const stamp = "2006-01-02 15:04:05.000000"
	if start.String != b.start.UTC().Format(stamp) || end.String != b.end.UTC().Format(stamp) {
		a.t.Errorf("%+v\n got [%s, %s)\nwant [%s, %s)", b, start.String, end.String, b.start.UTC(), b.end.UTC())
	}
	if b.kind != loops.Billing {
		if s, e := w.Open(b.at, b.floor); !s.Equal(b.start) || !e.Equal(b.end) {
			a.t.Errorf("%+v\nthe core has [%s, %s)", b, s.UTC(), e.UTC())
		}
	}
}

// TestMySQLCalendar: the windows join, are made once, go on where they ended, and are made anew where a zone has changed.
func TestMySQLCalendar(t *testing.T) {
	a := newMySQL(t)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	day := loops.Loop{Window: loops.Window{Kind: loops.Calendar, Period: loops.Period{Unit: loops.UnitDay}, Zone: berlin}}
	hour := loops.Loop{Window: loops.Window{Kind: loops.Calendar, Period: loops.Period{Unit: loops.UnitHour}, Zone: berlin}}
	fill := func(at time.Time) {
		t.Helper()
		if err := FillMySQLCalendar(t.Context(), a.conn, planOf(day, hour, features(1)), at); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(from, days string) {
		t.Helper()
		a.expect(`SELECT CONCAT(MIN(starts_at), ' ', DATEDIFF(MAX(ends_at), MIN(starts_at))) FROM tiergate_calendar WHERE unit = 'day'`, from+".000000 "+days)
		a.expect(`SELECT starts_at FROM (SELECT starts_at, ends_at, LEAD(starts_at) OVER (PARTITION BY unit ORDER BY starts_at) AS next FROM tiergate_calendar) c WHERE next <> ends_at`)
	}
	now := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	fill(now)
	whole("2026-03-27 23:00:00", "3654")
	before := a.lines(`SELECT COUNT(*) FROM tiergate_calendar`)
	fill(now)
	a.expect(`SELECT COUNT(*) FROM tiergate_calendar`, before...)
	fill(now.Add(48 * time.Hour))
	whole("2026-03-27 23:00:00", "3656")
	a.exec(`UPDATE tiergate_calendar SET ends_at = ends_at + INTERVAL 1 HOUR WHERE unit = 'day' AND starts_at > '2030-01-01'`)
	fill(now.Add(48 * time.Hour))
	whole("2026-03-27 23:00:00", "3656")
	a.fails(a.conn, `CALL tiergate_window_bounds('calendar', 'day', NULL, 'Europe/Berlin', NULL, NULL, '2037-01-01', NULL, @start, @end)`, "45000", "tiergate_calendar has no day of Europe/Berlin for 2037-01-01")
	a.fails(a.conn, `CALL tiergate_window_bounds('calendar', 'day', NULL, 'Mars/Base', NULL, NULL, '2027-01-01', NULL, @start, @end)`, "45000", "no day of Mars/Base")
}
