package loops

import (
	"strings"
	"time"
)

// Statuses of a subscription that the tier depends on, as Stripe spells them.
const (
	StatusActive   = "active"
	StatusTrialing = "trialing"
	StatusPastDue  = "past_due"
)

// trialMargin is how long a trial that ended keeps its tier: the time in which the application
// learns that it was paid for. Locking out somebody who just paid is the worst thing we can do.
const trialMargin = time.Hour

// standing is what one subscription is worth at a moment.
type standing struct {
	tier, status string
	until        time.Time // when that changes by itself; zero: never
	billing      Span      // the period it is paid for
}

// standingOf applies the status policy: active and trialing pay, past_due pays for the time of
// grace, everything else does not. A row without status counts while its period lasts.
func (p *Plan) standingOf(m *Subscription, now time.Time) standing {
	st := standing{tier: DefaultTier, status: m.Status}
	var until time.Time
	switch m.Status {
	case StatusActive:
	case StatusTrialing:
		if !m.PeriodEnd.IsZero() {
			until = m.PeriodEnd.Add(trialMargin)
		}
	case StatusPastDue:
		until = m.PastDueSince.Add(p.Grace)
	case "":
		until = m.PeriodEnd
	default:
		return st
	}
	if !until.IsZero() && !until.After(now) {
		return st
	}
	st.tier, st.until = p.TierOf(m.Price, m.Plan), until
	if span := (Span{m.PeriodStart, m.PeriodEnd}); span.real() {
		st.billing = span
	}
	return st
}

// retier works out the subject's tier again: the best of its subscriptions' wins. Whoever is deleted has
// none, whatever subscriptions are still to be deleted after them.
func (d *Decider) retier(s *State, sub *Subject, at time.Time) {
	if sub.Deleted {
		return
	}
	best := standing{tier: DefaultTier}
	first := true
	for _, m := range sub.Subs {
		if m.removed {
			continue
		}
		st := d.plan.standingOf(m, at)
		if first || d.plan.better(st.tier, best.tier) || (st.tier == best.tier && outlasts(st, best)) {
			best, first = st, false
		}
	}
	if best.tier == sub.Tier && best.status == sub.Status && best.until.Equal(sub.TierUntil) && best.billing.equal(sub.Billing) {
		return
	}
	before := sub.Tier
	sub.Tier, sub.Status, sub.TierUntil, sub.Billing, sub.dirty = best.tier, best.status, best.until, best.billing, true
	if before != sub.Tier && (!s.Counting || sub.hasRow()) {
		d.changeTier(s, sub, before, at)
	}
	for i, a := range sub.Access {
		if a != nil {
			d.follow(s, sub, i, at)
		}
	}
	d.relimit(s, sub, at)
}

// outlasts orders two subscriptions of one tier: the one that stays longer wins.
func outlasts(a, b standing) bool {
	switch {
	case !a.until.Equal(b.until):
	case a.status != b.status:
		return a.status < b.status
	case !a.billing.End.Equal(b.billing.End):
		return a.billing.End.After(b.billing.End)
	default:
		return a.billing.Start.After(b.billing.Start)
	}
	return a.until.IsZero() || (!b.until.IsZero() && a.until.After(b.until))
}

// changeTier records who converted and at which wall: a conversion names the feature that is shut.
func (d *Decider) changeTier(s *State, sub *Subject, before string, at time.Time) {
	ev := Event{Subject: sub.ID, Tier: sub.Tier, At: at, Limit: Unlimited}
	for i, a := range sub.Access {
		if a != nil && atWall(a.Used, a.Limit) && a.Limit > 0 {
			l := &d.plan.Loops[i]
			ev.Feature, ev.Loop, ev.Used, ev.Limit, ev.Episode = l.Feature, l.Name, a.Used, a.Limit, a.Episode
			break
		}
	}
	kinds := []EventKind{TierChanged}
	switch {
	case before == DefaultTier:
		kinds = append(kinds, Converted)
	case sub.Tier == DefaultTier:
		kinds = append(kinds, Churned)
	}
	for _, kind := range kinds {
		ev.Kind = kind
		s.Events = append(s.Events, ev)
	}
}

// subscription mirrors a row of the subscriptions table and works out whose tier it changes.
func (d *Decider) subscription(s *State, c *Change) error {
	key := c.Key
	if c.OldKey != "" {
		key = c.OldKey
	}
	owner, known := s.Keys[key]
	var old *Subscription
	if known {
		old = s.Subjects[owner].Subs[key]
	}
	at := s.when(c)
	if known {
		d.elapse(s, s.Subjects[owner], at)
	}
	next := Subscription{Key: c.Key}
	if old != nil && c.Op == Update {
		next = *old
		next.Key = c.Key
	}
	if c.Op != Delete {
		if err := d.mirror(&next, c, at); err != nil {
			return err
		}
	}
	if old != nil && (c.Op == Delete || next.Key != key || next.Subject != owner) {
		old.removed = true
		delete(s.Keys, key)
		if c.Op == Delete || next.Subject != owner {
			d.retier(s, s.Subjects[owner], at)
		}
	}
	if c.Op == Delete || Nobody(next.Subject) {
		return nil
	}
	sub := s.subject(next.Subject)
	d.elapse(s, sub, at)
	next.dirty = true
	sub.Subs[next.Key] = &next
	s.Keys[next.Key] = next.Subject
	if next.Customer != "" && sub.Customer != next.Customer {
		sub.Customer, sub.dirty = next.Customer, true
	}
	if !sub.Deleted {
		d.retier(s, sub, at)
		d.welcome(s, sub)
	}
	return nil
}

// mirror reads the columns of a subscription row into m.
func (d *Decider) mirror(m *Subscription, c *Change, at time.Time) error {
	w := d.watches[Subscriptions]
	c.Row.merge(FieldSubject, &m.Subject)
	c.Row.merge(FieldStatus, &m.Status)
	c.Row.merge(FieldPlan, &m.Plan)
	c.Row.merge(FieldPrice, &m.Price)
	c.Row.merge(FieldCustomer, &m.Customer)
	m.Status = strings.ToLower(strings.TrimSpace(m.Status))
	if err := c.Row.mergeTime(FieldPeriodStart, &m.PeriodStart, w.Zone); err != nil {
		return badRow(w, c, err)
	}
	if err := c.Row.mergeTime(FieldPeriodEnd, &m.PeriodEnd, w.Zone); err != nil {
		return badRow(w, c, err)
	}
	switch {
	case m.Status != StatusPastDue:
		m.PastDueSince = time.Time{}
	case m.PastDueSince.IsZero():
		m.PastDueSince = at
	}
	return nil
}

func badRow(w *Watch, c *Change, err error) error {
	return &Fault{Step: "read table " + w.Table + ", row " + c.Key, Err: err,
		Hint: "the column must hold a timestamp; name another one in sidecar.yaml under tables.subscriptions", Kind: Permanent}
}

// user mirrors a row of the users table: who exists, and where to write to.
func (d *Decider) user(s *State, c *Change) {
	key := c.Key
	if c.OldKey != "" {
		key = c.OldKey
	}
	owner, known := s.Users[key]
	id := owner
	if c.Op != Delete {
		c.Row.merge(FieldSubject, &id)
	}
	if known && (c.Op == Delete || id != owner) {
		d.elapse(s, s.Subjects[owner], s.when(c))
		d.forget(s, s.Subjects[owner], s.when(c))
	}
	delete(s.Users, key)
	if c.Op == Delete || Nobody(id) {
		return
	}
	sub := s.subject(id)
	if sub.Deleted {
		d.revive(s, sub, s.when(c))
	}
	before := [4]string{sub.UserKey, sub.Email, sub.Name, sub.Customer}
	sub.UserKey = c.Key
	s.Users[c.Key] = id
	c.Row.merge(FieldEmail, &sub.Email)
	c.Row.merge(FieldName, &sub.Name)
	if d.watches[Users].Has(FieldCustomer) {
		c.Row.merge(FieldCustomer, &sub.Customer)
	}
	// Users tables are updated all the time (last_seen): what we do not keep is not worth a write.
	sub.dirty = sub.dirty || before != [4]string{sub.UserKey, sub.Email, sub.Name, sub.Customer}
	d.welcome(s, sub)
}

// welcome gives a subject its rows when the stream brings it. A count does so last: it must be able to
// tell whom it finds beyond a limit from who crosses one.
func (d *Decider) welcome(s *State, sub *Subject) {
	if !s.Counting {
		d.complete(s, sub)
	}
}

// revive lets a deleted subject begin again: what it used before no longer counts, and its episodes
// are others than those that were answered before. What a gauge shows is what is, and holds.
func (d *Decider) revive(s *State, sub *Subject, at time.Time) {
	sub.Deleted, sub.Since, sub.dirty = false, at, true
	for i := range sub.Access {
		if a := d.access(s, sub, i); a != nil && !a.Held {
			d.read(s, sub, i, at)
		}
	}
	d.retier(s, sub, at)
}

// forget makes a subject a tombstone: no rows, no contact data, and old usage does not bring it back. What was granted since at,
// when it went, is for whoever comes back.
func (d *Decider) forget(s *State, sub *Subject, at time.Time) {
	delete(s.Users, sub.UserKey)
	sub.Email, sub.Name, sub.Customer, sub.UserKey = "", "", "", ""
	sub.Tier, sub.Status, sub.TierUntil, sub.Billing = DefaultTier, "", time.Time{}, Span{}
	for k := range sub.Grants {
		if g := &sub.Grants[k]; !g.GrantedAt.After(at) {
			g.Ended = s.Now
			sub.again = sub.again || g.Held
		}
	}
	sub.Deleted, sub.dirty, sub.removed = true, true, true
	for i, a := range sub.Access {
		sub.again = sub.again || (a == nil && d.plan.Loops[i].Enforcement == Strict && !s.Vacant[RowName{sub.ID, i}])
		sub.Access[i] = nil
	}
}
