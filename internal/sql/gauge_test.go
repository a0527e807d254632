package sql

import (
	"fmt"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestGaugeOfAnUnconventionalTable counts rows whose names and types are no usual ones, with NULLs, beyond
// what fits, of nobody, and of more subjects than one transaction takes.
func TestGaugeOfAnUnconventionalTable(t *testing.T) {
	a := newApp(t)
	a.exec(`CREATE SCHEMA "My App"; CREATE TYPE "My App".kind AS ENUM ('seats', 'exports')`)
	a.exec(`CREATE TABLE "My App"."Quota's" ("userId" uuid, "Kind" "My App".kind, "n" bigint, "at" date DEFAULT '2026-01-01', id int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (id, "at"))`)
	a.watches = []loops.Watch{{Role: loops.Usage, Schema: "My App", Table: `Quota's`, Zone: time.UTC, Key: []string{"id", "at"}, Columns: map[loops.Field]loops.Column{
		loops.FieldSubject: {Name: "userId", Type: "uuid"}, loops.FieldFeature: {Name: "Kind"}, loops.FieldCount: {Name: "n", Type: "bigint"}}}}
	seats := features(9)
	seats.Feature, seats.Trigger, seats.Window = "seats", loops.Trigger{Kind: loops.OnFeature}, loops.Window{Kind: loops.Lifetime}
	a.plan = planOf(seats)
	a.install()
	user := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }
	a.exec(`INSERT INTO "My App"."Quota's" ("userId", "Kind", n) SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, 'seats', 1 FROM generate_series(1, $1::int) i`, chunk+10)
	a.exec(`INSERT INTO "My App"."Quota's" ("userId", "Kind", n) VALUES (NULL, 'seats', 5), ($1, 'seats', 7), ($1, 'exports', 50), ($1, NULL, 50), ($2, 'seats', NULL), ($3, 'seats', -3),
		($4, 'seats', 9223372036854775807), ($4, 'seats', 9223372036854775807)`, user(1), user(2), user(3), user(4))
	const some = `SELECT concat_ws(' ', right(subject_id, 1), used, allowed) FROM feature_access WHERE subject_id LIKE '%00000000000_' AND subject_id < '00000000-0000-0000-0000-000000000006' AND subject_id <> '*' ORDER BY 1`
	a.count(a.store())
	a.expect(some, "1 8 t", "2 1 t", "3 0 t", "4 9223372036854775807 f", "5 1 t")
	a.expect(`SELECT DISTINCT silent::text FROM tiergate.access_event`, "true")

	// The same again is nobody's work; what changed meanwhile is taken over.
	a.exec(`UPDATE feature_access SET message = 'untouched'`)
	a.count(a.store())
	a.expect(`SELECT DISTINCT message FROM feature_access`, "untouched")
	a.exec(`DELETE FROM "My App"."Quota's" WHERE "userId" = $1 AND "Kind" = 'seats'`, user(4))
	a.exec(`UPDATE "My App"."Quota's" SET "userId" = $1 WHERE "userId" = $2 AND "Kind" = 'seats'`, user(5), user(1))
	a.count(a.store())
	a.expect(some, "1 0 t", "2 1 t", "3 0 t", "4 0 t", "5 9 f")

	w, l := &a.watches[0], &a.plan.Loops[0]
	s := a.store()
	differs, _ := s.source(w).mirrorSQL()
	a.expect(`SELECT count(*)::text FROM (`+differs+`) d`, "0")
	for _, from := range []source{s.source(w), s.mirrorOf(w)} {
		if found := a.lines(`SELECT d.subject_id FROM (`+from.readSQL(l, `public.feature_access`)+`) d`, l.Feature); len(found) != 0 {
			t.Errorf("after a count %q differ from %s", found, from.Table)
		}
	}
}
