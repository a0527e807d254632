package sql

import (
	"context"
	"slices"
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
const notHeld = `NOT EXISTS (SELECT FROM tiergate.due d WHERE d.subject_id = x.subject_id)`

// owned is the condition that the bucket x is of a row that exists: others are nobody's.
func (s *Store) owned() string {
	return `EXISTS (SELECT FROM ` + s.access + ` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature)`
}

// nextDueSQL is when dueSQL names somebody next, or what was held is looked at again. $1 are the features, $2 the strict
// ones, $3 those with buckets. min() would not use an index beside another table.
func (s *Store) nextDueSQL() string {
	return `SELECT least((SELECT min(resets_at) FROM ` + s.access + ` x WHERE feature = ANY($1) AND (feature <> ALL($2) OR ` + notHeld + `)),
		(SELECT rolls_off FROM tiergate.bucket x WHERE feature = ANY($3) AND (feature <> ALL($2) OR ` + notHeld + `) AND ` + s.owned() + `
			ORDER BY rolls_off LIMIT 1),
		(SELECT expires_at FROM tiergate.access_grant x WHERE ended_at IS NULL AND expires_at IS NOT NULL AND feature = ANY($1) AND ` + notHeld + `
			ORDER BY expires_at LIMIT 1),
		(SELECT min(tier_until) FROM tiergate.subject), (SELECT min(at) FROM tiergate.due))`
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
func (s *Store) vacant(ctx context.Context, tx pgx.Tx, st *loops.State, ids []string) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		return !slices.ContainsFunc(s.strict, func(feature string) bool { return st.Row(id, s.index[feature]) == nil })
	})
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `WITH b AS MATERIALIZED (SELECT DISTINCT hashtext(id) & 63 AS b FROM unnest($1::text[]) id),
			free AS MATERIALIZED (SELECT b FROM b WHERE pg_try_advisory_xact_lock($2, $3 + b))
		SELECT id FROM unnest($1::text[]) id JOIN free ON free.b = hashtext(id) & 63`, ids, lockClass, lockMake)
	if err != nil {
		return explain("find strict rows that may be made", err)
	}
	free, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return explain("find strict rows that may be made", err)
	}
	st.Vacant = map[loops.RowName]bool{}
	for _, id := range free {
		for _, feature := range s.strict {
			if i := s.index[feature]; st.Row(id, i) == nil {
				st.Vacant[loops.RowName{Subject: id, Loop: i}] = true
			}
		}
	}
	rows, err = tx.Query(ctx, accessSQL(s.access)+` WHERE subject_id = ANY($1) AND feature = ANY($2)`, free, s.strict)
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

// dropRows deletes the rows of subjects that a condition names with their buckets, and leaves those that somebody holds
// for another time. $1 are the subjects, $2 is the condition's.
func (s *Store) dropRows(batch *pgx.Batch, ids []string, which string, arg any) {
	batch.Queue(`DELETE FROM `+s.access+` fa USING (SELECT subject_id, feature FROM `+s.access+` WHERE subject_id = ANY($1) AND `+which+`
		FOR UPDATE SKIP LOCKED) free WHERE fa.subject_id = free.subject_id AND fa.feature = free.feature`, ids, arg)
	batch.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT DISTINCT subject_id, tiergate.now() + $3::interval FROM `+s.access+`
		WHERE subject_id = ANY($1) AND `+which+` ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`, ids, arg, heldAgain)
	batch.Queue(dropBuckets(`subject_id = ANY($1) AND `+which+` AND NOT `+s.owned()), ids, arg)
}

// dropBuckets deletes the buckets x that a condition names, and leaves those that a consumer holds.
func dropBuckets(which string) string {
	return `DELETE FROM tiergate.bucket b USING (SELECT subject_id, feature, start FROM tiergate.bucket x WHERE ` + which + ` FOR UPDATE SKIP LOCKED) free
		WHERE b.subject_id = free.subject_id AND b.feature = free.feature AND b.start = free.start`
}

// writeHeld remembers whom to look at again.
func (s *Store) writeHeld(batch *pgx.Batch, st *loops.State, w loops.Written) {
	if len(st.Due) > 0 {
		s.dropRows(batch, st.Due, "feature <> ALL($2)", s.features)
	}
	if len(w.Again) > 0 {
		batch.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT id, $2 FROM unnest($1::text[]) id ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`,
			w.Again, st.Now.Add(heldAgain))
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
			WHERE fa.feature = ANY($1) AND fa.subject_id <> '*' AND NOT EXISTS (SELECT FROM tiergate.subject s WHERE s.subject_id = fa.subject_id)
			LIMIT $3 ON CONFLICT DO NOTHING`, s.strict, loops.DefaultTier, chunk)
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
	var made struct{ subjects, features []string }
	var kept, gone struct {
		subjects, features []string
		starts, off        []time.Time
		used               []int64
	}
	for _, r := range rows {
		feature := s.plan.Loops[r.Loop].Feature
		if r.New() && s.plan.Loops[r.Loop].Window.Kind == loops.Rolling { // what is left of a row that was lost is no use of this one
			made.subjects, made.features = append(made.subjects, r.Subject), append(made.features, feature)
		}
		changed, dropped := r.ChangedBuckets()
		for _, b := range changed {
			kept.subjects, kept.features, kept.starts = append(kept.subjects, r.Subject), append(kept.features, feature), append(kept.starts, b.Start)
			kept.off, kept.used = append(kept.off, b.RollsOff), append(kept.used, b.Used)
		}
		for _, start := range dropped {
			gone.subjects, gone.features, gone.starts = append(gone.subjects, r.Subject), append(gone.features, feature), append(gone.starts, start)
		}
	}
	if len(made.subjects) > 0 {
		batch.Queue(`DELETE FROM tiergate.bucket b USING unnest($1::text[], $2::text[]) AS u (subject_id, feature)
			WHERE b.subject_id = u.subject_id AND b.feature = u.feature`, made.subjects, made.features)
	}
	if len(gone.starts) > 0 {
		batch.Queue(`DELETE FROM tiergate.bucket b USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS u (subject_id, feature, start)
			WHERE b.subject_id = u.subject_id AND b.feature = u.feature AND b.start = u.start`, gone.subjects, gone.features, gone.starts)
	}
	if len(kept.starts) > 0 {
		batch.Queue(`INSERT INTO tiergate.bucket (subject_id, feature, start, rolls_off, used)
			SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[])
			ON CONFLICT (subject_id, feature, start) DO UPDATE SET used = EXCLUDED.used`, kept.subjects, kept.features, kept.starts, kept.off, kept.used)
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
func writeGrants(batch *pgx.Batch, w loops.Written) {
	if len(w.Ended) > 0 {
		batch.Queue(`UPDATE tiergate.access_grant g SET ended_at = u.at FROM unnest($1::bigint[], $2::timestamptz[]) AS u (id, at)
			WHERE g.id = u.id AND g.ended_at IS NULL`,
			column(w.Ended, func(g loops.Grant) int64 { return g.ID }), column(w.Ended, func(g loops.Grant) time.Time { return g.Ended }))
	}
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

// withBilling adds the billing periods to the arguments of a tally that needs them.
func (s *Store) withBilling(ctx context.Context, conn *pgx.Conn, l *loops.Loop, now time.Time, args []any) ([]any, error) {
	if l.Window.Kind != loops.Billing {
		return args, nil
	}
	subjects, starts, err := s.billed(ctx, conn, now)
	return append(args, subjects, starts), err
}

// billed lists the subjects that have a billing period, and when the one that holds now began.
func (s *Store) billed(ctx context.Context, conn *pgx.Conn, now time.Time) (subjects []string, starts []time.Time, err error) {
	rows, err := conn.Query(ctx, `SELECT subject_id, billing_start, billing_end FROM tiergate.subject WHERE billing_end > billing_start`)
	if err != nil {
		return nil, nil, explain("read the billing periods", err)
	}
	var id string
	var span loops.Span
	subjects, starts = []string{}, []time.Time{}
	_, err = pgx.ForEachRow(rows, []any{&id, &span.Start, &span.End}, func() error {
		subjects, starts = append(subjects, id), append(starts, span.Around(now).Start)
		return nil
	})
	return subjects, starts, explain("read the billing periods", err)
}
