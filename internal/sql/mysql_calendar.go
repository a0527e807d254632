package sql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// FillMySQLCalendar stores the calendar windows of a plan's zones ahead of time, from the one that is open at now on: those of an
// hour for 400 days, all others for ten years. The server need not know zones, and routines open windows while the sidecar is away. A
// zone whose rules have changed gets its coming windows anew.
func FillMySQLCalendar(ctx context.Context, conn *sql.Conn, plan *loops.Plan, now time.Time) error {
	const day = 24 * time.Hour
	for i := range plan.Loops {
		w := plan.Loops[i].Window
		if w.Kind != loops.Calendar {
			continue
		}
		until := now.Add(3653 * day)
		if w.Period.Unit == loops.UnitHour {
			until = now.Add(400 * day)
		}
		if err := fillMySQLCalendar(ctx, conn, w, windowsOf(w, now, until)); err != nil {
			return mysqlInstallFault("fill tiergate_calendar", err)
		}
	}
	return nil
}

// calendarWindow is one row of tiergate_calendar, as the server writes times.
type calendarWindow struct{ starts, ends string }

// windowsOf lists a calendar window's windows, from the one that holds a moment until another.
func windowsOf(w loops.Window, from, until time.Time) (all []calendarWindow) {
	for start, end := w.Open(from, time.Time{}); start.Before(until); start, end = w.Open(end, time.Time{}) {
		all = append(all, calendarWindow{start.Format(time.DateTime), end.Format(time.DateTime)})
	}
	return all
}

func fillMySQLCalendar(ctx context.Context, conn *sql.Conn, w loops.Window, want []calendarWindow) error {
	zone, unit := w.Zone.String(), string(w.Period.Unit)
	rows, err := conn.QueryContext(ctx, `SELECT DATE_FORMAT(c.starts_at, '%Y-%m-%d %T'), DATE_FORMAT(c.ends_at, '%Y-%m-%d %T') FROM tiergate_calendar c
		WHERE c.zone = ? AND c.unit = ? AND c.starts_at >= ? ORDER BY c.starts_at`, zone, unit, want[0].starts)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var have []calendarWindow
	for rows.Next() {
		var c calendarWindow
		if err := rows.Scan(&c.starts, &c.ends); err != nil {
			return err
		}
		have = append(have, c)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	same := min(len(have), len(want))
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if !slices.Equal(have[:same], want[:same]) {
		same = 0
		if _, err := tx.ExecContext(ctx, `DELETE FROM tiergate_calendar WHERE zone = ? AND unit = ? AND starts_at >= ?`, zone, unit, want[0].starts); err != nil {
			return err
		}
	}
	for piece := range slices.Chunk(want[same:], 1000) {
		args := make([]any, 0, 4*len(piece))
		for _, c := range piece {
			args = append(args, zone, unit, c.starts, c.ends)
		}
		values := strings.Repeat(", (?, ?, ?, ?)", len(piece))[2:]
		if _, err := tx.ExecContext(ctx, "INSERT INTO tiergate_calendar (zone, unit, starts_at, ends_at) VALUES "+values, args...); err != nil {
			return fmt.Errorf("%s of %s: %w", unit, zone, err)
		}
	}
	return tx.Commit()
}
