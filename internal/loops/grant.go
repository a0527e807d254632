package loops

import "time"

// Grant is an open row of access_grant: what a subject may use of a loop beyond its tier, in every window.
type Grant struct {
	ID        int64
	Loop      int   // by its place in the plan
	Quantity  Limit // Unlimited: no limit at all
	GrantedAt time.Time
	ExpiresAt time.Time // zero: never
	Ended     time.Time // zero: it is open
	Held      bool      // somebody else may be ending it: it can be read, and no more
}

// LoadGrant adds an open grant.
func (s *State) LoadGrant(subject string, g Grant) {
	sub := s.subject(subject)
	sub.Grants = append(sub.Grants, g)
}

// limitOf is what the subject may use of a loop: its tier's limit, and what it was granted.
func (d *Decider) limitOf(sub *Subject, i int) Limit {
	limit := d.plan.Loops[i].Limit(sub.Tier)
	for k := range sub.Grants {
		if g := &sub.Grants[k]; g.Loop == i && g.Ended.IsZero() && limit != Unlimited {
			limit = Limit(plus(int64(limit), int64(g.Quantity)))
		}
	}
	return limit
}

// grant lets a subject's limits follow its grants, which were loaded as they are.
func (d *Decider) grant(s *State, c *Change) {
	var id string
	c.Row.merge(FieldSubject, &id)
	if c.Op == Delete || Nobody(id) {
		return
	}
	sub := s.subject(id)
	d.elapse(s, sub, s.when(c))
	d.entitle(s, sub, s.when(c))
}

// entitle gives a subject the rows that its grants need, and all its rows their limits.
func (d *Decider) entitle(s *State, sub *Subject, at time.Time) {
	if sub.Deleted {
		return
	}
	for _, g := range sub.Grants {
		d.access(s, sub, g.Loop)
	}
	d.relimit(s, sub, at)
}

// relimit brings the limits of all rows of a subject in line with its tier and grants.
func (d *Decider) relimit(s *State, sub *Subject, at time.Time) {
	for i, a := range sub.Access {
		if a != nil {
			d.limit(s, sub, i, at)
		}
	}
}

// expiry returns when the next grant ends by itself; zero: none does.
func (sub *Subject) expiry() (next time.Time) {
	for i := range sub.Grants {
		if g := &sub.Grants[i]; g.Ended.IsZero() && !g.ExpiresAt.IsZero() && (next.IsZero() || g.ExpiresAt.Before(next)) {
			next = g.ExpiresAt
		}
	}
	return next
}

// expire ends the grants whose time has come.
func (d *Decider) expire(s *State, sub *Subject, at time.Time) {
	for k := range sub.Grants {
		g := &sub.Grants[k]
		if !g.Ended.IsZero() || g.ExpiresAt.IsZero() || g.ExpiresAt.After(at) {
			continue
		}
		g.Ended = g.ExpiresAt
		if g.Held {
			sub.again = true // who holds it may be revoking it: how it ended is recorded when it is known
		} else {
			d.expired(s, sub, g.Loop, at)
		}
		if sub.Access[g.Loop] != nil {
			d.limit(s, sub, g.Loop, at)
		}
	}
}

// expired records that a grant for the i-th loop has ended by itself.
func (d *Decider) expired(s *State, sub *Subject, i int, at time.Time) {
	l := &d.plan.Loops[i]
	ev := Event{Kind: Expired, Subject: sub.ID, Feature: l.Feature, Loop: l.Name, Tier: sub.Tier, Limit: d.limitOf(sub, i), At: at, Silent: true}
	if a := sub.Access[i]; a != nil {
		ev.Used, ev.Episode = a.Used, a.Episode
	}
	s.Events = append(s.Events, ev)
}
