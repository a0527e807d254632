package sql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// heldAgain is how long a strict row that somebody held is left alone before it is looked at again.
const heldAgain = time.Second

// lockMake, and the 63 numbers after it, are the locks under which missing strict rows are made: shared by
// consume_feature until its caller commits, alone by the sidecar, which never waits for them.
const lockMake = 1000

// dueSQL names the subjects for whom time is up at $1, at most $2 of each kind. Rows of a feature that is not one of
// $3 have left the plan and wait for nothing. A strict one, of $4, that was held has its own time. Buckets are those of
// rolling windows, $5.
func (s *Store) dueSQL() string {
	return `(SELECT subject_id FROM ` + s.access + ` x WHERE resets_at <= $1 AND feature = ANY($3) AND (feature <> ALL($4) OR ` + notHeld + `)
			ORDER BY resets_at LIMIT $2)
		UNION (SELECT subject_id FROM tiergate.bucket x WHERE rolls_off <= $1 AND feature = ANY($5) AND (feature <> ALL($4) OR ` + notHeld + `)
			AND ` + s.owned() + ` ORDER BY rolls_off LIMIT $2)
		UNION (SELECT subject_id FROM tiergate.access_grant x WHERE ended_at IS NULL AND expires_at <= $1 AND feature = ANY($3) AND ` + notHeld + `
			ORDER BY expires_at LIMIT $2)
		UNION (SELECT subject_id FROM tiergate.subject WHERE tier_until <= $1 ORDER BY tier_until LIMIT $2)`
}

// notHeld is the condition that nothing of x's subject was held when it was last looked at.
const notHeld = `NOT EXISTS (SELECT 1 FROM tiergate.due d WHERE d.subject_id = x.subject_id)`

// owned is the condition that the bucket x is of a row that exists: others are nobody's.
func (s *Store) owned() string {
	return `EXISTS (SELECT 1 FROM ` + s.access + ` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature)`
}

// nextDueSQL is when dueSQL names somebody next, or what was held is looked at again. $1 are the features, $2 the strict
// ones, $3 those with buckets. min() would not use an index beside another table.
func (s *Store) nextDueSQL() string {
	return `SELECT min(at) FROM ((SELECT min(resets_at) AS at FROM ` + s.access + ` x WHERE feature = ANY($1) AND (feature <> ALL($2) OR ` + notHeld + `))
		UNION ALL (SELECT rolls_off FROM tiergate.bucket x WHERE feature = ANY($3) AND (feature <> ALL($2) OR ` + notHeld + `) AND ` + s.owned() + `
			ORDER BY rolls_off LIMIT 1)
		UNION ALL (SELECT expires_at FROM tiergate.access_grant x WHERE ended_at IS NULL AND expires_at IS NOT NULL AND feature = ANY($1) AND ` + notHeld + `
			ORDER BY expires_at LIMIT 1)
		UNION ALL (SELECT min(tier_until) FROM tiergate.subject) UNION ALL (SELECT min(at) FROM tiergate.due)) n`
}

// queueHold locks the strict rows that a decision about subjects may change, as far as nobody else holds them. It waits for
// nobody, and comes before anything is read of them: what is read then is theirs until we commit. It returns which they are.
func (s *Store) queueHold(batch *pgx.Batch, ids []string) map[loops.RowName]bool {
	ours := map[loops.RowName]bool{}
	if len(s.strict) == 0 || len(ids) == 0 {
		return ours
	}
	batch.Queue(`SELECT subject_id, feature FROM `+s.access+` WHERE subject_id = ANY($1) AND feature = ANY($2) FOR NO KEY UPDATE SKIP LOCKED`, ids, s.strict).
		Query(func(rows pgx.Rows) error {
			var subject, feature string
			_, err := pgx.ForEachRow(rows, []any{&subject, &feature}, func() error {
				ours[loops.RowName{Subject: subject, Loop: s.index[feature]}] = true
				return nil
			})
			return err
		})
	return ours
}

// vacant marks the strict rows that are missing and that nobody else is making.
func (s *Store) vacant(ctx context.Context, tx pgx.Tx, st *loops.State, held []string) error {
	var missing []rowKey
	for _, id := range held {
		for _, feature := range s.strict {
			if st.Row(id, s.index[feature]) == nil {
				missing = append(missing, rowKey{id, feature})
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	free, err := s.conn.claim(ctx, tx, s.access, missing)
	if err != nil {
		return explain("find strict rows that may be made", err)
	}
	st.Vacant = map[loops.RowName]bool{}
	var ids []string
	for _, row := range free {
		st.Vacant[loops.RowName{Subject: row.subject, Loop: s.index[row.feature]}] = true
		ids = append(ids, row.subject)
	}
	// Those that were made since we looked are somebody's; what has no tier was made by claim.
	rows, err := tx.Query(ctx, accessSQL(s.access)+` WHERE subject_id = ANY($1) AND feature = ANY($2) AND tier <> ''`, ids, s.strict)
	if err != nil {
		return explain("find strict rows that were made", err)
	}
	return explain("find strict rows that were made", s.scanAccess(rows, func(subject string, i int, a loops.Access) {
		if name := (loops.RowName{Subject: subject, Loop: i}); st.Vacant[name] {
			delete(st.Vacant, name)
			a.Held = true
			st.LoadAccess(subject, i, a)
		}
	}))
}

// dropRows deletes the rows of subjects with their buckets, but for those of the features that are kept, and leaves what
// somebody holds for another time.
func (s *Store) dropRows(batch *pgx.Batch, ids, kept []string) {
	s.drop(batch, s.access, ids, kept, heldAgain)
}

// writeHeld remembers whom to look at again.
func (s *Store) writeHeld(batch *pgx.Batch, st *loops.State, w loops.Written) {
	if len(st.Due) > 0 {
		s.dropRows(batch, st.Due, s.features)
	}
	if len(w.Again) > 0 {
		s.insert(batch, "tiergate.due", "subject_id", field{name: "subject_id", kind: "text", values: w.Again}, every("at", "timestamptz", st.Now.Add(heldAgain)))
	}
	if len(st.Vacant) > 0 {
		batch.Queue(`DELETE FROM `+s.access+` WHERE tier = '' AND subject_id = ANY($1)`, subjectsOf(st.Vacant)) // claimed, and not made
	}
}

// adopt makes subjects of those that only consume_feature knows, so that a plan that changes comes to their rows.
func (s *Store) adopt(ctx context.Context) error {
	if len(s.strict) == 0 {
		return nil
	}
	for {
		done, err := s.conn.Exec(ctx, `INSERT INTO tiergate.subject (subject_id, tier, updated_at)
			SELECT DISTINCT fa.subject_id, $2, tiergate.now() FROM `+s.access+` fa
			WHERE fa.feature = ANY($1) AND fa.subject_id <> '*' AND NOT EXISTS (SELECT 1 FROM tiergate.subject s WHERE s.subject_id = fa.subject_id)
			LIMIT $3 ON CONFLICT (subject_id) DO UPDATE SET tier = tiergate.subject.tier`, s.strict, loops.DefaultTier, chunk)
		if err != nil || done.RowsAffected() == 0 {
			return explain("find subjects of strict features", err)
		}
	}
}

// queueBuckets loads the buckets of subjects' rolling windows.
func (s *Store) queueBuckets(batch *pgx.Batch, st *loops.State, ids []string) {
	batch.Queue(`SELECT subject_id, feature, start, rolls_off, used FROM tiergate.bucket WHERE subject_id = ANY($1) AND feature = ANY($2) ORDER BY start`, ids, s.rolling).
		Query(func(rows pgx.Rows) error {
			var subject, feature string
			var b loops.Bucket
			_, err := pgx.ForEachRow(rows, []any{&subject, &feature, &b.Start, &b.RollsOff, &b.Used}, func() error {
				b.Start, b.RollsOff = b.Start.UTC(), b.RollsOff.UTC()
				st.LoadBucket(subject, s.index[feature], b)
				return nil
			})
			return err
		})
}

// writeBuckets stores the buckets of rows that changed.
func (s *Store) writeBuckets(batch *pgx.Batch, rows []loops.AccessRow) {
	type bucket struct {
		rowKey
		loops.Bucket
	}
	var made, gone, kept []bucket
	for _, r := range rows {
		key := rowKey{r.Subject, s.plan.Loops[r.Loop].Feature}
		if r.New() && s.plan.Loops[r.Loop].Window.Kind == loops.Rolling { // what is left of a row that was lost is no use of this one
			made = append(made, bucket{rowKey: key})
		}
		changed, dropped := r.ChangedBuckets()
		for _, b := range changed {
			kept = append(kept, bucket{key, b})
		}
		for _, start := range dropped {
			gone = append(gone, bucket{key, loops.Bucket{Start: start}})
		}
	}
	fields := func(of []bucket) []field {
		return []field{
			each("subject_id", "text", of, func(b bucket) string { return b.subject }),
			each("feature", "text", of, func(b bucket) string { return b.feature }),
			each("start", "timestamptz", of, func(b bucket) time.Time { return b.Start }),
			each("rolls_off", "timestamptz", of, func(b bucket) time.Time { return b.RollsOff }),
			each("used", "bigint", of, func(b bucket) int64 { return b.Used }),
		}
	}
	const table = "tiergate.bucket"
	if len(made) > 0 {
		s.remove(batch, table, fields(made)[:2]...)
	}
	if len(gone) > 0 {
		s.remove(batch, table, fields(gone)[:3]...)
	}
	if len(kept) > 0 {
		s.insert(batch, table, "subject_id, feature, start", fields(kept)...)
	}
}

// queueGrants loads the open grants of subjects, and locks those that a decision may end, as far as nobody else holds them:
// those of the subjects that are held, and those that have expired.
func (s *Store) queueGrants(batch *pgx.Batch, st *loops.State, ids, hold []string) {
	ours := map[int64]bool{}
	batch.Queue(`SELECT id FROM tiergate.access_grant WHERE subject_id = ANY($1) AND ended_at IS NULL AND (expires_at <= $2 OR subject_id = ANY($3))
		FOR NO KEY UPDATE SKIP LOCKED`, ids, st.Now, hold).Query(func(rows pgx.Rows) error {
		var id int64
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error { ours[id] = true; return nil })
		return err
	})
	batch.Queue(`SELECT id, subject_id, feature, quantity, granted_at, expires_at FROM tiergate.access_grant WHERE subject_id = ANY($1) AND ended_at IS NULL ORDER BY id`, ids).
		Query(func(rows pgx.Rows) error {
			var subject, feature string
			var g loops.Grant
			var quantity *int64
			var expires *time.Time
			_, err := pgx.ForEachRow(rows, []any{&g.ID, &subject, &feature, &quantity, &g.GrantedAt, &expires}, func() (err error) {
				if i, ok := s.index[feature]; ok {
					g.Loop, g.Quantity, g.ExpiresAt, g.Held = i, orUnlimited(quantity), orZero(expires), !ours[g.ID]
					st.LoadGrant(subject, g)
				}
				return nil
			})
			return err
		})
}

// writeGrants stores which grants have ended.
func (s *Store) writeGrants(batch *pgx.Batch, w loops.Written) {
	if len(w.Ended) == 0 {
		return
	}
	var args []any
	rows := s.inline(&args, "u", each("id", "bigint", w.Ended, func(g loops.Grant) int64 { return g.ID }),
		each("ended", "timestamptz", w.Ended, func(g loops.Grant) time.Time { return g.Ended }))
	batch.Queue(s.query("end grants", rows), args...)
}

func subjectsOf(rows map[loops.RowName]bool) (ids []string) {
	for row := range rows {
		ids = append(ids, row.Subject)
	}
	return ids
}

// featuresOf returns the features of the loops for which something holds.
func featuresOf(plan *loops.Plan, holds func(*loops.Loop) bool) []string {
	features := []string{}
	for i := range plan.Loops {
		if l := &plan.Loops[i]; holds(l) {
			features = append(features, l.Feature)
		}
	}
	return features
}

// tally is the query of source.tallySQL with its arguments. conn is who knows the billing periods.
func (s *Store) tally(ctx context.Context, conn querier, l *loops.Loop, now, horizon, since time.Time) (query string, args []any, err error) {
	args = []any{now, horizon, l.Feature, since}
	bill := ""
	if l.Window.Kind == loops.Billing {
		if bill, err = s.billed(ctx, conn, now, &args); err != nil {
			return "", nil, err
		}
	}
	return s.source(s.usage()).tallySQL(l, s.access, bill), args, nil
}

// billed is a table of the subjects that have a billing period, and when the one that holds now began.
func (s *Store) billed(ctx context.Context, conn querier, now time.Time, args *[]any) (table string, err error) {
	rows, err := conn.Query(ctx, `SELECT subject_id, billing_start, billing_end FROM tiergate.subject WHERE billing_end > billing_start`)
	if err != nil {
		return "", explain("read the billing periods", err)
	}
	var id string
	var span loops.Span
	subjects, starts := []string{""}, []time.Time{now} // nobody: a table has rows
	_, err = pgx.ForEachRow(rows, []any{&id, &span.Start, &span.End}, func() error {
		subjects, starts = append(subjects, id), append(starts, span.Around(now).Start)
		return nil
	})
	return s.inline(args, "bill", field{name: "subject_id", kind: "text", values: subjects}, field{name: "start", kind: "timestamptz", values: starts}),
		explain("read the billing periods", err)
}
