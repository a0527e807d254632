package sql

import (
	"fmt"
	"math"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// source is a watched table, to be read in a dialect's SQL.
type source struct {
	*loops.Watch
	dialect
	kinds map[string]string // the types of its columns, as far as the watch does not say them; by nameOf
}

func (s *Store) source(w *loops.Watch) source {
	return source{Watch: w, dialect: s.dialect, kinds: s.kinds}
}

// nameOf is a column's place in kinds.
func nameOf(schema, table, column string) string {
	return strings.Join([]string{schema, table, column}, "\x00")
}

// kind is a column's type, as the database names it.
func (t source) kind(c loops.Column) string {
	if kind, ok := t.kinds[nameOf(t.Schema, t.Table, c.Name)]; ok {
		return kind
	}
	return c.Type
}

// name is the table's, quoted.
func (t source) name() string {
	if t.Schema == ownSchema {
		return ownSchema + "." + t.Table
	}
	return ident(t.Schema, t.Table)
}

// textOf is a watched column as text; NULL where the table has none.
func (t source) textOf(f loops.Field) string {
	c, ok := t.Columns[f]
	if !ok {
		return t.text("NULL", "")
	}
	return t.text(ident(c.Name), t.kind(c))
}

// spanOf is a watched column within the span of times that loops.ParseTime gives.
func (t source) spanOf(f loops.Field) string { return t.query("span", t.timeOf(f)) }

// timeOf is a watched column as a time; NULL where the table has none.
func (t source) timeOf(f loops.Field) string {
	c, ok := t.Columns[f]
	if !ok {
		return t.moment("NULL", "", t.Zone)
	}
	return t.moment(ident(c.Name), t.kind(c), t.Zone)
}

// somebody is the condition that a row names a subject: the same as loops.Nobody denies.
func (t source) somebody() string {
	id := t.textOf(loops.FieldSubject)
	cond := fmt.Sprintf("%s NOT IN ('', '%s') AND octet_length(%s) <= %d", id, loops.AnySubject, id, loops.MaxSubject)
	if most := t.longest(); most > 0 {
		cond += fmt.Sprintf(" AND char_length(%s) <= %d", id, most)
	}
	return cond
}

// keyOf is the replica identity of a watched row as text.
func (t source) keyOf() string {
	parts := make([]string, len(t.Key))
	for i, name := range t.Key {
		parts[i] = t.text(ident(name), t.kind(loops.Column{Name: name}))
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "concat_ws('\x1f', " + strings.Join(parts, ", ") + ")"
}

// matches is the condition under which a usage row belongs to a loop: the same as the decider's.
func (t source) matches(l *loops.Loop) string {
	switch {
	case l.Trigger.Kind == loops.OnAPI && t.Has(loops.FieldEndpoint):
		endpoint := t.textOf(loops.FieldEndpoint)
		path := t.query("path", endpoint)
		prefix, whole := l.Trigger.Prefix()
		// A regular expression is the dearest part of a count: what can be told without one is.
		cond := path + " = " + t.literal(prefix)
		if !whole {
			cond = t.query("pattern", path, t.literal(l.Trigger.Pattern()))
			if prefix != "" {
				cond = t.query("prefix", endpoint, t.literal(prefix)) + " AND " + cond
			}
		}
		if l.Trigger.Method != "" && t.Has(loops.FieldMethod) {
			cond += fmt.Sprintf(" AND upper(%s) = %s", t.textOf(loops.FieldMethod), t.literal(strings.ToUpper(l.Trigger.Method)))
		}
		return cond
	case t.Has(loops.FieldFeature):
		return t.textOf(loops.FieldFeature) + " = " + t.literal(l.Feature)
	default:
		return "TRUE"
	}
}

// tallySQL counts a loop's uses for each subject: within the stored window or, where none is open,
// since the latest of $2 (the horizon), the end of the last one, and the subject's return. A window that is over at $1, which is
// now, is not open: the view may be older than what closed it. $3 is the feature, $4 the earliest time
// that can matter. Rows dated ahead of now count as of now. bill is a table of subject_id and start, for billing periods.
func (t source) tallySQL(l *loops.Loop, access, bill string) string {
	at, since := "$1::timestamptz", "$4::timestamptz IS NOT NULL"
	if c, ok := t.Columns[loops.FieldAt]; ok {
		at = "least(" + t.timeOf(loops.FieldAt) + ", $1::timestamptz)"
		since = t.since(ident(c.Name), t.kind(c), t.Zone, "$4::timestamptz")
	}
	quantity := "1"
	if c, ok := t.Columns[loops.FieldQuantity]; ok {
		quantity = "coalesce(" + ident(c.Name) + ", 1)"
	}
	counted := t.matches(l)
	if c, ok := t.Columns[loops.FieldStatus]; ok {
		counted += fmt.Sprintf(" AND coalesce(%s < 400, true)", ident(c.Name))
	}
	window, from, billed := "fa.resets_at > $1::timestamptz", "$2::timestamptz", ""
	first, group := "min(u.at)", "u.subject_id"
	switch l.Window.Kind {
	case loops.Lifetime:
		window = "false" // what is stored is the window of an earlier plan
	case loops.Rolling:
		window = "false"
		first = t.query("bucket start", "u.at", int64(l.Window.Period.Resolution().Seconds()))
		group = "u.subject_id, " + first
	case loops.Billing:
		from, billed = "coalesce(bill.start, $2::timestamptz)", " LEFT JOIN "+bill+" ON bill.subject_id = u.subject_id"
		since = "$4::timestamptz IS NOT NULL"
	}
	closed := "CASE WHEN fa.resets_at <= $1::timestamptz THEN fa.resets_at END"
	if l.Window.Kind == loops.Rolling {
		closed = "NULL"
	}
	return fmt.Sprintf(`SELECT u.subject_id AS subject_id, %s AS used, %s AS first, %s AS credit
		FROM (SELECT %s AS subject_id, %s AS at, %s AS n FROM %s WHERE %s AND %s AND %s) u
		LEFT JOIN %s fa ON fa.subject_id = u.subject_id AND fa.feature = $3
		LEFT JOIN tiergate.subject back ON back.subject_id = u.subject_id AND back.since IS NOT NULL%s
		WHERE CASE WHEN %s THEN u.at >= fa.period_start AND u.at < fa.resets_at
			ELSE u.at >= %s END
		GROUP BY %s`,
		t.query("bigint", fmt.Sprintf("greatest(least(sum(u.n), %d), %d)", int64(math.MaxInt64), int64(math.MinInt64))), first, t.query("any", "u.n < 0"),
		t.textOf(loops.FieldSubject), at, quantity, t.name(), t.somebody(), counted, since, access, billed, window,
		t.latest(from, "fa.closed_at", "back.since", closed), group)
}

// afreshSQL adds the subjects of whom a tally finds nothing, or nothing in a bucket, to those of whom it does.
func afreshSQL(tally, access string, kind loops.WindowKind) string {
	query := fmt.Sprintf(`WITH t AS (%s) SELECT * FROM t UNION ALL
		SELECT fa.subject_id, 0, NULL, false FROM %s fa LEFT JOIN t ON t.subject_id = fa.subject_id
		WHERE fa.feature = $3 AND fa.subject_id <> '*' AND fa.used <> 0 AND t.subject_id IS NULL`, tally, access)
	if kind == loops.Rolling {
		query += ` UNION ALL SELECT b.subject_id, 0, b.start, false FROM tiergate.bucket b LEFT JOIN t ON t.subject_id = b.subject_id AND t.first = b.start
			WHERE b.feature = $3 AND t.subject_id IS NULL`
	}
	return query
}

// mirrorSQL lists how a table of state differs from what is kept of it: each row's key, whether the row is
// gone, and these fields. Events have none.
func (t source) mirrorSQL() (query string, fields []loops.Field) {
	switch {
	case t.Role == loops.Users:
		return t.usersSQL(), []loops.Field{loops.FieldSubject, loops.FieldEmail, loops.FieldName, loops.FieldCustomer}
	case t.Role == loops.Subscriptions:
		return t.subscriptionsSQL(), []loops.Field{loops.FieldSubject, loops.FieldStatus, loops.FieldPlan, loops.FieldPrice,
			loops.FieldCustomer, loops.FieldPeriodStart, loops.FieldPeriodEnd}
	case t.Gauge():
		return t.gaugesSQL(), gaugeFields()
	default:
		return "", nil
	}
}

// anyDiffers is the condition that some column of u is not the same in m.
func (d *dialect) anyDiffers(m string, columns ...string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = d.differs("u."+c, m+"."+c)
	}
	return strings.Join(parts, " OR ")
}

// usersSQL lists how the users table differs from what is stored: rows to take over, and rows gone.
func (t source) usersSQL() string {
	differ := []string{"subject_id", "email", "name"}
	if t.Has(loops.FieldCustomer) {
		differ = append(differ, "customer")
	}
	users := fmt.Sprintf(`(SELECT %s AS user_key, nullif(%s, '') AS subject_id, nullif(%s, '') AS email, nullif(%s, '') AS name, nullif(%s, '') AS customer FROM %s WHERE %s) u`,
		t.keyOf(), t.textOf(loops.FieldSubject), t.textOf(loops.FieldEmail), t.textOf(loops.FieldName), t.textOf(loops.FieldCustomer), t.name(), t.somebody())
	return t.full(`coalesce(u.user_key, s.user_key) AS "key", u.user_key IS NULL AS gone, u.subject_id, u.email, u.name, u.customer`,
		users, `(SELECT * FROM tiergate.subject WHERE user_key IS NOT NULL) s`, `s.user_key = u.user_key`, `u.user_key IS NULL`,
		`u.user_key IS NULL OR s.user_key IS NULL OR `+t.anyDiffers("s", differ...))
}

// subscriptionsSQL lists how the subscriptions table differs from its mirror.
func (t source) subscriptionsSQL() string {
	table := fmt.Sprintf(`(SELECT %s AS "key", %s AS subject_id, %s AS status, %s AS plan, %s AS price, %s AS customer, %s AS period_start, %s AS period_end
		FROM %s WHERE %s) u`, t.keyOf(), t.textOf(loops.FieldSubject), t.textOf(loops.FieldStatus), t.textOf(loops.FieldPlan), t.textOf(loops.FieldPrice),
		t.textOf(loops.FieldCustomer), t.spanOf(loops.FieldPeriodStart), t.spanOf(loops.FieldPeriodEnd), t.name(), t.somebody())
	return t.full(fmt.Sprintf(`coalesce(u."key", m."key") AS "key", u."key" IS NULL AS gone, u.subject_id, u.status, u.plan, u.price, u.customer,
			%s AS period_start, %s AS period_end`, t.query("time as text", "u.period_start"), t.query("time as text", "u.period_end")),
		table, "tiergate.subscription m", `m."key" = u."key"`, `u."key" IS NULL`,
		`u."key" IS NULL OR m."key" IS NULL OR lower(`+t.query("trim", "coalesce(u.status, '')")+`) <> m.status OR coalesce(u.plan, '') <> m.plan
			OR coalesce(u.price, '') <> m.price OR coalesce(u.customer, '') <> m.customer OR `+t.anyDiffers("m", "subject_id", "period_start", "period_end"))
}
