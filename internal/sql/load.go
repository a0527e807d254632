package sql

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// needs is what a batch names: whose state must be loaded before it can be decided.
type needs struct {
	subjects map[string]bool // whether their strict rows are to be held: uses do not touch those
	subKeys  []string
	userKeys []string
	gauges   []string // their keys
	events   []int64
	grants   []string // ids
	ended    []string // of grants, too
}

func needsOf(changes []loops.Change) needs {
	n := needs{subjects: map[string]bool{}}
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Role == loops.Events:
			n.events = append(n.events, c.Event)
		case c.Role == loops.Subscriptions:
			n.addRow(&n.subKeys, c)
		case c.Role == loops.Users:
			n.addRow(&n.userKeys, c)
		case c.Role == loops.Grants:
			n.addGrant(c)
		case c.Gauge():
			n.addRow(&n.gauges, c)
		case !c.Use.Refused:
			n.add(c.Use.Subject, false)
		}
	}
	return n
}

func (n *needs) addGrant(c *loops.Change) {
	if c.Op == loops.Delete {
		return
	}
	n.add(c.Row[loops.FieldSubject].Text, true)
	n.grants = append(n.grants, c.Key)
	if c.Row[loops.FieldPeriodEnd].Kind == loops.Present {
		n.ended = append(n.ended, c.Key)
	}
}

// add names a subject, unless it is none.
func (n *needs) add(subject string, hold bool) {
	if !loops.Nobody(subject) {
		n.subjects[subject] = n.subjects[subject] || hold
	}
}

// needsAll names subjects of whom everything may change.
func needsAll(ids []string) needs {
	n := needsOf(nil)
	for _, id := range ids {
		n.subjects[id] = true
	}
	return n
}

// held returns the subjects whose strict rows are to be held.
func (n *needs) held() (ids []string) {
	for id, hold := range n.subjects {
		if hold {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// addRow names whom a row of state belongs to, by its keys whom it belonged to.
func (n *needs) addRow(keys *[]string, c *loops.Change) {
	*keys = append(*keys, c.Key)
	if c.OldKey != "" {
		*keys = append(*keys, c.OldKey)
	}
	n.add(c.Row[loops.FieldSubject].Text, true)
}

// load begins the state of one decision inside tx.
func (s *Store) load(ctx context.Context, tx pgx.Tx, n needs, due bool) (*loops.State, error) {
	var now, actual time.Time // actual is what commit times are
	if err := tx.QueryRow(ctx, s.query("clock")).Scan(&now, &actual); err != nil {
		return nil, explain("read the clock", err)
	}
	st := loops.NewState(now, now.Sub(actual), len(s.plan.Loops))
	st.Sparse, st.FirstEpisode, st.Elsewhere = s.sparse, s.firstEpisode, s.elsewhere
	if err := s.loadNamed(ctx, tx, st, n, due); err != nil {
		return nil, err
	}
	if err := s.visible(ctx, tx, n); err != nil {
		return nil, err
	}
	if len(n.events) > 0 {
		if err := loadEvents(ctx, tx, st, n.events); err != nil {
			return nil, err
		}
		for _, ev := range st.Stored { // of a strict feature, of somebody nobody has heard of
			if i, ok := s.index[ev.Feature]; ok && s.plan.Loops[i].Enforcement == loops.Strict {
				n.add(ev.Subject, false)
			}
		}
	}
	if len(n.subjects) == 0 {
		return st, nil
	}
	hold := n.held()
	if err := s.loadSubjects(ctx, tx, st, slices.Collect(maps.Keys(n.subjects)), hold); err != nil {
		return nil, err
	}
	return st, s.vacant(ctx, tx, st, hold)
}

// loadNamed adds the subjects that rows name only by their key, and those for whom time is up.
func (s *Store) loadNamed(ctx context.Context, tx pgx.Tx, st *loops.State, n needs, due bool) error {
	add := func(query string, args ...any) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, id := range ids {
			n.subjects[id] = true
		}
		return err
	}
	if len(n.subKeys) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.subscription WHERE "key" = ANY($1)`, n.subKeys); err != nil {
			return explain("load subscriptions", err)
		}
	}
	if len(n.userKeys) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.subject WHERE user_key = ANY($1)`, n.userKeys); err != nil {
			return explain("load users", err)
		}
	}
	if len(n.gauges) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.gauge WHERE "key" = ANY($1)`, n.gauges); err != nil {
			return explain("load gauges", err)
		}
	}
	if due {
		if err := add(s.dueSQL(), st.Now, chunk, s.features, s.strict, s.rolling); err != nil {
			return explain("find what is due", err)
		}
		rows, err := tx.Query(ctx, `SELECT subject_id FROM tiergate.due WHERE at <= $1 ORDER BY at LIMIT $2`, st.Now, chunk)
		if err != nil {
			return explain("find what was held", err)
		}
		if st.Due, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return explain("find what was held", err)
		}
		for _, id := range st.Due {
			n.subjects[id] = true
		}
	}
	return nil
}

// loadSubjects loads subjects with their subscriptions, gauges, grants and rows, in one round trip, and holds the strict
// rows of some.
func (s *Store) loadSubjects(ctx context.Context, tx pgx.Tx, st *loops.State, ids, hold []string) error {
	batch := &pgx.Batch{}
	ours := s.queueHold(batch, hold)
	batch.Queue(`SELECT subject_id, user_key, tier, status, tier_until, email, name, customer, deleted, since, billing_start, billing_end
		FROM tiergate.subject WHERE subject_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		var sub loops.Subject
		var key, email, name, customer *string
		var until, since, billed, paid *time.Time
		_, err := pgx.ForEachRow(rows, []any{&sub.ID, &key, &sub.Tier, &sub.Status, &until, &email, &name, &customer, &sub.Deleted, &since, &billed, &paid}, func() error {
			sub.Billing = loops.Span{Start: orZero(billed), End: orZero(paid)}
			sub.UserKey, sub.TierUntil, sub.Since = orZero(key), orZero(until), orZero(since)
			sub.Email, sub.Name, sub.Customer = orZero(email), orZero(name), orZero(customer)
			st.Load(sub)
			return nil
		})
		return err
	})
	batch.Queue(`SELECT "key", subject_id, status, plan, price, customer, period_start, period_end, past_due_since
		FROM tiergate.subscription WHERE subject_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		var m loops.Subscription
		var start, end, since *time.Time
		_, err := pgx.ForEachRow(rows, []any{&m.Key, &m.Subject, &m.Status, &m.Plan, &m.Price, &m.Customer, &start, &end, &since}, func() error {
			m.PeriodStart, m.PeriodEnd, m.PastDueSince = orZero(start), orZero(end), orZero(since)
			st.LoadSubscription(m)
			return nil
		})
		return err
	})
	batch.Queue(accessSQL(s.access)+` WHERE subject_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		return s.scanAccess(rows, func(subject string, i int, a loops.Access) {
			a.Held = s.plan.Loops[i].Enforcement == loops.Strict && !ours[loops.RowName{Subject: subject, Loop: i}]
			st.LoadAccess(subject, i, a)
		})
	})
	if len(s.rolling) > 0 {
		s.queueBuckets(batch, st, ids)
	}
	s.queueGrants(batch, st, ids, hold)
	queueGauges(batch, st, ids)
	return explain("load the state", tx.SendBatch(ctx, batch).Close())
}

func accessSQL(access string) string {
	return `SELECT subject_id, feature, allowed, tier, used, usage_limit, period_start, resets_at, closed_at, reason, message, episode FROM ` + access
}

// scanAccess reads rows of accessSQL, as far as they are of features of the plan.
func (s *Store) scanAccess(rows pgx.Rows, take func(subject string, i int, a loops.Access)) error {
	var subject, feature string
	var a loops.Access
	var limit *int64
	var start, resets, closed *time.Time
	var reason, message *string
	_, err := pgx.ForEachRow(rows, []any{&subject, &feature, &a.Allowed, &a.Tier, &a.Used, &limit, &start, &resets, &closed,
		&reason, &message, &a.Episode}, func() error {
		i, ok := s.index[feature]
		if !ok {
			return nil
		}
		a.Limit, a.PeriodStart, a.ResetsAt, a.ClosedAt = orUnlimited(limit), orZero(start), orZero(resets), orZero(closed)
		a.Reason, a.Message = orZero(reason), orZero(message)
		take(subject, i, a)
		return nil
	})
	return err
}

// When a commit that the stream has shown, and nobody sees, is worth a word; and how long we look away at most.
const (
	visibleSay  = 2 * time.Second
	visibleLook = 50 * time.Millisecond
)

// visible waits until our session sees the events and grants that the stream has shown: a commit is in the stream
// before it is in anybody's snapshot, by as much as a synchronous standby takes. When every transaction that began
// before ours is over, what is still missing was deleted.
func (s *Store) visible(ctx context.Context, tx pgx.Tx, n needs) error {
	if len(n.events)+len(n.grants) == 0 {
		return nil
	}
	said, look := false, time.Millisecond
	for begun := time.Now(); ; {
		all, over, err := s.seen(ctx, tx, n, time.Since(begun))
		if err != nil {
			return explain("wait for what was committed", err)
		}
		if all || over {
			return nil
		}
		if !said && time.Since(begun) > visibleSay {
			s.log.Warn("events or grants that the stream has shown cannot be seen yet: a commit waits for a standby, or they were deleted "+
				"while some transaction is open", "events", n.events, "grants", n.grants)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
			look = min(2*look, visibleLook)
		}
	}
}

func loadEvents(ctx context.Context, tx pgx.Tx, st *loops.State, ids []int64) error {
	rows, err := tx.Query(ctx, `SELECT id, kind, subject_id, feature, "loop", tier, used, usage_limit, episode, threshold, at, silent
		FROM tiergate.access_event WHERE id = ANY($1)`, ids)
	if err != nil {
		return explain("load events", err)
	}
	var ev loops.Event
	var limit *int64
	var threshold *float64
	_, err = pgx.ForEachRow(rows, []any{&ev.ID, &ev.Kind, &ev.Subject, &ev.Feature, &ev.Loop, &ev.Tier, &ev.Used, &limit, &ev.Episode,
		&threshold, &ev.At, &ev.Silent}, func() error {
		ev.Limit, ev.Threshold = orUnlimited(limit), orZero(threshold)
		st.Stored[ev.ID] = ev
		return nil
	})
	return explain("load events", err)
}
