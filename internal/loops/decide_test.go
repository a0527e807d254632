package loops

import (
	"math"
	"reflect"
	"testing"
	"time"
)

var march = utc("2026-03-01 10:00:30")

func TestWorkedExample(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(2))), march.Add(time.Second))
	w.apply(use("ann", march), use("ann", march))
	want := Access{Allowed: false, Tier: DefaultTier, Used: 2, Limit: 2, PeriodStart: utc("2026-03-01 09:59:00"),
		ResetsAt: utc("2026-03-31 09:59:00"), Reason: ReasonLimit, Message: "Upgrade to go on"}
	if got := w.row("ann"); !reflect.DeepEqual(got, want) {
		t.Errorf("row\n got %+v\nwant %+v", got, want)
	}
	w.expect("ann blocked features 2/2")
	w.apply(subscribe(Insert, "s1", "ann", "active", march.Add(time.Minute)))
	if a := w.row("ann"); !a.Allowed || a.Tier != PayingTier || a.Limit != Unlimited || a.Reason != "" || a.Message != "" || a.Used != 2 {
		t.Errorf("after the upgrade: %+v", a)
	}
	w.expect("ann tier_changed paid at features", "ann converted paid at features", "ann unblocked features 2/unlimited")
}

func TestCounting(t *testing.T) {
	quantity := func(n int64) Change { c := use("ann", march); c.Use.Quantity = n; return c }
	edit := func(f func(*Use)) Change { c := use("ann", march); f(&c.Use); return c }
	warn := func(at ...float64) func(*Loop) { return func(l *Loop) { l.WarnAt = at } }
	for name, c := range map[string]struct {
		loop    Loop
		changes []Change
		used    int64
		allowed bool
		reason  string
		events  []string
	}{
		"below":            {features(freeOnly(3)), []Change{use("ann", march), use("ann", march)}, 2, true, "", nil},
		"the limit itself": {features(freeOnly(2)), []Change{use("ann", march), use("ann", march)}, 2, false, ReasonLimit, []string{"ann blocked features 2/2"}},
		"beyond": {features(freeOnly(1)), []Change{use("ann", march), use("ann", march), use("ann", march)}, 3, false, ReasonLimit,
			[]string{"ann blocked features 1/1"}},
		"one jump":                 {features(freeOnly(5)), []Change{quantity(9)}, 9, false, ReasonLimit, []string{"ann blocked features 9/5"}},
		"given back":               {features(freeOnly(2)), []Change{quantity(2), quantity(-1)}, 1, true, "", []string{"ann blocked features 2/2", "ann unblocked features 1/2"}},
		"a credit":                 {features(freeOnly(2)), []Change{quantity(-5), quantity(6)}, 1, true, "", nil},
		"a credit is no plan":      {features(freeOnly(0)), []Change{quantity(-5), quantity(6)}, 1, false, ReasonPlan, nil},
		"no overflow":              {features(freeOnly(2)), []Change{quantity(math.MaxInt64), quantity(math.MaxInt64)}, math.MaxInt64, false, ReasonLimit, []string{"ann blocked features 9223372036854775807/2"}},
		"unlimited":                {features(freeOnly(Unlimited)), []Change{quantity(1_000_000)}, 1_000_000, true, "", nil},
		"no overflow of unlimited": {features(freeOnly(Unlimited)), []Change{quantity(math.MaxInt64), quantity(1)}, math.MaxInt64, true, "", nil},
		"not in the plan":          {features(freeOnly(0)), []Change{use("ann", march)}, 1, false, ReasonPlan, nil},
		"shadow": {features(freeOnly(1), func(l *Loop) { l.Enforcement = Shadow }), []Change{use("ann", march)}, 1, true, "",
			[]string{"ann blocked features 1/1 silent"}},
		"refused calls":   {features(freeOnly(1)), []Change{edit(func(u *Use) { u.Refused = true }), use("bob", march)}, -1, true, "", []string{"bob blocked features 1/1"}},
		"another method":  {features(freeOnly(1)), []Change{edit(func(u *Use) { u.Method = "GET" }), use("bob", march)}, -1, true, "", []string{"bob blocked features 1/1"}},
		"method in lower": {features(freeOnly(2)), []Change{edit(func(u *Use) { u.Method = "post" })}, 1, true, "", nil},
		"query and slash": {features(freeOnly(2)), []Change{edit(func(u *Use) { u.Endpoint = "/api/features/7/?a=/b" })}, 1, true, "", nil},
		"warned": {features(freeOnly(10), warn(0.5, 0.8)), []Change{quantity(4), use("ann", march), quantity(3)}, 8, true, "",
			[]string{"ann warned features 5/10", "ann warned features 8/10"}},
		"highest line only":     {features(freeOnly(10), warn(0.5, 0.8)), []Change{quantity(9)}, 9, true, "", []string{"ann warned features 9/10"}},
		"no warning at a wall":  {features(freeOnly(10), warn(0.5, 0.8)), []Change{quantity(10)}, 10, false, ReasonLimit, []string{"ann blocked features 10/10"}},
		"a line of one":         {features(freeOnly(3), warn(0.01)), []Change{use("ann", march)}, 1, true, "", []string{"ann warned features 1/3"}},
		"80 % of 5 is 4":        {features(freeOnly(5), warn(0.8)), []Change{quantity(3), use("ann", march)}, 4, true, "", []string{"ann warned features 4/5"}},
		"70 % of 10 is 7":       {features(freeOnly(10), warn(0.7)), []Change{quantity(6), use("ann", march)}, 7, true, "", []string{"ann warned features 7/10"}},
		"unlimited never warns": {features(freeOnly(Unlimited), warn(0.8)), []Change{quantity(1 << 60)}, 1 << 60, true, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, planOf(c.loop), march.Add(time.Second))
			w.apply(c.changes...)
			if _, ok := w.access["ann"]; !ok != (c.used < 0) {
				t.Fatalf("ann has a row: %t", ok)
			}
			if c.used >= 0 {
				if a := w.row("ann"); a.Used != c.used || a.Allowed != c.allowed || a.Reason != c.reason || (a.Message == "") != a.Allowed {
					t.Errorf("row %+v", a)
				}
			}
			w.expect(c.events...)
		})
	}
}

func TestRowsWithoutSubject(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1))), march)
	w.apply(use("", march), use(AnySubject, march))
	if w.unknown != 2 || len(w.access) != 0 || len(w.subject) != 0 {
		t.Errorf("unknown %d, rows %v, subjects %v", w.unknown, w.access, w.subject)
	}
	w.apply(subscribe(Insert, "s", AnySubject, "active", march), user(Insert, "u", AnySubject, "a@b.c", march))
	if len(w.access) != 0 || len(w.subject) != 0 {
		t.Errorf("'*' became a subject: rows %v, subjects %v", w.access, w.subject)
	}
	w.expect()
}

func TestLoopsAreMatched(t *testing.T) {
	loops := []Loop{features(freeOnly(9)), features(freeOnly(9), func(l *Loop) { l.Feature, l.Trigger = "exports", Trigger{Kind: OnFeature} }),
		features(freeOnly(9), func(l *Loop) { l.Feature, l.Trigger.Endpoint, l.Trigger.Method = "all", "/api/**", "" })}
	w := newWorld(t, planOf(loops...), march)
	byFeature := watches()
	byFeature[0].Columns[FieldFeature] = Column{Name: "feature", Type: "text"}
	w.d = NewDecider(planOf(loops...), byFeature)
	first, second := use("ann", march), use("ann", march)
	second.Use.Endpoint, second.Use.Feature = "/other", "exports"
	w.apply(first, second, use("ann", march))
	for i, want := range []int64{2, 1, 2} {
		if got := w.access["ann"][i].Used; got != want {
			t.Errorf("%s: %d uses, want %d", loops[i].Feature, got, want)
		}
	}
	// With neither column every row counts.
	plain := []Watch{{Role: Usage, Table: "usage", Columns: map[Field]Column{FieldSubject: {Name: "user_id"}}}}
	w = newWorld(t, planOf(loops[0]), march)
	w.d = NewDecider(planOf(loops[0]), plain)
	w.apply(Change{Role: Usage, Op: Insert, Committed: march, Use: Use{Subject: "ann", Quantity: 1, At: march}})
	if w.row("ann").Used != 1 {
		t.Error("a plain row does not count")
	}
}

func TestTimesOfRows(t *testing.T) {
	day := 24 * time.Hour
	at := func(committed, happened time.Time) Change {
		c := use("ann", committed)
		c.Use.At = happened
		return c
	}
	w := newWorld(t, planOf(features(freeOnly(9))), march.Add(time.Second))
	w.apply(at(march, march.Add(365*day)))
	if a := w.row("ann"); a.PeriodStart != utc("2026-03-01 09:59:00") {
		t.Errorf("a row of the future opened a window at %s", a.PeriodStart)
	}
	w.apply(at(march, march.Add(-60*time.Second)))
	if a := w.row("ann"); a.Used != 2 || w.late != 0 {
		t.Errorf("a row a minute out of order: used %d, late %d", a.Used, w.late)
	}
	w.apply(at(march, utc("2026-03-01 09:58:59")))
	if a := w.row("ann"); a.Used != 2 || w.late != 1 || a.PeriodStart != utc("2026-03-01 09:59:00") {
		t.Errorf("a row before the window: %+v, late %d", a, w.late)
	}
	w.shift = 40 * day
	w.now = w.now.Add(w.shift)
	w.apply(at(march, march.Add(31*day)))
	if a := w.row("ann"); a.Used != 1 || a.PeriodStart != utc("2026-04-01 09:59:00") || a.Episode != 1 {
		t.Errorf("with the test clock ahead: %+v", a)
	}
}

func TestWindowsCloseAndOpenAgain(t *testing.T) {
	start, end := utc("2026-03-01 09:59:00"), utc("2026-03-31 09:59:00")
	w := newWorld(t, planOf(features(freeOnly(1))), march.Add(time.Second))
	w.apply(use("ann", march))
	w.expect("ann blocked features 1/1")

	w.now = end.Add(-time.Microsecond)
	w.apply()
	if a := w.row("ann"); a.Allowed || a.PeriodStart != start {
		t.Errorf("closed too early: %+v", a)
	}
	w.now = end
	w.apply()
	want := Access{Allowed: true, Tier: DefaultTier, Limit: 1, ClosedAt: end, Episode: 1}
	if a := w.row("ann"); !reflect.DeepEqual(a, want) {
		t.Errorf("closed\n got %+v\nwant %+v", a, want)
	}
	w.expect("ann reset features 1/1")

	w.apply(use("ann", end.Add(-time.Second)))
	if a := w.row("ann"); !reflect.DeepEqual(a, want) || w.late != 1 {
		t.Errorf("a row of the closed window counted: %+v, late %d", a, w.late)
	}
	w.now = end.Add(time.Minute)
	w.apply(use("ann", end.Add(20*time.Second)))
	if a := w.row("ann"); a.PeriodStart != end || a.ResetsAt != end.Add(30*24*time.Hour) || a.Episode != 1 {
		t.Errorf("the next window overlaps the last: %+v", a)
	}
	w.expect("ann blocked features 1/1")

	// A use itself closes a window that is over; one not at the wall ends without an event.
	w = newWorld(t, planOf(features(freeOnly(3))), end.Add(time.Hour))
	w.apply(use("bob", march), use("bob", end.Add(time.Minute)))
	if a := w.row("bob"); a.Used != 1 || a.Episode != 1 || a.ClosedAt != end || a.PeriodStart != end {
		t.Errorf("bob: %+v", a)
	}
	w.expect()
}

// TestTimePassesBeforeARowCounts holds that what was due by a row's commit has happened when the row counts,
// wherever the batches are cut: the row's own time may be earlier.
func TestTimePassesBeforeARowCounts(t *testing.T) {
	const day = 24 * time.Hour
	late := func(at, committed string) Change {
		c := use("ann", utc(committed))
		c.Use.At = utc(at)
		return c
	}
	daily := func(l *Loop) { l.Window = Window{Kind: Calendar, Period: Period{Unit: UnitDay}, Zone: time.UTC} }
	for name, c := range map[string]struct {
		loop    Loop
		grant   Grant
		changes []Change
		events  []string
		used    int64
		late    int
	}{
		"a window's end": {loop: features(freeOnly(2), daily), used: 1, late: 1, changes: []Change{
			use("ann", utc("2026-03-01 10:00:00")), late("2026-03-01 23:59:59", "2026-03-02 00:00:00"), use("ann", utc("2026-03-02 00:00:01"))}},
		"a window that never was": {loop: features(freeOnly(2), daily), used: 1, late: 2, changes: []Change{
			late("2026-03-01 10:00:00", "2026-03-02 00:30:00"), late("2026-03-01 11:00:00", "2026-03-02 00:30:00"), use("ann", utc("2026-03-02 00:30:00"))}},
		"an anchored one": {loop: features(freeOnly(2)), used: 1, late: 1, changes: []Change{
			late("2026-01-01 10:00:30", "2026-01-31 09:59:00"), late("2026-01-01 10:01:00", "2026-01-31 09:59:00")}},
		"a grant's end": {loop: features(freeOnly(1)), grant: Grant{ID: 1, Quantity: 5, ExpiresAt: utc("2026-03-02 00:00:00")}, used: 2,
			changes: []Change{use("ann", utc("2026-03-01 10:00:00")), late("2026-03-01 23:59:59", "2026-03-02 00:00:00")},
			events:  []string{"ann expired features 1/1 silent", "ann blocked features 1/1"}},
		"the end of grace": {loop: features(map[string]Limit{DefaultTier: 1, PayingTier: 9}), used: 2,
			changes: []Change{subscribe(Insert, "s", "ann", StatusPastDue, utc("2026-03-01 10:00:00")), use("ann", utc("2026-03-01 10:00:00")),
				late("2026-03-08 09:59:59", "2026-03-08 10:00:00")},
			events: []string{"ann tier_changed paid", "ann converted paid", "ann tier_changed free", "ann churned free", "ann blocked features 1/1"}},
	} {
		for pieces := range 2 {
			w := newWorld(t, planOf(c.loop), c.changes[len(c.changes)-1].Committed)
			if c.grant.ID > 0 {
				w.grants["ann"] = []Grant{c.grant}
			}
			if pieces == 0 {
				w.apply(c.changes...)
			} else {
				for _, change := range c.changes {
					w.apply(change)
				}
			}
			if a := w.row("ann"); a.Used != c.used || w.late != c.late {
				t.Errorf("%s: used %d, late %d, want %d, %d", name, a.Used, w.late, c.used, c.late)
			}
			w.expect(c.events...)
		}
	}
	w := newWorld(t, planOf(features(freeOnly(2), daily)), utc("2026-03-01 10:00:00"))
	w.shift = day
	w.now = w.now.Add(day)
	w.apply(late("2026-03-01 10:00:00", "2026-03-01 10:00:00"))
	if w.late != 0 {
		t.Error("a row from before the test clock was moved is late")
	}
}

func TestCrossingInAClosedWindowIsSilent(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(1))), march.Add(31*24*time.Hour))
	w.apply(use("ann", march)) // the sidecar was down for a month
	w.expect("ann blocked features 1/1 silent")
	w.apply()
	w.expect("ann reset features 1/1")
}

func TestWindowsWaitForTheStream(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(5))), march.Add(time.Second))
	w.apply(use("ann", march))
	w.now = march.Add(31 * 24 * time.Hour) // behind by a day: rows of the open window are still to come
	w.apply(use("ann", march.Add(29*24*time.Hour)), use("ann", march.Add(29*24*time.Hour)))
	if a := w.row("ann"); a.Used != 3 || a.Episode != 0 {
		t.Errorf("the window closed before the stream got there: %+v", a)
	}
}

func TestLifetimeNeverCloses(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(2), lifetime)), march)
	w.apply(use("ann", march))
	w.now = march.AddDate(10, 0, 0)
	w.apply(use("ann", w.now))
	if a := w.row("ann"); a.Used != 2 || a.Allowed || !a.PeriodStart.IsZero() || !a.ResetsAt.IsZero() || a.Episode != 0 {
		t.Errorf("row %+v", a)
	}
	w.apply(subscribe(Insert, "s", "ann", "active", w.now))
	w.apply(subscribe(Delete, "s", "", "", w.now))
	if a := w.row("ann"); a.Episode != 2 {
		t.Errorf("episode %d after two changes of the tier", a.Episode)
	}
}

func TestEventsBecomeEmails(t *testing.T) {
	warn := func(l *Loop) { l.WarnAt = []float64{0.5} }
	for name, c := range map[string]struct {
		loop Loop
		want []Email
	}{
		"prompt": {features(freeOnly(2), warn), []Email{
			{EventID: 1, Kind: "warned_50", Template: WarningTemplate}, {EventID: 2, Kind: "blocked", Template: "upgrade_prompt"}}},
		"no prompt": {features(freeOnly(2), warn, func(l *Loop) { l.Prompt = nil }), []Email{
			{EventID: 1, Kind: "warned_50", Template: WarningTemplate, Skip: SkipNoPrompt}, {EventID: 2, Kind: "blocked", Skip: SkipNoPrompt}}},
		"shadow": {features(freeOnly(2), warn, func(l *Loop) { l.Enforcement = Shadow }), []Email{
			{EventID: 1, Kind: "warned_50", Template: WarningTemplate, Skip: SkipSilent}, {EventID: 2, Kind: "blocked", Skip: SkipSilent}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, planOf(c.loop), march.Add(time.Second))
			w.apply(use("ann", march), use("ann", march), subscribe(Insert, "s", "ann", "active", march))
			for id := range int64(len(w.events) + 2) {
				w.apply(Change{Role: Events, Op: Insert, Event: id}) // 0 and the last are not stored
			}
			for i := range c.want {
				c.want[i].Subject, c.want[i].Feature, c.want[i].Loop = "ann", "features", "freemium.features"
			}
			if len(w.emails) != len(c.want) {
				t.Fatalf("emails %+v", w.emails)
			}
			for i, e := range w.emails {
				if e != c.want[i] {
					t.Errorf("email\n got %+v\nwant %+v", e, c.want[i])
				}
			}
		})
	}
}
