package modeltest

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// answer is what consume_feature says.
type answer struct {
	allowed          bool
	used             int64
	limit, remaining *int64
	resets           *time.Time
	message          *string
}

// consume applies a consumption of an open transaction at once, and what it tells the world when that commits: later
// is called with it. It returns what is wrong with the answer.
func (m *reference) consume(s *subject, r *rule, tx *transaction, quantity int64, at time.Time, a answer, later func(func())) (wrong string) {
	if s.gone {
		if s.unsaid[r.feature] = true; !a.allowed {
			return ""
		}
		if m.hold(s, r, tx); !s.unsynced {
			return "a deleted user was served"
		}
		return ""
	}
	m.hold(s, r, tx)
	m.tentative = later
	defer func() { m.tentative = nil }()
	w, h := s.rows[r.feature], s.held[r.feature]
	w.made = true
	delete(s.held, r.feature)
	for due := w.due(); !due.IsZero() && !due.After(at); due = w.due() {
		m.lapse(s, r, due)
	}
	limit := s.limit(r)
	unsure := s.ahead() || slices.Contains(tx.grants, s.id)
	if unsure {
		s.unsaid[r.feature], h.unsure = true, true
		if limit = unlimited; a.limit != nil {
			limit = *a.limit
		}
		w.limit = limit
		if len(tx.grants) == 0 && s.unsynced && !s.may(r, limit) {
			return fmt.Sprintf("limit %d is that of no tier with what was granted", limit)
		}
	} else {
		m.follow(s, r, at)
		m.relimited(s, r, false)
	}
	s.held[r.feature] = h

	allowed := quantity < 0 || limit == unlimited || limit > 0 && w.used+quantity <= limit
	switch {
	case !allowed:
		if w.refused != w.episode+1 {
			w.refused = w.episode + 1
			m.record(s, r, "refused")
		}
	case quantity > 0:
		if r.window == "rolling" {
			w.add(rollingDay(at), quantity)
		} else if w.end.IsZero() {
			m.open(s, r, at)
		}
		m.move(s, r, w.used+quantity)
	default:
		back := min(w.used, -quantity)
		if r.window == "rolling" {
			w.take(back)
		}
		m.move(s, r, w.used-back)
	}
	want := fmt.Sprintf("allowed=%t used=%d limit=%d until %s", allowed, w.used, limit, w.end.UTC().Format(time.DateTime))
	got := fmt.Sprintf("allowed=%t used=%d limit=%d until %s", a.allowed, a.used, orUnlimited(a.limit), orZero(a.resets).UTC().Format(time.DateTime))
	if got != want {
		return fmt.Sprintf("have %s\n  want %s", got, want)
	}
	return ""
}

func orUnlimited(n *int64) int64 {
	if n == nil {
		return unlimited
	}
	return *n
}

func orZero[V any](v *V) (z V) {
	if v == nil {
		return z
	}
	return *v
}

// ahead reports whether the sidecar may not know yet what the reference knows of a subject.
func (s *subject) ahead() bool {
	return s.unsynced || slices.ContainsFunc(s.grants, func(g *grant) bool { return g.locked })
}

// may reports whether a limit is that of some tier with the subject's grants. Of one that somebody revokes nothing is sure.
func (s *subject) may(r *rule, limit int64) bool {
	if slices.ContainsFunc(s.grants, func(g *grant) bool { return g.locked }) {
		return true
	}
	for _, tier := range []string{"free", "pro", "paid"} {
		if (&subject{tier: tier, grants: s.grants}).limit(r) == limit {
			return true
		}
	}
	return false
}

// hold keeps what is committed of a row that a transaction changes.
func (m *reference) hold(s *subject, r *rule, tx *transaction) {
	if s.held[r.feature] == nil {
		s.held[r.feature] = &hold{by: tx, at: m.now, was: *s.rows[r.feature]}
	}
}

// release lets go the rows that a transaction held, and lets them follow what they have missed.
func (m *reference) release(tx *transaction, committed bool) {
	for _, s := range m.subjects {
		for _, r := range m.rules {
			h := s.held[r.feature]
			if h == nil || h.by != tx {
				continue
			}
			delete(s.held, r.feature)
			s.unsaid[r.feature] = s.unsaid[r.feature] || h.unsure
			if s.gone {
				continue
			}
			w := s.rows[r.feature]
			if !committed && !s.since.After(h.at) { // else it is of another life
				*w = h.was
			}
			before := *w
			m.elapse(s, m.now)
			m.follow(s, r, m.now)
			m.relimited(s, r, false)
			if w.tier != before.tier || w.limit != before.limit || w.closed != before.closed || len(w.buckets) != len(before.buckets) || w.end != before.end {
				s.unsynced, s.unsaid[r.feature] = true, true // whoever comes next may see it either way
			}
		}
	}
}

// savepoint keeps all rows, to be restored.
func (m *reference) savepoint() (restore func()) {
	type state struct {
		rows map[string]window
		held map[string]*hold
	}
	kept := map[*subject]state{}
	for _, s := range m.subjects {
		k := state{rows: map[string]window{}, held: maps.Clone(s.held)}
		for feature, w := range s.rows {
			k.rows[feature] = *w
		}
		kept[s] = k
	}
	return func() {
		maps.DeleteFunc(m.subjects, func(_ string, s *subject) bool { _, ok := kept[s]; return !ok })
		for s, k := range kept {
			for feature, w := range k.rows {
				*s.rows[feature] = w
			}
			s.held = k.held
		}
	}
}

// inUse reports whether the subject has a row.
func (s *subject) inUse() bool {
	for _, w := range s.rows {
		if w.made && !s.gone {
			return true
		}
	}
	return false
}

// record says that something happened to a row, and note to whom; once for all in the order in which it commits.
func (m *reference) record(s *subject, r *rule, kind string) {
	w, of := s.rows[r.feature], s.id
	if r.direct {
		of += " " + r.feature
	}
	m.note(of, fmt.Sprintf("%s %s #%d", kind, r.feature, w.episode))
}

func (m *reference) note(of, text string) {
	if m.events != nil {
		m.commits(func() { m.events[of] = append(m.events[of], text) })
	}
}

// commits does something now, or when the transaction commits that it is part of.
func (m *reference) commits(f func()) {
	if m.tentative != nil {
		m.tentative(f)
	} else {
		f()
	}
}

// retiered says that the tier changed.
func (m *reference) retiered(s *subject, before string) {
	m.note(s.id, "tier_changed "+s.tier)
	switch {
	case before == "free":
		m.note(s.id, "converted "+s.tier)
	case s.tier == "free":
		m.note(s.id, "churned "+s.tier)
	}
}
