package sql

import (
	"fmt"
	"math"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// literal quotes a text constant.
func literal(s string) string {
	q := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(q, `\`, `\\`)
	}
	return q
}

// textOf is a watched column as text; NULL where the table has none.
func textOf(w *loops.Watch, f loops.Field) string {
	if c, ok := w.Columns[f]; ok {
		return ident(c.Name) + "::text"
	}
	return "NULL::text"
}

// timeOf is a watched column as timestamptz; NULL where the table has none.
func timeOf(w *loops.Watch, f loops.Field) string {
	c, ok := w.Columns[f]
	switch {
	case !ok:
		return "NULL::timestamptz"
	case zoned(c):
		return ident(c.Name)
	default:
		return fmt.Sprintf("(%s::timestamp AT TIME ZONE %s)", ident(c.Name), literal(w.Zone.String()))
	}
}

// spanOf is a watched column within the span of times that loops.ParseTime gives.
func spanOf(w *loops.Watch, f loops.Field) string {
	t := timeOf(w, f)
	return fmt.Sprintf("CASE WHEN %s IS NOT NULL THEN greatest(least(%s, '9999-12-31 23:59:59.999999+00'), '0001-01-01 00:00:00.000001+00') END", t, t)
}

// somebody is the condition that a row names a subject: the same as loops.Nobody denies.
func somebody(w *loops.Watch) string {
	id := textOf(w, loops.FieldSubject)
	return fmt.Sprintf("%s NOT IN ('', '%s') AND octet_length(%s) <= %d", id, loops.AnySubject, id, loops.MaxSubject)
}

func zoned(c loops.Column) bool {
	return strings.Contains(c.Type, "with time zone") || strings.HasPrefix(c.Type, "timestamptz")
}

// keyOf is the replica identity of a watched row as text.
func keyOf(w *loops.Watch) string {
	parts := make([]string, len(w.Key))
	for i, name := range w.Key {
		parts[i] = ident(name) + "::text"
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "concat_ws(E'\\x1f', " + strings.Join(parts, ", ") + ")"
}

// matches is the condition under which a usage row belongs to a loop: the same as the decider's.
func matches(w *loops.Watch, l *loops.Loop) string {
	switch {
	case l.Trigger.Kind == loops.OnAPI && w.Has(loops.FieldEndpoint):
		endpoint := textOf(w, loops.FieldEndpoint)
		path := fmt.Sprintf("rtrim(split_part(coalesce(%s, ''), '?', 1), '/')", endpoint)
		cond := path + " ~ " + literal(l.Trigger.Pattern())
		// A regular expression is the dearest part of a count: what can be told without one is.
		switch prefix, whole := l.Trigger.Prefix(); {
		case whole:
			cond = path + " = " + literal(prefix)
		case prefix != "":
			cond = fmt.Sprintf("starts_with(%s, %s) AND %s", endpoint, literal(prefix), cond)
		}
		if l.Trigger.Method != "" && w.Has(loops.FieldMethod) {
			cond += fmt.Sprintf(" AND upper(%s) = %s", textOf(w, loops.FieldMethod), literal(strings.ToUpper(l.Trigger.Method)))
		}
		return cond
	case w.Has(loops.FieldFeature):
		return textOf(w, loops.FieldFeature) + " = " + literal(l.Feature)
	default:
		return "true"
	}
}

// tallySQL counts a loop's uses for each subject: within the stored window or, where none is open,
// since the latest of $2 (the horizon), the end of the last one, and the subject's return. A window that is over at $1, which is
// now, is not open: the view may be older than what closed it. $3 is the feature, $4 the earliest time
// that can matter. Rows dated ahead of now count as of now.
func tallySQL(w *loops.Watch, l *loops.Loop, access string) string {
	at, since := "$1::timestamptz", "$4::timestamptz IS NOT NULL"
	if c, ok := w.Columns[loops.FieldAt]; ok {
		at = "least(" + timeOf(w, loops.FieldAt) + ", $1::timestamptz)"
		// The bound is converted and not the column, so that an index on it serves.
		since = ident(c.Name) + " >= $4::timestamptz"
		if !zoned(c) {
			since = fmt.Sprintf("%s >= ($4::timestamptz AT TIME ZONE %s)", ident(c.Name), literal(w.Zone.String()))
		}
	}
	quantity := "1"
	if c, ok := w.Columns[loops.FieldQuantity]; ok {
		quantity = "coalesce(" + ident(c.Name) + ", 1)"
	}
	counted := matches(w, l)
	if c, ok := w.Columns[loops.FieldStatus]; ok {
		counted += fmt.Sprintf(" AND coalesce(%s < 400, true)", ident(c.Name))
	}
	window, from, bill := "fa.resets_at > $1::timestamptz", "$2::timestamptz", ""
	first, group := "min(u.at)", "u.subject_id"
	switch l.Window.Kind {
	case loops.Lifetime:
		window = "false" // what is stored is the window of an earlier plan
	case loops.Rolling:
		window = "false"
		first = fmt.Sprintf("date_bin('%d seconds', u.at, timestamptz '1970-01-01 00:00:00+00')", int64(l.Window.Period.Resolution().Seconds()))
		group = "u.subject_id, " + first
	case loops.Billing:
		from, bill = "coalesce(bill.start, $2::timestamptz)", " LEFT JOIN unnest($5::text[], $6::timestamptz[]) AS bill (subject_id, start) ON bill.subject_id = u.subject_id"
		since = "$4::timestamptz IS NOT NULL"
	}
	closed := "CASE WHEN fa.resets_at <= $1 THEN fa.resets_at END"
	if l.Window.Kind == loops.Rolling {
		closed = "NULL"
	}
	return fmt.Sprintf(`SELECT u.subject_id, greatest(least(sum(u.n), %d), %d)::bigint AS used, %s AS first, bool_or(u.n < 0) AS credit
		FROM (SELECT %s AS subject_id, %s AS at, %s AS n FROM %s WHERE %s AND %s AND %s) u
		LEFT JOIN %s fa ON fa.subject_id = u.subject_id AND fa.feature = $3
		LEFT JOIN tiergate.subject back ON back.subject_id = u.subject_id AND back.since IS NOT NULL%s
		WHERE CASE WHEN %s THEN u.at >= fa.period_start AND u.at < fa.resets_at
			ELSE u.at >= greatest(%s, fa.closed_at, back.since, %s) END
		GROUP BY %s`,
		int64(math.MaxInt64), int64(math.MinInt64), first, textOf(w, loops.FieldSubject), at, quantity, ident(w.Schema, w.Table),
		somebody(w), counted, since, access, bill, window, from, closed, group)
}

// afreshSQL adds the subjects of whom a tally finds nothing, or nothing in a bucket, to those of whom it does.
func afreshSQL(tally, access string, kind loops.WindowKind) string {
	query := fmt.Sprintf(`WITH t AS (%s) SELECT * FROM t UNION ALL
		SELECT fa.subject_id, 0, NULL, false FROM %s fa LEFT JOIN t USING (subject_id)
		WHERE fa.feature = $3 AND fa.subject_id <> '*' AND fa.used <> 0 AND t.subject_id IS NULL`, tally, access)
	if kind == loops.Rolling {
		query += ` UNION ALL SELECT b.subject_id, 0, b.start, false FROM tiergate.bucket b LEFT JOIN t ON t.subject_id = b.subject_id AND t.first = b.start
			WHERE b.feature = $3 AND t.subject_id IS NULL`
	}
	return query
}

// mirrorSQL lists how a table of state differs from what is kept of it: each row's key, whether the row is
// gone, and these fields. Events have none.
func mirrorSQL(w *loops.Watch) (query string, fields []loops.Field) {
	switch {
	case w.Role == loops.Users:
		return usersSQL(w), []loops.Field{loops.FieldSubject, loops.FieldEmail, loops.FieldName, loops.FieldCustomer}
	case w.Role == loops.Subscriptions:
		return subscriptionsSQL(w), []loops.Field{loops.FieldSubject, loops.FieldStatus, loops.FieldPlan, loops.FieldPrice,
			loops.FieldCustomer, loops.FieldPeriodStart, loops.FieldPeriodEnd}
	case w.Gauge():
		return gaugesSQL(w), gaugeFields()
	default:
		return "", nil
	}
}

// usersSQL lists how the users table differs from what is stored: rows to take over, and rows gone.
func usersSQL(w *loops.Watch) string {
	return fmt.Sprintf(`SELECT coalesce(u.key, s.user_key) AS key, u.key IS NULL AS gone, u.subject_id, u.email, u.name, u.customer
		FROM (SELECT %s AS key, nullif(%s, '') AS subject_id, nullif(%s, '') AS email, nullif(%s, '') AS name, nullif(%s, '') AS customer FROM %s WHERE %s) u
		FULL JOIN (SELECT * FROM tiergate.subject WHERE user_key IS NOT NULL) s ON s.user_key = u.key
		WHERE u.key IS NULL OR s.user_key IS NULL OR u.subject_id IS DISTINCT FROM s.subject_id
			OR u.email IS DISTINCT FROM s.email OR u.name IS DISTINCT FROM s.name
			OR (%t AND u.customer IS DISTINCT FROM s.customer)`,
		keyOf(w), textOf(w, loops.FieldSubject), textOf(w, loops.FieldEmail), textOf(w, loops.FieldName), textOf(w, loops.FieldCustomer),
		ident(w.Schema, w.Table), somebody(w), w.Has(loops.FieldCustomer))
}

// subscriptionsSQL lists how the subscriptions table differs from its mirror.
func subscriptionsSQL(w *loops.Watch) string {
	return fmt.Sprintf(`SELECT coalesce(u.key, m.key) AS key, u.key IS NULL AS gone, u.subject_id, u.status, u.plan, u.price, u.customer,
			u.period_start::text, u.period_end::text
		FROM (SELECT %s AS key, %s AS subject_id, %s AS status, %s AS plan, %s AS price, %s AS customer,
			%s AS period_start, %s AS period_end FROM %s WHERE %s) u
		FULL JOIN tiergate.subscription m ON m.key = u.key
		WHERE u.key IS NULL OR m.key IS NULL OR u.subject_id IS DISTINCT FROM m.subject_id
			OR lower(btrim(coalesce(u.status, ''))) <> m.status OR coalesce(u.plan, '') <> m.plan OR coalesce(u.price, '') <> m.price
			OR coalesce(u.customer, '') <> m.customer OR u.period_start IS DISTINCT FROM m.period_start
			OR u.period_end IS DISTINCT FROM m.period_end`,
		keyOf(w), textOf(w, loops.FieldSubject), textOf(w, loops.FieldStatus), textOf(w, loops.FieldPlan), textOf(w, loops.FieldPrice),
		textOf(w, loops.FieldCustomer), spanOf(w, loops.FieldPeriodStart), spanOf(w, loops.FieldPeriodEnd), ident(w.Schema, w.Table), somebody(w))
}
