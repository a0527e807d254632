package sql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// needs is what a batch names: whose state must be loaded before it can be decided.
type needs struct {
	subjects map[string]struct{}
	subKeys  []string
	userKeys []string
	gauges   []string // their keys
	events   []int64
}

func needsOf(changes []loops.Change) needs {
	n := needs{subjects: map[string]struct{}{}}
	for i := range changes {
		c := &changes[i]
		switch {
		case c.Role == loops.Events:
			n.events = append(n.events, c.Event)
		case c.Role == loops.Subscriptions:
			n.addRow(&n.subKeys, c)
		case c.Role == loops.Users:
			n.addRow(&n.userKeys, c)
		case c.Gauge():
			n.addRow(&n.gauges, c)
		case !c.Use.Refused:
			n.add(c.Use.Subject)
		}
	}
	return n
}

// add names a subject, unless it is none.
func (n *needs) add(subject string) {
	if !loops.Nobody(subject) {
		n.subjects[subject] = struct{}{}
	}
}

// addRow names whom a row of state belongs to, by its keys whom it belonged to.
func (n *needs) addRow(keys *[]string, c *loops.Change) {
	*keys = append(*keys, c.Key)
	if c.OldKey != "" {
		*keys = append(*keys, c.OldKey)
	}
	n.add(c.Row[loops.FieldSubject].Text)
}

// load begins the state of one decision inside tx.
func (s *Store) load(ctx context.Context, tx pgx.Tx, n needs, due bool) (*loops.State, error) {
	var now time.Time
	var shift time.Duration
	err := tx.QueryRow(ctx, `SELECT t.now, t.now - statement_timestamp() FROM (SELECT tiergate.now() AS now) t`).Scan(&now, &shift)
	if err != nil {
		return nil, explain("read the clock", err)
	}
	st := loops.NewState(now, shift, len(s.plan.Loops))
	st.Sparse, st.FirstEpisode, st.Elsewhere = s.sparse, s.firstEpisode, s.elsewhere
	if err := s.loadNamed(ctx, tx, n, due, now); err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(n.subjects))
	for id := range n.subjects {
		ids = append(ids, id)
	}
	if len(ids) > 0 {
		if err := s.loadSubjects(ctx, tx, st, ids); err != nil {
			return nil, err
		}
	}
	if len(n.events) > 0 {
		if err := loadEvents(ctx, tx, st, n.events); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// loadNamed adds the subjects that rows name only by their key, and those for whom time is up.
func (s *Store) loadNamed(ctx context.Context, tx pgx.Tx, n needs, due bool, now time.Time) error {
	add := func(query string, args ...any) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, id := range ids {
			n.subjects[id] = struct{}{}
		}
		return err
	}
	if len(n.subKeys) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.subscription WHERE key = ANY($1)`, n.subKeys); err != nil {
			return explain("load subscriptions", err)
		}
	}
	if len(n.userKeys) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.subject WHERE user_key = ANY($1)`, n.userKeys); err != nil {
			return explain("load users", err)
		}
	}
	if len(n.gauges) > 0 {
		if err := add(`SELECT subject_id FROM tiergate.gauge WHERE key = ANY($1)`, n.gauges); err != nil {
			return explain("load gauges", err)
		}
	}
	if due {
		// Rows of a feature that left the plan wait for nothing: they go when the plan is stored.
		err := add(`(SELECT subject_id FROM `+s.access+` WHERE resets_at <= $1 AND feature = ANY($3) ORDER BY resets_at LIMIT $2)
			UNION (SELECT subject_id FROM tiergate.subject WHERE tier_until <= $1 ORDER BY tier_until LIMIT $2)`, now, chunk, s.features)
		if err != nil {
			return explain("find what is due", err)
		}
	}
	return nil
}

// loadSubjects loads subjects with their subscriptions, gauges and rows, in one round trip.
func (s *Store) loadSubjects(ctx context.Context, tx pgx.Tx, st *loops.State, ids []string) error {
	batch := &pgx.Batch{}
	batch.Queue(`SELECT subject_id, user_key, tier, status, tier_until, email, name, customer, deleted, since
		FROM tiergate.subject WHERE subject_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		var sub loops.Subject
		var key, email, name, customer *string
		var until, since *time.Time
		_, err := pgx.ForEachRow(rows, []any{&sub.ID, &key, &sub.Tier, &sub.Status, &until, &email, &name, &customer, &sub.Deleted, &since}, func() error {
			sub.UserKey, sub.TierUntil, sub.Since = orZero(key), orZero(until), orZero(since)
			sub.Email, sub.Name, sub.Customer = orZero(email), orZero(name), orZero(customer)
			st.Load(sub)
			return nil
		})
		return err
	})
	batch.Queue(`SELECT key, subject_id, status, plan, price, customer, period_start, period_end, past_due_since
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
	batch.Queue(`SELECT subject_id, feature, allowed, tier, used, usage_limit, period_start, resets_at, closed_at, reason, message, episode
		FROM `+s.access+` WHERE subject_id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
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
			st.LoadAccess(subject, i, a)
			return nil
		})
		return err
	})
	queueGauges(batch, st, ids)
	return explain("load the state", tx.SendBatch(ctx, batch).Close())
}

func loadEvents(ctx context.Context, tx pgx.Tx, st *loops.State, ids []int64) error {
	rows, err := tx.Query(ctx, `SELECT id, kind, subject_id, feature, loop, tier, used, usage_limit, episode, threshold, at, silent
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
