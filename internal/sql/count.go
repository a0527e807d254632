package sql

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// Count makes the stored state agree with the data as of a snapshot: users and subscriptions first,
// then one grouped query a loop, each written in paced transactions. The position is stored last, so
// a count that was cut short begins again. Windows once opened stay; old flags stand until replaced.
func (s *Store) Count(ctx context.Context, view loops.Snapshot, d *loops.Decider) error {
	if s.conn == nil || s.conn.IsClosed() {
		if _, err := s.Resume(ctx, d); err != nil {
			return err
		}
	}
	begun := time.Now()
	conn, err := Connect(ctx, s.url, ForCount)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if err := s.closeDue(ctx, d); err != nil {
		return err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return explain("begin the count", err)
	}
	if view.Name != "" {
		if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+literal(view.Name)); err != nil {
			return explain("use the stream's snapshot", err)
		}
	}
	counted, err := s.countView(ctx, tx, d)
	if err != nil {
		return err
	}
	if err := tx.Rollback(ctx); err != nil {
		return explain("end the count", err)
	}
	if err := s.finish(ctx, conn, d, view.At); err != nil {
		return err
	}
	if view.Name != "" || time.Since(begun) > 10*time.Second {
		s.log.Info("usage counted", "subjects", counted, "took", time.Since(begun).Round(time.Millisecond).String())
	}
	return nil
}

func (s *Store) countView(ctx context.Context, tx pgx.Tx, d *loops.Decider) (counted int, err error) {
	subscriptions := false
	for i := range s.watches {
		if err := s.reread(ctx, tx, &s.watches[i], d); err != nil {
			return 0, err
		}
		subscriptions = subscriptions || s.watches[i].Role == loops.Subscriptions
	}
	if !subscriptions {
		if err := s.forget(ctx, tx, loops.Subscriptions, "subscription", d); err != nil {
			return 0, err
		}
	}
	if !s.usage().Gauge() {
		if err := s.forget(ctx, tx, loops.Usage, "gauge", d); err != nil {
			return 0, err
		}
	}
	for i := range s.plan.Loops {
		n, err := s.tally(ctx, tx, i, d)
		if err != nil {
			return 0, fmt.Errorf("feature %s: %w", s.plan.Loops[i].Feature, err)
		}
		counted += n
	}
	return counted, nil
}

// closeDue lets time pass first: windows that are over close before anything is counted into them.
func (s *Store) closeDue(ctx context.Context, d *loops.Decider) error {
	for {
		applied, err := s.count(ctx, nil, d)
		if err != nil {
			return err
		}
		if s.clock || time.Until(applied.Wake) > 0 {
			return nil
		}
	}
}

// reread applies how a state table differs from its mirror.
func (s *Store) reread(ctx context.Context, tx pgx.Tx, w *loops.Watch, d *loops.Decider) error {
	query, fields := mirrorSQL(w)
	if query == "" {
		return nil
	}
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return explain("read table "+w.Table, err)
	}
	defer rows.Close()
	var changes []loops.Change
	flush := func() error {
		s.whole = s.whole && (len(changes) == 0 || w.Gauge())
		_, err := s.count(ctx, changes, d)
		changes = changes[:0]
		return err
	}
	for rows.Next() {
		c, err := scanRow(rows, w.Role, fields)
		if err != nil {
			return explain("read table "+w.Table, err)
		}
		if changes = append(changes, c); len(changes) == chunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return explain("read table "+w.Table, err)
	}
	return flush()
}

// forget ends what a table said that is not watched in this role any more.
func (s *Store) forget(ctx context.Context, tx pgx.Tx, role loops.Role, mirror string, d *loops.Decider) error {
	rows, err := tx.Query(ctx, `SELECT key FROM `+ident("tiergate", mirror))
	if err != nil {
		return explain("read the mirror of "+mirror+"s", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return explain("read the mirror of "+mirror+"s", err)
	}
	for part := range slices.Chunk(keys, chunk) {
		changes := make([]loops.Change, len(part))
		for i, key := range part {
			changes[i] = loops.Change{Role: role, Op: loops.Delete, Key: key}
		}
		if _, err := s.count(ctx, changes, d); err != nil {
			return err
		}
	}
	return nil
}

func scanRow(rows pgx.Rows, role loops.Role, fields []loops.Field) (loops.Change, error) {
	c := loops.Change{Role: role, Op: loops.Update, Row: loops.Row{}}
	var gone bool
	texts := make([]*string, len(fields))
	dest := []any{&c.Key, &gone}
	for i := range texts {
		dest = append(dest, &texts[i])
	}
	if err := rows.Scan(dest...); err != nil {
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

// tally counts one loop and applies what it finds.
func (s *Store) tally(ctx context.Context, tx pgx.Tx, i int, d *loops.Decider) (subjects int, err error) {
	w, l := s.usage(), &s.plan.Loops[i]
	now, horizon, since, err := s.bounds(ctx, tx, l)
	if err != nil {
		return 0, err
	}
	query, args := tallySQL(w, l, s.access), []any{now, horizon, l.Feature, since}
	if w.Gauge() {
		query, args = readSQL(w, l, s.access), []any{l.Feature}
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return 0, explain("count table "+w.Table, err)
	}
	defer rows.Close()
	var tallies []loops.Tally
	flush := func() error {
		n := needsOf(nil)
		for _, t := range tallies {
			n.subjects[t.Subject] = struct{}{}
		}
		_, err := s.transact(ctx, n, loops.Batch{}, true, func(st *loops.State, _ loops.Batch) error {
			d.Recount(st, i, now, tallies)
			return nil
		})
		tallies = tallies[:0]
		return err
	}
	for said := time.Now(); rows.Next(); subjects++ {
		var t loops.Tally
		if err := rows.Scan(&t.Subject, &t.Used, &t.First); err != nil {
			return 0, explain("count table "+w.Table, err)
		}
		if tallies = append(tallies, t); len(tallies) == chunk {
			if err := flush(); err != nil {
				return 0, err
			}
		}
		if time.Since(said) > 5*time.Second {
			s.log.Info("counting usage", "feature", l.Feature, "subjects", subjects)
			said = time.Now()
		}
	}
	if err := rows.Err(); err != nil {
		return 0, explain("count table "+w.Table, err)
	}
	return subjects, flush()
}

// bounds returns now, the loop's horizon, and the earliest time that any of its windows reaches back to.
func (s *Store) bounds(ctx context.Context, tx pgx.Tx, l *loops.Loop) (now, horizon, since time.Time, err error) {
	// The view's own clock may be the older one: what closed meanwhile must be over for both.
	if err = s.conn.QueryRow(ctx, `SELECT tiergate.now()`).Scan(&now); err != nil {
		return now, horizon, since, explain("read the clock", err)
	}
	var open *time.Time
	err = tx.QueryRow(ctx, `SELECT min(period_start) FROM `+s.access+` WHERE feature = $1`, l.Feature).Scan(&open)
	if err != nil {
		return now, horizon, since, explain("find the oldest window", err)
	}
	horizon = l.Window.Horizon(now)
	since = horizon
	if open != nil && open.Before(since) {
		since = *open
	}
	return now, horizon, since, nil
}

func (s *Store) usage() *loops.Watch {
	for i := range s.watches {
		if s.watches[i].Role == loops.Usage {
			return &s.watches[i]
		}
	}
	panic("no usage table: recognition lets none through")
}

// finish brings every row in line with the plan, answers events that have no email row, and stores
// the position together with the plan it was counted under.
func (s *Store) finish(ctx context.Context, reader *pgx.Conn, d *loops.Decider, at loops.Position) error {
	if err := s.refreshIfChanged(ctx, d); err != nil {
		return err
	}
	if err := s.complete(ctx, reader, d); err != nil {
		return err
	}
	if err := s.answerEvents(ctx, reader, d); err != nil {
		return err
	}
	_, err := s.transact(ctx, needsOf(nil), loops.Batch{Position: at}, true, func(*loops.State, loops.Batch) error { return nil })
	if err != nil {
		return err
	}
	s.gauges.Following()
	return s.setMeta(ctx, "counted", s.countedNow())
}

// answerEvents turns events without an email row into emails: those that a lost stream never showed. It
// looks at all events there ever were, so it reads through a session that may take its time.
func (s *Store) answerEvents(ctx context.Context, reader *pgx.Conn, d *loops.Decider) error {
	rows, err := reader.Query(ctx, `SELECT e.id FROM tiergate.access_event e LEFT JOIN tiergate.email m ON m.event_id = e.id
		WHERE e.kind IN ('blocked', 'warned') AND m.id IS NULL ORDER BY e.id`)
	if err != nil {
		return explain("find events without an email", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return explain("find events without an email", err)
	}
	for part := range slices.Chunk(ids, chunk) {
		changes := make([]loops.Change, len(part))
		for i, id := range part {
			changes[i] = loops.Change{Role: loops.Events, Event: id}
		}
		if _, err := s.count(ctx, changes, d); err != nil {
			return err
		}
	}
	return nil
}

// countedNow says under which features, triggers and tables the state is counted: where it differs
// from what is stored, the data must be counted again.
func (s *Store) countedNow() string {
	type matcher struct {
		Trigger loops.Trigger
		Kind    loops.WindowKind
	}
	features := map[string]matcher{}
	for _, l := range s.plan.Loops {
		features[l.Feature] = matcher{l.Trigger, l.Window.Kind}
	}
	var tables []string
	for i := range s.watches {
		w := &s.watches[i]
		tables = append(tables, fmt.Sprint(w.Role, w.Schema, w.Table, w.Columns, w.Key, w.Zone))
	}
	return digest(features, tables)
}

func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(errors.Join(errors.New("a plan that JSON cannot hold"), err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
