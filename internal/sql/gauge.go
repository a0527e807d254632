package sql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// gaugeFields are what the mirror keeps of a usage row that holds a count.
func gaugeFields() []loops.Field {
	return []loops.Field{loops.FieldSubject, loops.FieldEndpoint, loops.FieldMethod, loops.FieldFeature, loops.FieldCount}
}

// mirrorOf is the mirror of a gauge, watched as the table itself is: by the same columns.
func mirrorOf(w *loops.Watch) *loops.Watch {
	m := &loops.Watch{Role: w.Role, Schema: "tiergate", Table: "gauge", Key: []string{"key"}, Columns: map[loops.Field]loops.Column{}}
	names := []string{"subject_id", "endpoint", "method", "feature", "value"}
	for i, f := range gaugeFields() {
		if w.Has(f) {
			m.Columns[f] = loops.Column{Name: names[i]}
		}
	}
	return m
}

// valueOf is what a row of a gauge holds.
func valueOf(w *loops.Watch) string {
	return "coalesce(" + ident(w.Columns[loops.FieldCount].Name) + ", 0)::bigint"
}

// gaugesSQL lists how a gauge differs from its mirror: rows to take over, and rows gone.
func gaugesSQL(w *loops.Watch) string {
	return fmt.Sprintf(`SELECT coalesce(u.key, m.key) AS key, u.key IS NULL AS gone, u.subject_id, u.endpoint, u.method, u.feature, u.value::text
		FROM (SELECT %s AS key, %s AS subject_id, coalesce(%s, '') AS endpoint, coalesce(%s, '') AS method, coalesce(%s, '') AS feature, %s AS value
			FROM %s WHERE %s) u
		FULL JOIN tiergate.gauge m ON m.key = u.key
		WHERE u.key IS NULL OR m.key IS NULL
			OR (u.subject_id, u.endpoint, u.method, u.feature, u.value) IS DISTINCT FROM (m.subject_id, m.endpoint, m.method, m.feature, m.value)`,
		keyOf(w), textOf(w, loops.FieldSubject), textOf(w, loops.FieldEndpoint), textOf(w, loops.FieldMethod), textOf(w, loops.FieldFeature),
		valueOf(w), ident(w.Schema, w.Table), somebody(w))
}

// readSQL lists the subjects for whom a loop's count is not what their rows add up to, or still has a
// window: the subject, the sum, and now. $1 is the feature.
func readSQL(w *loops.Watch, l *loops.Loop, access string) string {
	return fmt.Sprintf(`SELECT coalesce(u.subject_id, fa.subject_id) AS subject_id, coalesce(u.used, 0) AS used, now() AS first, false AS credit
		FROM (SELECT %s AS subject_id, least(greatest(0, sum(%s)), 9223372036854775807)::bigint AS used FROM %s WHERE %s AND %s GROUP BY 1) u
		FULL JOIN (SELECT * FROM %s WHERE feature = $1 AND subject_id <> '*') fa ON fa.subject_id = u.subject_id
		WHERE fa.used IS DISTINCT FROM coalesce(u.used, 0) OR fa.resets_at IS NOT NULL`,
		textOf(w, loops.FieldSubject), valueOf(w), ident(w.Schema, w.Table), somebody(w), matches(w, l), access)
}

// queueGauges loads the mirror of subjects' rows.
func queueGauges(batch *pgx.Batch, st *loops.State, ids []string) {
	batch.Queue(`SELECT key, subject_id, endpoint, method, feature, value FROM tiergate.gauge WHERE subject_id = ANY($1)`, ids).
		Query(func(rows pgx.Rows) error {
			var g loops.Gauge
			_, err := pgx.ForEachRow(rows, []any{&g.Key, &g.Subject, &g.Endpoint, &g.Method, &g.Feature, &g.Value}, func() error {
				st.LoadGauge(g)
				return nil
			})
			return err
		})
}

func writeGauges(batch *pgx.Batch, w loops.Written) {
	if len(w.GoneGauges) > 0 {
		batch.Queue(`DELETE FROM tiergate.gauge WHERE key = ANY($1)`, w.GoneGauges)
	}
	if len(w.Gauges) > 0 {
		batch.Queue(`INSERT INTO tiergate.gauge (key, subject_id, endpoint, method, feature, value)
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
			ON CONFLICT (key) DO UPDATE SET subject_id = EXCLUDED.subject_id, endpoint = EXCLUDED.endpoint, method = EXCLUDED.method,
				feature = EXCLUDED.feature, value = EXCLUDED.value`,
			column(w.Gauges, func(g *loops.Gauge) string { return g.Key }),
			column(w.Gauges, func(g *loops.Gauge) string { return g.Subject }),
			column(w.Gauges, func(g *loops.Gauge) string { return g.Endpoint }),
			column(w.Gauges, func(g *loops.Gauge) string { return g.Method }),
			column(w.Gauges, func(g *loops.Gauge) string { return g.Feature }),
			column(w.Gauges, func(g *loops.Gauge) int64 { return g.Value }))
	}
}

// verifyGauge compares a loop's counts with what the mirrored rows add up to: one moment sees both. The
// mirror itself is compared with the table as every mirror is.
func (s *Store) verifyGauge(ctx context.Context, l *loops.Loop, report *Report) error {
	var compared int
	err := s.conn.QueryRow(ctx, `SELECT count(*) FROM `+s.access+` WHERE feature = $1 AND subject_id <> '*'`, l.Feature).Scan(&compared)
	if err != nil {
		return explain("read the flags", err)
	}
	report.Compared += compared
	rows, err := s.conn.Query(ctx, `SELECT d.subject_id, $1::text, 'lost', format('used is %s, its rows add up to %s', coalesce(fa.used, 0), d.used)
		FROM (`+readSQL(mirrorOf(s.usage()), l, s.access)+`) d LEFT JOIN `+s.access+` fa ON fa.subject_id = d.subject_id AND fa.feature = $1
		WHERE NOT EXISTS (SELECT FROM tiergate.subject s WHERE s.subject_id = d.subject_id AND s.deleted) LIMIT 100`, l.Feature)
	if err != nil {
		return explain("compare the flags", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Finding])
	report.Findings = append(report.Findings, found...)
	return explain("compare the flags", err)
}
