package loops

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// worth is what the subscriptions of somebody are worth.
type worth struct {
	tier, status      string
	until, start, end time.Time
}

// regrade works the tier out again, from every subscription there is.
func (a *account) regrade() {
	before, limit := a.is, a.limit()
	a.is = a.worth()
	if a.is.tier != before.tier {
		a.retiered(before.tier, limit)
	}
	a.follow(limit)
	a.relimited(limit, before.tier)
}

// retiered tells of another tier, and at which wall that was.
func (a *account) retiered(before string, limit Limit) {
	wall := ""
	if a.known && limit > 0 && shut(a.used(), limit) {
		wall = fmt.Sprintf(" at %s %d/%s in episode %d", a.loop.Feature, a.used(), limit, a.episode)
	}
	kinds := []EventKind{TierChanged}
	switch DefaultTier {
	case before:
		kinds = append(kinds, Converted)
	case a.is.tier:
		kinds = append(kinds, Churned)
	}
	for _, kind := range kinds {
		a.events = append(a.events, fmt.Sprintf("%s %s %s at %s%s", a.who, kind, a.is.tier, a.now.Format(exact), wall))
	}
}

// follow moves the end of an open window with the billing period. limit is what held in it.
func (a *account) follow(limit Limit) {
	if a.loop.Window.Kind != Billing || a.end.IsZero() || a.is.end.IsZero() || !a.is.end.After(a.now) {
		return
	}
	switch {
	case !a.is.start.After(a.start): // the same period, with another end
		a.end = a.is.end
	case a.is.start.Before(a.end): // a period begins inside the window
		a.end = a.is.start
		if a.end.Before(a.now) {
			a.end = a.now
		}
	}
	if !a.end.After(a.now) {
		a.close(limit)
	}
}

// worth is what the best subscription is worth now: that of the higher tier, then the one that lasts longest.
func (a *account) worth() worth {
	var all []worth
	for _, r := range a.seen {
		if r.sub != nil && r.sub == a.last(r.sub.key) && !r.sub.deleted {
			all = append(all, a.worthOf(r.sub))
		}
	}
	if len(all) == 0 {
		return worth{tier: DefaultTier}
	}
	ranks := []string{DefaultTier, "pro", PayingTier}
	never := func(t time.Time) int64 {
		if t.IsZero() {
			return math.MaxInt64
		}
		return t.UnixMicro()
	}
	return slices.MinFunc(all, func(x, y worth) int {
		return cmp.Or(cmp.Compare(slices.Index(ranks, y.tier), slices.Index(ranks, x.tier)), cmp.Compare(never(y.until), never(x.until)),
			cmp.Compare(x.status, y.status), y.end.Compare(x.end), y.start.Compare(x.start))
	})
}

// last is a subscription's row as it was committed last.
func (a *account) last(key string) (row *pastSub) {
	for _, r := range a.seen {
		if r.sub != nil && r.sub.key == key {
			row = r.sub
		}
	}
	return row
}

func (a *account) worthOf(sub *pastSub) worth {
	is := worth{tier: PayingTier, status: sub.status, start: sub.start, end: sub.end}
	if sub.plan == "pro" {
		is.tier = "pro"
	}
	switch sub.status {
	case StatusActive:
	case StatusTrialing:
		is.until = sub.end.Add(time.Hour)
	case StatusPastDue:
		is.until = a.pastDueSince(sub.key).Add(a.grace)
	case "":
		is.until = sub.end
	default:
		return worth{tier: DefaultTier, status: sub.status}
	}
	if !is.until.IsZero() && !is.until.After(a.now) {
		return worth{tier: DefaultTier, status: sub.status}
	}
	return is
}

// pastDueSince is when a subscription fell past due, after it was last anything else.
func (a *account) pastDueSince(key string) (since time.Time) {
	for _, r := range a.seen {
		if r.sub == nil || r.sub.key != key {
			continue
		}
		if r.sub.status != StatusPastDue || r.sub.deleted {
			since = time.Time{}
		} else if since.IsZero() {
			since = r.committed
		}
	}
	return since
}

// open are the grants that hold.
func (a *account) open() (grants []Grant) {
	for _, r := range a.seen {
		if r.grant != nil && !a.expired[r.grant.ID] {
			grants = append(grants, *r.grant)
		}
	}
	for _, r := range a.seen {
		grants = slices.DeleteFunc(grants, func(g Grant) bool { return g.ID == r.revoked })
	}
	return grants
}

func (a *account) tierLimit(tier string) Limit {
	n, own := a.loop.Limits[tier]
	if !own {
		n = a.loop.Limits[PayingTier]
	}
	return n
}

func (a *account) limit() Limit {
	n := a.tierLimit(a.is.tier)
	for _, g := range a.open() {
		if n == Unlimited || g.Quantity == Unlimited {
			return Unlimited
		}
		n += g.Quantity
	}
	return n
}

// expire ends the grants whose time has come, one by one.
func (a *account) expire() {
	for _, g := range a.open() {
		if !g.ExpiresAt.Equal(a.now) {
			continue
		}
		before := a.limit()
		a.expired[g.ID] = true
		a.say(Event{Kind: Expired}, a.now)
		a.relimited(before, a.is.tier)
	}
}
