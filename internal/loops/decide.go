package loops

import (
	"math"
	"regexp"
	"strings"
	"time"
)

// Decider turns facts into flags and events. It is pure: what it reads and changes is the State.
type Decider struct {
	plan     *Plan
	watches  map[Role]*Watch
	patterns []*regexp.Regexp // by loop; nil where every use, or the feature column, decides
	matches  map[route][]int  // what the patterns said, for the endpoints seen lately
}

type route struct{ method, endpoint string }

// maxRoutes bounds the cache of endpoints: paths that hold ids never end.
const maxRoutes = 16384

// NewDecider returns a decider for a plan over the watched tables.
func NewDecider(plan *Plan, watches []Watch) *Decider {
	d := &Decider{plan: plan, watches: map[Role]*Watch{}, matches: map[route][]int{}}
	for i := range watches {
		d.watches[watches[i].Role] = &watches[i]
	}
	for _, l := range plan.Loops {
		var p *regexp.Regexp
		if l.Trigger.Kind == OnAPI && d.watches[Usage].Has(FieldEndpoint) {
			p = regexp.MustCompile("(?s)" + l.Trigger.Pattern())
		}
		d.patterns = append(d.patterns, p)
	}
	return d
}

// Decide applies a batch to the state: every change in commit order, then whatever time has brought.
func (d *Decider) Decide(s *State, b Batch) error {
	for i := range b.Changes {
		c := &b.Changes[i]
		var err error
		switch c.Role {
		case Usage:
			if c.Gauge() {
				err = d.gauge(s, c)
			} else {
				d.use(s, &c.Use, c.Committed)
			}
		case Grants:
			d.grant(s, c)
		case Subscriptions:
			err = d.subscription(s, c)
		case Users:
			d.user(s, c)
		case Events:
			d.event(s, c.Event)
		}
		if err != nil {
			return err
		}
	}
	for _, id := range s.Due {
		d.again(s, s.subject(id), s.present(b))
	}
	d.tick(s, s.present(b))
	d.overRuns(s)
	return nil
}

// use counts one usage row in every loop it belongs to.
func (d *Decider) use(s *State, u *Use, committed time.Time) {
	if u.Refused {
		return
	}
	if Nobody(u.Subject) {
		s.Unknown++
		return
	}
	sub := s.subject(u.Subject)
	if sub.Deleted {
		return
	}
	at, now := u.At, committed.Add(s.Shift)
	if at.After(now) || !d.watches[Usage].Has(FieldAt) {
		at = now
	}
	if s.Shift != 0 {
		now = at // what a test clock showed at the commit is not known: it may have been moved since
	}
	d.elapse(s, sub, now)
	for _, i := range d.match(u) {
		if !s.elsewhere(i) {
			d.count(s, sub, i, u.Quantity, at, now)
		}
	}
}

// match returns the loops that a use belongs to. Of strict ones usage rows say nothing.
func (d *Decider) match(u *Use) []int {
	key := route{u.Method, u.Endpoint}
	byFeature := d.watches[Usage].Has(FieldFeature)
	if byFeature {
		key.endpoint += "\x00" + u.Feature
	}
	if found, ok := d.matches[key]; ok {
		return found
	}
	path, _, _ := strings.Cut(u.Endpoint, "?")
	path = strings.TrimRight(path, "/")
	var found []int
	for i, l := range d.plan.Loops {
		switch {
		case l.Enforcement == Strict:
			continue
		case d.patterns[i] != nil:
			if l.Trigger.Method != "" && d.watches[Usage].Has(FieldMethod) && !strings.EqualFold(l.Trigger.Method, u.Method) {
				continue
			}
			if !d.patterns[i].MatchString(path) {
				continue
			}
		case byFeature:
			if u.Feature != l.Feature {
				continue
			}
		}
		found = append(found, i)
	}
	if len(d.matches) >= maxRoutes {
		clear(d.matches)
	}
	d.matches[key] = found
	return found
}

// count adds a use to its window, opening one where none is. A use older than the window, or than the
// end of the last one, no longer counts; nor does one whose window would be over by now, when it was committed.
func (d *Decider) count(s *State, sub *Subject, i int, quantity int64, at, now time.Time) {
	a := d.access(s, sub, i)
	if a.Limit != d.limitOf(sub, i) {
		d.limit(s, sub, i, at) // a plan that changed has not come to this row yet
	}
	if d.plan.Loops[i].Window.Kind == Rolling {
		d.put(s, sub, i, quantity, at, now)
		return
	}
	if at.Before(a.PeriodStart) || at.Before(a.ClosedAt) {
		s.Late++
		return
	}
	if a.ResetsAt.IsZero() {
		start, end := d.bounds(sub, i, at, a.ClosedAt)
		if !end.IsZero() && !end.After(now) {
			s.Late++
			return
		}
		a.PeriodStart, a.ResetsAt = start, end
	}
	d.move(s, sub, i, plus(a.Used, quantity), at)
}

// plus adds a quantity to a count. What is given back before it was used is a credit: a sum that stopped
// at zero would depend on the order of the rows, and a recount knows none.
func plus(used, quantity int64) int64 {
	switch sum := used + quantity; {
	case quantity > 0 && sum < used:
		return math.MaxInt64
	case quantity < 0 && sum > used:
		return math.MinInt64
	default:
		return sum
	}
}

// close ends an open window: the count starts again with the next use.
func (d *Decider) close(s *State, sub *Subject, i int) {
	a := sub.Access[i]
	at, used := a.ResetsAt, a.Used
	wasDown := atWall(a.Used, a.Limit) && a.Limit > 0
	a.ClosedAt, a.PeriodStart, a.ResetsAt, a.Used = at, time.Time{}, time.Time{}, 0
	if wasDown {
		ev := d.emit(s, sub, i, Event{Kind: Reset, At: at})
		ev.Used, ev.Over = used, over(used, a.Limit)
	}
	a.Episode++
	a.dirty = true
	d.settle(sub, i)
}

// access returns the subject's row of a loop, making the row that says "nothing used yet". A strict row is made
// only where nobody else may be making it: it returns nil elsewhere.
func (d *Decider) access(s *State, sub *Subject, i int) *Access {
	if sub.Access[i] == nil {
		if d.plan.Loops[i].Enforcement == Strict && !s.Vacant[RowName{sub.ID, i}] {
			sub.again = true
			return nil
		}
		sub.Access[i] = &Access{Tier: sub.Tier, Limit: d.limitOf(sub, i), ClosedAt: sub.Since, Episode: s.FirstEpisode}
		if !sub.Since.IsZero() {
			sub.Access[i].Episode = max(s.FirstEpisode, sub.Since.Unix()) // others than were answered before they left
		}
		d.settle(sub, i)
	}
	return sub.Access[i]
}

// again looks once more at a subject of whom a strict row was held.
func (d *Decider) again(s *State, sub *Subject, at time.Time) {
	d.renew(sub)
	d.elapse(s, sub, at)
	switch {
	case sub.Deleted:
		d.forget(s, sub, at)
	case sub.UserKey != "" || sub.Tier != DefaultTier:
		d.complete(s, sub)
		fallthrough
	default:
		for i, a := range sub.Access {
			if a != nil {
				d.follow(s, sub, i, at)
			}
		}
		d.entitle(s, sub, at)
	}
}

// renew begins the strict rows again that somebody held while their subject was deleted and came back.
func (d *Decider) renew(sub *Subject) {
	for i, a := range sub.Access {
		if a == nil || d.plan.Loops[i].Enforcement != Strict || !a.ClosedAt.Before(sub.Since) {
			continue
		}
		if a.Held {
			sub.again = true
			continue
		}
		a.PeriodStart, a.ResetsAt, a.ClosedAt, a.Used = time.Time{}, time.Time{}, sub.Since, 0
		a.Episode, a.dirty = max(a.Episode+1, sub.Since.Unix()), true
		a.drop(func(Bucket) bool { return true })
		d.settle(sub, i)
	}
}

// move sets used, and says which lines that crossed.
func (d *Decider) move(s *State, sub *Subject, i int, used int64, at time.Time) {
	a, l := sub.Access[i], &d.plan.Loops[i]
	before := a.Used
	a.Used = used
	a.dirty = true
	if l.Window.Kind == Rolling {
		a.frame()
	}
	was, is := atWall(before, a.Limit), atWall(used, a.Limit)
	switch {
	case is && !was:
		d.emit(s, sub, i, Event{Kind: Blocked, At: at})
	case was && !is && a.Limit > 0:
		d.emit(s, sub, i, Event{Kind: Unblocked, At: at})
	case !is && a.Limit != Unlimited:
		for j := len(l.WarnAt) - 1; j >= 0; j-- {
			if line := warnLine(l.WarnAt[j], a.Limit); before < line && line <= used {
				d.emit(s, sub, i, Event{Kind: Warned, Threshold: l.WarnAt[j], At: at})
				break
			}
		}
	}
	if is != was || len(sub.Grants) > 0 { // which may be all that keeps the flag up
		d.settle(sub, i)
	}
}

// limit sets tier and limit, and says what that opened or shut.
func (d *Decider) limit(s *State, sub *Subject, i int, at time.Time) {
	a, l := sub.Access[i], &d.plan.Loops[i]
	before := *a
	a.Tier, a.Limit = sub.Tier, d.limitOf(sub, i)
	changed := a.Tier != before.Tier || a.Limit != before.Limit
	if a.Held {
		sub.again = sub.again || changed || d.verdict(sub, i) != verdict{a.Allowed, a.Reason, a.Message}
		a.Tier, a.Limit = before.Tier, before.Limit
		return
	}
	a.dirty = a.dirty || changed
	if changed && l.Window.Kind == Rolling && len(a.Buckets) > 0 {
		a.frame()
	}
	if before.Tier != a.Tier && l.Window.Kind == Lifetime {
		a.Episode++
	}
	was, is := atWall(a.Used, before.Limit), atWall(a.Used, a.Limit)
	switch {
	case is && !was:
		// Whoever leaves a plan did not run into a wall: no prompt for what the plan never had.
		d.emit(s, sub, i, Event{Kind: Blocked, At: at, Silent: a.Limit == 0})
	case was && !is:
		d.emit(s, sub, i, Event{Kind: Unblocked, At: at})
	}
	d.settle(sub, i)
}

// verdict is what a row says.
type verdict struct {
	allowed         bool
	reason, message string
}

// verdict derives flag, reason and message from tier, count and limit.
func (d *Decider) verdict(sub *Subject, i int) verdict {
	a, l := sub.Access[i], &d.plan.Loops[i]
	switch {
	case l.Enforcement == Shadow:
		return verdict{allowed: true}
	case !atWall(a.Used, a.Limit) && atWall(a.Used, l.Limit(sub.Tier)):
		return verdict{allowed: true, reason: ReasonGranted}
	case !atWall(a.Used, a.Limit):
		return verdict{allowed: true}
	case a.Limit == 0:
		return verdict{reason: ReasonPlan, message: l.Message}
	case sub.Status == StatusPastDue:
		return verdict{reason: ReasonPastDue, message: l.Message}
	default:
		return verdict{reason: ReasonLimit, message: l.Message}
	}
}

// settle lets a row say what holds.
func (d *Decider) settle(sub *Subject, i int) {
	a, v := sub.Access[i], d.verdict(sub, i)
	a.dirty = a.dirty || v != verdict{a.Allowed, a.Reason, a.Message}
	a.Allowed, a.Reason, a.Message = v.allowed, v.reason, v.message
}

// tick closes the windows and ends the tiers whose time has come.
func (d *Decider) tick(s *State, through time.Time) {
	for _, sub := range s.Subjects {
		d.elapse(s, sub, through)
	}
}

// elapse lets time pass for one subject: its windows close and its tiers end in the order of their times.
// It comes before each of its changes as well, so that it does not matter where batches are cut.
func (d *Decider) elapse(s *State, sub *Subject, through time.Time) {
	if sub.Deleted {
		return
	}
	for {
		due, act := sub.TierUntil, func() { d.retier(s, sub, sub.TierUntil) }
		if end := sub.expiry(); !end.IsZero() && (due.IsZero() || end.Before(due)) {
			due, act = end, func() { d.expire(s, sub, end) }
		}
		window := -1
		for i, a := range sub.Access {
			if a == nil || a.Held {
				continue
			}
			if next := a.due(); !next.IsZero() && (due.IsZero() || next.Before(due) || (window < 0 && next.Equal(due))) {
				due, window = next, i
			}
		}
		switch {
		case due.IsZero() || due.After(through):
			return
		case window < 0:
			act()
		case len(sub.Access[window].Buckets) > 0:
			d.roll(s, sub, window, due)
		default:
			d.close(s, sub, window)
		}
	}
}

// atWall reports whether nothing is left. A limit of zero is no allowance that a credit could fill.
func atWall(used int64, limit Limit) bool {
	return limit != Unlimited && (used >= int64(limit) || limit == 0)
}

// warnLine is the number of uses at which a fraction of the limit is reached, and at least one.
func warnLine(fraction float64, limit Limit) int64 {
	return max(1, int64(math.Ceil(fraction*float64(limit)-1e-9)))
}
