package sql

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// beginRefresh stores a plan that differs from the one the rows were made under. The rows are brought in
// line page by page.
func (s *Store) beginRefresh(ctx context.Context) error {
	if err := s.planned(ctx, s.conn, s.plan); err != nil {
		return err
	}
	have, err := s.meta(ctx, "plan")
	if s.stale = err == nil && have != s.planNow(); !s.stale {
		return err
	}
	s.refreshed = ""
	var leave bool
	err = s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tiergate.plan WHERE enforcement = $1 AND feature = ANY($2) AND feature <> ALL($3))`,
		loops.Strict, s.features, s.strict).Scan(&leave)
	if err != nil {
		return explain("read the plan", err)
	}
	if err := s.writePlan(ctx); err != nil {
		return err
	}
	if leave {
		if err := s.outlast(ctx); err != nil {
			return err
		}
	}
	return s.adopt(ctx)
}

// How long a feature that is strict no more waits for those who consumed it and have not committed, and how often it looks.
const (
	outlastBound = 5 * time.Second
	outlastLook  = 20 * time.Millisecond
)

// outlast waits until every transaction is over that may have read the plan before this one, within a bound: what it
// consumed of a feature that is not strict any more would be lost under what the stream counts.
func (s *Store) outlast(ctx context.Context) error {
	mark, err := s.mark(ctx, s.conn)
	if err != nil {
		return explain("wait for open consumers", err)
	}
	for begun := time.Now(); time.Since(begun) < outlastBound; {
		if over, err := s.outlasted(ctx, s.conn, mark); over || err != nil {
			return explain("wait for open consumers", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(outlastLook):
		}
	}
	s.log.Warn("a feature is not strict any more while a transaction is open that may have consumed it: it was waited for no longer",
		"for", outlastBound.String())
	return nil
}

func (s *Store) planNow() string { return digest(s.plan.Loops, s.plan.Tiers, s.plan.Grace) }

// refreshPage brings the next rows in line with the plan: tiers, limits and messages follow, and those of
// features that are gone go. through is the commit time that the stream has come to.
func (s *Store) refreshPage(ctx context.Context, through time.Time, d *loops.Decider) error {
	ids, err := s.page(ctx, s.conn, `NOT deleted`, s.refreshed, piece)
	if err != nil {
		return err
	}
	gone := &pgx.Batch{}
	s.dropRows(gone, ids, s.features)
	if err := s.conn.SendBatch(ctx, gone).Close(); err != nil {
		return explain("remove a feature", err)
	}
	if err := s.refresh(ctx, ids, through, d); err != nil {
		return err
	}
	if len(ids) == piece {
		s.refreshed = ids[len(ids)-1]
		return nil
	}
	s.stale = false
	return s.setMeta(ctx, "plan", s.planNow())
}

// complete gives rows to the subjects that a count found without them. It looks at all of them, so it
// reads through a session that may take its time, and only after something was found.
func (s *Store) complete(ctx context.Context, reader querier, d *loops.Decider) error {
	for last := ""; !s.whole; {
		ids, err := s.page(ctx, reader, s.lacking(), last, chunk)
		if err != nil {
			return err
		}
		if err := s.refresh(ctx, ids, time.Time{}, d); err != nil {
			return err
		}
		if s.whole = len(ids) < chunk; !s.whole {
			last = ids[len(ids)-1]
		}
	}
	return nil
}

// lacking is the condition that a subject s should have more rows than it has.
func (s *Store) lacking() string {
	return fmt.Sprintf(`NOT deleted AND (tier <> '%s' OR NOT %t) AND (SELECT count(*) FROM %s fa WHERE fa.subject_id = s.subject_id) < %d`,
		loops.DefaultTier, s.sparse, s.access, len(s.plan.Loops))
}

// page returns the next subjects that a condition names.
func (s *Store) page(ctx context.Context, reader querier, which, after string, size int) ([]string, error) {
	rows, err := reader.Query(ctx, `SELECT subject_id FROM tiergate.subject s WHERE subject_id > $1 AND `+which+` ORDER BY 1 LIMIT $2`, after, size)
	if err != nil {
		return nil, explain("bring rows in line with the plan", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, explain("bring rows in line with the plan", err)
}

// refresh lets the decider look at subjects again.
func (s *Store) refresh(ctx context.Context, ids []string, through time.Time, d *loops.Decider) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := s.transact(ctx, needsAll(ids), loops.Batch{Position: s.at, Through: through}, true, d.Refresh)
	return err
}

// writePlan stores the loops for the functions, and the rows of '*' that say what "no row" means, and marks
// all other rows as made under another plan. Where rows of a feature that is gone are made again, they begin
// behind every episode that was ever answered.
func (s *Store) writePlan(ctx context.Context) error {
	var now, actual time.Time
	if err := s.conn.QueryRow(ctx, s.query("clock")).Scan(&now, &actual); err != nil {
		return explain("read the clock", err)
	}
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO tiergate.meta ("key", value) SELECT 'first_episode', $2 FROM tiergate.checkpoint
		WHERE EXISTS (SELECT 1 FROM tiergate.plan WHERE feature <> ALL($1)) ON CONFLICT ("key") DO UPDATE SET value = EXCLUDED.value`,
		s.features, strconv.FormatInt(actual.Unix(), 10))
	batch.Queue(setMetaSQL("plan", ""))
	batch.Queue(`DELETE FROM tiergate.plan`)
	batch.Queue(s.query("drop buckets"), s.rolling)
	for i := range s.plan.Loops {
		l := &s.plan.Loops[i]
		zone := ""
		if l.Window.Zone != nil {
			zone = l.Window.Zone.String()
		}
		for _, tier := range s.plan.TierNames() {
			batch.Queue(`INSERT INTO tiergate.plan (feature, tier, "loop", usage_limit, window_kind, period, zone, enforcement, message,
					unit, length, resolution, warn_at, grace)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, l.Feature, tier, l.Name, nullLimit(l.Limit(tier)), l.Window.Kind,
				nullText(l.Window.Period.Text), nullText(zone), l.Enforcement, l.Message,
				nullText(string(l.Window.Period.Unit)), s.length(l.Window), s.duration(resolutionOf(l.Window)), s.list(warnings(l)), s.duration(&s.plan.Grace))
		}
		limit := l.Limit(loops.DefaultTier)
		allowed, reason, message := true, "", ""
		if limit == 0 && l.Enforcement != loops.Shadow {
			allowed, reason, message = false, loops.ReasonPlan, l.Message
		}
		batch.Queue(`INSERT INTO `+s.access+` (subject_id, feature, allowed, tier, used, usage_limit, remaining, reason, message, updated_at)
			VALUES ($1, $2, $3, $4, 0, $5, $5, $6, $7, $8)
			ON CONFLICT (subject_id, feature) DO UPDATE SET allowed = EXCLUDED.allowed, usage_limit = EXCLUDED.usage_limit,
				remaining = EXCLUDED.remaining, reason = EXCLUDED.reason, message = EXCLUDED.message, updated_at = EXCLUDED.updated_at`,
			loops.AnySubject, l.Feature, allowed, loops.DefaultTier, nullLimit(limit), nullText(reason), nullText(message), now)
	}
	batch.Queue(`DELETE FROM `+s.access+` WHERE subject_id = $1 AND feature <> ALL($2)`, loops.AnySubject, s.features)
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return explain("store the plan", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	// The rows of '*' are how a table that lost its rows is told: they must not come back alone.
	if lost, err := emptied(ctx, tx, s.access); err != nil || lost {
		return cmp.Or(err, error(lostRows(s.access)))
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return explain("store the plan", err)
	}
	return explain("store the plan", tx.Commit(ctx))
}

// resolutionOf is the width of a window's buckets; nil: it has none.
func resolutionOf(w loops.Window) *time.Duration {
	if w.Kind != loops.Rolling {
		return nil
	}
	width := w.Period.Resolution()
	return &width
}

func warnings(l *loops.Loop) []float64 { return append([]float64{}, l.WarnAt...) }

func (s *Store) meta(ctx context.Context, key string) (value string, err error) {
	err = s.conn.QueryRow(ctx, `SELECT coalesce((SELECT value FROM tiergate.meta WHERE "key" = $1), '')`, key).Scan(&value)
	return value, explain("read "+key, err)
}

func (s *Store) setMeta(ctx context.Context, key, value string) error {
	_, err := s.conn.Exec(ctx, `INSERT INTO tiergate.meta ("key", value) SELECT $1, $2 FROM tiergate.checkpoint WHERE term = $3
		ON CONFLICT ("key") DO UPDATE SET value = EXCLUDED.value`, key, value, s.term)
	return explain("store "+key, err)
}

// tooManyUsers reports whether a row for each user and feature would be more than a million.
func (s *Store) tooManyUsers(ctx context.Context) (bool, error) {
	for i := range s.watches {
		if w := &s.watches[i]; w.Role == loops.Users {
			var estimate float64
			err := s.conn.QueryRow(ctx, s.query("estimate"), w.Schema, w.Table).Scan(&estimate)
			return estimate*float64(len(s.plan.Loops)) > 1e6, explain("estimate the users", err)
		}
	}
	return false, nil
}
