package sql

import (
	"context"
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
		if _, _, err := s.Resume(ctx); err != nil {
			return err
		}
	}
	begun := time.Now()
	s.elsewhere, s.again = nil, false
	if err := s.closeDue(ctx, d); err != nil {
		return err
	}
	have, err := s.counted(ctx, s.conn)
	if err != nil {
		return err
	}
	askTallies := func(r *reading) error {
		for i := range s.plan.Loops {
			if s.plan.Loops[i].Enforcement == loops.Strict {
				continue
			}
			if err := r.askTally(ctx, i, have, s.conn); err != nil {
				return err
			}
		}
		return r.askGrants(ctx)
	}
	if s.bills() {
		// A tally by billing periods needs to know them: they are read and written first, as of the same view.
		kept := view
		kept.Release = func() {}
		r, err := s.read(ctx, kept, func(r *reading) error { return r.askState(ctx) })
		if err != nil {
			return err
		}
		err = r.enterAll(ctx, d)
		r.Close()
		if err != nil {
			return err
		}
	}
	r, err := s.read(ctx, view, func(r *reading) error {
		if !s.bills() {
			if err := r.askState(ctx); err != nil {
				return err
			}
		}
		return askTallies(r)
	})
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.enterAll(ctx, d); err != nil {
		return err
	}
	if err := s.finish(ctx, r.conn, d, view.At); err != nil {
		return err
	}
	if view.Name != "" || time.Since(begun) > 10*time.Second {
		s.log.Info("usage counted", "subjects", r.subjects, "took", time.Since(begun).Round(time.Millisecond).String())
	}
	return nil
}

// bills reports whether some window follows billing periods.
func (s *Store) bills() bool {
	return slices.ContainsFunc(s.plan.Loops, func(l loops.Loop) bool { return l.Window.Kind == loops.Billing })
}

// enterAll writes all that was read.
func (r *reading) enterAll(ctx context.Context, d *loops.Decider) error {
	for {
		if done, err := r.Enter(ctx, d); err != nil || done {
			return err
		}
	}
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

// finish brings every row in line with the plan, answers events that have no email row, and stores
// the position together with the plan it was counted under.
func (s *Store) finish(ctx context.Context, reader *Session, d *loops.Decider, at loops.Position) error {
	if err := s.beginRefresh(ctx); err != nil {
		return err
	}
	for s.stale {
		if err := s.refreshPage(ctx, time.Time{}, d); err != nil {
			return err
		}
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
	return s.setCounted(ctx)
}

// answerEvents turns events without an email row into emails: those that a lost stream never showed. It
// looks at all events there ever were, so it reads through a session that may take its time.
func (s *Store) answerEvents(ctx context.Context, reader *Session, d *loops.Decider) error {
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

// Tally counts the loops that are not counted yet, as of a view and beside everything else. What it finds
// is no crossing: nobody is mailed.
func (s *Store) Tally(ctx context.Context, view loops.Snapshot) (loops.Tallies, error) {
	r, err := s.read(ctx, view, func(r *reading) error {
		have, err := s.counted(ctx, r.conn)
		if err != nil {
			return err
		}
		for i, missing := range s.elsewhere {
			if !missing {
				continue
			}
			s.log.Info("a new loop is counted while the others go on", "feature", s.plan.Loops[i].Feature)
			if err := r.askTally(ctx, i, have, r.conn); err != nil {
				return err
			}
		}
		return r.askRows(ctx)
	})
	if err != nil {
		return nil, err
	}
	if err := s.sayCounted(ctx, r.conn); err != nil {
		r.Close()
		return nil, err
	}
	r.size = piece
	return r, nil
}

// sayCounted records that new loops were counted. It moves the stream past the view, which it must have come
// to before they are let in: an idle database has nothing else that would.
func (s *Store) sayCounted(ctx context.Context, conn *Session) error {
	for i, missing := range s.elsewhere {
		if !missing {
			continue
		}
		l := &s.plan.Loops[i]
		_, err := conn.Exec(ctx, `INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, "loop", tier, used, episode, position, silent)
			SELECT tiergate.now(), tiergate.now(), $1, '', $2, $3, '', 0, 0, position, true FROM tiergate.checkpoint`, loops.Counted, l.Feature, l.Name)
		if err != nil {
			return explain("record the count of "+l.Feature, err)
		}
	}
	return nil
}

// Replay counts the uses of a batch in the loops that are not counted yet.
func (s *Store) Replay(ctx context.Context, b loops.Batch, d *loops.Decider) error {
	uses := slices.DeleteFunc(b.Changes, func(c loops.Change) bool { return c.Role != loops.Usage || c.Gauge() })
	if uses = s.nameable(uses); len(uses) == 0 {
		return nil
	}
	others := make([]bool, len(s.elsewhere))
	for i, missing := range s.elsewhere {
		others[i] = !missing
	}
	_, err := s.transact(ctx, needsOf(uses), loops.Batch{Changes: uses, Position: s.at, Through: b.Through}, false, func(st *loops.State, b loops.Batch) error {
		st.Elsewhere = others
		return d.Decide(st, b)
	})
	return err
}

// Admit stores that every loop is counted. The rows of those that were counted anew follow the plan now.
func (s *Store) Admit(ctx context.Context) error {
	var features []string
	for i, missing := range s.elsewhere {
		if missing {
			features = append(features, s.plan.Loops[i].Feature)
		}
	}
	s.elsewhere = nil
	if s.again {
		if err := s.setMeta(ctx, "plan", ""); err != nil {
			return err
		}
		s.stale, s.again, s.refreshed = true, false, ""
	}
	s.log.Info("new loops are counted and follow the stream", "features", features)
	return s.setCounted(ctx)
}

// bounds returns a loop's horizon, and the earliest time that any of its windows reaches back to.
func (s *Store) bounds(ctx context.Context, tx pgx.Tx, l *loops.Loop, now time.Time) (horizon, since time.Time, err error) {
	var open *time.Time
	err = tx.QueryRow(ctx, `SELECT min(period_start) FROM `+s.access+` WHERE feature = $1`, l.Feature).Scan(&open)
	if err != nil {
		return horizon, since, explain("find the oldest window", err)
	}
	horizon = l.Window.Horizon(now)
	since = horizon
	if l.Window.Kind != loops.Rolling && open != nil && open.Before(since) {
		since = *open
	}
	return horizon, since, nil
}

func (s *Store) usage() *loops.Watch {
	for i := range s.watches {
		if s.watches[i].Role == loops.Usage {
			return &s.watches[i]
		}
	}
	panic("no usage table: recognition lets none through")
}
