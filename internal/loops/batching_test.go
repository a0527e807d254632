package loops

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// TestBatchingDoesNotMatter holds that the same changes give the same state and the same events wherever
// the batches are cut: batches follow demand, and nobody may be able to tell.
func TestBatchingDoesNotMatter(t *testing.T) {
	hours := func(n int) Window {
		return Window{Kind: Anchored, Period: Period{Length: time.Duration(n) * time.Hour}}
	}
	plan := planOf(
		features(map[string]Limit{DefaultTier: 3, "pro": 6, PayingTier: Unlimited}, func(l *Loop) { l.Window, l.WarnAt = hours(5), []float64{0.5, 0.8} }),
		features(freeOnly(4), lifetime, func(l *Loop) { l.Feature, l.Trigger = "all", Trigger{Kind: OnAPI, Endpoint: "/**"} }),
		features(freeOnly(2), func(l *Loop) {
			l.Feature, l.Enforcement = "daily", Shadow
			l.Window = Window{Kind: Calendar, Period: Period{Unit: UnitDay}, Zone: time.UTC}
		}),
	)
	plan.Grace = 3 * time.Hour
	rapid.Check(t, func(t *rapid.T) {
		changes := drawChanges(t)
		end := changes[len(changes)-1].Committed.Add(time.Minute)
		whole := newWorld(t, plan, end)
		whole.apply(changes...)
		pieces := newWorld(t, plan, end)
		for rest := changes; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			pieces.apply(rest[:n]...)
			rest = rest[n:]
		}
		for name, pair := range map[string][2]any{
			"subjects": {whole.subject, pieces.subject}, "subscriptions": {whole.subs, pieces.subs},
			"rows": {whole.access, pieces.access}, "events": {bySubject(whole.events), bySubject(pieces.events)},
			"late rows": {whole.late, pieces.late}, "rows without a subject": {whole.unknown, pieces.unknown},
		} {
			if diff := cmp.Diff(pair[0], pair[1], cmpopts.EquateEmpty(),
				cmp.AllowUnexported(Subject{}, Access{}, Subscription{}, total{})); diff != "" {
				t.Fatalf("%s differ (- one batch, + several):\n%s", name, diff)
			}
		}
	})
}

// drawChanges draws what an application may commit, in commit order.
func drawChanges(t *rapid.T) []Change {
	at := march
	people := []string{"ann", "bob", "", AnySubject}
	var changes []Change
	keys := map[string]string{}  // subscription → owner: only rows that exist are updated or deleted
	users := map[string]string{} // key → subject
	for range rapid.IntRange(1, 40).Draw(t, "changes") {
		at = at.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "minutes")) * time.Minute)
		who := rapid.SampledFrom(people).Draw(t, "who")
		key := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "key")
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1:
			op := Insert
			if _, ok := keys[key]; ok {
				op = Update
			}
			status := rapid.SampledFrom([]string{"active", "canceled", "past_due", "trialing"}).Draw(t, "status")
			changes = append(changes, subscribe(op, key, who, status, at, map[Field]string{FieldPlan: rapid.SampledFrom([]string{"pro", "gold"}).Draw(t, "plan")}))
			keys[key] = who
		case 2:
			if _, ok := keys[key]; ok {
				changes = append(changes, subscribe(Delete, key, "", "", at))
				delete(keys, key)
			}
		case 3:
			if _, ok := users[key]; !ok && !slices.Contains(values(users), who) {
				changes = append(changes, user(Insert, key, who, who+"@example.com", at))
				users[key] = who
			}
		case 4:
			if _, ok := users[key]; ok {
				changes = append(changes, user(Delete, key, "", "", at))
				delete(users, key)
			}
		default:
			c := use(who, at)
			c.Use.Quantity = rapid.Int64Range(-1, 3).Draw(t, "quantity")
			c.Use.Endpoint = rapid.SampledFrom([]string{"/api/features/1", "/other"}).Draw(t, "endpoint")
			changes = append(changes, c)
		}
	}
	if len(changes) == 0 {
		changes = append(changes, use("ann", at))
	}
	return changes
}

func values(m map[string]string) (out []string) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// bySubject keeps the order of each subject's events: that of two subjects' means nothing.
func bySubject(events []Event) map[string][]string {
	out := map[string][]string{}
	for _, e := range events {
		out[e.Subject+" "+e.Feature] = append(out[e.Subject+" "+e.Feature], fmt.Sprintf("%s at %s in episode %d", eventText(e), e.At.Format(time.DateTime), e.Episode))
	}
	return out
}
