package loops

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestKinds compares each kind of window with the reference, over random histories: uses that are late, early, or given
// back, at the edges of windows and anywhere; a clock that jumps; subscriptions, grants and a stream that come and go.
// TIERGATE_TEST_SEED=n plays one history of each kind again, TIERGATE_TEST_LONG=1 many more.
func TestKinds(t *testing.T) {
	first, count := uint64(1), uint64(150)
	if os.Getenv("TIERGATE_TEST_LONG") != "" {
		count = 5000
	}
	if text := os.Getenv("TIERGATE_TEST_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("TIERGATE_TEST_SEED: %v", err)
		}
		first, count = n, 1
	}
	for _, kind := range []WindowKind{Lifetime, Anchored, Calendar, Billing, Rolling} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+count && !t.Failed(); seed++ {
				playKind(t, kind, seed)
			}
		})
	}
}

// kindHistory is one history of one kind of window.
type kindHistory struct {
	*facts
	t     *testing.T
	rng   *rand.Rand
	seed  uint64
	world *world
	clock time.Time
	ids   int64 // of grants
	subs  map[string]*pastSub
	note  []string
}

func playKind(t *testing.T, kind WindowKind, seed uint64) {
	h := &kindHistory{t: t, seed: seed, subs: map[string]*pastSub{}, rng: rand.New(rand.NewPCG(seed, uint64(len(kind))))}
	h.clock = pickOf(h, moments()).Add(within(h.rng, 26*time.Hour)).Truncate(time.Microsecond)
	free := pickOf(h, []Limit{0, 1, 2, 3, 5, 10})
	pro := free + 1 + Limit(h.rng.IntN(6))
	loop := features(map[string]Limit{DefaultTier: free, "pro": pro, PayingTier: pickOf(h, []Limit{Unlimited, pro + 4})}, func(l *Loop) {
		l.Window = h.someWindow(kind)
		l.WarnAt = pickOf(h, [][]float64{nil, {0.5}, {0.8}, {0.5, 0.8}})
		if h.chance(5) {
			l.Enforcement = Shadow
		}
	})
	plan := planOf(loop)
	plan.Grace = pickOf(h, []time.Duration{3 * time.Hour, 7 * 24 * time.Hour})
	h.facts = &facts{loop: loop, grace: plan.Grace}
	h.world = newWorld(t, plan, h.clock)
	for range 4 + h.rng.IntN(12) {
		if h.burst(); t.Failed() {
			return
		}
	}
}

// moments are those that calendars find difficult, or shortly before.
func moments() []time.Time {
	return []time.Time{utc("2024-01-30 23:00:00"), utc("2024-02-28 12:00:00"), utc("2023-12-31 00:00:00"), utc("2026-03-07 20:00:00"),
		utc("2026-03-28 12:00:00"), utc("2026-10-24 12:00:00"), utc("2026-10-31 12:00:00"), utc("2025-08-30 22:00:00")}
}

func (h *kindHistory) someWindow(kind WindowKind) Window {
	const day = 24 * time.Hour
	w := Window{Kind: kind}
	fixed := func(lengths ...time.Duration) { w.Period = Period{Length: pickOf(h, lengths)} }
	switch kind {
	case Anchored, Billing:
		if fixed(time.Hour, 12*time.Hour, 30*day); h.chance(60) {
			w.Period = Period{Unit: pickOf(h, []Unit{UnitMonth, UnitMonth, UnitYear})}
		}
	case Calendar:
		w.Period = Period{Unit: pickOf(h, []Unit{UnitHour, UnitDay, UnitDay, UnitWeek, UnitMonth, UnitMonth, UnitYear})}
		w.Zone = zone(h.t, pickOf(h, []string{"UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Santiago", "Asia/Kathmandu", "Pacific/Auckland"}))
		if _, change := h.clock.In(w.Zone).ZoneBounds(); !change.IsZero() && h.chance(50) {
			h.clock = change.UTC().Add(-within(h.rng, pickOf(h, []time.Duration{2 * time.Hour, 26 * time.Hour}))).Truncate(time.Microsecond)
		}
	case Rolling:
		fixed(time.Hour, 12*time.Hour, day, 7*day, 30*day, 90*day, 365*day)
	}
	return w
}

func (h *kindHistory) chance(percent int) bool { return h.rng.IntN(100) < percent }

func pickOf[T any](h *kindHistory, from []T) T { return from[h.rng.IntN(len(from))] }

// burst is what happens while nobody stops to look: some records, and then perhaps silence. Of some the stream
// brings nothing for so long that the clock is far ahead. Grants are loaded as they are: what they would change has
// happened before.
func (h *kindHistory) burst() {
	behind := h.chance(25)
	var batch []record
	for range 1 + h.rng.IntN(6) {
		h.move()
		r := h.someRecord(behind)
		if r.sub == nil && r.use == nil {
			if len(batch) > 0 {
				h.decide(batch, r.committed)
			}
			if until := h.world.subject[r.who].TierUntil; len(h.world.grants[r.who]) > 0 || !until.IsZero() {
				h.decide(nil, r.committed)
			}
			batch = h.decide([]record{r}, r.committed)
			continue
		}
		if batch = append(batch, r); !behind && h.chance(40) {
			batch = h.decide(batch, h.clock)
		}
	}
	if behind {
		h.move()
	}
	for len(batch) > 0 {
		n := 1 + h.rng.IntN(len(batch))
		h.decide(batch[:n], h.clock)
		batch = batch[n:]
	}
	if h.chance(40) {
		h.move()
		h.decide(nil, h.clock)
	}
}

// decide applies a batch, and compares everything. It returns an empty one.
func (h *kindHistory) decide(batch []record, now time.Time) []record {
	h.world.now = now
	until := now
	var changes []Change
	for k := range batch {
		r := &batch[k]
		until, r.decided = r.committed, now
		h.note = append(h.note, r.text())
		switch {
		case r.grant != nil:
			h.world.grants[r.who] = append(h.world.grants[r.who], *r.grant)
		case r.revoked != 0:
			h.world.grants[r.who] = slices.DeleteFunc(h.world.grants[r.who], func(g Grant) bool { return g.ID == r.revoked })
		}
		changes = append(changes, h.change(r))
	}
	h.records = append(h.records, batch...)
	h.passed = append(h.passed, decision{until, now})
	h.note = append(h.note, fmt.Sprintf("-- decided until %s at %s", until.Format(exact), now.Format(exact)))
	h.world.apply(changes...)
	h.compare(until)
	return nil
}

// change is a record as the stream brings it.
func (h *kindHistory) change(r *record) Change {
	switch {
	case r.use != nil:
		c := use(r.who, r.committed)
		c.Use.At, c.Use.Quantity = r.use.at, r.use.quantity
		return c
	case r.sub != nil:
		values := map[Field]string{FieldPlan: r.sub.plan}
		if !r.sub.end.IsZero() {
			values[FieldPeriodStart], values[FieldPeriodEnd] = r.sub.start.Format(exact), r.sub.end.Format(exact)
		}
		return subscribe(r.sub.op, r.sub.key, r.who, r.sub.status, r.committed, values)
	default:
		return granting(r.who, r.committed)
	}
}

// compare holds everything that was decided against the reference.
func (h *kindHistory) compare(until time.Time) {
	h.t.Helper()
	late := 0
	for _, who := range people {
		want := h.account(who, until)
		late += want.late
		got, there := h.world.access[who][0]
		if there != want.known {
			h.fail("%s has a row: %v, want %v", who, there, want.known)
			return
		}
		if is, must := rowText(got), rowText(want.row()); there && is != must {
			h.fail("row of %s\n got %s\nwant %s", who, is, must)
			return
		}
		var said []string
		for _, ev := range h.world.events {
			if ev.Subject == who {
				said = append(said, exactly(ev))
			}
		}
		if !slices.Equal(said, want.events) {
			h.fail("events of %s\n got %s\nwant %s", who, strings.Join(said, "\n     "), strings.Join(want.events, "\n     "))
			return
		}
	}
	if h.world.late != late {
		h.fail("%d late rows, want %d", h.world.late, late)
	}
}

func (h *kindHistory) fail(format string, args ...any) {
	h.t.Helper()
	w := h.loop.Window
	h.t.Errorf("seed %d: window %s of %s%v in %v, limits %v, warnings at %v, %s, grace %v\n%s\n%s", h.seed, w.Kind, w.Period.Unit, w.Period.Length, w.Zone,
		h.loop.Limits, h.loop.WarnAt, h.loop.Enforcement, h.grace, strings.Join(h.note, "\n"), fmt.Sprintf(format, args...))
}

func rowText(a Access) string {
	return fmt.Sprintf("allowed %v (%s %q), tier %s, used %d of %s, window [%s, %s), episode %d", a.Allowed, a.Reason, a.Message, a.Tier, a.Used, a.Limit,
		a.PeriodStart.Format(exact), a.ResetsAt.Format(exact), a.Episode)
}

// exactly is an event as the reference states it.
func exactly(e Event) string {
	at := e.At.Format(exact)
	switch e.Kind {
	case TierChanged, Converted, Churned:
		text := fmt.Sprintf("%s %s %s at %s", e.Subject, e.Kind, e.Tier, at)
		if e.Feature != "" {
			text += fmt.Sprintf(" at %s %d/%s in episode %d", e.Feature, e.Used, e.Limit, e.Episode)
		}
		return text
	}
	text := fmt.Sprintf("%s %s %s %d/%s at %s in episode %d", e.Subject, e.Kind, e.Feature, e.Used, e.Limit, at, e.Episode)
	switch {
	case e.Kind == Reset:
		text += fmt.Sprintf(", %d over", e.Over)
	case e.Threshold > 0:
		text += fmt.Sprintf(", line %v", e.Threshold)
	}
	if e.Silent && (e.Kind == Blocked || e.Kind == Warned) {
		text += ", silent"
	}
	return text
}
