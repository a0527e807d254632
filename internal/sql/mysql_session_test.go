package sql

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tiergate/tiergate/internal/loops"
)

func TestMySQLText(t *testing.T) {
	text := newMySQLText()
	text.clock = "UTC_TIMESTAMP(6)"
	early := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		query string
		args  []any
		want  string
		given []any
	}{
		{`SELECT "a$1" FROM tiergate.meta WHERE b = '$1 tiergate.x' AND c = $2 OR d = $1 OR e = $2`, []any{1, "x"},
			`SELECT "a$1" FROM tiergate_meta WHERE b = '$1 tiergate.x' AND c = ? OR d = ? OR e = ?`, []any{"x", 1, "x"}},
		{`SELECT 1 WHERE a = ANY($1) AND b <> ALL($2)`, []any{[]string{"x", "y"}, []int64{}},
			`SELECT 1 WHERE a IN (?,?) AND b NOT IN (SELECT 1 FROM DUAL WHERE FALSE)`, []any{"x", "y"}},
		{`INSERT INTO tiergate.due (a) VALUES ($1::timestamptz) ON CONFLICT (subject_id, "key") DO UPDATE SET at = EXCLUDED.at`, []any{early},
			`INSERT INTO tiergate_due (a) VALUES (CAST(? AS DATETIME(6))) ON DUPLICATE KEY UPDATE at = VALUES(at)`, []any{time.Date(1000, 1, 2, 0, 0, 0, 0, time.UTC)}},
		{`SELECT tiergate.now(), $1::jsonb FOR NO KEY UPDATE SKIP LOCKED`, []any{"{}"}, `SELECT UTC_TIMESTAMP(6), ? FOR UPDATE SKIP LOCKED`, []any{"{}"}},
		{`SELECT 'it''s $1', ?`, []any{7}, `SELECT 'it''s $1', ?`, []any{7}},
	} {
		got, given := text.of(c.query, c.args)
		if got != c.want || !cmp.Equal(given, c.given) {
			t.Errorf("%s\n got %s %v\nwant %s %v", c.query, got, given, c.want, c.given)
		}
	}
}

// TestMySQLView counts as of a view of the change stream: what was inserted since is not in it.
func TestMySQLView(t *testing.T) { t.Run("mysql", testMySQLView) }

func testMySQLView(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	db, err := OpenMySQL(a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	views := NewMySQLViews(db, a.watches)
	view, err := views.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'u' || i, '/api/features/1', 'POST' FROM generate_series(1, 6) i`)
	released := false
	s := a.store()
	s.Close()
	s = NewStore(Options{URL: a.url, Schema: a.schema, Plan: a.plan, Watches: a.watches, Term: a.term(), Log: quiet, Gauges: noGauges{}, View: views.Session})
	defer s.Close()
	at := loops.Snapshot{Name: view.Name, At: loops.Position(fmt.Sprintf(`{"file":%q,"offset":%d}`, view.File, view.Offset)), Release: func() { released = true; view.Release() }}
	if err := s.Count(t.Context(), at, a.decider()); err != nil {
		t.Fatal(err)
	}
	if !released {
		t.Error("the view is not let go")
	}
	a.expect(`SELECT concat_ws(' ', subject_id, used) FROM feature_access WHERE subject_id <> '*'`, "ann 1")
	a.expect(`SELECT position FROM tiergate.checkpoint`, string(at.At))
	a.reports(s)
}

// reports looks at what is told of an installation that follows a stream.
func (a *app) reports(s *Store) {
	a.t.Helper()
	ctx := a.t.Context()
	st, err := ReadStatus(ctx, a.own, a.schema)
	if err != nil || st.Mode != "streaming" || st.LagBytes == 0 || st.Subjects != 1 || len(st.Features) != 1 || !st.Features[0].Counted || st.Running {
		a.t.Errorf("%+v %v", st, err)
	}
	if _, emails, err := Backlog(ctx, a.own); err != nil || len(emails) != 3 {
		a.t.Error(emails, err)
	}
	if err := RequireInstalled(ctx, a.own); err != nil {
		a.t.Error(err)
	}
	file, offset, err := binlogEnd(ctx, a.own)
	if err != nil {
		a.t.Fatal(err)
	}
	// The stream comes to what else there is, and past the marker of whoever verifies.
	a.exec(fmt.Sprintf(`UPDATE tiergate.checkpoint SET position = '{"file":"%s","offset":%d}'`, file, offset+1e6))
	if err := Intact(ctx, a.own, a.schema); err != nil {
		a.t.Error(err)
	}
	verify := func() (found []string) {
		conn, err := Connect(ctx, a.url, ForVerify)
		if err != nil {
			a.t.Fatal(err)
		}
		defer conn.End()
		report, err := Verify(ctx, conn, Options{Schema: a.schema, Plan: a.plan, Watches: a.watches})
		if err != nil {
			a.t.Fatal(err)
		}
		for _, f := range report.Findings {
			found = append(found, strings.Join([]string{f.Subject, f.Problem, f.Detail}, " "))
		}
		slices.Sort(found)
		return found
	}
	if found := verify(); len(found) != 6 || !strings.HasPrefix(found[0], "u1 lost no row") {
		a.t.Errorf("%q", found)
	}
	a.count(s)
	a.exec(`UPDATE feature_access SET used = 0, allowed = false WHERE subject_id = 'ann'; INSERT INTO users VALUES ('bob', 'b@x.test', 'Bob')`)
	a.exec(fmt.Sprintf(`UPDATE tiergate.checkpoint SET position = '{"file":"%s","offset":%d}'`, file, offset+1e6))
	if found := verify(); len(found) != 3 || !strings.HasPrefix(found[0], "ann flag allowed is false at 0 of 2") || found[1] != "ann lost used is 0, the table has at least 1" ||
		!strings.HasPrefix(found[2], "bob tier") {
		a.t.Errorf("%q", found)
	}
	if err := Resync(ctx, a.own, true); err != nil {
		a.t.Error(err)
	}
	if got := a.lines(`SELECT value FROM tiergate.meta WHERE "key" = 'counted'`); !slices.Equal(got, []string{`{"down":true}`}) {
		a.t.Error(got)
	}
}

// TestMySQLCatalog describes tables as recognition needs them.
func TestMySQLCatalog(t *testing.T) {
	a := newMySQLApp(t)
	a.exec(`CREATE TABLE "Usage" (id BIGINT PRIMARY KEY, "userId" CHAR(36) UNIQUE, double_id BIGINT AS (id * 2) VIRTUAL)`)
	a.exec(`CREATE TABLE pairs (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE KEY nullable (a), UNIQUE KEY both_of (b, c))`)
	a.exec(`CREATE VIEW seen AS SELECT id FROM "Usage"`)
	if _, err := Install(t.Context(), a.own, InstallOptions{Schema: a.schema}); err != nil {
		t.Fatal(err)
	}
	got, err := Catalog(t.Context(), a.own)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		got[i].Shape = ""
		slices.Sort(got[i].Unique)
		for j := range got[i].Columns {
			got[i].Columns[j].Type, _, _ = strings.Cut(got[i].Columns[j].Type, "(")
		}
	}
	want := []Table{
		{Schema: a.schema, Name: "Usage", Kind: "r", Columns: []Column{{"id", "bigint"}, {"userId", "char"}}, Key: []string{"id"}, Unique: []string{"id", "userId"}},
		{Schema: a.schema, Name: "pairs", Kind: "r", Columns: []Column{{"a", "int"}, {"b", "int"}, {"c", "int"}}, Key: []string{"b", "c"}, Unique: []string{"a"}},
		{Schema: a.schema, Name: "seen", Kind: "v", Columns: []Column{{"id", "bigint"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if schema, err := CurrentSchema(t.Context(), a.own); err != nil || schema != a.schema {
		t.Error(schema, err)
	}
	if err := Uninstall(t.Context(), a.own, a.schema); err != nil {
		t.Fatal(err)
	}
	if left, err := Catalog(t.Context(), a.own); err != nil || len(left) != 3 {
		t.Error(left, err)
	}
	a.expect(`SELECT count(*) FROM information_schema.tables t WHERE t.table_schema = DATABASE()`, "3")
	a.expect(`SELECT count(*) FROM information_schema.routines r WHERE r.routine_schema = DATABASE()`, "0")
}
