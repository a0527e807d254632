package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// beginRefresh stores a plan that differs from the one the rows were made under, and removes the rows of
// features that are gone. The rows that stay are brought in line page by page.
func (s *Store) beginRefresh(ctx context.Context) error {
	have, err := s.meta(ctx, "plan")
	s.stale = err == nil && have != s.planNow()
	if !s.stale {
		return err
	}
	s.refreshed = ""
	if err := s.removeFeatures(ctx); err != nil {
		return err
	}
	return s.writePlan(ctx)
}

func (s *Store) planNow() string { return digest(s.plan.Loops, s.plan.Tiers, s.plan.Grace) }

// refreshPage brings the next rows in line with the plan: tiers, limits and messages follow.
func (s *Store) refreshPage(ctx context.Context, d *loops.Decider) (err error) {
	last, err := s.refresh(ctx, s.conn, d, `NOT deleted`, s.refreshed)
	if err != nil {
		return err
	}
	if s.stale, s.refreshed = last != "", last; s.stale {
		return nil
	}
	return s.setMeta(ctx, "plan", s.planNow())
}

// complete gives rows to the subjects that a count found without them. It looks at all of them, so it
// reads through a session that may take its time, and only after something was found.
func (s *Store) complete(ctx context.Context, reader *pgx.Conn, d *loops.Decider) error {
	for last := ""; !s.whole; {
		var err error
		if last, err = s.refresh(ctx, reader, d, s.lacking(), last); err != nil {
			return err
		}
		s.whole = last == ""
	}
	return nil
}

// lacking is the condition that a subject s should have more rows than it has.
func (s *Store) lacking() string {
	return fmt.Sprintf(`NOT deleted AND (tier <> '%s' OR NOT %t) AND (SELECT count(*) FROM %s fa WHERE fa.subject_id = s.subject_id) < %d`,
		loops.DefaultTier, s.sparse, s.access, len(s.plan.Loops))
}

// refresh lets the decider look at the next subjects that a condition names, and returns the last of them;
// empty: there are no more.
func (s *Store) refresh(ctx context.Context, reader *pgx.Conn, d *loops.Decider, which, after string) (last string, err error) {
	rows, err := reader.Query(ctx, `SELECT subject_id FROM tiergate.subject s WHERE subject_id > $1 AND `+which+` ORDER BY 1 LIMIT $2`, after, piece)
	if err != nil {
		return "", explain("bring rows in line with the plan", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) == 0 {
		return "", explain("bring rows in line with the plan", err)
	}
	n := needsOf(nil)
	for _, id := range ids {
		n.subjects[id] = struct{}{}
	}
	_, err = s.transact(ctx, n, loops.Batch{Position: s.at}, true, func(st *loops.State, _ loops.Batch) error {
		d.Refresh(st)
		return nil
	})
	if len(ids) < piece {
		return "", err
	}
	return ids[len(ids)-1], err
}

// removeFeatures takes the rows of features that left the plan, page by page. Where rows of theirs are made
// again, they begin behind every episode that was ever answered. The row of '*' stays as long as the plan
// names the feature: without it the table counts as emptied.
func (s *Store) removeFeatures(ctx context.Context) error {
	var gone bool
	err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tiergate.plan WHERE feature <> ALL($1))`, s.features).Scan(&gone)
	if err != nil || !gone {
		return explain("look at the plan", err)
	}
	if _, err := s.conn.Exec(ctx, newEpisodes); err != nil {
		return explain("remove a feature", err)
	}
	for last := [2]string{}; ; {
		err := s.conn.QueryRow(ctx, `WITH page AS (SELECT subject_id, feature FROM `+s.access+` WHERE (subject_id, feature) > ($1, $2) ORDER BY 1, 2 LIMIT $3),
				gone AS (DELETE FROM `+s.access+` fa USING page p WHERE fa.subject_id = p.subject_id AND fa.feature = p.feature AND fa.feature <> ALL($4) AND fa.subject_id <> '*')
			SELECT subject_id, feature FROM page ORDER BY 1 DESC, 2 DESC LIMIT 1`, last[0], last[1], chunk, s.features).Scan(&last[0], &last[1])
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return explain("remove a feature", err)
		}
	}
}

// writePlan stores the loops for the functions, and the row of '*' that says what "no row" means.
func (s *Store) writePlan(ctx context.Context) error {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM tiergate.plan`)
	for i := range s.plan.Loops {
		l := &s.plan.Loops[i]
		zone := ""
		if l.Window.Zone != nil {
			zone = l.Window.Zone.String()
		}
		for _, tier := range s.plan.TierNames() {
			batch.Queue(`INSERT INTO tiergate.plan (feature, tier, loop, usage_limit, window_kind, period, zone, enforcement, message)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, l.Feature, tier, l.Name, nullLimit(l.Limit(tier)), l.Window.Kind,
				nullText(l.Window.Period.Text), nullText(zone), l.Enforcement, l.Message)
		}
		limit := l.Limit(loops.DefaultTier)
		allowed, reason, message := true, "", ""
		if limit == 0 && l.Enforcement != loops.Shadow {
			allowed, reason, message = false, loops.ReasonPlan, l.Message
		}
		batch.Queue(`INSERT INTO `+s.access+` (subject_id, feature, allowed, tier, used, usage_limit, remaining, reason, message, updated_at)
			VALUES ($1, $2, $3, $4, 0, $5, $5, $6, $7, tiergate.now())
			ON CONFLICT (subject_id, feature) DO UPDATE SET allowed = EXCLUDED.allowed, usage_limit = EXCLUDED.usage_limit,
				remaining = EXCLUDED.remaining, reason = EXCLUDED.reason, message = EXCLUDED.message, updated_at = EXCLUDED.updated_at`,
			loops.AnySubject, l.Feature, allowed, loops.DefaultTier, nullLimit(limit), nullText(reason), nullText(message))
	}
	batch.Queue(`DELETE FROM `+s.access+` WHERE subject_id = $1 AND feature <> ALL($2)`, loops.AnySubject, s.features)
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return explain("store the plan", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return explain("store the plan", err)
	}
	return explain("store the plan", tx.Commit(ctx))
}

func (s *Store) meta(ctx context.Context, key string) (value string, err error) {
	err = s.conn.QueryRow(ctx, `SELECT coalesce((SELECT value FROM tiergate.meta WHERE key = $1), '')`, key).Scan(&value)
	return value, explain("read "+key, err)
}

func (s *Store) setMeta(ctx context.Context, key, value string) error {
	_, err := s.conn.Exec(ctx, `INSERT INTO tiergate.meta (key, value) SELECT $1, $2 FROM tiergate.checkpoint WHERE term = $3
		ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value`, key, value, s.term)
	return explain("store "+key, err)
}

// tooManyUsers reports whether a row for each user and feature would be more than a million.
func (s *Store) tooManyUsers(ctx context.Context) (bool, error) {
	for i := range s.watches {
		if w := &s.watches[i]; w.Role == loops.Users {
			var estimate float64
			err := s.conn.QueryRow(ctx, `SELECT reltuples FROM pg_class WHERE oid = to_regclass($1)`, ident(w.Schema, w.Table)).Scan(&estimate)
			return estimate*float64(len(s.plan.Loops)) > 1e6, explain("estimate the users", err)
		}
	}
	return false, nil
}
