package loops

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const grace = 7 * 24 * time.Hour

func TestStatusPolicy(t *testing.T) {
	now := march
	past, future := now.Add(-48*time.Hour), now.Add(48*time.Hour)
	for name, c := range map[string]struct {
		sub  Subscription
		tier string
		till time.Time
	}{
		"active":                    {Subscription{Status: "active"}, PayingTier, time.Time{}},
		"active beyond its period":  {Subscription{Status: "active", PeriodEnd: past}, PayingTier, time.Time{}},
		"trialing":                  {Subscription{Status: "trialing", PeriodEnd: future}, PayingTier, future.Add(time.Hour)},
		"trialing without an end":   {Subscription{Status: "trialing"}, PayingTier, time.Time{}},
		"trial just over":           {Subscription{Status: "trialing", PeriodEnd: now.Add(-59 * time.Minute)}, PayingTier, now.Add(time.Minute)},
		"trial over":                {Subscription{Status: "trialing", PeriodEnd: now.Add(-time.Hour)}, DefaultTier, time.Time{}},
		"past_due in grace":         {Subscription{Status: "past_due", PastDueSince: past, PeriodEnd: past}, PayingTier, past.Add(grace)},
		"past_due after grace":      {Subscription{Status: "past_due", PastDueSince: now.Add(-grace)}, DefaultTier, time.Time{}},
		"incomplete":                {Subscription{Status: "incomplete"}, DefaultTier, time.Time{}},
		"incomplete_expired":        {Subscription{Status: "incomplete_expired"}, DefaultTier, time.Time{}},
		"unpaid":                    {Subscription{Status: "unpaid", PeriodEnd: future}, DefaultTier, time.Time{}},
		"paused":                    {Subscription{Status: "paused"}, DefaultTier, time.Time{}},
		"canceled":                  {Subscription{Status: "canceled", PeriodEnd: future}, DefaultTier, time.Time{}},
		"a word nobody knows":       {Subscription{Status: "gold"}, DefaultTier, time.Time{}},
		"no status, in its period":  {Subscription{PeriodEnd: future}, PayingTier, future},
		"no status, period over":    {Subscription{PeriodEnd: now}, DefaultTier, time.Time{}},
		"no status, no period":      {Subscription{}, PayingTier, time.Time{}},
		"a tier by its plan's name": {Subscription{Status: "active", Plan: "Pro"}, "pro", time.Time{}},
		"a tier by its price":       {Subscription{Status: "active", Price: "price_1", Plan: "pro"}, "team", time.Time{}},
		"an unknown plan pays":      {Subscription{Status: "active", Price: "price_9", Plan: "gold"}, PayingTier, time.Time{}},
	} {
		plan := planOf(features(map[string]Limit{DefaultTier: 1, "pro": 10, PayingTier: Unlimited}))
		plan.Tiers["price_1"] = "team"
		if st := plan.standingOf(&c.sub, now); st.tier != c.tier || !st.until.Equal(c.till) || st.status != c.sub.Status {
			t.Errorf("%s: %+v, want %s until %s", name, st, c.tier, c.till)
		}
	}
}

// TestBestSubscriptionWins holds that neither the order in which subscriptions arrive nor that in
// which they are looked at matters.
func TestBestSubscriptionWins(t *testing.T) {
	plan := planOf(features(map[string]Limit{DefaultTier: 1, "pro": 10, "team": 10, PayingTier: 50}))
	statuses := []string{"active", "trialing", "past_due", "canceled", "unpaid", "", "Active ", "paused"}
	rapid.Check(t, func(t *rapid.T) {
		var changes []Change
		for i := range rapid.IntRange(1, 5).Draw(t, "subscriptions") {
			values := map[Field]string{FieldPlan: rapid.SampledFrom([]string{"pro", "team", "gold", "free", ""}).Draw(t, "plan")}
			if n := rapid.IntRange(-3, 10).Draw(t, "days left"); n < 9 {
				values[FieldPeriodEnd] = march.AddDate(0, 0, n).Format(time.DateTime)
			}
			changes = append(changes, subscribe(Insert, string(rune('a'+i)), "ann", rapid.SampledFrom(statuses).Draw(t, "status"), march, values))
		}
		subject := func(changes []Change) Subject {
			w := newWorld(t, plan, march.Add(time.Minute))
			cut := rapid.IntRange(0, len(changes)).Draw(t, "cut")
			w.apply(changes[:cut]...)
			w.apply(changes[cut:]...)
			return w.subject["ann"]
		}
		first, second := subject(changes), subject(rapid.Permutation(changes).Draw(t, "order"))
		if first.Tier != second.Tier || first.Status != second.Status || !first.TierUntil.Equal(second.TierUntil) {
			t.Fatalf("%+v in one order, %+v in another", first, second)
		}
		for _, c := range changes {
			m := newWorld(t, plan, march.Add(time.Minute))
			m.apply(c)
			if alone := m.subject["ann"].Tier; plan.better(alone, first.Tier) {
				t.Fatalf("the tier is %s though one subscription gives %s", first.Tier, alone)
			}
		}
	})
}

func TestTierComesAndGoes(t *testing.T) {
	w := newWorld(t, planOf(features(map[string]Limit{DefaultTier: 1, "pro": 3, PayingTier: Unlimited})), march.Add(time.Second))
	w.apply(use("ann", march))
	w.expect("ann blocked features 1/1")
	w.apply(subscribe(Insert, "s", "ann", "active", march, map[Field]string{FieldPlan: "pro"}))
	w.expect("ann tier_changed pro at features", "ann converted pro at features", "ann unblocked features 1/3")
	w.apply(subscribe(Update, "s", "ann", "active", march, map[Field]string{FieldPlan: "enterprise"}))
	w.expect("ann tier_changed paid")
	w.apply(subscribe(Update, "s", "ann", "past_due", march))
	if sub := w.subject["ann"]; sub.Tier != PayingTier || sub.TierUntil != march.Add(grace) {
		t.Errorf("in grace: %+v", sub)
	}
	w.expect()

	w.now = march.Add(grace).Add(-time.Second)
	w.apply()
	w.expect()
	w.now = march.Add(grace)
	w.apply() // grace ends by itself
	w.expect("ann tier_changed free", "ann churned free", "ann blocked features 1/1")
	if a := w.row("ann"); a.Reason != ReasonPastDue || a.Allowed {
		t.Errorf("after grace: %+v", a)
	}
	w.apply(subscribe(Update, "s", "ann", "active", w.now))
	w.expect("ann tier_changed paid at features", "ann converted paid at features", "ann unblocked features 1/unlimited")
	w.apply(subscribe(Delete, "s", "", "", w.now))
	w.expect("ann tier_changed free", "ann churned free", "ann blocked features 1/1")
}

func TestConversionNamesTheWall(t *testing.T) {
	second := features(freeOnly(1), func(l *Loop) { l.Feature, l.Trigger.Endpoint = "exports", "/exports" })
	gated := features(freeOnly(0), func(l *Loop) { l.Feature, l.Trigger.Endpoint = "sso", "/sso" })
	w := newWorld(t, planOf(features(freeOnly(9)), gated, second), march.Add(time.Second))
	c := use("ann", march)
	c.Use.Endpoint = "/exports"
	w.apply(c, subscribe(Insert, "s", "ann", "active", march))
	w.expect("ann blocked exports 1/1", "ann tier_changed paid at exports", "ann converted paid at exports",
		"ann unblocked exports 1/unlimited")
	w.apply(subscribe(Delete, "s", "", "", march)) // what the plan never had is no wall
	w.expect("ann tier_changed free", "ann churned free", "ann blocked sso 0/0 silent", "ann blocked exports 1/1")
}

func TestSubscriptionRows(t *testing.T) {
	later := march.Add(time.Hour)
	fresh := func() *world {
		w := newWorld(t, planOf(features(freeOnly(1))), later)
		w.apply(subscribe(Insert, "1", "ann", "active", march, map[Field]string{FieldPlan: "pro", FieldCustomer: "cus_1"}))
		w.said()
		return w
	}
	w := fresh()
	unchanged := subscribe(Update, "1", "ann", "active", march)
	unchanged.Row[FieldPlan], unchanged.Row[FieldCustomer], unchanged.Row[FieldPeriodEnd] = Value{Kind: Unchanged}, Value{Kind: Unchanged}, Value{Kind: Null}
	w.apply(unchanged)
	if m := w.subs["1"]; m.Plan != "pro" || m.Customer != "cus_1" {
		t.Errorf("values the stream left out were lost: %+v", m)
	}
	w.expect()

	moved := subscribe(Update, "2", "ann", "active", march)
	moved.OldKey = "1"
	moved.Row[FieldPlan] = Value{Kind: Unchanged}
	w.apply(moved)
	if m, gone := w.subs["2"], w.subs["1"]; m.Plan != "pro" || gone.Key != "" || len(w.subs) != 1 {
		t.Errorf("after the key changed: %+v", w.subs)
	}
	w.expect()

	w.apply(subscribe(Update, "2", "bob", "active", march)) // another owner
	w.expect("ann tier_changed free", "ann churned free", "bob tier_changed paid", "bob converted paid")
	w.apply(subscribe(Delete, "2", "", "", march), subscribe(Insert, "2", "cid", "active", march))
	w.expect("bob tier_changed free", "bob churned free", "cid tier_changed paid", "cid converted paid")
	if len(w.subs) != 1 || w.subs["2"].Subject != "cid" {
		t.Errorf("mirror %+v", w.subs)
	}
	orphan := subscribe(Update, "2", "", "active", march)
	orphan.Row[FieldSubject] = Value{Kind: Null}
	w.apply(orphan)
	w.expect("cid tier_changed free", "cid churned free")
	if len(w.subs) != 0 {
		t.Errorf("mirror %+v", w.subs)
	}
	w.apply(subscribe(Delete, "77", "", "", march)) // nobody knew it
	w.expect()

	bad := subscribe(Insert, "9", "ann", "active", march, map[Field]string{FieldPeriodEnd: "soon"})
	err := w.d.Decide(w.load(), Batch{Changes: []Change{bad}})
	if KindOf(err) != Permanent || err == nil {
		t.Errorf("a period that is no time: %v", err)
	}
}

func TestUsersComeAndGo(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1)), features(freeOnly(5), func(l *Loop) { l.Feature, l.Trigger.Endpoint = "exports", "/exports" })), march.Add(time.Hour))
	w.apply(user(Insert, "1", "ann", "ann@example.com", march))
	if len(w.access["ann"]) != 2 || w.subject["ann"].Email != "ann@example.com" {
		t.Fatalf("rows %+v of %+v", w.access["ann"], w.subject["ann"])
	}
	w.apply(use("ann", march), subscribe(Insert, "s", "ann", "active", march), subscribe(Insert, "old", "ann", "canceled", march))
	w.said()
	toasted := user(Update, "1", "ann", "", march)
	toasted.Row = Row{FieldSubject: Text("ann"), FieldEmail: {Kind: Unchanged}, FieldName: Text("Ann"), FieldCustomer: Text("cus_1")}
	w.apply(toasted)
	if s := w.subject["ann"]; s.Email != "ann@example.com" || s.Name != "Ann" || s.Customer != "cus_1" {
		t.Errorf("subject %+v", s)
	}

	w.apply(user(Delete, "1", "", "", march), use("ann", march))
	if s := w.subject["ann"]; len(w.access["ann"]) != 0 || !s.Deleted || s.Email+s.Name+s.Customer+s.UserKey != "" {
		t.Errorf("something of ann is left: %+v, %+v", s, w.access["ann"])
	}
	w.apply(use("ann", march.Add(time.Minute)))
	if len(w.access["ann"]) != 0 {
		t.Error("usage brought ann back")
	}
	// The application's foreign keys delete the subscriptions after the user: none of them says anything of ann.
	w.apply(subscribe(Delete, "old", "", "", march))
	w.apply(subscribe(Delete, "s", "", "", march))
	w.expect()

	again := march.Add(30 * time.Minute)
	w.apply(user(Insert, "2", "ann", "ann@example.org", again))
	if s := w.subject["ann"]; s.Deleted || s.Email != "ann@example.org" || len(w.access["ann"]) != 2 {
		t.Errorf("revived: %+v, %+v", s, w.access["ann"])
	}
	w.apply(use("ann", march.Add(2*time.Minute)))
	if a := w.row("ann"); a.Used != 0 || w.late != 1 {
		t.Errorf("what was used before counts again: %+v", a)
	}
	w.apply(use("ann", again.Add(time.Second)))
	w.expect("ann blocked features 1/1")
}

// TestGrantsOfAReturnedUser: a stream that lags behind a delete and a return ends what was granted before, and no more.
func TestGrantsOfAReturnedUser(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1))), march.Add(time.Hour))
	w.apply(user(Insert, "1", "ann", "ann@example.com", march))
	w.grants["ann"] = []Grant{{ID: 1, Quantity: 10, GrantedAt: march}, {ID: 2, Quantity: 5, GrantedAt: march.Add(3 * time.Minute)}}
	w.apply(user(Delete, "1", "", "", march.Add(time.Minute)), user(Insert, "2", "ann", "ann@example.com", march.Add(2*time.Minute)))
	if a := w.row("ann"); a.Limit != 6 || len(w.grants["ann"]) != 1 {
		t.Errorf("%+v, granted %+v", a, w.grants["ann"])
	}
}

func TestUserKeysChange(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1))), march.Add(time.Hour))
	w.apply(user(Insert, "1", "ann", "ann@example.com", march))
	moved := user(Update, "2", "ann", "ann@example.com", march)
	moved.OldKey = "1"
	w.apply(moved, user(Insert, "1", "bob", "bob@example.com", march)) // bob's key was ann's a moment ago
	if w.subject["ann"].Deleted || w.subject["ann"].UserKey != "2" || w.subject["bob"].UserKey != "1" {
		t.Errorf("ann %+v, bob %+v", w.subject["ann"], w.subject["bob"])
	}
	renamed := user(Update, "2", "anna", "ann@example.com", march)
	w.apply(renamed)
	if !w.subject["ann"].Deleted || w.subject["anna"].UserKey != "2" {
		t.Errorf("ann %+v, anna %+v", w.subject["ann"], w.subject["anna"])
	}
	w.apply(user(Delete, "2", "", "", march))
	if !w.subject["anna"].Deleted || w.subject["bob"].Deleted {
		t.Errorf("anna %+v, bob %+v", w.subject["anna"], w.subject["bob"])
	}
}

func TestSparseRows(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1))), march.Add(time.Hour))
	w.sparse = true
	w.apply(user(Insert, "1", "ann", "ann@example.com", march))
	if len(w.access) != 0 || w.subject["ann"].Email == "" {
		t.Errorf("rows %v of %+v", w.access, w.subject["ann"])
	}
	w.apply(subscribe(Insert, "s", "ann", "active", march))
	if len(w.access["ann"]) != 1 {
		t.Error("who pays has no row")
	}
}

func TestRecount(t *testing.T) {
	horizon := march.Add(-fixed30.Length)
	w := newWorld(t, planOf(features(freeOnly(3))), march)
	tally := func(tallies ...Tally) { w.counting(func(s *State) { w.d.Recount(s, 0, s.Now, false, tallies) }) }
	tally(Tally{"new", 5, march.Add(-time.Hour), false}, Tally{"below", 2, march.Add(-time.Hour), false}, Tally{"edge", 1, horizon.Add(time.Second), false})
	w.expect("new blocked features 5/3 silent")
	if a := w.row("new"); a.Allowed || a.PeriodStart != utc("2026-03-01 08:59:00") {
		t.Errorf("new: %+v", a)
	}
	if a := w.row("edge"); !a.ResetsAt.After(w.now) || a.PeriodStart.Before(horizon) {
		t.Errorf("the first use within the last period opened [%s, %s) at %s", a.PeriodStart, a.ResetsAt, w.now)
	}
	tally(Tally{"below", 3, march.Add(-2 * time.Hour), false}, Tally{"new", 1, march.Add(-time.Hour), false})
	w.expect("below blocked features 3/3")
	if a := w.row("new"); a.Used != 5 {
		t.Errorf("deleted usage lowered the count: %+v", a)
	}
	if a := w.row("below"); a.PeriodStart != utc("2026-03-01 08:59:00") {
		t.Errorf("an open window moved to %s", a.PeriodStart)
	}
	w.apply(user(Insert, "1", "gone", "a@b.c", march), user(Delete, "1", "", "", march))
	tally(Tally{"gone", 9, march, false}, Tally{AnySubject, 9, march, false})
	if len(w.access["gone"])+len(w.access[AnySubject]) != 0 {
		t.Error("a count brought rows back")
	}
	// The window that follows a closed one does not overlap it.
	w.access["below"][0] = Access{Allowed: true, Tier: DefaultTier, Limit: 3, ClosedAt: march.Add(-30 * time.Second), Episode: 1}
	tally(Tally{"below", 1, march.Add(-10 * time.Second), false})
	if a := w.row("below"); a.PeriodStart != march.Add(-30*time.Second) || a.Used != 1 {
		t.Errorf("below: %+v", a)
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(2))), march.Add(time.Second))
	w.apply(use("ann", march), use("bob", march), use("bob", march), user(Insert, "1", "cid", "c@example.com", march))
	w.expect("bob blocked features 2/2")
	replan := func(loops ...Loop) {
		w.d, w.loops = NewDecider(planOf(loops...), watches()), len(loops)
		w.counting(func(s *State) { w.d.Refresh(s, Batch{}) })
	}
	replan(features(freeOnly(1)))
	w.expect("ann blocked features 1/1")
	if a := w.row("bob"); a.Limit != 1 || a.Allowed || a.Used != 2 {
		t.Errorf("bob under a lower limit: %+v", a)
	}
	replan(features(freeOnly(3), func(l *Loop) { l.Message = "new words" }))
	if got := w.said(); len(got) != 2 || !slices.Contains(got, "ann unblocked features 1/3") || !slices.Contains(got, "bob unblocked features 2/3") {
		t.Errorf("events %q", got)
	}
	replan(features(freeOnly(2), func(l *Loop) { l.Message = "new words" }), features(freeOnly(0), func(l *Loop) { l.Feature = "sso" }))
	w.expect("bob blocked features 2/2")
	if a := w.row("bob"); a.Message != "new words" {
		t.Errorf("bob: %+v", a)
	}
	for _, id := range []string{"ann", "bob", "cid"} {
		if a, ok := w.access[id][1]; !ok || a.Reason != ReasonPlan || a.Allowed {
			t.Errorf("%s and the new feature: %+v", id, a)
		}
	}
}

// TestPaidBeforeTheTrialEnded reads a backlog: what was paid for in time never ends, however late it is read.
func TestPaidBeforeTheTrialEnded(t *testing.T) {
	end := march.Add(time.Hour)
	w := newWorld(t, planOf(features(freeOnly(1))), march)
	w.apply(subscribe(Insert, "s", "ann", "trialing", march, map[Field]string{FieldPeriodEnd: end.Format(time.DateTime)}), use("ann", march))
	w.expect("ann tier_changed paid", "ann converted paid")
	w.now = end.Add(24 * time.Hour)
	trial := map[Field]string{FieldPeriodEnd: end.Format(time.DateTime), FieldPlan: "pro"}
	w.apply(subscribe(Update, "s", "ann", "trialing", end.Add(-time.Minute), trial), subscribe(Update, "s", "ann", "active", end, trial))
	w.expect()
	w.apply()
	w.expect()
}

// TestTiersEndOneAfterAnother lets two subscriptions end before anybody looks.
func TestTiersEndOneAfterAnother(t *testing.T) {
	w := newWorld(t, planOf(features(map[string]Limit{DefaultTier: 1, "pro": 5, "team": 10})), march)
	for plan, days := range map[string]int{"team": 1, "pro": 2} {
		w.apply(subscribe(Insert, plan, "ann", "", march, map[Field]string{FieldPlan: plan, FieldPeriodEnd: march.AddDate(0, 0, days).Format(time.DateTime)}))
	}
	w.said()
	w.now = march.AddDate(0, 0, 3)
	w.apply()
	w.expect("ann tier_changed pro", "ann tier_changed free", "ann churned free")
}
