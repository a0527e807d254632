package modeltest

import (
	"slices"
	"time"
)

// What time does in the reference: windows and buckets end, grants expire, tiers end, each at its moment.

// bucket holds what was used on a day of a rolling window.
type bucket struct {
	start time.Time
	used  int64
}

// off is when the bucket rolls off.
func (b bucket) off() time.Time { return b.start.Add(31 * day) }

// rollingDay is the day of a use.
func rollingDay(at time.Time) time.Time { return at.UTC().Truncate(day) }

// grant is an open row of access_grant.
type grant struct {
	id       int64
	feature  string
	quantity int64
	expires  time.Time // zero: never
	ended    bool
	locked   bool // a transaction that is open revokes it
}

// hold is a row that a transaction has used and not committed. Nobody else changes it.
type hold struct {
	by   *transaction
	at   time.Time // since when
	was  window    // as it is committed
	lost bool      // the user was deleted since
	// unsure says that it was used while the sidecar may not have known what the reference does.
	unsure bool
}

// elapse lets time pass for a subject, in the order of what is due.
func (m *reference) elapse(s *subject, through time.Time) {
	for !s.gone {
		due, act := s.until, func(at time.Time) { m.retier(s, at, true) }
		for _, g := range s.grants {
			if !g.locked && !g.expires.IsZero() && (due.IsZero() || g.expires.Before(due)) {
				due, act = g.expires, func(time.Time) { m.expire(s, g) }
			}
		}
		window := false
		for _, r := range m.rules {
			end := s.rows[r.feature].due()
			if s.held[r.feature] == nil && !end.IsZero() && (due.IsZero() || end.Before(due) || !window && end.Equal(due)) {
				due, act, window = end, func(at time.Time) { m.lapse(s, r, at) }, true
			}
		}
		if due.IsZero() || due.After(through) {
			return
		}
		s.unsynced = true
		act(due)
	}
}

// lapse lets go what of a row has had its time.
func (m *reference) lapse(s *subject, r *rule, at time.Time) {
	if len(s.rows[r.feature].buckets) > 0 {
		m.roll(s, r, at)
	} else {
		m.close(s, r)
	}
}

// due is when the row changes by itself.
func (w *window) due() time.Time {
	if len(w.buckets) > 0 {
		return w.buckets[0].off()
	}
	return w.end
}

// put counts a use in the bucket of its day, unless that has rolled off.
func (m *reference) put(s *subject, r *rule, quantity int64, at time.Time) {
	w, b := s.rows[r.feature], bucket{start: rollingDay(at)}
	if at.Before(w.closed) || !b.off().After(m.now) {
		return
	}
	w.add(b.start, quantity)
	m.move(s, r, w.used+quantity)
}

func (w *window) add(start time.Time, quantity int64) {
	n, found := slices.BinarySearchFunc(w.buckets, start, func(b bucket, t time.Time) int { return b.start.Compare(t) })
	w.buckets = slices.Clone(w.buckets) // a transaction may keep what was
	if !found {
		w.buckets = slices.Insert(w.buckets, n, bucket{start: start})
	}
	w.buckets[n].used += quantity
}

// take gives back, the newest use first.
func (w *window) take(quantity int64) {
	w.buckets = slices.Clone(w.buckets)
	for n := len(w.buckets) - 1; n >= 0 && quantity > 0; n-- {
		some := min(quantity, w.buckets[n].used)
		w.buckets[n].used -= some
		quantity -= some
	}
}

// roll takes the oldest bucket away. The next episode begins when half of the first line has rolled off, and when
// nothing is left.
func (m *reference) roll(s *subject, r *rule, at time.Time) {
	w := s.rows[r.feature]
	before, line := w.used, w.limit
	if r.warnAt > 0 {
		line = r.warnLine(w.limit)
	}
	gone := w.buckets[0].used
	w.buckets = w.buckets[1:]
	m.move(s, r, w.used-gone)
	if fell := w.limit > 0 && before > line/2 && w.used <= line/2; fell || len(w.buckets) == 0 {
		m.drop(s, r, r.warned(), "blocked")
		w.episode++
	}
}

// frame sets the bounds of a rolling window: it ends when the flag opens by itself, else when the next day
// rolls off.
func (w *window) frame() {
	if len(w.buckets) == 0 {
		if w.rolled {
			w.start, w.end, w.rolled = time.Time{}, time.Time{}, false
		}
		return
	}
	w.rolled = true
	w.start, w.end = w.buckets[0].start, w.buckets[0].off()
	rest := *w
	for _, b := range w.buckets {
		if !rest.down() {
			return
		}
		rest.used -= b.used
		w.end = b.off()
	}
}

// around is the billing period that holds a moment, as subscriptions renew.
func around(period [2]time.Time, at time.Time) (start, end time.Time) {
	length := period[1].Sub(period[0])
	next := func(n int) time.Time { return period[0].Add(time.Duration(n) * length) }
	if addMonths(period[0], 1).Equal(period[1]) {
		next = func(n int) time.Time { return addMonths(period[0], n) }
	}
	n := 0
	for next(n).After(at) {
		n--
	}
	for !next(n + 1).After(at) {
		n++
	}
	return next(n), next(n + 1)
}

// addMonths keeps the day, where the month has it.
func addMonths(t time.Time, n int) time.Time {
	t = t.UTC()
	for d := t.Day(); ; d-- {
		if next := time.Date(t.Year(), t.Month()+time.Month(n), d, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC); next.Day() == d {
			return next
		}
	}
}

// follow lets an open window follow a billing period that moved.
func (m *reference) follow(s *subject, r *rule, at time.Time) {
	w := s.rows[r.feature]
	if r.window != "billing" || s.held[r.feature] != nil || w.end.IsZero() || !s.billing[1].After(at) {
		return
	}
	switch begins := s.billing[0]; {
	case !begins.After(w.start):
		w.end = s.billing[1]
	case !begins.Before(w.end):
	case begins.Before(at):
		w.end = at
	default:
		w.end = begins
	}
	if !w.end.After(at) {
		m.close(s, r)
	}
}

// elapseBut lets time pass until now for a subject, for which a grant has ended already.
func (m *reference) elapseBut(s *subject, g *grant) {
	g.locked = true
	m.elapse(s, m.now)
	g.locked = false
}

// granted, revoked and expire are what becomes of a grant.
func (m *reference) granted(s *subject, g *grant) {
	m.note(s.id+" grants", "granted "+g.feature)
	if !s.gone {
		s.grants = append(s.grants, g)
		for _, r := range m.rules {
			if w := s.rows[r.feature]; r.feature == g.feature && !w.made {
				w.made, w.limit = true, s.limit(r)
			}
		}
		m.entitled(s, g)
	}
}

func (m *reference) revoked(s *subject, g *grant) {
	m.note(s.id+" grants", "revoked "+g.feature)
	m.endGrant(s, g)
	m.entitled(s, g)
}

func (m *reference) expire(s *subject, g *grant) {
	m.note(s.id+" grants", "expired "+g.feature)
	m.endGrant(s, g)
	for _, r := range m.rules {
		if r.feature == g.feature {
			m.relimited(s, r, false)
		}
	}
}

func (m *reference) endGrant(s *subject, g *grant) {
	g.ended = true
	s.grants = slices.DeleteFunc(s.grants, func(x *grant) bool { return x == g })
}

// entitled lets a subject's rows follow its grants. The sidecar reads grants as they are: what comes before them in
// the stream may be decided with them.
func (m *reference) entitled(s *subject, g *grant) {
	s.unsynced, s.unsaid[g.feature] = true, true
	for _, r := range m.rules {
		m.relimited(s, r, false)
	}
}
