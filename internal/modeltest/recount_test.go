package modeltest

import (
	"slices"
	"time"
)

// What the reference makes of counts that begin again: of loops that are new or match other rows, and
// of flags that were lost.

// unsettled reports whether the sidecar may not go by the rule yet as it is now.
func (r *rule) unsettled() bool { return r.was != nil || r.counting || r.leaving }

func (m *reference) unsettled() bool { return slices.ContainsFunc(m.rules, (*rule).unsettled) }

// countingNow reports whether some loop may still be counted from the table.
func (m *reference) countingNow() bool {
	return slices.ContainsFunc(m.rules, func(r *rule) bool { return r.counting })
}

// settle says that the sidecar was seen to follow the rules as they are now.
func (m *reference) settle() {
	m.rules = slices.DeleteFunc(m.rules, func(r *rule) bool { return r.leaving })
	for _, r := range m.rules {
		r.was, r.counting = nil, false
	}
}

// relimit gives a rule other limits, and another threshold. Who is over a limit that was lowered has
// crossed a line.
func (m *reference) relimit(r *rule, limits map[string]int64, warnAt float64) {
	was := *r
	r.limits, r.warnAt = limits, warnAt
	for _, s := range m.subjects {
		if s.gone {
			continue
		}
		if !m.synced {
			m.drop(s, r, was.warned(), "blocked")
		}
		m.relimited(s, r, m.gap || !m.synced)
	}
	r.was = &was
}

// retrigger lets a rule match other rows: it is counted afresh, silently.
func (m *reference) retrigger(r *rule, path string) {
	r.path, r.counting = path, true
	for _, s := range m.subjects {
		m.drop(s, r, r.warned(), "blocked")
		m.recount(s, r)
	}
}

// admit adds a rule, and counts what the table shows, silently.
func (m *reference) admit(r *rule) {
	r.counting = true
	m.rules = append(m.rules, r)
	for _, s := range m.subjects {
		s.rows[r.feature] = s.fresh(r, s.since, m.episode)
		s.rows[r.feature].made = m.events == nil
		m.recount(s, r)
	}
}

// expel removes a rule. Where it comes back it is new.
func (m *reference) expel(r *rule) {
	r.leaving = true
	m.episode += 1000
	for _, s := range m.subjects {
		m.drop(s, r, r.warned(), "blocked")
	}
}

// forget lets the counts follow the table, down too.
func (m *reference) forget() {
	for _, s := range m.subjects {
		for _, r := range m.rules {
			m.recount(s, r)
		}
	}
}

// lostFlags derives every window again.
func (m *reference) lostFlags() {
	m.episode += 1000
	for _, s := range m.subjects {
		s.known = false
		for _, r := range m.rules {
			m.drop(s, r, r.warned(), "blocked")
			s.rows[r.feature] = s.fresh(r, s.since, m.episode)
			s.rows[r.feature].made = m.events == nil
			m.recount(s, r)
		}
	}
}

// recount makes a row what the table shows: of its window or, where none is open, of the one that the
// first use within the period opens.
func (m *reference) recount(s *subject, r *rule) {
	if s.gone {
		return
	}
	w := s.rows[r.feature]
	w.used, w.purged = 0, false
	if r.period != "" && w.end.IsZero() {
		if first := m.first(s, r, w.closed); !first.IsZero() {
			w.open(r.period, first)
		}
	}
	if r.period != "" && w.end.IsZero() {
		return
	}
	for _, u := range m.table {
		if u.subject == s.id && r.counts(w, u) {
			w.used += u.quantity
		}
	}
}

// counts reports whether a row belongs to a rule and to a window of it.
func (r *rule) counts(w *window, u usage) bool {
	return !u.refused && r.matches(u) && !u.at.Before(w.start) && !u.at.Before(w.closed) && (w.end.IsZero() && r.period == "" || u.at.Before(w.end))
}

// first returns the time of the earliest use that may be in a window that is open now.
func (m *reference) first(s *subject, r *rule, closed time.Time) (first time.Time) {
	horizon := m.now.Add(-30 * day)
	if r.period == "month" {
		horizon = time.Date(m.now.UTC().Year(), m.now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	for _, u := range m.table {
		if u.subject == s.id && !u.refused && r.matches(u) && !u.at.Before(horizon) && !u.at.Before(closed) && (first.IsZero() || u.at.Before(first)) {
			first = u.at
		}
	}
	return first
}

// purge takes rows out of the table. They stay counted, unless something is counted again.
func (m *reference) purge(ids []int64) {
	for _, id := range ids {
		u, ok := m.table[id]
		if !ok {
			panic("a usage row that nobody inserted")
		}
		delete(m.table, id)
		for _, r := range m.rules {
			if w := m.subject(u.subject).rows[r.feature]; r.counts(w, u) {
				w.purged = true
			}
		}
	}
}

// purged reports whether a count of the open windows would find less than was counted.
func (m *reference) purged() bool {
	for _, s := range m.subjects {
		for _, r := range m.rules {
			if s.rows[r.feature].purged && !s.gone {
				return true
			}
		}
	}
	return false
}
