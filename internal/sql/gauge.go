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
func (s *Store) mirrorOf(w *loops.Watch) source {
	m := &loops.Watch{Role: w.Role, Schema: ownSchema, Table: "gauge", Key: []string{"key"}, Columns: map[loops.Field]loops.Column{}}
	names := []string{"subject_id", "endpoint", "method", "feature", "value"}
	for i, f := range gaugeFields() {
		if w.Has(f) {
			m.Columns[f] = loops.Column{Name: names[i]}
		}
	}
	return s.source(m)
}

// valueOf is what a row of a gauge holds.
func (t source) valueOf() string {
	return t.query("bigint", "coalesce("+ident(t.Columns[loops.FieldCount].Name)+", 0)")
}

// gaugesSQL lists how a gauge differs from its mirror: rows to take over, and rows gone.
func (t source) gaugesSQL() string {
	table := fmt.Sprintf(`(SELECT %s AS "key", %s AS subject_id, coalesce(%s, '') AS endpoint, coalesce(%s, '') AS method, coalesce(%s, '') AS feature, %s AS value
		FROM %s WHERE %s) u`, t.keyOf(), t.textOf(loops.FieldSubject), t.textOf(loops.FieldEndpoint), t.textOf(loops.FieldMethod), t.textOf(loops.FieldFeature),
		t.valueOf(), t.name(), t.somebody())
	return t.full(`coalesce(u."key", m."key") AS "key", u."key" IS NULL AS gone, u.subject_id, u.endpoint, u.method, u.feature, `+t.query("text", "u.value")+` AS value`,
		table, "tiergate.gauge m", `m."key" = u."key"`, `u."key" IS NULL`,
		`u."key" IS NULL OR m."key" IS NULL OR `+t.anyDiffers("m", "subject_id", "endpoint", "method", "feature", "value"))
}

// readSQL lists the subjects for whom a loop's count is not what their rows add up to, or still has a
// window: the subject, the sum, and now. $1 is the feature.
func (t source) readSQL(l *loops.Loop, access string) string {
	table := fmt.Sprintf(`(SELECT %s AS subject_id, %s AS used FROM %s WHERE %s AND %s GROUP BY 1) u`, t.textOf(loops.FieldSubject),
		t.query("bigint", "least(greatest(0, sum("+t.valueOf()+")), 9223372036854775807)"), t.name(), t.somebody(), t.matches(l))
	return t.full(`coalesce(u.subject_id, fa.subject_id) AS subject_id, coalesce(u.used, 0) AS used, tiergate.now() AS first, false AS credit`,
		table, `(SELECT * FROM `+access+` WHERE feature = $1 AND subject_id <> '*') fa`, `fa.subject_id = u.subject_id`, `u.subject_id IS NULL`,
		t.differs("fa.used", "coalesce(u.used, 0)")+` OR fa.resets_at IS NOT NULL`)
}

// queueGauges loads the mirror of subjects' rows.
func queueGauges(batch *pgx.Batch, st *loops.State, ids []string) {
	batch.Queue(`SELECT "key", subject_id, endpoint, method, feature, value FROM tiergate.gauge WHERE subject_id = ANY($1)`, ids).
		Query(func(rows pgx.Rows) error {
			var g loops.Gauge
			_, err := pgx.ForEachRow(rows, []any{&g.Key, &g.Subject, &g.Endpoint, &g.Method, &g.Feature, &g.Value}, func() error {
				st.LoadGauge(g)
				return nil
			})
			return err
		})
}

func (s *Store) writeGauges(batch *pgx.Batch, w loops.Written) {
	if len(w.GoneGauges) > 0 {
		batch.Queue(`DELETE FROM tiergate.gauge WHERE "key" = ANY($1)`, w.GoneGauges)
	}
	if len(w.Gauges) > 0 {
		s.insert(batch, "tiergate.gauge", `"key"`,
			each(`"key"`, "text", w.Gauges, func(g *loops.Gauge) string { return g.Key }),
			each("subject_id", "text", w.Gauges, func(g *loops.Gauge) string { return g.Subject }),
			each("endpoint", "text", w.Gauges, func(g *loops.Gauge) string { return g.Endpoint }),
			each("method", "text", w.Gauges, func(g *loops.Gauge) string { return g.Method }),
			each("feature", "text", w.Gauges, func(g *loops.Gauge) string { return g.Feature }),
			each("value", "bigint", w.Gauges, func(g *loops.Gauge) int64 { return g.Value }))
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
	rows, err := s.conn.Query(ctx, `SELECT d.subject_id, coalesce(fa.used, 0), d.used
		FROM (`+s.mirrorOf(s.usage()).readSQL(l, s.access)+`) d LEFT JOIN `+s.access+` fa ON fa.subject_id = d.subject_id AND fa.feature = $1
		WHERE NOT EXISTS (SELECT 1 FROM tiergate.subject s WHERE s.subject_id = d.subject_id AND s.deleted) LIMIT 100`, l.Feature)
	if err != nil {
		return explain("compare the flags", err)
	}
	var subject string
	var used, sum int64
	_, err = pgx.ForEachRow(rows, []any{&subject, &used, &sum}, func() error {
		report.add(subject, l.Feature, "lost", fmt.Sprintf("used is %d, its rows add up to %d", used, sum))
		return nil
	})
	return explain("compare the flags", err)
}
