package sql

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestLiterals sends constants and names to the server and back.
func TestLiterals(t *testing.T) {
	a := newApp(t)
	rapid.Check(t, func(t *rapid.T) {
		s := strings.ReplaceAll(rapid.OneOf(rapid.String(), rapid.StringMatching(`['"\\$;\-/*%a\n]{0,12}`)).Draw(t, "text"), "\x00", "")
		s = strings.ToValidUTF8(s, "?")
		for _, standard := range []string{"on", "off"} {
			var got string
			if err := a.conn.QueryRow(a.t.Context(), `SELECT set_config('standard_conforming_strings', $1, false)`, standard).Scan(&got); err != nil {
				t.Fatal(err)
			}
			query := "SELECT" + literal(s) + "::text"
			if err := a.conn.QueryRow(a.t.Context(), query).Scan(&got); err != nil || got != s {
				t.Fatalf("with standard_conforming_strings %s %s came back as %q: %v", standard, query, got, err)
			}
		}
		name := s
		for len(name) > 63 || !strings.HasPrefix(s, name) {
			name = strings.ToValidUTF8(name[:len(name)-1], "")
		}
		if name == "" {
			return
		}
		rows, err := a.conn.Query(a.t.Context(), "SELECT 1 AS "+ident(name))
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		if got := rows.FieldDescriptions()[0].Name; got != name {
			t.Fatalf("the name %q came back as %q", name, got)
		}
	})
}

// TestPatternsMatchAlike holds that count and stream agree on which rows belong to a loop.
func TestPatternsMatchAlike(t *testing.T) { onBoth(t, testPatternsMatchAlike) }

func testPatternsMatchAlike(t *testing.T) {
	a := newEmpty(t)
	w := watch(loops.Usage, "usage", nil, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "subject"},
		loops.FieldEndpoint: {Name: "endpoint"}, loops.FieldMethod: {Name: "method"}})
	alphabet := `[/a*.?()\[\]{}+^$|\\é\n %:-]{0,9}`
	rapid.Check(t, func(t *rapid.T) {
		l := features(loops.Unlimited)
		l.Window = loops.Window{Kind: loops.Lifetime}
		l.Trigger.Endpoint = rapid.OneOf(rapid.StringMatching(alphabet), rapid.SampledFrom([]string{"/api/**", "/**/x", "**", "/*", "/a/*/b", "/***"})).Draw(t, "pattern")
		l.Trigger.Method = rapid.SampledFrom([]string{"", "POST"}).Draw(t, "method")
		words := rapid.OneOf(rapid.StringMatching(alphabet), rapid.SampledFrom([]string{"/api", "/api/x/y", "/a/1/b", "/x", "/a/x?q=/", "//", "/a/b/", l.Trigger.Endpoint}))
		endpoints := rapid.SliceOfN(words, 1, 12).Draw(t, "endpoints")
		methods := make([]string, len(endpoints))
		d := loops.NewDecider(planOf(l), []loops.Watch{w})
		st := loops.NewState(time.Now(), 0, 1)
		var changes []loops.Change
		for i, endpoint := range endpoints {
			methods[i] = rapid.SampledFrom([]string{"POST", "post", "GET", ""}).Draw(t, "its method")
			changes = append(changes, loops.Change{Role: loops.Usage, Op: loops.Insert, Use: loops.Use{Subject: fmt.Sprint("s", i), Endpoint: endpoint, Method: methods[i], Quantity: 1}})
		}
		if err := d.Decide(st, loops.Batch{Changes: changes}); err != nil {
			t.Fatal(err)
		}
		places := make([]int64, len(endpoints))
		for i := range places {
			places[i] = int64(i)
		}
		var args []any
		table := a.own.inline(&args, "u", field{name: "endpoint", kind: "text", values: endpoints}, field{name: "method", kind: "text", values: methods},
			field{name: "n", kind: "bigint", values: places})
		rows, err := a.own.Query(a.t.Context(), `SELECT `+source{Watch: &w, dialect: a.own.dialect}.matches(&l)+` FROM `+table+` ORDER BY n`, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for i := 0; rows.Next(); i++ {
			var counted bool
			if err := rows.Scan(&counted); err != nil {
				t.Fatal(err)
			}
			if streamed := st.Subjects[fmt.Sprint("s", i)].Access[0] != nil; streamed != counted {
				t.Fatalf("%s %q and %s %q: the stream says %t, the count %t", l.Trigger.Method, l.Trigger.Endpoint, methods[i], endpoints[i], streamed, counted)
			}
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
	})
}

// TestTimesAlike holds that the stream's reading of a timestamp is the server's, in every zone.
func TestTimesAlike(t *testing.T) { onBoth(t, testTimesAlike) }

func testTimesAlike(t *testing.T) {
	a := newEmpty(t)
	kind := "timestamp without time zone"
	if a.conn == nil {
		kind = "datetime(6)"
	}
	a.exec(`CREATE TABLE times (at ` + strings.TrimSuffix(kind, " without time zone") + `)`)
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Santiago", "Africa/Cairo", "Europe/Dublin"}
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2016, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 12*365*24*3600).Draw(t, "at")) * time.Second)
		if _, change := at.In(zone).ZoneBounds(); !change.IsZero() && rapid.Bool().Draw(t, "near a clock change") {
			_, offset := change.In(zone).Zone()
			at = change.Add(time.Duration(offset+rapid.IntRange(-9000, 9000).Draw(t, "seconds from it")) * time.Second).UTC()
		}
		text := at.Format(time.DateTime)
		var want time.Time
		a.exec(`DELETE FROM times`)
		a.exec(`INSERT INTO times VALUES ('` + text + `')`)
		if err := a.own.QueryRow(a.t.Context(), `SELECT `+a.own.moment("at", kind, zone)+` FROM times`).Scan(&want); err != nil {
			t.Fatal(err)
		}
		if got, err := loops.ParseTime(text, zone); err != nil || !got.Equal(want) {
			t.Fatalf("%s in %s: the stream says %s, the server %s, %v", text, zone, got, want.UTC(), err)
		}
	})
}

// TestCountAgreesWithStream counts random rows of an unconventional table, and lets a decider see the
// same rows one by one.
func TestCountAgreesWithStream(t *testing.T) {
	for _, subject := range []string{"uuid", "bigint", "text", "varchar(40)"} {
		t.Run(subject, func(t *testing.T) {
			a := newApp(t)
			a.exec(`CREATE SCHEMA "My App"; CREATE TYPE "My App".verb AS ENUM ('POST', 'GET')`)
			a.exec(`CREATE TABLE "My App"."Usage ""Log""" ("userId" ` + subject + `, "the path" varchar(200), "Verb" "My App".verb, "createdAt" timestamp, n smallint, "statusCode" int)`)
			zone, err := time.LoadLocation("America/New_York")
			if err != nil {
				t.Fatal(err)
			}
			w := loops.Watch{Role: loops.Usage, Schema: "My App", Table: `Usage "Log"`, Zone: zone, Columns: map[loops.Field]loops.Column{
				loops.FieldSubject: {Name: "userId", Type: subject}, loops.FieldEndpoint: {Name: "the path"}, loops.FieldMethod: {Name: "Verb"},
				loops.FieldAt: {Name: "createdAt", Type: "timestamp without time zone"}, loops.FieldQuantity: {Name: "n"}, loops.FieldStatus: {Name: "statusCode"}}}
			a.watches = []loops.Watch{w}
			lifetime, daily := features(5), features(5)
			lifetime.Feature, lifetime.Window, lifetime.Trigger = "all", loops.Window{Kind: loops.Lifetime}, loops.Trigger{Kind: loops.OnAPI, Endpoint: "/**"}
			daily.Feature, daily.Window = "daily", loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay}, Zone: zone}
			a.plan = planOf(features(5), lifetime, daily)
			a.install()
			for _, n := range []int{0, 1, 5, 17, 40, 60} {
				a.exec(`TRUNCATE "My App"."Usage ""Log""", tiergate.subject, tiergate.access_event, public.feature_access`)
				a.exec(`DELETE FROM tiergate.meta WHERE key IN ('plan', 'counted')`)
				a.exec(`INSERT INTO "My App"."Usage ""Log"""
					SELECT CASE $2 WHEN 'uuid' THEN md5((i % 3)::text)::uuid::text ELSE (i % 3)::text END::`+subject+`,
						(ARRAY['/api/features/1', '/api/features/2?x=/', '/other', NULL])[1 + i * 7 % 4], (ARRAY['POST', 'GET', NULL])[1 + i * 5 % 3]::"My App".verb,
						now() AT TIME ZONE 'America/New_York' - (i * i % 40) * interval '17 hours' - interval '2 minutes', (ARRAY[1, 3, NULL, 0])[1 + i % 4], (ARRAY[200, 399, 400, NULL])[1 + i * 3 % 4]
					FROM (SELECT i + $3::int AS i FROM generate_series(1, $1::int) i) g`, n, subject, 13*n)
				a.count(a.store())
				st := a.streamed(t, &a.watches[0])
				for _, line := range a.lines(`SELECT format('%s|%s|%s', subject_id, feature, used) FROM public.feature_access WHERE subject_id <> '*' ORDER BY 1`) {
					part := strings.Split(line, "|")
					i := map[string]int{"features": 0, "all": 1, "daily": 2}[part[1]]
					want := int64(0)
					if sub := st.Subjects[part[0]]; sub != nil && sub.Access[i] != nil {
						want = sub.Access[i].Used
					}
					if part[2] != fmt.Sprint(want) {
						t.Fatalf("%s: the count says %s, the stream %d", line, part[2], want)
					}
				}
				for id, sub := range st.Subjects {
					for i, row := range sub.Access {
						if row == nil || row.Used == 0 {
							continue
						}
						if n := a.lines(`SELECT used::text FROM public.feature_access WHERE subject_id = $1 AND feature = $2`, id, a.plan.Loops[i].Feature); len(n) != 1 {
							t.Fatalf("%s has %d uses of %s and no row", id, row.Used, a.plan.Loops[i].Feature)
						}
					}
				}
			}
		})
	}
}

// streamed lets a decider see the rows of the usage table that a first count looks at, in order.
func (a *app) streamed(t *testing.T, w *loops.Watch) *loops.State {
	d := a.decider()
	var now time.Time
	a.scan(`SELECT now()`, &now)
	st := loops.NewState(now, 0, len(a.plan.Loops))
	for i := range a.plan.Loops {
		// A first count begins at each window's horizon.
		one := loops.NewState(now, 0, len(a.plan.Loops))
		rows, err := a.conn.Query(a.t.Context(), `SELECT coalesce("userId"::text, ''), coalesce("the path", ''), coalesce("Verb"::text, ''), coalesce(n, 1)::bigint, coalesce("statusCode", 0), "createdAt"::text
			FROM "My App"."Usage ""Log""" WHERE ("createdAt" AT TIME ZONE 'America/New_York') >= $1 ORDER BY "createdAt"`, a.plan.Loops[i].Window.Horizon(now))
		if err != nil {
			t.Fatal(err)
		}
		var changes []loops.Change
		for rows.Next() {
			var u loops.Use
			var status int
			var at string
			if err := rows.Scan(&u.Subject, &u.Endpoint, &u.Method, &u.Quantity, &status, &at); err != nil {
				t.Fatal(err)
			}
			if u.At, err = loops.ParseTime(at, w.Zone); err != nil {
				t.Fatal(err)
			}
			u.Refused = status >= 400
			changes = append(changes, loops.Change{Role: loops.Usage, Op: loops.Insert, Committed: now, Use: u})
		}
		if rows.Err() != nil {
			t.Fatal(rows.Err())
		}
		if err := d.Decide(one, loops.Batch{Changes: changes}); err != nil {
			t.Fatal(err)
		}
		for id, sub := range one.Subjects {
			if st.Subjects[id] == nil {
				st.Load(loops.Subject{ID: id, Tier: loops.DefaultTier})
			}
			st.Subjects[id].Access[i] = sub.Access[i]
		}
	}
	return st
}

// TestWhatWasReadDoesNotDiffer holds that the mirrors agree with their tables after a count: whatever
// differs for ever would be read again and again, and reported by verify.
func TestWhatWasReadDoesNotDiffer(t *testing.T) { onBoth(t, testWhatWasReadDoesNotDiffer) }

func testWhatWasReadDoesNotDiffer(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@example.com', 'Ann'), ('bob', NULL, ''), ('', 'nobody@example.com', 'N'), ('*', 'star@example.com', 'S')`)
	a.exec(`INSERT INTO subscriptions VALUES ('1', 'ann', ' Active', 'pro', '9999-12-31'), ('2', 'ann', 'ACTIVE', NULL, '1000-01-01'), ('3', NULL, 'active', 'pro', now()),
		('4', '', 'active', 'pro', now()), ('5', '*', 'active', 'pro', now()), ('6', 'bob', NULL, '', NULL), ('7', 'bob', 'canceled', 'x', '9999-12-31 23:59:59'),
		('8', 'bob', 'canceled', 'x', now()), ('9', 'bob', 'canceled', 'x', '2026-03-15')`)
	if !isOnMySQL(t) { // whose times are finite
		a.exec(`UPDATE subscriptions SET current_period_end = 'infinity' WHERE id = '1'; UPDATE subscriptions SET current_period_end = '-infinity' WHERE id = '2';
			UPDATE subscriptions SET current_period_end = '12000-01-01' WHERE id = '8'; UPDATE subscriptions SET current_period_end = '0044-03-15 BC' WHERE id = '9'`)
	}
	store := a.store()
	a.count(store)
	for _, w := range a.watches[1:] {
		query, _ := store.source(&w).mirrorSQL()
		if got := a.lines(`SELECT d."key" FROM (` + query + `) d`); len(got) > 0 {
			t.Errorf("%s differ after they were read: %q", w.Table, got)
		}
	}
	a.expect(`SELECT subject_id || ' ' || tier FROM tiergate.subject ORDER BY 1`, "ann paid", "bob paid")
	a.expect(`SELECT DISTINCT subject_id FROM feature_access ORDER BY 1`, "*", "ann", "bob")

	// What changed while nobody looked is found: new, altered, gone, moved to another owner, orphaned.
	a.exec(`INSERT INTO users VALUES ('cid', 'c@example.com', 'Cid'); DELETE FROM users WHERE id = 'bob'; UPDATE users SET email = 'a@example.com' WHERE id = 'ann'`)
	a.exec(`UPDATE subscriptions SET user_id = 'cid' WHERE id = '1'; UPDATE subscriptions SET user_id = NULL WHERE id = '2'; DELETE FROM subscriptions WHERE id = '7'`)
	a.count(store)
	a.expect(`SELECT concat_ws(' ', subject_id, tier, email, CASE WHEN deleted THEN 'deleted' END) FROM tiergate.subject ORDER BY 1`, "ann free a@example.com", "bob free deleted", "cid paid c@example.com")
	a.expect(`SELECT DISTINCT subject_id FROM feature_access ORDER BY 1`, "*", "ann", "cid")
	a.expect(`SELECT "key" FROM tiergate.subscription ORDER BY 1`, "1", "6", "8", "9")
}

// TestHugeQuantities holds that no number stops a count.
func TestHugeQuantities(t *testing.T) { onBoth(t, testHugeQuantities) }

func testHugeQuantities(t *testing.T) {
	a := newConventional(t)
	a.exec(`ALTER TABLE usage ADD quantity bigint`)
	a.watches[0].Columns[loops.FieldQuantity] = loops.Column{Name: "quantity", Type: "bigint"}
	a.exec(`INSERT INTO usage (user_id, endpoint, method, quantity) VALUES
		('ann', '/api/features/1', 'POST', 9223372036854775807), ('ann', '/api/features/1', 'POST', 5), ('bob', '/api/features/1', 'POST', -7)`)
	a.count(a.store())
	a.expect(`SELECT concat_ws(' ', subject_id, used, remaining, allowed) FROM feature_access WHERE subject_id <> '*' ORDER BY 1`, "ann 9223372036854775807 0 f", "bob -7 9 t")
}

// TestRollingCount counts into buckets, and afresh where the trigger becomes another one.
func TestRollingCount(t *testing.T) { onBoth(t, testRollingCount) }

func testRollingCount(t *testing.T) {
	a := newConventional(t)
	l := features(3)
	l.Window = loops.Window{Kind: loops.Rolling, Period: loops.Period{Text: "30d", Length: 30 * 24 * time.Hour}}
	a.plan = planOf(l)
	for _, age := range []string{"1", "1", "50", "100", "900"} {
		a.exec(`INSERT INTO usage (user_id, endpoint, method, created_at) VALUES ('ann', '/api/features/1', 'POST', now() - interval '` + age + ` hours')`)
	}
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/2', 'POST'), ('bob', '/api/features/1?x=2', 'POST')`)
	s := a.store()
	for range 2 {
		a.counted(s)
		a.expect(`SELECT concat_ws(' ', subject_id, used, allowed) FROM feature_access WHERE subject_id <> '*' ORDER BY 1`, "ann 5 f", "bob 1 t")
		a.expect(`SELECT concat_ws(' ', subject_id, sum(used), min(start) < now() - interval '4 days', max(start) <= now()) FROM tiergate.bucket GROUP BY subject_id ORDER BY 1`, "ann 5 t t", "bob 1 f t")
	}
	l.Trigger.Endpoint = "/api/features/2"
	a.plan = planOf(l)
	s = a.resumed(true)
	a.join(s)
	a.expect(`SELECT concat_ws(' ', subject_id, used, allowed) FROM feature_access WHERE subject_id <> '*' ORDER BY 1`, "ann 1 t", "bob 0 t")
	a.expect(`SELECT concat_ws(' ', subject_id, sum(used)) FROM tiergate.bucket WHERE used <> 0 GROUP BY subject_id`, "ann 1")
}
