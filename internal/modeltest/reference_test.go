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

// window is a row of feature_access.
type window struct {
	tier               string
	limit              int64
	used               int64
	start, end, closed time.Time
	episode            int
	purged             bool     // some of what was counted in it is not in the table any more
	buckets            []bucket // of a rolling window, by their start
	rolled             bool     // its bounds are those of buckets
	made               bool     // the row is there
	refused            int      // 1 + the episode of the last refusal
}

type subject struct {
	id, email, tier, status string
	user, gone              bool
	known                   bool      // had its rows at the last sync: a recount mails it
	unsure                  bool      // time changed its tier before the sidecar had seen what came before
	since                   time.Time // when it came back: what it used before does not count
	until                   time.Time // when time changes its tier
	billing                 [2]time.Time
	unsynced                bool // something of it may be ahead of what the sidecar knows
	grants                  []*grant
	rows                    map[string]*window
	held                    map[string]*hold
	unsaid                  map[string]bool // features of which an event may say more than one thing
}

type reference struct {
	rules    []*rule
	now      time.Time
	table    map[int64]usage // the usage rows that are still there
	episode  int             // where new rows begin: nobody was mailed for it
	subjects map[string]*subject
	subs     map[int64]*subscription
	mails    map[mailKey]promise
	synced   bool                // nothing happened since the sidecar was last seen to have caught up
	gap      bool                // the stream may be lost from the last sync on: then it all counts as one step
	events   map[string][]string // since the last comparison; nil: nobody asks
	// tentative is told what happens when a transaction commits that is open; nil: all of it has committed.
	tentative func(func())
}

func (m *reference) subject(id string) *subject {
	if m.subjects[id] == nil {
		s := &subject{id: id, tier: "free", rows: map[string]*window{}, held: map[string]*hold{}, unsaid: map[string]bool{}}
		for _, r := range m.rules {
			s.rows[r.feature] = s.fresh(r, time.Time{}, m.episode)
			s.rows[r.feature].made = m.events == nil
		}
		m.subjects[id] = s
	}
	return m.subjects[id]
}

// fresh is a row of which nothing is used yet.
func (s *subject) fresh(r *rule, closed time.Time, episode int) *window {
	return &window{tier: s.tier, limit: s.limit(r), closed: closed, episode: episode}
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

// limit is what the subject may use: what its tier may, and what it was granted.
func (s *subject) limit(r *rule) int64 {
	limit := r.limit(s.tier)
	for _, g := range s.grants {
		switch {
		case g.feature != r.feature || limit == unlimited:
		case g.quantity == unlimited:
			limit = unlimited
		default:
			limit += g.quantity
		}
	}
	return limit
}

// down reports whether the window is at its wall.
func (w *window) down() bool { return w.limit != unlimited && (w.used >= w.limit || w.limit == 0) }

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
		if r.strict || !r.matches(u) {
			continue
		}
		w.made = true
		if r.window == "rolling" {
			m.put(s, r, u.quantity, u.at)
			continue
		}
		if !w.end.IsZero() && !u.at.Before(w.end) {
			m.close(s, r)
		}
		if u.at.Before(w.start) || u.at.Before(w.closed) {
			continue
		}
		if w.end.IsZero() {
			m.open(s, r, u.at)
		}
		m.move(s, r, w.used+u.quantity)
	}
}

// move sets what is used, and says which lines that crosses.
func (m *reference) move(s *subject, r *rule, used int64) {
	w := s.rows[r.feature]
	before, was := w.used, w.down()
	w.used = used
	w.frame()
	switch line := r.warnLine(w.limit); {
	case w.limit == unlimited:
	case !was && w.down():
		m.record(s, r, "blocked")
		m.drop(s, r, r.warned())
		m.expect(s, r, "blocked", false)
	case was && !w.down() && w.limit > 0:
		m.record(s, r, "unblocked")
		m.drop(s, r, "blocked")
	case r.warnAt > 0 && !w.down() && before < line && line <= used:
		m.record(s, r, "warned")
		m.expect(s, r, r.warned(), false)
	}
}

// open opens the window of a use.
func (m *reference) open(s *subject, r *rule, at time.Time) {
	w := s.rows[r.feature]
	switch {
	case r.window == "rolling":
	case r.window == "billing" && !s.billing[0].IsZero():
		w.start, w.end = around(s.billing, at)
		if w.start.Before(w.closed) {
			w.start = w.closed
		}
	case r.window == "billing":
		w.open("30d", at)
		w.end = addMonths(w.start, 1)
	default:
		w.open(r.period, at)
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
	if w.down() && w.limit > 0 {
		m.record(s, r, "reset")
	}
	*w = window{tier: w.tier, limit: w.limit, closed: w.end, episode: w.episode + 1, made: true}
}

// joined applies an insert or update of a user row, left a delete.
func (m *reference) joined(id, email string) {
	s := m.subject(id)
	if s.gone {
		delete(m.subjects, id)
		back := m.subject(id)
		back.since, back.held, back.unsaid = m.now, s.held, s.unsaid
		for _, r := range m.rules {
			episode := s.rows[r.feature].episode + 1000
			if m.events != nil {
				episode = int(m.now.Unix())
			}
			*back.rows[r.feature] = *back.fresh(r, m.now, episode)
			back.rows[r.feature].made = true
			back.unsaid[r.feature] = back.unsaid[r.feature] || r.direct
		}
		m.retier(back, m.now, false)
		s = back
	}
	s.user, s.email = true, email
	m.complete(s)
}

// complete gives a subject its rows.
func (m *reference) complete(s *subject) {
	for _, r := range m.rules {
		w := s.rows[r.feature]
		if !s.gone && !w.made {
			s.unsaid[r.feature] = s.unsaid[r.feature] || r.direct // somebody may hold the lock under which it is made
			w.made = true
		}
	}
}

func (m *reference) left(id string) {
	s := m.subject(id)
	for _, r := range m.rules {
		m.drop(s, r, r.warned(), "blocked")
	}
	for _, g := range s.grants {
		g.ended = true
	}
	for _, h := range s.held {
		h.lost = true
	}
	s.gone, s.user, s.email, s.grants = true, false, "", nil
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
		m.elapse(s, now)
	}
}
