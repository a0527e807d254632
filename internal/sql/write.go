package sql

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// write queues everything a decision changed in one round trip. The compare-and-set on the checkpoint
// is the last statement: where it finds another sequence number or term, nothing is committed.
func (s *Store) write(ctx context.Context, tx pgx.Tx, st *loops.State, w loops.Written, b loops.Batch) error {
	batch := &pgx.Batch{}
	if len(st.Due) > 0 { // first: what follows may be held again
		batch.Queue(`DELETE FROM tiergate.due WHERE subject_id = ANY($1)`, st.Due)
	}
	s.writeSubjects(batch, w, st.Now)
	writeGauges(batch, w)
	s.writeAccess(batch, w.Access, st.Now)
	s.writeBuckets(batch, w.Access)
	writeGrants(batch, w)
	s.writeHeld(batch, st, w)
	writeEvents(batch, st, b.Position)
	writeEmails(batch, st)
	moved := false
	batch.Queue(`UPDATE tiergate.checkpoint SET position = $1, seq = seq + 1, applied_at = $2,
			source_time = greatest(source_time, $3)
		WHERE seq = $4 AND term = $5 RETURNING true`,
		b.Position, st.Now, nullTime(b.Through), s.seq, s.term).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&moved)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return explain("write the outcome", err)
	}
	if !moved {
		return deposed()
	}
	return nil
}

func (s *Store) writeSubjects(batch *pgx.Batch, w loops.Written, now time.Time) {
	if len(w.Removed) > 0 {
		s.dropRows(batch, w.Removed, "$2", true)
		batch.Queue(`UPDATE tiergate.email SET request = NULL,
				status = CASE WHEN status IN ('queued', 'sending') THEN 'skipped' ELSE status END,
				reason = CASE WHEN status IN ('queued', 'sending') THEN $2 ELSE reason END
			WHERE subject_id = ANY($1)`, w.Removed, loops.SkipGone)
	}
	if len(w.Gone) > 0 {
		batch.Queue(`DELETE FROM tiergate.subscription WHERE key = ANY($1)`, w.Gone)
	}
	if len(w.Subjects) > 0 {
		batch.Queue(`INSERT INTO tiergate.subject AS s (subject_id, user_key, tier, status, tier_until, email, name, customer, deleted, since, billing_start, billing_end, updated_at)
			SELECT *, $13 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::bool[],
				$10::timestamptz[], $11::timestamptz[], $12::timestamptz[])
			ON CONFLICT (subject_id) DO UPDATE SET user_key = EXCLUDED.user_key, tier = EXCLUDED.tier, status = EXCLUDED.status,
				tier_until = EXCLUDED.tier_until, email = EXCLUDED.email, name = EXCLUDED.name, customer = EXCLUDED.customer,
				deleted = EXCLUDED.deleted, since = EXCLUDED.since, billing_start = EXCLUDED.billing_start,
				billing_end = EXCLUDED.billing_end, updated_at = EXCLUDED.updated_at`,
			column(w.Subjects, func(x *loops.Subject) string { return x.ID }),
			column(w.Subjects, func(x *loops.Subject) *string { return nullText(x.UserKey) }),
			column(w.Subjects, func(x *loops.Subject) string { return x.Tier }),
			column(w.Subjects, func(x *loops.Subject) string { return x.Status }),
			column(w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.TierUntil) }),
			column(w.Subjects, func(x *loops.Subject) *string { return nullText(x.Email) }),
			column(w.Subjects, func(x *loops.Subject) *string { return nullText(x.Name) }),
			column(w.Subjects, func(x *loops.Subject) *string { return nullText(x.Customer) }),
			column(w.Subjects, func(x *loops.Subject) bool { return x.Deleted }),
			column(w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Since) }),
			column(w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Billing.Start) }),
			column(w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Billing.End) }), now)
	}
	if len(w.Subscriptions) > 0 {
		batch.Queue(`INSERT INTO tiergate.subscription AS m (key, subject_id, status, plan, price, customer, period_start, period_end, past_due_since)
			SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
			ON CONFLICT (key) DO UPDATE SET subject_id = EXCLUDED.subject_id, status = EXCLUDED.status, plan = EXCLUDED.plan, price = EXCLUDED.price,
				customer = EXCLUDED.customer, period_start = EXCLUDED.period_start, period_end = EXCLUDED.period_end,
				past_due_since = EXCLUDED.past_due_since`,
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Key }),
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Subject }),
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Status }),
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Plan }),
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Price }),
			column(w.Subscriptions, func(x *loops.Subscription) string { return x.Customer }),
			column(w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PeriodStart) }),
			column(w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PeriodEnd) }),
			column(w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PastDueSince) }))
	}
}

func (s *Store) writeAccess(batch *pgx.Batch, rows []loops.AccessRow, now time.Time) {
	if len(rows) == 0 {
		return
	}
	batch.Queue(`INSERT INTO `+s.access+` AS fa (subject_id, feature, allowed, tier, used, usage_limit, remaining, period_start, resets_at,
			closed_at, reason, message, episode, updated_at)
		SELECT u.subject_id, u.feature, u.allowed, u.tier, u.used, u.usage_limit, CASE WHEN u.usage_limit IS NOT NULL THEN least(greatest(0, u.usage_limit::numeric - u.used), 9223372036854775807)::bigint END, u.period_start, u.resets_at,
			u.closed_at, u.reason, u.message, u.episode, $13
		FROM unnest($1::text[], $2::text[], $3::bool[], $4::text[], $5::bigint[], $6::bigint[], $7::timestamptz[], $8::timestamptz[],
			$9::timestamptz[], $10::text[], $11::text[], $12::bigint[])
			AS u (subject_id, feature, allowed, tier, used, usage_limit, period_start, resets_at, closed_at, reason, message, episode)
		ON CONFLICT (subject_id, feature) DO UPDATE SET allowed = EXCLUDED.allowed, tier = EXCLUDED.tier, used = EXCLUDED.used,
			usage_limit = EXCLUDED.usage_limit, remaining = EXCLUDED.remaining, period_start = EXCLUDED.period_start,
			resets_at = EXCLUDED.resets_at, closed_at = EXCLUDED.closed_at, reason = EXCLUDED.reason, message = EXCLUDED.message,
			episode = EXCLUDED.episode, updated_at = EXCLUDED.updated_at`,
		column(rows, func(r loops.AccessRow) string { return r.Subject }),
		column(rows, func(r loops.AccessRow) string { return s.plan.Loops[r.Loop].Feature }),
		column(rows, func(r loops.AccessRow) bool { return r.Allowed }),
		column(rows, func(r loops.AccessRow) string { return r.Tier }),
		column(rows, func(r loops.AccessRow) int64 { return r.Used }),
		column(rows, func(r loops.AccessRow) *int64 { return nullLimit(r.Limit) }),
		column(rows, func(r loops.AccessRow) *time.Time { return nullTime(r.PeriodStart) }),
		column(rows, func(r loops.AccessRow) *time.Time { return nullTime(r.ResetsAt) }),
		column(rows, func(r loops.AccessRow) *time.Time { return nullTime(r.ClosedAt) }),
		column(rows, func(r loops.AccessRow) *string { return nullText(r.Reason) }),
		column(rows, func(r loops.AccessRow) *string { return nullText(r.Message) }),
		column(rows, func(r loops.AccessRow) int64 { return r.Episode }), now)
}

func writeEvents(batch *pgx.Batch, st *loops.State, at loops.Position) {
	if len(st.Events) == 0 {
		return
	}
	events := st.Events
	batch.Queue(`INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, loop, tier, used, usage_limit, episode, threshold, position, silent, over_run)
		SELECT u.at, $12, u.kind, u.subject_id, u.feature, u.loop, u.tier, u.used, u.usage_limit, u.episode, u.threshold, $13, u.silent, u.over_run
		FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
			$10::float8[], $11::bool[], $14::bigint[]) WITH ORDINALITY
			AS u (at, kind, subject_id, feature, loop, tier, used, usage_limit, episode, threshold, silent, over_run, n)
		ORDER BY u.n`,
		column(events, func(e loops.Event) time.Time { return e.At }),
		column(events, func(e loops.Event) string { return string(e.Kind) }),
		column(events, func(e loops.Event) string { return e.Subject }),
		column(events, func(e loops.Event) string { return e.Feature }),
		column(events, func(e loops.Event) string { return e.Loop }),
		column(events, func(e loops.Event) string { return e.Tier }),
		column(events, func(e loops.Event) int64 { return e.Used }),
		column(events, func(e loops.Event) *int64 { return nullLimit(e.Limit) }),
		column(events, func(e loops.Event) int64 { return e.Episode }),
		column(events, func(e loops.Event) *float64 {
			if e.Threshold == 0 {
				return nil
			}
			return &e.Threshold
		}),
		column(events, func(e loops.Event) bool { return e.Silent }), st.Now, at,
		column(events, func(e loops.Event) int64 { return e.Over }))
}

// writeEmails inserts the outbox rows of events: one an event, and one sent for each wall and episode.
func writeEmails(batch *pgx.Batch, st *loops.State) {
	if len(st.Emails) == 0 {
		return
	}
	seen := map[string]bool{}
	for i := range st.Emails {
		e := &st.Emails[i]
		if key := e.Key(); e.Skip == "" && seen[key] {
			e.Skip = loops.SkipDuplicate
		} else if e.Skip == "" {
			seen[key] = true
		}
	}
	batch.Queue(`INSERT INTO tiergate.email (event_id, subject_id, feature, loop, kind, episode, template, status, reason, idempotency_key, next_at, created_at)
		SELECT u.event_id, u.subject_id, u.feature, u.loop, u.kind, u.episode, u.template,
			CASE WHEN u.skip <> '' OR dup.id IS NOT NULL THEN 'skipped' ELSE 'queued' END,
			CASE WHEN u.skip <> '' THEN u.skip WHEN dup.id IS NOT NULL THEN $10 END,
			CASE WHEN u.skip = '' AND dup.id IS NULL THEN u.key END, $11, $11
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[])
			AS u (event_id, subject_id, feature, loop, kind, episode, template, skip, key)
		LEFT JOIN tiergate.email dup ON dup.idempotency_key = u.key AND u.skip = '' AND dup.event_id <> u.event_id
		ON CONFLICT (event_id) DO NOTHING`,
		column(st.Emails, func(e loops.Email) int64 { return e.EventID }),
		column(st.Emails, func(e loops.Email) string { return e.Subject }),
		column(st.Emails, func(e loops.Email) string { return e.Feature }),
		column(st.Emails, func(e loops.Email) string { return e.Loop }),
		column(st.Emails, func(e loops.Email) string { return e.Kind }),
		column(st.Emails, func(e loops.Email) int64 { return e.Episode }),
		column(st.Emails, func(e loops.Email) string { return e.Template }),
		column(st.Emails, func(e loops.Email) string { return e.Skip }),
		column(st.Emails, func(e loops.Email) string { return e.Key() }), loops.SkipDuplicate, st.Now)
}

// column is one column of rows, as unnest takes it.
func column[R, V any](rows []R, value func(R) V) []V {
	out := make([]V, len(rows))
	for i, r := range rows {
		out[i] = value(r)
	}
	return out
}
