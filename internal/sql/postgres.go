package sql

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// postgres is PostgreSQL's dialect.
type postgres struct{}

func postgresDialect() dialect {
	p := postgres{}
	return dialect{queries: queriesOf("postgres"), expressions: p, rowWriter: p, columnReader: p, catalog: p, neighbours: p, planner: p, streamer: p, values: p}
}

func (postgres) differs(a, b string) string { return a + " IS DISTINCT FROM " + b }

func (postgres) full(list, u, m, on, _, where string) string {
	return "SELECT " + list + " FROM " + u + " FULL JOIN " + m + " ON " + on + " WHERE " + where
}

func (postgres) latest(times ...string) string { return "greatest(" + strings.Join(times, ", ") + ")" }

func (postgres) literal(text string) string { return literal(text) }

// literal quotes a text constant for PostgreSQL, whatever its standard_conforming_strings is.
func literal(text string) string {
	q := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

func (p postgres) insert(b *pgx.Batch, table, key string, rows ...field) {
	var args []any
	names, values := make([]string, len(rows)), make([]string, len(rows))
	var lists []field
	for i, f := range rows {
		names[i], values[i] = f.name, "u."+f.name
		if f.values == nil {
			args = append(args, f.all)
			values[i] = fmt.Sprintf("$%d::%s", len(args), f.kind)
			continue
		}
		lists = append(lists, f)
	}
	from := p.inline(&args, "u", lists...)
	statement := "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") + " FROM " + from
	if key == "" {
		b.Queue(statement, args...)
		return
	}
	sets := make([]string, len(names))
	for i, name := range names {
		sets[i] = name + " = EXCLUDED." + name
	}
	b.Queue(statement+" ON CONFLICT ("+key+") DO UPDATE SET "+strings.Join(sets, ", "), args...)
}

func (p postgres) remove(b *pgx.Batch, table string, rows ...field) {
	var args []any
	same := make([]string, len(rows))
	for i, f := range rows {
		same[i] = "t." + f.name + " = u." + f.name
	}
	b.Queue("DELETE FROM "+table+" t USING "+p.inline(&args, "u", rows...)+" WHERE "+strings.Join(same, " AND "), args...)
}

func (postgres) inline(args *[]any, name string, rows ...field) string {
	lists, names := make([]string, len(rows)), make([]string, len(rows))
	for i, f := range rows {
		*args = append(*args, f.values)
		lists[i], names[i] = fmt.Sprintf("$%d::%s[]", len(*args), f.kind), f.name
	}
	return "unnest(" + strings.Join(lists, ", ") + ") AS " + name + " (" + strings.Join(names, ", ") + ")"
}

func (postgres) text(column, _ string) string { return column + "::text" }

func (p postgres) moment(column, kind string, zone *time.Location) string {
	switch {
	case column == "NULL":
		return "NULL::timestamptz"
	case zoned(kind):
		return column
	default:
		return fmt.Sprintf("(%s::timestamp AT TIME ZONE %s)", column, literal(zone.String()))
	}
}

// since converts the bound and not the column, so that an index on it serves.
func (p postgres) since(column, kind string, zone *time.Location, at string) string {
	if zoned(kind) {
		return column + " >= " + at
	}
	return fmt.Sprintf("%s >= (%s AT TIME ZONE %s)", column, at, literal(zone.String()))
}

func zoned(kind string) bool {
	return strings.Contains(kind, "with time zone") || strings.HasPrefix(kind, "timestamptz")
}

// cursor is an answer that the server keeps.
type cursor struct {
	conn *Session
	name string
}

func (postgres) keep(ctx context.Context, view pgx.Tx, conn *Session, name, query string, args ...any) (answer, error) {
	_, err := view.Exec(ctx, "DECLARE "+name+" NO SCROLL CURSOR WITH HOLD FOR "+query, args...)
	return cursor{conn, name}, err
}

func (c cursor) fetch(ctx context.Context, n int) (pgx.Rows, error) {
	return c.conn.Query(ctx, fmt.Sprintf("FETCH %d FROM %s", n, c.name))
}

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

func (postgres) drop(b *pgx.Batch, access string, ids, kept []string, at time.Time) {
	b.Queue(`DELETE FROM `+access+` fa USING (SELECT subject_id, feature FROM `+access+` WHERE subject_id = ANY($1) AND feature <> ALL($2)
		FOR UPDATE SKIP LOCKED) free WHERE fa.subject_id = free.subject_id AND fa.feature = free.feature`, ids, kept)
	b.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT DISTINCT subject_id, $3::timestamptz FROM `+access+`
		WHERE subject_id = ANY($1) AND feature <> ALL($2) ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`, ids, kept, at)
	b.Queue(`DELETE FROM tiergate.bucket x WHERE subject_id = ANY($1) AND feature <> ALL($2)
		AND NOT EXISTS (SELECT FROM `+access+` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature)`, ids, kept)
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

func (postgres) planned(context.Context, *Session, *loops.Plan) error { return nil }

func (postgres) longest() int { return 0 }

func (postgres) duration(d *time.Duration) any { return d }

func (postgres) list(of []float64) any { return of }

func (postgres) length(w loops.Window) any {
	switch {
	case w.Kind == loops.Lifetime:
		return nil
	case w.Period.Length == 0:
		return "1 " + string(w.Period.Unit)
	default:
		return fmt.Sprintf("%d microseconds", w.Period.Length.Microseconds())
	}
}
