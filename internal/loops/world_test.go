package loops

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// world is a store in memory: like the real one it keeps only what Written names, and every decision
// begins from what was kept.
type world struct {
	t       tester
	d       *Decider
	now     time.Time
	shift   time.Duration
	sparse  bool
	loops   int
	subject map[string]Subject
	access  map[string]map[int]Access
	subs    map[string]Subscription
	gauges  map[string]Gauge
	grants  map[string][]Grant // the open ones
	events  []Event
	emails  []Email
	late    int
	unknown int
}

func newWorld(t tester, plan *Plan, now time.Time) *world {
	return &world{
		t: t, d: NewDecider(plan, watches()), now: now, loops: len(plan.Loops),
		subject: map[string]Subject{}, access: map[string]map[int]Access{}, subs: map[string]Subscription{}, gauges: map[string]Gauge{}, grants: map[string][]Grant{},
	}
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// watches are conventional tables.
func watches() []Watch {
	columns := func(fields ...Field) map[Field]Column {
		m := map[Field]Column{}
		for _, f := range fields {
			m[f] = Column{Name: f.String(), Type: "text"}
		}
		return m
	}
	return []Watch{
		{Role: Usage, Table: "usage", Columns: columns(FieldSubject, FieldEndpoint, FieldMethod, FieldQuantity, FieldStatus, FieldAt), Zone: time.UTC},
		{Role: Subscriptions, Table: "subscriptions", Key: []string{"id"}, Zone: time.UTC,
			Columns: columns(FieldSubject, FieldStatus, FieldPlan, FieldPrice, FieldPeriodStart, FieldPeriodEnd, FieldCustomer)},
		{Role: Users, Table: "users", Key: []string{"id"}, Columns: columns(FieldSubject, FieldEmail, FieldName, FieldCustomer)},
	}
}

func (w *world) load() *State {
	s := NewState(w.now, w.shift, w.loops)
	s.Sparse = w.sparse
	for _, sub := range w.subject {
		s.Load(sub)
	}
	for _, m := range w.subs {
		s.LoadSubscription(m)
	}
	for _, g := range w.gauges {
		s.LoadGauge(g)
	}
	for id, grants := range w.grants {
		for _, g := range grants {
			s.LoadGrant(id, g)
		}
	}
	for id, rows := range w.access {
		for i, a := range rows {
			a.Buckets = slices.Clone(a.Buckets)
			s.LoadAccess(id, i, a)
		}
	}
	for _, ev := range w.events {
		s.Stored[ev.ID] = ev
	}
	return s
}

func (w *world) save(s *State) {
	written := s.Written()
	for _, id := range written.Removed {
		delete(w.access, id)
	}
	for _, key := range written.Gone {
		delete(w.subs, key)
	}
	for _, key := range written.GoneGauges {
		delete(w.gauges, key)
	}
	for _, g := range written.Gauges {
		kept := *g
		kept.dirty = false
		w.gauges[g.Key] = kept
	}
	for _, sub := range written.Subjects {
		kept := *sub
		kept.Access, kept.Subs, kept.Gauges, kept.Grants, kept.totals, kept.stored, kept.dirty, kept.removed = nil, nil, nil, nil, nil, false, false, false
		w.subject[sub.ID] = kept
	}
	for _, m := range written.Subscriptions {
		kept := *m
		kept.dirty = false
		w.subs[m.Key] = kept
	}
	for _, ended := range written.Ended {
		for id, grants := range w.grants {
			w.grants[id] = slices.DeleteFunc(grants, func(g Grant) bool { return g.ID == ended.ID })
		}
	}
	for _, row := range written.Access {
		if w.access[row.Subject] == nil {
			w.access[row.Subject] = map[int]Access{}
		}
		kept := *row.Access
		kept.gone, kept.stored, kept.dirty = nil, false, false
		w.access[row.Subject][row.Loop] = kept
	}
	for _, ev := range s.Events {
		ev.ID = int64(len(w.events) + 1)
		w.events = append(w.events, ev)
	}
	w.emails = append(w.emails, s.Emails...)
	w.late += s.Late
	w.unknown += s.Unknown
}

// apply decides one batch from the stream.
func (w *world) apply(changes ...Change) {
	w.t.Helper()
	s := w.load()
	b := Batch{Changes: changes}
	for _, c := range changes {
		b.Through = c.Committed
	}
	if err := w.d.Decide(s, b); err != nil {
		w.t.Fatalf("%v", err)
	}
	w.save(s)
}

// counting decides as a count does.
func (w *world) counting(decide func(*State)) {
	s := w.load()
	s.Counting = true
	decide(s)
	w.save(s)
}

func (w *world) row(subject string) Access {
	w.t.Helper()
	a, ok := w.access[subject][0]
	if !ok {
		w.t.Fatalf("%s has no row", subject)
	}
	return a
}

// said lists the events as text, and forgets them.
func (w *world) said() []string {
	out := []string{}
	for _, e := range w.events {
		out = append(out, eventText(e))
	}
	w.events = nil
	return out
}

// eventText is one event as a test states it.
func eventText(e Event) string {
	text := fmt.Sprintf("%s %s", e.Subject, e.Kind)
	switch e.Kind {
	case TierChanged, Converted, Churned:
		text += " " + e.Tier
		if e.Feature != "" {
			text += " at " + e.Feature
		}
	default:
		text += fmt.Sprintf(" %s %d/%s", e.Feature, e.Used, e.Limit)
	}
	if e.Silent {
		text += " silent"
	}
	return text
}

func (w *world) expect(want ...string) {
	w.t.Helper()
	if want == nil {
		want = []string{}
	}
	if got := w.said(); !slices.Equal(got, want) {
		w.t.Errorf("events\n got %q\nwant %q", got, want)
	}
}

// features is the loop of most tests.
func features(limits map[string]Limit, edit ...func(*Loop)) Loop {
	l := Loop{
		Name: "freemium.features", Feature: "features", Message: "Upgrade to go on", Limits: limits, Enforcement: Async,
		Trigger: Trigger{Kind: OnAPI, Endpoint: "/api/features/*", Method: "POST"},
		Window:  Window{Kind: Anchored, Period: Period{Text: "30d", Length: 30 * 24 * time.Hour}},
		Prompt:  &Prompt{Provider: "resend", Template: "upgrade_prompt", Retries: -1},
	}
	for _, e := range edit {
		e(&l)
	}
	return l
}

func freeOnly(n Limit) map[string]Limit {
	return map[string]Limit{DefaultTier: n, PayingTier: Unlimited}
}

func lifetime(l *Loop) { l.Window = Window{Kind: Lifetime} }

func planOf(loops ...Loop) *Plan {
	return &Plan{Loops: loops, Tiers: map[string]string{}, Grace: 7 * 24 * time.Hour}
}

// use is a usage row that was committed when it happened.
func use(subject string, at time.Time) Change {
	return Change{Role: Usage, Op: Insert, Committed: at,
		Use: Use{Subject: subject, Endpoint: "/api/features/1", Method: "POST", Quantity: 1, At: at}}
}

// row makes a Row of text values.
func row(values map[Field]string) Row {
	r := Row{}
	for f, v := range values {
		r[f] = Text(v)
	}
	return r
}

// subscribe is a row of the subscriptions table.
func subscribe(op Op, key, subject, status string, at time.Time, more ...map[Field]string) Change {
	values := map[Field]string{FieldSubject: subject, FieldStatus: status}
	for _, m := range more {
		maps.Copy(values, m)
	}
	c := Change{Role: Subscriptions, Op: op, Committed: at, Key: key, Row: row(values)}
	if op == Delete {
		c.Row = nil
	}
	return c
}

// granting says that somebody's grants are others: they are loaded as they are.
func granting(subject string, at time.Time) Change {
	return Change{Role: Grants, Op: Insert, Committed: at, Row: row(map[Field]string{FieldSubject: subject})}
}

func user(op Op, key, subject, email string, at time.Time) Change {
	c := Change{Role: Users, Op: op, Committed: at, Key: key, Row: row(map[Field]string{FieldSubject: subject, FieldEmail: email})}
	if op == Delete {
		c.Row = nil
	}
	return c
}

func utc(text string) time.Time {
	t, err := time.Parse(time.DateTime, text)
	if err != nil {
		panic(err)
	}
	return t
}
