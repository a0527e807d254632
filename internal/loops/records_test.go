package loops

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// record is something that was committed.
type record struct {
	who       string
	committed time.Time
	decided   time.Time // the clock when it was decided
	use       *pastUse
	sub       *pastSub
	grant     *Grant
	revoked   int64 // the id of a grant
}

type pastUse struct {
	at       time.Time
	quantity int64
}

type pastSub struct {
	key, status, plan string
	op                Op
	start, end        time.Time
	deleted           bool
}

// move lets time go on: mostly a little, sometimes to an edge, sometimes over several windows.
func (h *kindHistory) move() {
	next := h.clock.Add(jump(h.rng)).Truncate(time.Microsecond)
	if edge := h.near(pickOf(h, h.edges())); h.chance(30) && edge.After(h.clock) {
		next = edge
	}
	h.clock = next
}

// jump is how far the clock moves between two records: mostly little, sometimes very far.
func jump(rng *rand.Rand) time.Duration {
	most := []time.Duration{time.Second, time.Hour, 30 * time.Hour, 12 * 24 * time.Hour, 90 * 24 * time.Hour}
	return within(rng, most[rng.IntN(len(most))])
}

// within returns a random stretch of time, at most so long.
func within(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most) + 1))
}

// edges are moments at which something begins or ends.
func (h *kindHistory) edges() []time.Time {
	edges := []time.Time{h.clock}
	for _, who := range people {
		for _, a := range h.world.access[who] {
			edges = append(edges, a.PeriodStart, a.ResetsAt, a.ResetsAt, a.ClosedAt)
			for _, b := range a.Buckets {
				edges = append(edges, b.Start, b.RollsOff)
			}
		}
		edges = append(edges, h.world.subject[who].TierUntil)
		for _, g := range h.world.grants[who] {
			edges = append(edges, g.ExpiresAt)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.subs)) {
		edges = append(edges, h.subs[key].start, h.subs[key].end)
	}
	return slices.DeleteFunc(edges, time.Time.IsZero)
}

// near is a moment, or just before or after it: databases know microseconds.
func (h *kindHistory) near(t time.Time) time.Time {
	return t.Add(time.Duration(h.rng.IntN(3)-1) * time.Microsecond)
}

var people = [...]string{"ann", "bob"}

func (h *kindHistory) someRecord(behind bool) record {
	r := record{who: people[h.rng.IntN(5)/4], committed: h.clock}
	switch n := h.rng.IntN(100); {
	case n < 14:
		r.sub = h.someSub(r.who)
	case n < 20 && !behind:
		h.ids++
		r.grant = &Grant{ID: h.ids, Quantity: pickOf(h, []Limit{1, 2, 5, Unlimited}), ExpiresAt: h.someExpiry()}
	case n < 23 && !behind && h.ids > 0:
		r.revoked = 1 + h.rng.Int64N(h.ids)
		if !slices.ContainsFunc(h.world.grants[r.who], func(g Grant) bool {
			return g.ID == r.revoked && (g.ExpiresAt.IsZero() || g.ExpiresAt.After(h.clock))
		}) {
			r.revoked = 0
			r.use = h.someUse()
		}
	default:
		r.use = h.someUse()
	}
	return r
}

// someExpiry is often the moment at which a window ends: that is how a one-off grant is made.
func (h *kindHistory) someExpiry() (at time.Time) {
	switch h.rng.IntN(4) {
	case 0:
		return time.Time{}
	case 1:
		at = pickOf(h, h.edges())
	}
	if !at.After(h.clock) {
		at = h.clock.Add(jump(h.rng) + time.Microsecond).Truncate(time.Microsecond)
	}
	return at
}

func (h *kindHistory) someUse() *pastUse {
	u := &pastUse{at: h.clock, quantity: 1}
	switch h.rng.IntN(10) {
	case 0:
		u.at = h.clock.Add(-within(h.rng, 2*time.Minute))
	case 1:
		u.at = h.clock.Add(-within(h.rng, 40*24*time.Hour))
	case 2:
		u.at = h.clock.Add(jump(h.rng)) // ahead of the commit
	case 3, 4:
		u.at = h.near(pickOf(h, h.edges()))
	}
	switch h.rng.IntN(6) {
	case 0:
		u.quantity = -1 - h.rng.Int64N(3)
	case 1:
		u.quantity = h.rng.Int64N(6)
	}
	u.at = u.at.Truncate(time.Microsecond)
	return u
}

// someSub inserts, updates or deletes one of somebody's subscriptions.
func (h *kindHistory) someSub(who string) *pastSub {
	key := who + pickOf(h, []string{"-1", "-1", "-2"})
	old := h.subs[key]
	if old != nil && h.chance(15) {
		delete(h.subs, key)
		return &pastSub{key: key, op: Delete, deleted: true}
	}
	next := &pastSub{key: key, op: Insert, status: StatusActive, plan: "pro"}
	if old != nil {
		*next = *old
		next.op = Update
	}
	if old == nil || h.chance(60) {
		next.status = pickOf(h, []string{StatusActive, StatusActive, StatusActive, StatusTrialing, StatusPastDue, "canceled", ""})
		next.plan = pickOf(h, []string{"pro", "pro", "gold"})
	}
	if old == nil || h.chance(70) {
		h.bill(next)
	}
	if next.end.IsZero() && (next.status == "" || next.status == StatusTrialing) {
		next.status = StatusActive
	}
	h.subs[key] = next
	return next
}

// bill gives a subscription a billing period: none, a new one, the next one, or the same with another end.
func (h *kindHistory) bill(sub *pastSub) {
	n := h.rng.IntN(10)
	switch {
	case n == 0:
		sub.start, sub.end = time.Time{}, time.Time{}
		return
	case sub.end.IsZero() || n < 4:
		sub.start = h.clock.Add(pickOf(h, []time.Duration{0, -within(h.rng, 40*24*time.Hour), within(h.rng, 10*24*time.Hour)})).Truncate(time.Second)
	case n < 8:
		sub.start = sub.end
	default:
		sub.end = sub.start.Add(within(h.rng, 60*24*time.Hour) + time.Second).Truncate(time.Second)
		return
	}
	switch months := pickOf(h, []int{0, 1, 1, 1, 3, 12}); months {
	case 0:
		sub.end = sub.start.AddDate(0, 0, 28)
	default:
		sub.end = monthsOn(sub.start, months)
	}
}

// text is a record as a message states it.
func (r *record) text() string {
	at := r.committed.Format(exact) + " " + r.who
	switch {
	case r.use != nil:
		return fmt.Sprintf("%s uses %d at %s", at, r.use.quantity, r.use.at.Format(exact))
	case r.sub != nil:
		return fmt.Sprintf("%s subscription %s %c: %s %s [%s, %s)", at, r.sub.key, r.sub.op, r.sub.status, r.sub.plan,
			r.sub.start.Format(exact), r.sub.end.Format(exact))
	case r.grant != nil:
		return fmt.Sprintf("%s grant %d: %s until %s", at, r.grant.ID, r.grant.Quantity, r.grant.ExpiresAt.Format(exact))
	default:
		return fmt.Sprintf("%s grant %d is revoked", at, r.revoked)
	}
}
