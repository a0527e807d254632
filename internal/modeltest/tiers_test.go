package modeltest

import "time"

// What subscriptions, users and grants do to a subject's tier and limits in the reference.

type subscription struct {
	subject, status, plan string
	start, end, pastDue   time.Time
}

// billing is the period that the subscription is paid for; none: two zero times.
func (s *subscription) billing() [2]time.Time {
	if s.start.IsZero() || !s.end.After(s.start) {
		return [2]time.Time{}
	}
	return [2]time.Time{s.start, s.end}
}

// subscribed applies an insert or update of a subscription row, unsubscribed a delete.
func (m *reference) subscribed(key int64, next subscription) {
	before := m.subs[key]
	if next.status == "past_due" {
		next.pastDue = m.now
		if before != nil && before.status == "past_due" {
			next.pastDue = before.pastDue
		}
	}
	m.subs[key] = &next
	if before != nil && before.subject != next.subject {
		m.retier(m.subject(before.subject), m.now, false)
	}
	m.retier(m.subject(next.subject), m.now, false)
	m.complete(m.subject(next.subject))
}

func (m *reference) unsubscribed(key int64) {
	s := m.subject(m.subs[key].subject)
	delete(m.subs, key)
	m.retier(s, m.now, false)
}

// standing returns what one subscription is worth at a moment, and until when.
func (m *reference) standing(sub *subscription, at time.Time) (tier string, until time.Time) {
	switch sub.status {
	case "active":
	case "trialing":
		if until = sub.end; !until.IsZero() {
			until = until.Add(trialMargin)
		}
	case "past_due":
		until = sub.pastDue.Add(grace)
	default:
		return "free", time.Time{}
	}
	if !until.IsZero() && !until.After(at) {
		return "free", time.Time{}
	}
	if sub.plan == "pro" {
		return "pro", until
	}
	return "paid", until
}

// retier works out the subject's tier: the best of its subscriptions', then the one that lasts longest.
func (m *reference) retier(s *subject, at time.Time, byTime bool) {
	if s.gone {
		return
	}
	rank := map[string]int{"free": 0, "pro": 1, "paid": 2}
	tier, status, until, billing, first := "free", "", time.Time{}, [2]time.Time{}, true
	for _, sub := range m.subs {
		if sub.subject != s.id {
			continue
		}
		t, u := m.standing(sub, at)
		var b [2]time.Time
		if t != "free" {
			b = sub.billing()
		}
		longer := u.IsZero() && !until.IsZero() || !u.IsZero() && !until.IsZero() && u.After(until)
		if u.Equal(until) {
			longer = sub.status < status || sub.status == status && (b[1].After(billing[1]) || b[1].Equal(billing[1]) && b[0].After(billing[0]))
		}
		if first || rank[t] > rank[tier] || t == tier && longer {
			tier, status, until, billing, first = t, sub.status, u, b, false
		}
	}
	before := s.tier
	s.status, s.until, s.billing, s.tier = status, until, billing, tier
	if tier != before {
		s.unsure = s.unsure || byTime && !m.synced
		m.retiered(s, before)
	}
	for _, r := range m.rules {
		m.follow(s, r, at)
	}
	for _, r := range m.rules {
		m.relimited(s, r, m.gap)
	}
}

// relimited brings a row in line with the subject's tier and grants, and says what that opens or shuts.
func (m *reference) relimited(s *subject, r *rule, maybe bool) {
	w := s.rows[r.feature]
	limit := s.limit(r)
	if !w.made {
		w.tier, w.limit = s.tier, limit
	}
	if s.held[r.feature] != nil || w.tier == s.tier && w.limit == limit {
		return
	}
	was := w.down()
	if w.tier != s.tier && r.lifetime() {
		m.drop(s, r, r.warned(), "blocked")
		w.episode++
	}
	w.tier, w.limit = s.tier, limit
	w.frame()
	switch is := w.down(); {
	case is && !was:
		m.record(s, r, "blocked")
		m.drop(s, r, r.warned())
		if limit > 0 {
			m.expect(s, r, "blocked", maybe)
		}
	case !is && was:
		m.record(s, r, "unblocked")
		fallthrough
	case !is:
		m.drop(s, r, "blocked")
	}
	if limit == unlimited {
		m.drop(s, r, r.warned())
	}
}
