package sql

import (
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// counted counts the data as if a stream began there.
func (a *app) counted(s *Store) {
	a.t.Helper()
	if err := s.Count(a.t.Context(), loops.Snapshot{At: `{"end":"0/1"}`}, a.decider()); err != nil {
		a.t.Fatal(err)
	}
}

// resumed returns a store that stands where the last one stood, under the plan of now.
func (a *app) resumed(wantMissing bool) *Store {
	a.t.Helper()
	s := a.store()
	_, missing, err := s.Resume(a.t.Context())
	if err != nil || missing != wantMissing {
		a.t.Fatalf("loops are missing: %t, %v", missing, err)
	}
	return s
}

func (a *app) apply(s *Store, b loops.Batch) {
	a.t.Helper()
	if _, err := s.Apply(a.t.Context(), b, a.decider()); err != nil {
		a.t.Fatal(err)
	}
}

func exports(limit loops.Limit) loops.Loop {
	l := features(limit)
	l.Name, l.Feature, l.Trigger.Endpoint = "freemium.exports", "exports", "/api/exports"
	return l
}

func use(endpoint string, at time.Time) loops.Batch {
	return loops.Batch{Position: `{"end":"0/2"}`, Through: at, Changes: []loops.Change{{Role: loops.Usage, Op: loops.Insert, Committed: at,
		Use: loops.Use{Subject: "ann", Endpoint: endpoint, Method: "POST", Quantity: 1, At: at}}}}
}

// TestPlanTakenBack changes the plan and takes it back while only some rows have followed.
func TestPlanTakenBack(t *testing.T) { onBoth(t, testPlanTakenBack) }

func testPlanTakenBack(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users SELECT 'u' || i, 'u@x.test', 'n' FROM generate_series(1, 6) i`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'u' || i, '/api/features/1', 'POST' FROM generate_series(1, 6) i, generate_series(1, 3)`)
	a.plan = planOf(features(5))
	a.counted(a.store())
	a.plan = planOf(features(2))
	s := a.resumed(false)
	a.apply(s, loops.Batch{Position: s.at})
	a.plan = planOf(features(5))
	s = a.resumed(false)
	for range 10 {
		a.apply(s, loops.Batch{Position: s.at})
	}
	a.expect(`SELECT DISTINCT concat_ws(' ', allowed, usage_limit) FROM feature_access`, "t 5")
	a.expect(`SELECT usage_limit::text FROM tiergate.plan WHERE tier = 'free'`, "5")
}

// TestFeatureRemovedByPages removes a feature and is stopped halfway: what is left does not look emptied, and
// where the feature comes back it is counted.
func TestFeatureRemovedByPages(t *testing.T) { onBoth(t, testFeatureRemovedByPages) }

func testFeatureRemovedByPages(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'u' || i, '/api/exports', 'POST' FROM generate_series(1, 6) i, generate_series(1, 3)`)
	a.plan = planOf(features(2), exports(2))
	a.counted(a.store())
	a.plan = planOf(features(2))
	s := a.resumed(false)
	if err := Intact(t.Context(), a.own, a.schema); err != nil {
		t.Error(err)
	}
	a.apply(s, loops.Batch{Position: s.at})
	if err := Intact(t.Context(), a.own, a.schema); err != nil || a.install() {
		t.Error("a feature that is being removed looks as if somebody had emptied the table: ", err)
	}
	a.plan = planOf(features(2), exports(2))
	a.resumed(true)
}

// TestTriggerAndLimit changes both in one edit: nobody is blocked by what the old trigger counted.
func TestTriggerAndLimit(t *testing.T) { onBoth(t, testTriggerAndLimit) }

func testTriggerAndLimit(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@x.test', 'n')`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/1', 'POST' FROM generate_series(1, 30)`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/2', 'POST' FROM generate_series(1, 3)`)
	a.plan = planOf(features(100))
	a.counted(a.store())
	changed := features(10)
	changed.Trigger.Endpoint = "/api/features/2"
	a.plan = planOf(changed)
	s := a.resumed(true)
	a.apply(s, loops.Batch{Position: s.at})
	a.expect(`SELECT concat_ws(' ', used, allowed, usage_limit) FROM feature_access WHERE subject_id = 'ann'`, "33 t 100")
	a.join(s)
	a.apply(s, loops.Batch{Position: s.at})
	a.expect(`SELECT concat_ws(' ', used, allowed, usage_limit) FROM feature_access WHERE subject_id = 'ann'`, "3 t 10")
	a.expect(`SELECT concat_ws(' ', kind, used) FROM tiergate.access_event WHERE subject_id <> '' AND NOT silent`)
}

// join lets the missing loops in as of now.
func (a *app) join(s *Store) {
	a.t.Helper()
	tallies, err := s.Tally(a.t.Context(), loops.Snapshot{})
	if err != nil {
		a.t.Fatal(err)
	}
	defer tallies.Close()
	for done := false; !done; {
		if done, err = tallies.Enter(a.t.Context(), a.decider()); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := s.Admit(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// TestRefundWhilePolling gives back between two counts.
func TestRefundWhilePolling(t *testing.T) { onBoth(t, testRefundWhilePolling) }

func testRefundWhilePolling(t *testing.T) {
	a := newConventional(t)
	a.exec(`ALTER TABLE usage ADD quantity int`)
	a.watches[0].Columns[loops.FieldQuantity] = loops.Column{Name: "quantity", Type: "integer"}
	a.exec(`INSERT INTO usage (user_id, endpoint, method, quantity) VALUES ('ann', '/api/features/1', 'POST', 2)`)
	a.count(a.store())
	a.exec(`INSERT INTO usage (user_id, endpoint, method, quantity) VALUES ('ann', '/api/features/1', 'POST', -1)`)
	a.count(a.store())
	a.expect(`SELECT concat_ws(' ', used, allowed) FROM feature_access WHERE subject_id = 'ann'`, "1 t")
}

// TestGaugeBeyondANewLoop moves a gauge, which is beyond a new loop's limit, before the loop is let in.
func TestGaugeBeyondANewLoop(t *testing.T) { onBoth(t, testGaugeBeyondANewLoop) }

func testGaugeBeyondANewLoop(t *testing.T) {
	a := newEmpty(t)
	a.exec(`CREATE TABLE counters (id int PRIMARY KEY, user_id text, feature text, n bigint)`)
	a.watches = []loops.Watch{watch(loops.Usage, "counters", []string{"id"}, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id"},
		loops.FieldFeature: {Name: "feature"}, loops.FieldCount: {Name: "n", Type: "bigint"}})}
	a.watches[0].Schema = a.schema
	loop := func(name string) loops.Loop {
		l := features(10)
		l.Name, l.Feature, l.Trigger, l.Window = name, name, loops.Trigger{Kind: loops.OnFeature}, loops.Window{Kind: loops.Lifetime}
		return l
	}
	a.plan = planOf(loop("old"))
	a.install()
	a.exec(`INSERT INTO counters VALUES (1, 'ann', 'new', 500)`)
	a.counted(a.store())
	a.plan = planOf(loop("old"), loop("new"))
	s := a.resumed(true)
	a.apply(s, loops.Batch{Position: `{"end":"0/2"}`, Through: time.Now(), Changes: []loops.Change{{Role: loops.Usage, Op: loops.Update, Key: "1",
		Committed: time.Now(), Row: loops.Row{loops.FieldSubject: loops.Text("ann"), loops.FieldFeature: loops.Text("new"), loops.FieldCount: loops.Text("501")}}}})
	a.expect(`SELECT kind FROM tiergate.access_event WHERE NOT silent`)
	a.join(s)
	a.expect(`SELECT concat_ws(' ', used, allowed) FROM feature_access WHERE subject_id = 'ann' AND feature = 'new'`, "501 f")
}

// TestTimeWaitsForTheStream resumes a while after a grace has ended, with the payment still in the backlog: neither
// the rows that follow a plan nor a new loop's count may end it before that was read.
func TestTimeWaitsForTheStream(t *testing.T) { onBoth(t, testTimeWaitsForTheStream) }

func testTimeWaitsForTheStream(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@x.test', 'n')`)
	a.exec(`INSERT INTO subscriptions VALUES ('s', 'ann', 'past_due', 'pro', now() + interval '1 day')`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/1', 'POST' FROM generate_series(1, 30)`)
	a.counted(a.store())
	a.exec(`UPDATE tiergate.subscription SET past_due_since = now() - interval '10081 minutes'`)
	a.exec(`UPDATE tiergate.subject SET tier_until = now() - interval '1 minute'`)
	a.plan = planOf(features(3), exports(2))
	s := a.resumed(true)
	at := time.Now().Add(-2 * time.Minute)
	a.apply(s, loops.Batch{Position: `{"end":"0/2"}`, Through: at})
	a.join(s)
	a.expect(`SELECT concat_ws(' ', feature, tier, allowed) FROM feature_access WHERE subject_id = 'ann' ORDER BY 1`, "exports paid t", "features paid t")
	a.expect(`SELECT kind FROM tiergate.access_event WHERE subject_id <> ''`)
}

// TestReplayLetsNoTimePass replays what a new loop missed, while a window that is over waits for its last use.
func TestReplayLetsNoTimePass(t *testing.T) { onBoth(t, testReplayLetsNoTimePass) }

func testReplayLetsNoTimePass(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@x.test', 'n')`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	a.counted(a.store())
	a.exec(`UPDATE feature_access SET period_start = now() - interval '30 days', resets_at = now() - interval '1 minute' WHERE subject_id = 'ann'`)
	a.plan = planOf(features(2), exports(9))
	s := a.resumed(true)
	at := time.Now().Add(-2 * time.Minute) // the stream stands here
	if err := s.Replay(t.Context(), use("/api/exports", at), a.decider()); err != nil {
		t.Fatal(err)
	}
	a.apply(s, use("/api/features/1", at))
	a.expect(`SELECT concat_ws(' ', kind, used) FROM tiergate.access_event ORDER BY id`, "blocked 2")
}
