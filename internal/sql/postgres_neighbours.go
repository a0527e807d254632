package sql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// claim takes locks that consume_feature shares with others until its caller commits.
func (postgres) claim(ctx context.Context, tx pgx.Tx, _ string, missing []rowKey) (free []rowKey, err error) {
	ids := make([]string, len(missing))
	for i, row := range missing {
		ids[i] = row.subject
	}
	rows, err := tx.Query(ctx, `WITH b AS MATERIALIZED (SELECT DISTINCT hashtext(id) & 63 AS b FROM unnest($1::text[]) id),
			free AS MATERIALIZED (SELECT b FROM b WHERE pg_try_advisory_xact_lock(1413955924, $2 + b))
		SELECT DISTINCT id FROM unnest($1::text[]) id JOIN free ON free.b = hashtext(id) & 63`, ids, lockMake)
	if err != nil {
		return nil, err
	}
	ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	unheld := map[string]bool{}
	for _, id := range ids {
		unheld[id] = true
	}
	for _, row := range missing {
		if unheld[row.subject] {
			free = append(free, row)
		}
	}
	return free, err
}

func (postgres) drop(b *pgx.Batch, access string, ids, kept []string, pause time.Duration) {
	b.Queue(`DELETE FROM `+access+` fa USING (SELECT subject_id, feature FROM `+access+` WHERE subject_id = ANY($1) AND feature <> ALL($2)
		FOR UPDATE SKIP LOCKED) free WHERE fa.subject_id = free.subject_id AND fa.feature = free.feature`, ids, kept)
	b.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT DISTINCT subject_id, tiergate.now() + $3::interval FROM `+access+`
		WHERE subject_id = ANY($1) AND feature <> ALL($2) ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`, ids, kept, pause)
	b.Queue(`DELETE FROM tiergate.bucket b USING (SELECT subject_id, feature, start FROM tiergate.bucket x WHERE subject_id = ANY($1) AND feature <> ALL($2)
			AND NOT EXISTS (SELECT FROM `+access+` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature) FOR UPDATE SKIP LOCKED) free
		WHERE b.subject_id = free.subject_id AND b.feature = free.feature AND b.start = free.start`, ids, kept)
}

// seen asks all at once: what the snapshot shows, and whether any later one may show more.
func (postgres) seen(ctx context.Context, tx pgx.Tx, n needs, _ time.Duration) (all, over bool, err error) {
	err = tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM unnest($1::bigint[]) i WHERE NOT EXISTS (SELECT FROM tiergate.access_event WHERE id = i))
		AND NOT EXISTS (SELECT FROM unnest($2::text[]) i WHERE NOT EXISTS (SELECT FROM tiergate.access_grant WHERE id = i::bigint))
		AND NOT EXISTS (SELECT FROM tiergate.access_grant WHERE id = ANY($3::text[]::bigint[]) AND ended_at IS NULL),
		pg_snapshot_xmin(pg_current_snapshot()) >= pg_current_xact_id()`, n.events, n.grants, n.ended).Scan(&all, &over)
	return all, over, err
}

func (postgres) mark(ctx context.Context, q querier) (mark string, err error) {
	err = q.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`).Scan(&mark)
	return mark, err
}

func (postgres) outlasted(ctx context.Context, q querier, mark string) (over bool, err error) {
	err = q.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8`, mark).Scan(&over)
	return over, err
}

func (postgres) endOthers(ctx context.Context, s *Session, purposes ...Purpose) error {
	names := make([]string, len(purposes))
	for i, purpose := range purposes {
		names[i] = string(purpose)
	}
	_, err := s.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = current_user AND application_name = ANY($1)`, names)
	return err
}

func (postgres) point(ctx context.Context, s *Session) (passed func(context.Context) (bool, error), err error) {
	var point string
	err = s.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&point)
	return func(ctx context.Context) (past bool, err error) {
		err = s.QueryRow(ctx, `SELECT position <> '' AND (position::jsonb ->> 'end')::pg_lsn >= $1::text::pg_lsn FROM tiergate.checkpoint`, point).Scan(&past)
		return past, err
	}, err
}
