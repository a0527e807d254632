package modeltest

import "fmt"

// The mails that the reference expects. An email is looked at once more before it is sent, so that one
// whose reason went away may have left before or not: only what was due when the sidecar was seen to
// have caught up is certain.

// promise is how sure a mail is: pending until the sidecar was seen to have caught up while it was
// still due, and doubtful where the contract leaves it open.
type promise int

const (
	pending promise = iota
	certain
	doubtful
)

type mailKey struct {
	subject, feature, kind string
	episode                int
}

// doubt allows the mails that another order of what was not seen one by one may send: a use before
// the upgrade, or after the trial's end, or before a limit was raised.
func (m *reference) doubt(s *subject, r *rule, limit int64) {
	w := s.rows[r.feature]
	if s.gone || !r.mailed(s) || limit <= 0 {
		return
	}
	if r.warnAt > 0 && w.used >= r.warnLine(limit) {
		m.mails[mailKey{s.id, r.feature, r.warned(), -len(m.mails)}] = doubtful
	}
	if w.used >= limit {
		m.mails[mailKey{s.id, r.feature, "blocked", -len(m.mails)}] = doubtful
	}
}

// warned is the kind of the mail that a rule's threshold sends.
func (r *rule) warned() string { return fmt.Sprintf("warned_%.0f", 100*r.warnAt) }

func (r *rule) mailed(s *subject) bool { return r.mails && !r.shadow && s.email != "" }

// expect promises a mail: once for a wall and episode.
func (m *reference) expect(s *subject, r *rule, kind string, maybe bool) {
	w := s.rows[r.feature]
	if !r.mailed(s) || (!w.end.IsZero() && !w.end.After(m.now)) {
		return
	}
	key := mailKey{s.id, r.feature, kind, w.episode}
	m.commits(func() {
		if _, ok := m.mails[key]; ok {
			return
		}
		m.mails[key] = pending
		if maybe || s.unsure || (m.gap && !s.known) || r.unsettled() {
			m.mails[key] = doubtful
		}
	})
}

// drop takes back promises that lost their reason before they were seen to be kept.
func (m *reference) drop(s *subject, r *rule, kinds ...string) {
	for _, kind := range kinds {
		key := mailKey{s.id, r.feature, kind, s.rows[r.feature].episode}
		m.commits(func() {
			if p, ok := m.mails[key]; ok && p == pending {
				m.mails[key] = doubtful
			}
		})
	}
}

// caughtUp says that the sidecar was seen to have caught up, with every mail that was due delivered.
func (m *reference) caughtUp() {
	for key, p := range m.mails {
		if p == pending {
			m.mails[key] = certain
		}
	}
	for _, s := range m.subjects {
		for _, r := range m.rules {
			if m.gap || s.unsure {
				m.doubt(s, r, r.limits["free"])
			}
			if r.was != nil {
				for _, limit := range r.was.limits {
					m.doubt(s, r.was, limit)
				}
			}
		}
		s.known, s.unsure = true, false
	}
	m.settle()
	m.synced = true
}
