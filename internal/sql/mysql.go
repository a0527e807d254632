package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
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

// literal quotes a constant for a session with NO_BACKSLASH_ESCAPES.
func (mysqlWords) literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

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

// claim makes rows without a tier, which nobody else sees and consume_feature waits for. Those that somebody is making, or has
// made, it leaves. The probe waits for nobody; who comes after it is waited for at most a second.
func (m mysqlWords) claim(ctx context.Context, tx pgx.Tx, access string, missing []rowKey) (free []rowKey, err error) {
	if free, err = m.each(ctx, missing, func(ctx context.Context, rows []rowKey) error {
		var args []any
		found, err := tx.Query(ctx, "SELECT 1 FROM "+m.inline(&args, "u", keysOf(rows)...)+" STRAIGHT_JOIN "+access+
			" fa ON fa.subject_id = u.subject_id AND fa.feature = u.feature FOR UPDATE NOWAIT", args...)
		if err == nil {
			_, err = pgx.CollectRows(found, pgx.RowTo[int])
		}
		return err
	}); err != nil || len(free) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `SET SESSION innodb_lock_wait_timeout = 1`); err != nil {
		return nil, err
	}
	free, err = m.each(ctx, free, func(ctx context.Context, rows []rowKey) error {
		var args []any
		_, err := tx.Exec(ctx, "INSERT INTO "+access+" (subject_id, feature, allowed, tier, updated_at) SELECT u.subject_id, u.feature, TRUE, '', UTC_TIMESTAMP(6) FROM "+
			m.inline(&args, "u", keysOf(rows)...)+" ON DUPLICATE KEY UPDATE subject_id = "+access+".subject_id", args...)
		return err
	})
	_, back := tx.Exec(ctx, `SET SESSION innodb_lock_wait_timeout = 5`)
	return free, errors.Join(err, back)
}

// each does work for all rows at once or, where somebody holds one of them, for each alone, and returns those that nobody holds.
func (mysqlWords) each(ctx context.Context, rows []rowKey, work func(context.Context, []rowKey) error) (free []rowKey, err error) {
	for part := range slices.Chunk(rows, mysqlRowsAtOnce) {
		err := work(ctx, part)
		if err == nil {
			free = append(free, part...)
			continue
		}
		if !isHeld(err) {
			return nil, err
		}
		for i := range part {
			switch err := work(ctx, part[i:i+1]); {
			case err == nil:
				free = append(free, part[i])
			case !isHeld(err):
				return nil, err
			}
		}
	}
	return free, nil
}

// isHeld reports whether somebody else has what a statement wanted to lock. A deadlock has ended the transaction, and is none of it.
func isHeld(err error) bool {
	var my *mysql.MySQLError
	return errors.As(err, &my) && (my.Number == 1205 || my.Number == 3572)
}

func keysOf(rows []rowKey) []field {
	return []field{each("subject_id", "text", rows, func(r rowKey) string { return r.subject }), each("feature", "text", rows, func(r rowKey) string { return r.feature })}
}

// drop reads before it deletes: a DELETE locks what its subqueries read, and waits for it.
func (m mysqlWords) drop(b *pgx.Batch, access string, ids, kept []string, at time.Time) {
	b.Queue("").Fn = func(r pgx.BatchResults) error {
		results := r.(mysqlResults)
		ctx, tx := results.ctx, &mysqlTx{link: results.link}
		type key struct {
			Subject, Feature string
			Start            time.Time
		}
		read := func(query string) (keys []key, err error) {
			rows, err := tx.Query(ctx, query, ids, kept)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, pgx.RowToStructByPos[key])
		}
		write := &pgx.Batch{}
		remove := func(table string, keys []key, columns int) {
			if len(keys) > 0 {
				m.remove(write, table, []field{
					each("subject_id", "text", keys, func(k key) string { return k.Subject }),
					each("feature", "text", keys, func(k key) string { return k.Feature }),
					each("start", "timestamptz", keys, func(k key) time.Time { return k.Start }),
				}[:columns]...)
			}
		}
		free, err := read(`SELECT subject_id, feature, updated_at FROM ` + access + ` WHERE subject_id = ANY($1) AND feature <> ALL($2) FOR UPDATE SKIP LOCKED`)
		if err != nil {
			return err
		}
		remove(access, free, 2)
		if err := tx.SendBatch(ctx, write).Close(); err != nil {
			return err
		}
		write = &pgx.Batch{}
		write.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT DISTINCT subject_id, $3::timestamptz FROM `+access+`
			WHERE subject_id = ANY($1) AND feature <> ALL($2) ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`, ids, kept, at)
		buckets, err := read(`SELECT subject_id, feature, start FROM tiergate.bucket x WHERE subject_id = ANY($1) AND feature <> ALL($2)
			AND NOT EXISTS (SELECT 1 FROM ` + access + ` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature)`)
		if err != nil {
			return err
		}
		remove("tiergate.bucket", buckets, 3)
		return tx.SendBatch(ctx, write).Close()
	}
}

// How long what the binlog shows may be invisible where the server does not tell which transactions are open; and how old its answer
// may be where it does.
const (
	mysqlBlind = 2 * time.Second
	mysqlStale = 200 * time.Millisecond
)

// seen asks for other transactions first: what is not seen after they are over was deleted.
func (m mysqlWords) seen(ctx context.Context, tx pgx.Tx, n needs, waited time.Duration) (all, over bool, err error) {
	if waited > mysqlStale {
		err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id <> CONNECTION_ID()
			AND t.trx_started <= COALESCE((SELECT o.trx_started FROM information_schema.innodb_trx o WHERE o.trx_mysql_thread_id = CONNECTION_ID()), t.trx_started))`).Scan(&over)
		if isRefused(err) {
			over = waited > mysqlBlind
		} else if err != nil {
			return false, false, err
		}
	}
	var events, grants, open int
	err = tx.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM tiergate.access_event WHERE id = ANY($1)), (SELECT COUNT(*) FROM tiergate.access_grant WHERE id = ANY($2)),
		(SELECT COUNT(*) FROM tiergate.access_grant WHERE id = ANY($3) AND ended_at IS NULL)`, n.events, n.grants, n.ended).Scan(&events, &grants, &open)
	return events == distinct(n.events) && grants == distinct(n.grants) && open == 0, over, err
}

func distinct[T int64 | string](all []T) int {
	seen := map[T]bool{}
	for _, one := range all {
		seen[one] = true
	}
	return len(seen)
}

// isRefused reports whether the server does not let us see other transactions.
func isRefused(err error) bool {
	var my *mysql.MySQLError
	return errors.As(err, &my) && slices.Contains([]uint16{1044, 1109, 1142, 1227}, my.Number)
}

const mysqlOpen = `SELECT CONCAT(t.trx_mysql_thread_id, ' ', t.trx_started) FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id <> CONNECTION_ID()`

// mark is empty where nothing is open, and names nothing that ends where the server does not tell.
func (mysqlWords) mark(ctx context.Context, q querier) (mark string, err error) {
	err = q.QueryRow(ctx, `SELECT COALESCE(GROUP_CONCAT(o.name SEPARATOR ','), '') FROM (`+strings.Replace(mysqlOpen, "FROM", "AS name FROM", 1)+`) o`).Scan(&mark)
	if isRefused(err) {
		return "?", nil
	}
	return mark, err
}

func (mysqlWords) outlasted(ctx context.Context, q querier, mark string) (over bool, err error) {
	if mark == "" || mark == "?" {
		return mark == "", nil
	}
	rows, err := q.Query(ctx, mysqlOpen)
	if err != nil {
		return false, err
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return !slices.ContainsFunc(open, func(name string) bool { return slices.Contains(strings.Split(mark, ","), name) }), err
}

// endOthers finds sessions by the locks that they are named by.
func (mysqlWords) endOthers(ctx context.Context, s *Session, purposes ...Purpose) error {
	for _, purpose := range purposes {
		var id *int64
		if err := s.QueryRow(ctx, "SELECT NULLIF(IS_USED_LOCK("+sessionLock(purpose)+"), CONNECTION_ID())").Scan(&id); err != nil {
			return err
		}
		if id == nil {
			continue
		}
		_, err := s.Exec(ctx, fmt.Sprint("KILL ", *id))
		var my *mysql.MySQLError
		if err != nil && !errors.As(err, &my) { // gone already, or not ours to end: the checkpoint's term stops it
			return err
		}
	}
	return nil
}

// point is a place in the binlog.
func (mysqlWords) point(ctx context.Context, s *Session) (passed func(context.Context) (bool, error), err error) {
	file, offset, err := binlogEnd(ctx, s)
	return func(ctx context.Context) (bool, error) {
		var text string
		var at struct {
			File   string
			Offset uint64
		}
		if err := s.QueryRow(ctx, `SELECT position FROM tiergate.checkpoint`).Scan(&text); err != nil || text == "" {
			return false, err
		}
		err := json.Unmarshal([]byte(text), &at)
		// Numbers grow in width at a million files.
		behind := len(at.File) < len(file) || len(at.File) == len(file) && (at.File < file || at.File == file && at.Offset < offset)
		return !behind, err
	}, err
}

// binlogEnd is where the server writes now. Its word for the question changed with MySQL 8.4.
func binlogEnd(ctx context.Context, s *Session) (file string, offset uint64, err error) {
	rows, err := s.Query(ctx, `SHOW MASTER STATUS`)
	var my *mysql.MySQLError
	if errors.As(err, &my) && my.Number == 1064 {
		rows, err = s.Query(ctx, `SHOW BINARY LOG STATUS`)
	}
	if err != nil {
		return "", 0, err
	}
	defer rows.Close()
	if !rows.Next() {
		return "", 0, errors.Join(errors.New("the server keeps no binlog (log_bin)"), rows.Err())
	}
	row, err := rows.Values()
	if err != nil {
		return "", 0, err
	}
	return file, offset, errors.Join(assign(&file, row[0]), assign(&offset, row[1]))
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
