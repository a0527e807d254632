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
	into := "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") SELECT " + strings.Join(values, ", ") + " FROM "
	if key == "" { // the server numbers them: in order
		call, columns := unnest(&args, lists)
		b.Queue(into+call+" WITH ORDINALITY AS u ("+columns+", ordinal) ORDER BY u.ordinal", args...)
		return
	}
	sets := make([]string, len(names))
	for i, name := range names {
		sets[i] = name + " = EXCLUDED." + name
	}
	b.Queue(into+p.inline(&args, "u", lists...)+" ON CONFLICT ("+key+") DO UPDATE SET "+strings.Join(sets, ", "), args...)
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
	call, columns := unnest(args, rows)
	return call + " AS " + name + " (" + columns + ")"
}

func unnest(args *[]any, rows []field) (call, columns string) {
	lists, names := make([]string, len(rows)), make([]string, len(rows))
	for i, f := range rows {
		*args = append(*args, f.values)
		lists[i], names[i] = fmt.Sprintf("$%d::%s[]", len(*args), f.kind), f.name
	}
	return "unnest(" + strings.Join(lists, ", ") + ")", strings.Join(names, ", ")
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
