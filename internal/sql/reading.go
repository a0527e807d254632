package sql

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// reading is what the tables said as of a snapshot. The server keeps the answers beyond it, in cursors:
// a snapshot, which holds vacuum back, lasts as long as the questions take and not as long as the
// writing of what they brought.
type reading struct {
	store    *Store
	conn     *Session
	tx       pgx.Tx    // while it asks
	now      time.Time // newer than the snapshot: what closed in between is over for both
	parts    []part    // not written yet, in order
	subjects int
	size     int // rows that one transaction writes
}

// part is the answer to one question, and how a piece of it is written: it takes all rows it is given.
type part struct {
	rows  answer
	about string
	enter func(ctx context.Context, rows pgx.Rows, d *loops.Decider) (n int, err error)
}

// read asks every question as of one snapshot. The caller closes the reading.
func (s *Store) read(ctx context.Context, view loops.Snapshot, ask func(*reading) error) (_ *reading, err error) {
	conn, err := s.connect(ctx, ForCount)
	if err != nil {
		return nil, err
	}
	r := &reading{store: s, conn: conn, size: chunk}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if s.kinds, err = s.kindsOf(ctx, conn, s.watches); err != nil {
		return nil, explain("read the tables' columns", err)
	}
	if r.now, err = clock(ctx, conn); err != nil {
		return nil, err
	}
	if r.tx, err = conn.view(ctx, view); err != nil {
		return nil, explain("begin the count", err)
	}
	if err := ask(r); err != nil {
		return nil, err
	}
	done := s.progress("reading the tables")
	err = r.tx.Commit(ctx)
	done()
	if view.Name != "" {
		view.Release()
	}
	return r, explain("read the tables", err)
}

// progress says every few seconds that something still goes on, until the returned function is called.
func (s *Store) progress(what string) (done func()) {
	begun := time.Now()
	tick, stop := time.NewTicker(5*time.Second), make(chan struct{})
	go func() {
		for {
			select {
			case <-tick.C:
				s.log.Info("counting", "doing", what, "for", time.Since(begun).Round(time.Second).String())
			case <-stop:
				return
			}
		}
	}()
	return func() { tick.Stop(); close(stop) }
}

// Close ends the reading's connection.
func (r *reading) Close() { r.conn.End() }

// ask keeps the answer to a query.
func (r *reading) ask(ctx context.Context, about string, enter func(context.Context, pgx.Rows, *loops.Decider) (int, error), query string, args ...any) error {
	rows, err := r.store.keep(ctx, r.tx, r.conn, fmt.Sprint("tiergate_", len(r.parts)), query, args...)
	r.parts = append(r.parts, part{rows: rows, about: about, enter: enter})
	return explain(about, err)
}

// Enter writes the next piece of what was read, in one transaction of bounded size.
func (r *reading) Enter(ctx context.Context, d *loops.Decider) (done bool, err error) {
	if len(r.parts) == 0 {
		return true, nil
	}
	p := r.parts[0]
	rows, err := p.rows.fetch(ctx, r.size)
	if err != nil {
		return false, explain(p.about, err)
	}
	defer rows.Close()
	n, err := p.enter(ctx, rows, d)
	if err != nil {
		return false, explain(p.about, err)
	}
	if n < r.size {
		r.parts = r.parts[1:]
	}
	return len(r.parts) == 0, nil
}

// askState asks how the tables of state differ from their mirrors.
func (r *reading) askState(ctx context.Context) error {
	mirrored := map[loops.Role]bool{}
	for i := range r.store.watches {
		w := &r.store.watches[i]
		query, fields := r.store.source(w).mirrorSQL()
		if query == "" {
			continue
		}
		mirrored[w.Role] = true
		if err := r.ask(ctx, "read table "+w.Table, r.changes(w, fields), query); err != nil {
			return err
		}
	}
	// A table that is not watched in this role any more says nothing.
	for role, mirror := range map[loops.Role]string{loops.Subscriptions: "subscription", loops.Usage: "gauge"} {
		if mirrored[role] {
			continue
		}
		err := r.ask(ctx, "read the mirror of "+mirror+"s", r.changes(&loops.Watch{Role: role}, nil), `SELECT "key", true FROM `+ownSchema+"."+mirror)
		if err != nil {
			return err
		}
	}
	return nil
}

// changes writes rows of key, gone and fields as changes of a table.
func (r *reading) changes(w *loops.Watch, fields []loops.Field) func(context.Context, pgx.Rows, *loops.Decider) (int, error) {
	return func(ctx context.Context, rows pgx.Rows, d *loops.Decider) (int, error) {
		changes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (loops.Change, error) { return scanRow(row, w.Role, fields) })
		if err != nil || len(changes) == 0 {
			return 0, err
		}
		r.store.whole = r.store.whole && w.Gauge()
		_, err = r.store.count(ctx, changes, d)
		return len(changes), err
	}
}

func scanRow(row pgx.CollectableRow, role loops.Role, fields []loops.Field) (loops.Change, error) {
	c := loops.Change{Role: role, Op: loops.Update, Row: loops.Row{}}
	var gone bool
	texts := make([]*string, len(fields))
	dest := []any{&c.Key, &gone}
	for i := range texts {
		dest = append(dest, &texts[i])
	}
	if err := row.Scan(dest...); err != nil {
		return c, err
	}
	if gone {
		c.Op, c.Row = loops.Delete, nil
		return c, nil
	}
	for i, f := range fields {
		c.Row[f] = loops.Value{Kind: loops.Null}
		if texts[i] != nil {
			c.Row[f] = loops.Text(*texts[i])
		}
	}
	return c, nil
}

// askTally asks what every subject used in one loop. periods is who knows the billing periods.
func (r *reading) askTally(ctx context.Context, i int, have counted, periods *Session) error {
	w, l := r.store.usage(), &r.store.plan.Loops[i]
	afresh := have.afresh(l)
	horizon, since, err := r.store.bounds(ctx, r.tx, l, r.now)
	if err != nil {
		return err
	}
	query, args, err := r.store.tally(ctx, periods, l, r.now, horizon, since)
	if err != nil {
		return err
	}
	switch {
	case w.Gauge():
		query, args = r.store.source(w).readSQL(l, r.store.access), []any{l.Feature}
	case afresh:
		query = afreshSQL(query, r.store.access, l.Window.Kind)
	}
	return r.ask(ctx, "count table "+w.Table+" for "+l.Feature, r.tallies(i, afresh), query, args...)
}

func (r *reading) tallies(i int, afresh bool) func(context.Context, pgx.Rows, *loops.Decider) (int, error) {
	return func(ctx context.Context, rows pgx.Rows, d *loops.Decider) (int, error) {
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t loops.Tally, err error) {
			var first *time.Time
			err = row.Scan(&t.Subject, &t.Used, &first, &t.Credit)
			t.First = orZero(first)
			return t, err
		})
		if err != nil || len(found) == 0 {
			return 0, err
		}
		n := needsOf(nil)
		for _, t := range found {
			n.add(t.Subject, false)
		}
		r.subjects += len(found)
		return len(found), r.decide(ctx, n, func(st *loops.State) { d.Recount(st, i, r.now, afresh, found) })
	}
}

// askGrants asks who was granted something: the limits of all of them are looked at again.
func (r *reading) askGrants(ctx context.Context) error {
	enter := func(ctx context.Context, rows pgx.Rows, d *loops.Decider) (int, error) {
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		return len(ids), r.store.refresh(ctx, ids, time.Time{}, d)
	}
	return r.ask(ctx, "find grants", enter, `SELECT DISTINCT subject_id FROM tiergate.access_grant`)
}

// askRows asks who lacks a row.
func (r *reading) askRows(ctx context.Context) error {
	enter := func(ctx context.Context, rows pgx.Rows, d *loops.Decider) (int, error) {
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		return len(ids), r.decide(ctx, needsAll(ids), d.Complete)
	}
	return r.ask(ctx, "find subjects without a row", enter, `SELECT subject_id FROM tiergate.subject s WHERE `+r.store.lacking())
}

// decide writes a decision that leaves the position where it is.
func (r *reading) decide(ctx context.Context, n needs, decide func(*loops.State)) error {
	s := r.store
	_, err := s.transact(ctx, n, loops.Batch{Position: s.at}, true, func(st *loops.State, _ loops.Batch) error {
		decide(st)
		return nil
	})
	return err
}
