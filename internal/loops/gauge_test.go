package loops

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newGaugeWorld is a world whose usage table keeps its counts itself, and tells rows apart by these fields.
func newGaugeWorld(t tester, plan *Plan, by ...Field) *world {
	w := newWorld(t, plan, march.Add(time.Hour))
	tables := watches()
	tables[0] = Watch{Role: Usage, Table: "counters", Key: []string{"id"}, Columns: map[Field]Column{FieldSubject: {Name: "user_id"}, FieldCount: {Name: "hits"}}}
	for _, f := range by {
		tables[0].Columns[f] = Column{Name: f.String()}
	}
	w.d = NewDecider(plan, tables)
	return w
}

// counter is a row with a count.
func counter(op Op, key, subject string, count int64, more ...map[Field]string) Change {
	values := map[Field]string{FieldSubject: subject, FieldCount: strconv.FormatInt(count, 10)}
	for _, m := range more {
		maps.Copy(values, m)
	}
	c := Change{Role: Usage, Op: op, Committed: march, Key: key, Row: row(values)}
	if op == Delete {
		c.Row = nil
	}
	return c
}

func rekeyed(c Change, old string) Change { c.OldKey = old; return c }

func with(c Change, f Field, v Value) Change { c.Row[f] = v; return c }

func TestGaugeMovesUpAndDown(t *testing.T) {
	w := newGaugeWorld(t, planOf(features(freeOnly(3), lifetime, func(l *Loop) { l.WarnAt = []float64{0.5} })))
	w.apply(counter(Insert, "1", "ann", 1))
	w.expect()
	w.apply(counter(Update, "1", "ann", 2))
	w.expect("ann warned features 2/3")
	w.apply(counter(Update, "1", "ann", 7))
	w.expect("ann blocked features 7/3")
	if a := w.row("ann"); a.Used != 7 || a.Allowed || a.Reason != ReasonLimit || !a.ResetsAt.IsZero() {
		t.Errorf("row %+v", a)
	}
	w.apply(with(counter(Update, "1", "ann", 0), FieldCount, Value{Kind: Null}))
	w.expect("ann unblocked features 0/3")
	w.apply(counter(Update, "1", "ann", 3), subscribe(Insert, "s", "ann", "active", march))
	w.expect("ann blocked features 3/3", "ann tier_changed paid at features", "ann converted paid at features", "ann unblocked features 3/unlimited")
	w.apply(subscribe(Delete, "s", "", "", march), counter(Delete, "1", "", 0))
	w.expect("ann tier_changed free", "ann churned free", "ann blocked features 3/3", "ann unblocked features 0/3")
	if a := w.row("ann"); a.Used != 0 || !a.Allowed || a.Episode != 2 || len(w.gauges) != 0 {
		t.Errorf("after the row is gone: %+v, mirror %v", a, w.gauges)
	}
}

func TestGaugeRowsAddUp(t *testing.T) {
	endpoint := func(path string) map[Field]string { return map[Field]string{FieldEndpoint: path} }
	a, b := endpoint("/api/features/a"), endpoint("/api/features/b?x=1")
	start := []Change{counter(Insert, "1", "ann", 2, a), counter(Insert, "2", "ann", 3, b), counter(Insert, "3", "bob", 4, a)}
	for name, c := range map[string]struct {
		changes []Change
		want    string
	}{
		"as they are":          {nil, "ann=5 bob=4"},
		"another endpoint":     {[]Change{counter(Insert, "4", "ann", 9, endpoint("/other"))}, "ann=5 bob=4"},
		"leaves the endpoint":  {[]Change{counter(Update, "2", "ann", 3, endpoint("/other"))}, "ann=2 bob=4"},
		"endpoint unchanged":   {[]Change{with(counter(Update, "2", "ann", 8), FieldEndpoint, Value{Kind: Unchanged})}, "ann=10 bob=4"},
		"key":                  {[]Change{rekeyed(counter(Update, "9", "ann", 4, b), "2")}, "ann=6 bob=4"},
		"key, then gone":       {[]Change{rekeyed(counter(Update, "9", "ann", 4, b), "2"), counter(Delete, "9", "", 0)}, "ann=2 bob=4"},
		"owner":                {[]Change{counter(Update, "2", "bob", 3, b)}, "ann=2 bob=7"},
		"owner and key":        {[]Change{rekeyed(counter(Update, "9", "bob", 1, b), "1")}, "ann=3 bob=5"},
		"owner and back":       {[]Change{counter(Update, "2", "bob", 3, b), counter(Update, "2", "ann", 3, b)}, "ann=5 bob=4"},
		"nobody's":             {[]Change{with(counter(Update, "2", "", 3, b), FieldSubject, Value{Kind: Null})}, "ann=2 bob=4"},
		"gone and there again": {[]Change{counter(Delete, "2", "", 0), counter(Insert, "2", "bob", 1, b)}, "ann=2 bob=5"},
		"gone, never known":    {[]Change{counter(Delete, "7", "", 0)}, "ann=5 bob=4"},
		"one is negative":      {[]Change{counter(Update, "2", "ann", -1, b)}, "ann=1 bob=4"},
		"the sum is negative":  {[]Change{counter(Update, "2", "ann", -9, b), counter(Update, "1", "ann", 3, a)}, "ann=0 bob=4"},
		"and comes back":       {[]Change{counter(Update, "2", "ann", -9, b), counter(Update, "1", "ann", 10, a)}, "ann=1 bob=4"},
		"more than there is":   {[]Change{counter(Update, "2", "ann", math.MaxInt64, b), counter(Update, "1", "ann", math.MaxInt64, a)}, "ann=9223372036854775807 bob=4"},
		"and back again": {[]Change{counter(Update, "2", "ann", math.MaxInt64, b), counter(Update, "1", "ann", math.MaxInt64, a),
			counter(Update, "1", "ann", math.MinInt64, a), counter(Update, "2", "ann", 1, b), counter(Update, "1", "ann", 1, a)}, "ann=2 bob=4"},
	} {
		for cut := range len(c.changes) + 1 {
			w := newGaugeWorld(t, planOf(features(freeOnly(Unlimited), lifetime)), FieldEndpoint)
			w.apply(append(start, c.changes[:cut]...)...)
			w.apply(c.changes[cut:]...)
			if got := fmt.Sprintf("ann=%d bob=%d", w.row("ann").Used, w.row("bob").Used); got != c.want {
				t.Errorf("%s, cut at %d: %s, want %s", name, cut, got, c.want)
			}
		}
	}
}

func TestGaugeByFeature(t *testing.T) {
	of := func(feature string) map[Field]string { return map[Field]string{FieldFeature: feature} }
	trigger := func(feature string) func(*Loop) {
		return func(l *Loop) { l.Feature, l.Trigger = feature, Trigger{Kind: OnFeature} }
	}
	w := newGaugeWorld(t, planOf(features(freeOnly(3), lifetime, trigger("seats")), features(freeOnly(3), lifetime, trigger("exports"))), FieldFeature)
	w.apply(counter(Insert, "1", "ann", 3, of("exports")), counter(Insert, "2", "ann", 9, of("else")))
	w.expect("ann blocked exports 3/3")
	if _, ok := w.access["ann"][0]; ok {
		t.Error("ann has a row of a feature without a count")
	}
	// With neither endpoint nor feature, every row counts for every loop.
	w = newGaugeWorld(t, planOf(features(freeOnly(3), lifetime), features(freeOnly(5), lifetime, trigger("exports"))))
	w.apply(counter(Insert, "1", "ann", 4))
	w.expect("ann blocked features 4/3")
	if got := w.access["ann"][1].Used; got != 4 {
		t.Errorf("the other loop counts %d", got)
	}
}

// TestGaugeWritesOnlyWhatItKeeps holds that a table that is updated for other reasons costs nothing.
func TestGaugeWritesOnlyWhatItKeeps(t *testing.T) {
	w := newGaugeWorld(t, planOf(features(freeOnly(3), lifetime)))
	w.apply(counter(Insert, "1", "ann", 1))
	s := w.load()
	if err := w.d.Decide(s, Batch{Changes: []Change{counter(Update, "1", "ann", 1)}}); err != nil {
		t.Fatal(err)
	}
	if written := s.Written(); !s.Idle(written) {
		t.Errorf("written %+v", written)
	}
	w.apply(counter(Insert, "2", "", 5), counter(Insert, "3", AnySubject, 5))
	if w.unknown != 2 || len(w.gauges) != 1 {
		t.Errorf("rows of nobody: unknown %d, mirror %v", w.unknown, w.gauges)
	}
	bad := w.d.Decide(w.load(), Batch{Changes: []Change{with(counter(Update, "1", "ann", 1), FieldCount, Text("1.5"))}})
	if KindOf(bad) != Changed {
		t.Errorf("a count of 1.5: %v", bad)
	}
}

// TestGaugeOfADeletedUser deletes a user whose row also is the count, and lets them sign up again.
func TestGaugeOfADeletedUser(t *testing.T) {
	w := newGaugeWorld(t, planOf(features(freeOnly(3), lifetime)))
	w.apply(user(Insert, "1", "ann", "a@b.c", march), counter(Insert, "1", "ann", 2))
	w.apply(user(Delete, "1", "", "", march), counter(Delete, "1", "", 0))
	w.expect()
	if len(w.access["ann"]) != 0 || !w.subject["ann"].Deleted || len(w.gauges) != 0 {
		t.Errorf("rows %v, subject %+v, mirror %v", w.access, w.subject["ann"], w.gauges)
	}
	w.apply(user(Insert, "1", "ann", "a@b.c", march), counter(Insert, "1", "ann", 3))
	w.expect("ann blocked features 3/3")

	// In a table of its own the count outlives the user, changes unseen, and holds when they are back.
	w = newGaugeWorld(t, planOf(features(freeOnly(3), lifetime)))
	w.apply(user(Insert, "1", "ann", "a@b.c", march), counter(Insert, "q", "ann", 1))
	w.apply(user(Delete, "1", "", "", march), counter(Update, "q", "ann", 2))
	if len(w.access["ann"]) != 0 || w.gauges["q"].Value != 2 {
		t.Errorf("rows %v, mirror %v", w.access, w.gauges)
	}
	w.apply(user(Insert, "2", "ann", "a@b.c", march))
	if a := w.row("ann"); a.Used != 2 {
		t.Errorf("back again: %+v", a)
	}
}

// TestGaugeIsCounted holds that a count mirrors rows first and moves counts afterwards, silently for new
// people, and that it ends what was counted by rows before.
func TestGaugeIsCounted(t *testing.T) {
	w := newGaugeWorld(t, planOf(features(freeOnly(3), lifetime)))
	mirror := func(changes ...Change) {
		w.counting(func(s *State) {
			for i := range changes {
				changes[i].Committed = time.Time{}
			}
			if err := w.d.Decide(s, Batch{Changes: changes}); err != nil {
				t.Fatal(err)
			}
		})
	}
	recount := func() {
		w.counting(func(s *State) { w.d.Recount(s, 0, w.now, false, []Tally{{Subject: "ann"}, {Subject: "bob"}}) })
	}
	mirror(counter(Update, "1", "ann", 2))
	mirror(counter(Update, "2", "ann", 2))
	if len(w.access) != 0 {
		t.Errorf("moved while the mirror was filled: %v", w.access)
	}
	recount()
	w.expect("ann blocked features 4/3 silent")
	mirror(counter(Delete, "2", "", 0), counter(Update, "3", "bob", 3))
	recount()
	w.expect("ann unblocked features 2/3", "bob blocked features 3/3 silent")
	mirror(counter(Update, "1", "ann", 9))
	recount()
	w.expect("ann blocked features 9/3")

	// A window from when rows were counted.
	w.access["ann"][0] = Access{Tier: DefaultTier, Limit: 3, Allowed: true, Used: 1, PeriodStart: march, ResetsAt: march.AddDate(0, 1, 0)}
	recount()
	if a := w.row("ann"); a.Used != 9 || !a.ResetsAt.IsZero() || !a.PeriodStart.IsZero() {
		t.Errorf("an old window: %+v", a)
	}
	w.said()

	// The table holds no counts any more: what they said is forgotten.
	w.d = NewDecider(planOf(features(freeOnly(3), lifetime)), watches())
	mirror(counter(Delete, "1", "", 0), counter(Delete, "3", "", 0))
	if a := w.row("ann"); a.Used != 0 || len(w.gauges) != 0 {
		t.Errorf("forgotten: %+v, mirror %v", a, w.gauges)
	}
}

// TestGaugeAddsUpAtRandom plays rows that come, change and go, and adds them up anew each time.
func TestGaugeAddsUpAtRandom(t *testing.T) {
	type counted struct {
		subject, endpoint string
		value             int64
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newGaugeWorld(t, planOf(features(freeOnly(5), lifetime), features(freeOnly(9), lifetime, func(l *Loop) { l.Feature, l.Trigger.Endpoint = "all", "/**" })), FieldEndpoint)
		rows := map[string]counted{}
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			var batch []Change
			for range rapid.IntRange(1, 6).Draw(t, "changes") {
				key := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "key")
				next := counted{rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "who"),
					rapid.SampledFrom([]string{"/api/features/1", "/other"}).Draw(t, "endpoint"), rapid.Int64Range(-2, 8).Draw(t, "value")}
				change := func(op Op, key string) Change {
					return counter(op, key, next.subject, next.value, map[Field]string{FieldEndpoint: next.endpoint})
				}
				_, there := rows[key]
				switch what := rapid.IntRange(0, 3).Draw(t, "what"); {
				case !there:
					batch = append(batch, change(Insert, key))
					rows[key] = next
				case what == 0:
					batch = append(batch, change(Delete, key))
					delete(rows, key)
				case what == 1:
					to := key + "'"
					if _, taken := rows[to]; taken {
						continue
					}
					batch = append(batch, rekeyed(change(Update, to), key))
					delete(rows, key)
					rows[to] = next
				default:
					batch = append(batch, change(Update, key))
					rows[key] = next
				}
			}
			w.apply(batch...)
			for _, who := range []string{"ann", "bob"} {
				var want [2]int64
				for _, r := range rows {
					if r.subject == who {
						want[1] += r.value
						if r.endpoint == "/api/features/1" {
							want[0] += r.value
						}
					}
				}
				for i, sum := range want {
					if got := w.access[who][i].Used; got != max(0, sum) {
						t.Fatalf("%s uses %d of loop %d, its rows say %d", who, got, i, sum)
					}
				}
			}
		}
		if len(w.gauges) != len(rows) {
			t.Fatalf("%d rows, mirrored %d", len(rows), len(w.gauges))
		}
	})
}
