package modeltest

import (
	"math"
	"strings"
	"time"
)

// The reference: what must be true after a history, worked out from the committed facts alone, one by
// one, with no database, no batches and no crashes. It shares no code with what it judges.

const (
	unlimited   = int64(-1)
	grace       = 7 * 24 * time.Hour
	trialMargin = time.Hour
)

// usage is one committed row, subscription another.
type usage struct {
	id                    int64
	subject, path, method string
	quantity              int64
	at                    time.Time
	refused               bool
}

type subscription struct {
	subject, status, plan string
	end, pastDue          time.Time
}

type window struct {
	used               int64
	start, end, closed time.Time
	episode            int
	purged             bool // some of what was counted in it is not in the table any more
}

type subject struct {
	id, email, tier, status string
	user, gone              bool
	known                   bool      // had its rows at the last sync: a recount mails it
	unsure                  bool      // time changed its tier before the sidecar had seen what came before
	since                   time.Time // when it came back: what it used before does not count
	rows                    map[string]*window
}

type reference struct {
	rules    []*rule
	now      time.Time
	table    map[int64]usage // the usage rows that are still there
	episode  int             // where new rows begin: nobody was mailed for it
	subjects map[string]*subject
	subs     map[int64]*subscription
	mails    map[mailKey]promise
	synced   bool // nothing happened since the sidecar was last seen to have caught up
	gap      bool // the stream may be lost from the last sync on: then it all counts as one step
}

func (m *reference) subject(id string) *subject {
	if m.subjects[id] == nil {
		s := &subject{id: id, tier: "free", rows: map[string]*window{}}
		for _, r := range m.rules {
			s.rows[r.feature] = &window{episode: m.episode}
		}
		m.subjects[id] = s
	}
	return m.subjects[id]
}

func (r *rule) matches(u usage) bool {
	path, _, _ := strings.Cut(u.path, "?")
	path = strings.TrimRight(path, "/")
	if base, ok := strings.CutSuffix(r.path, "/**"); ok {
		return u.method == "POST" && (path == base || strings.HasPrefix(path, base+"/"))
	}
	base, ok := strings.CutSuffix(r.path, "*")
	rest, under := strings.CutPrefix(path, base)
	return u.method == "POST" && under && (!ok && rest == "" || ok && rest != "" && !strings.Contains(rest, "/"))
}

func (r *rule) limit(tier string) int64 {
	if n, ok := r.limits[tier]; ok || tier == "free" {
		return n
	}
	return r.limits["paid"]
}

func (r *rule) down(s *subject) bool {
	limit := r.limit(s.tier)
	return limit != unlimited && s.rows[r.feature].used >= limit
}

func (r *rule) warnLine(limit int64) int64 { return int64(math.Ceil(r.warnAt * float64(limit))) }

// used applies a usage row.
func (m *reference) used(u usage) {
	s := m.subject(u.subject)
	m.table[u.id] = u
	if u.refused || s.gone {
		return
	}
	for _, r := range m.rules {
		w := s.rows[r.feature]
		if !r.matches(u) {
			continue
		}
		if !w.end.IsZero() && !u.at.Before(w.end) {
			m.close(s, r)
		}
		if u.at.Before(w.start) || u.at.Before(w.closed) {
			continue
		}
		if w.end.IsZero() {
			w.open(r.period, u.at)
		}
		before, limit := w.used, r.limit(s.tier)
		line := r.warnLine(limit)
		w.used += u.quantity
		switch {
		case limit == unlimited:
		case before < limit && w.used >= limit:
			m.drop(s, r, r.warned())
			m.expect(s, r, "blocked", false)
		case r.warnAt > 0 && w.used < limit && before < line && line <= w.used:
			m.expect(s, r, r.warned(), false)
		}
	}
}

func (w *window) open(period string, at time.Time) {
	switch at = at.UTC(); period {
	case "30d":
		w.start = at.Truncate(time.Minute).Add(-time.Minute)
		if w.start.Before(w.closed) {
			w.start = w.closed
		}
		w.end = w.start.Add(30 * 24 * time.Hour)
	case "month":
		w.start = time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
		w.end = w.start.AddDate(0, 1, 0)
		if w.start.Before(w.closed) {
			w.start = w.closed
		}
	}
}

func (m *reference) close(s *subject, r *rule) {
	m.drop(s, r, r.warned(), "blocked")
	w := s.rows[r.feature]
	*w = window{closed: w.end, episode: w.episode + 1}
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
		m.retier(m.subject(before.subject), false)
	}
	m.retier(m.subject(next.subject), false)
}

func (m *reference) unsubscribed(key int64) {
	s := m.subject(m.subs[key].subject)
	delete(m.subs, key)
	m.retier(s, false)
}

// joined applies an insert or update of a user row, left a delete.
func (m *reference) joined(id, email string) {
	s := m.subject(id)
	if s.gone {
		delete(m.subjects, id)
		back := m.subject(id)
		back.since = m.now
		for _, r := range m.rules {
			*back.rows[r.feature] = window{closed: m.now, episode: s.rows[r.feature].episode + 1000}
		}
		m.retier(back, false)
		s = back
	}
	s.user, s.email = true, email
}

func (m *reference) left(id string) {
	s := m.subject(id)
	for _, r := range m.rules {
		m.drop(s, r, r.warned(), "blocked")
	}
	s.gone, s.user, s.email = true, false, ""
}

// passed moves the clock. What was about to be mailed may now be too old to be sent.
func (m *reference) passed(now time.Time) {
	m.now = now
	for key, p := range m.mails {
		if p == pending {
			m.mails[key] = doubtful
		}
	}
	for _, s := range m.subjects {
		m.retier(s, true)
		for _, r := range m.rules {
			if w := s.rows[r.feature]; !w.end.IsZero() && !w.end.After(now) {
				m.close(s, r)
			}
		}
	}
}

// standing returns what one subscription is worth now, and until when.
func (m *reference) standing(sub *subscription) (tier string, until time.Time) {
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
	if !until.IsZero() && !until.After(m.now) {
		return "free", time.Time{}
	}
	if sub.plan == "pro" {
		return "pro", until
	}
	return "paid", until
}

// retier works out the subject's tier: the best of its subscriptions', then the one that lasts longest.
func (m *reference) retier(s *subject, byTime bool) {
	if s.gone {
		return
	}
	rank := map[string]int{"free": 0, "pro": 1, "paid": 2}
	tier, status, until, first := "free", "", time.Time{}, true
	for _, sub := range m.subs {
		if sub.subject != s.id {
			continue
		}
		t, u := m.standing(sub)
		longer := u.IsZero() && !until.IsZero() || !u.IsZero() && !until.IsZero() && u.After(until) || u.Equal(until) && sub.status < status
		if first || rank[t] > rank[tier] || t == tier && longer {
			tier, status, until, first = t, sub.status, u, false
		}
	}
	before := s.tier
	s.status = status
	if tier == before {
		return
	}
	s.unsure = s.unsure || byTime && !m.synced
	for _, r := range m.rules {
		s.tier = before
		was := r.down(s)
		s.tier = tier
		if r.period == "" {
			m.drop(s, r, r.warned(), "blocked")
			s.rows[r.feature].episode++
		}
		m.relimited(s, r, was, m.gap)
	}
}

// relimited says what another limit opens or shuts: was is whether the old one had.
func (m *reference) relimited(s *subject, r *rule, was, maybe bool) {
	limit := r.limit(s.tier)
	switch is := r.down(s); {
	case is && !was:
		m.drop(s, r, r.warned())
		if limit > 0 {
			m.expect(s, r, "blocked", maybe)
		}
	case !is:
		m.drop(s, r, "blocked")
	}
	if limit == unlimited {
		m.drop(s, r, r.warned())
	}
}
