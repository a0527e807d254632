package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// mysqlWords is the dialect of MySQL and MariaDB.
type mysqlWords struct{}

func mysqlDialect() dialect {
	m := mysqlWords{}
	return dialect{queries: queriesOf("mysql"), expressions: m, rowWriter: m, columnReader: m, catalog: m, neighbours: m, planner: m, streamer: m, values: m}
}

func (mysqlWords) differs(a, b string) string { return "NOT (" + a + " <=> " + b + ")" }

func (mysqlWords) full(list, u, m, on, missing, where string) string {
	return fmt.Sprintf("SELECT %[1]s FROM %[2]s LEFT JOIN %[3]s ON %[4]s WHERE %[6]s UNION ALL SELECT %[1]s FROM %[3]s LEFT JOIN %[2]s ON %[4]s WHERE %[5]s AND (%[6]s)",
		list, u, m, on, missing, where)
}

func (mysqlWords) latest(times ...string) string {
	const never = "CAST('1000-01-01' AS DATETIME(6))" // GREATEST knows nothing of NULL
	for i, t := range times {
		times[i] = "COALESCE(" + t + ", " + never + ")"
	}
	return "NULLIF(GREATEST(" + strings.Join(times, ", ") + "), " + never + ")"
}

// literal quotes a constant for a session with NO_BACKSLASH_ESCAPES. Where the driver finds a ? too many, it leaves the arguments to the
// server, which takes only so many.
func (mysqlWords) literal(text string) string {
	if strings.Contains(text, "?") {
		return fmt.Sprintf("_utf8mb4 X'%X'", text)
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// mysqlRowsAtOnce is how many rows one statement writes: far below what a packet holds.
const mysqlRowsAtOnce = 500

func (mysqlWords) insert(b *pgx.Batch, table, key string, rows ...field) {
	names, sets := make([]string, len(rows)), make([]string, len(rows))
	for i, f := range rows {
		names[i], sets[i] = f.name, f.name+" = VALUES("+f.name+")"
	}
	places := "(" + strings.Repeat(",?", len(rows))[1:] + ")"
	for values := range slices.Chunk(valuesOf(rows), mysqlRowsAtOnce) {
		statement := "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES " + strings.Repeat(","+places, len(values))[1:]
		if key != "" {
			statement += " ON DUPLICATE KEY UPDATE " + strings.Join(sets, ", ")
		}
		b.Queue(statement, slices.Concat(values...)...)
	}
}

func (m mysqlWords) remove(b *pgx.Batch, table string, rows ...field) {
	same := make([]string, len(rows))
	for i, f := range rows {
		same[i] = "t." + f.name + " = u." + f.name
	}
	for values := range slices.Chunk(valuesOf(rows), mysqlRowsAtOnce) {
		var args []any
		from := inlineValues(&args, "u", rows, values)
		b.Queue("DELETE t FROM "+from+" STRAIGHT_JOIN "+table+" t ON "+strings.Join(same, " AND "), args...)
	}
}

func (m mysqlWords) inline(args *[]any, name string, rows ...field) string {
	return inlineValues(args, name, rows, valuesOf(rows))
}

func inlineValues(args *[]any, name string, rows []field, values [][]any) string {
	var b strings.Builder
	for i, row := range values {
		b.WriteString([]string{"(SELECT ", " UNION ALL SELECT "}[min(i, 1)])
		for j, value := range row {
			*args = append(*args, value)
			fmt.Fprintf(&b, "%s$%d", []string{"", ", "}[min(j, 1)], len(*args))
			if rows[j].kind == "timestamptz" {
				b.WriteString("::timestamptz")
			}
			if i == 0 {
				b.WriteString(" AS " + rows[j].name)
			}
		}
	}
	return b.String() + ") " + name
}

// text is a column as the binlog tells it.
func (mysqlWords) text(column, kind string) string {
	switch kind, _, _ := strings.Cut(strings.ToLower(kind), "("); strings.TrimSpace(kind) {
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return "LOWER(HEX(" + column + "))"
	case "bit":
		return "CAST(" + column + " + 0 AS CHAR)"
	case "timestamp":
		return noZeroDate(column, "CONCAT(CAST("+column+" AS CHAR), '+00')")
	case "date", "datetime":
		return noZeroDate(column, "CAST("+column+" AS CHAR)")
	}
	return "CAST(" + column + " AS CHAR)"
}

// noZeroDate is NULL for MySQL's dates that are none.
func noZeroDate(column, value string) string {
	return fmt.Sprintf("IF(MONTH(%[1]s) = 0 OR DAY(%[1]s) = 0, NULL, %[2]s)", column, value)
}

func (mysqlWords) moment(column, kind string, zone *time.Location) string {
	if column == "NULL" {
		return "CAST(NULL AS DATETIME(6))"
	}
	at := noZeroDate(column, "CAST("+column+" AS DATETIME(6))")
	if strings.HasPrefix(strings.ToLower(kind), "timestamp") || zone == nil || zone == time.UTC {
		return at
	}
	return fmt.Sprintf("(%s - INTERVAL %s SECOND)", at, offsetOf(column, zone))
}

// offsetOf is how far a zone's clock was ahead of UTC, in seconds, when it showed what a column holds; as loops.ParseTime takes it: from a
// change of the clock on, by the clock after it. The server may know no zones.
func offsetOf(column string, zone *time.Location) string {
	at := time.Unix(0, 0).In(zone)
	var cases []string
	_, offset := at.Zone()
	first := offset
	for until := time.Now().AddDate(2, 0, 0); ; {
		_, end := at.ZoneBounds()
		if end.IsZero() || end.After(until) {
			break
		}
		at = end
		_, offset = at.Zone()
		cases = append(cases, fmt.Sprintf("WHEN %s >= '%s' THEN %d", column, at.Format(time.DateTime), offset))
	}
	if len(cases) == 0 {
		return fmt.Sprint(first)
	}
	slices.Reverse(cases)
	return "CASE " + strings.Join(cases, " ") + fmt.Sprintf(" ELSE %d END", first)
}

func (mysqlWords) since(column, kind string, zone *time.Location, at string) string {
	if strings.HasPrefix(strings.ToLower(kind), "timestamp") || zone == nil || zone == time.UTC {
		return column + " >= " + at
	}
	return column + " >= " + at + " - INTERVAL 1 DAY" // no zone is further behind
}

func (mysqlWords) keep(ctx context.Context, view pgx.Tx, _ *Session, _, query string, args ...any) (answer, error) {
	rows, err := view.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return spool(rows)
}

// planned stores calendar windows ahead of time.
func (mysqlWords) planned(ctx context.Context, s *Session, plan *loops.Plan) error {
	now, err := clock(ctx, s)
	if err != nil {
		return err
	}
	return FillMySQLCalendar(ctx, s.life.(*mysqlLink).conn, plan, now)
}

func (mysqlWords) longest() int { return 191 }

func (mysqlWords) duration(d *time.Duration) any {
	if d == nil {
		return nil
	}
	return d.Microseconds()
}

func (mysqlWords) list(of []float64) any {
	text, err := json.Marshal(of)
	if err != nil {
		panic(fmt.Errorf("fractions that JSON cannot hold: %w", err))
	}
	return string(text)
}

// length is NULL for calendar periods too: tiergate_calendar has theirs.
func (mysqlWords) length(w loops.Window) any {
	if w.Kind == loops.Lifetime || w.Period.Length == 0 {
		return nil
	}
	return w.Period.Length.Microseconds()
}
