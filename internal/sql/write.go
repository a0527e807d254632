package sql

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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
	s.writeGauges(batch, w)
	s.writeAccess(batch, w.Access, st.Now)
	s.writeBuckets(batch, w.Access)
	s.writeGrants(batch, w)
	s.writeHeld(batch, st, w)
	s.writeEvents(batch, st, b.Position)
	s.writeEmails(batch, st)
	moved := false
	batch.Queue(`UPDATE tiergate.checkpoint SET position = $1, seq = seq + 1, applied_at = $2, source_time = `+s.latest("source_time", "$3::timestamptz")+`
		WHERE seq = $4 AND term = $5`, b.Position, st.Now, nullTime(b.Through), s.seq, s.term).Exec(func(tag pgconn.CommandTag) error {
		moved = tag.RowsAffected() > 0
		return nil
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
		s.dropRows(batch, w.Removed, []string{})
		// MySQL sees a new status in what follows it.
		batch.Queue(`UPDATE tiergate.email SET request = NULL,
				reason = CASE WHEN status IN ('queued', 'sending') THEN $2 ELSE reason END,
				status = CASE WHEN status IN ('queued', 'sending') THEN 'skipped' ELSE status END
			WHERE subject_id = ANY($1)`, w.Removed, loops.SkipGone)
	}
	if len(w.Gone) > 0 {
		batch.Queue(`DELETE FROM tiergate.subscription WHERE "key" = ANY($1)`, w.Gone)
	}
	if len(w.Subjects) > 0 {
		s.insert(batch, "tiergate.subject", "subject_id",
			each("subject_id", "text", w.Subjects, func(x *loops.Subject) string { return x.ID }),
			each("user_key", "text", w.Subjects, func(x *loops.Subject) *string { return nullText(x.UserKey) }),
			each("tier", "text", w.Subjects, func(x *loops.Subject) string { return x.Tier }),
			each("status", "text", w.Subjects, func(x *loops.Subject) string { return x.Status }),
			each("tier_until", "timestamptz", w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.TierUntil) }),
			each("email", "text", w.Subjects, func(x *loops.Subject) *string { return nullText(x.Email) }),
			each("name", "text", w.Subjects, func(x *loops.Subject) *string { return nullText(x.Name) }),
			each("customer", "text", w.Subjects, func(x *loops.Subject) *string { return nullText(x.Customer) }),
			each("deleted", "bool", w.Subjects, func(x *loops.Subject) bool { return x.Deleted }),
			each("since", "timestamptz", w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Since) }),
			each("billing_start", "timestamptz", w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Billing.Start) }),
			each("billing_end", "timestamptz", w.Subjects, func(x *loops.Subject) *time.Time { return nullTime(x.Billing.End) }),
			every("updated_at", "timestamptz", now))
	}
	if len(w.Subscriptions) > 0 {
		s.insert(batch, "tiergate.subscription", `"key"`,
			each(`"key"`, "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Key }),
			each("subject_id", "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Subject }),
			each("status", "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Status }),
			each("plan", "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Plan }),
			each("price", "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Price }),
			each("customer", "text", w.Subscriptions, func(x *loops.Subscription) string { return x.Customer }),
			each("period_start", "timestamptz", w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PeriodStart) }),
			each("period_end", "timestamptz", w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PeriodEnd) }),
			each("past_due_since", "timestamptz", w.Subscriptions, func(x *loops.Subscription) *time.Time { return nullTime(x.PastDueSince) }))
	}
}

func (s *Store) writeAccess(batch *pgx.Batch, rows []loops.AccessRow, now time.Time) {
	if len(rows) == 0 {
		return
	}
	s.insert(batch, s.access, "subject_id, feature",
		each("subject_id", "text", rows, func(r loops.AccessRow) string { return r.Subject }),
		each("feature", "text", rows, func(r loops.AccessRow) string { return s.plan.Loops[r.Loop].Feature }),
		each("allowed", "bool", rows, func(r loops.AccessRow) bool { return r.Allowed }),
		each("tier", "text", rows, func(r loops.AccessRow) string { return r.Tier }),
		each("used", "bigint", rows, func(r loops.AccessRow) int64 { return r.Used }),
		each("usage_limit", "bigint", rows, func(r loops.AccessRow) *int64 { return nullLimit(r.Limit) }),
		each("remaining", "bigint", rows, func(r loops.AccessRow) *int64 { return remaining(r.Limit, r.Used) }),
		each("period_start", "timestamptz", rows, func(r loops.AccessRow) *time.Time { return nullTime(r.PeriodStart) }),
		each("resets_at", "timestamptz", rows, func(r loops.AccessRow) *time.Time { return nullTime(r.ResetsAt) }),
		each("closed_at", "timestamptz", rows, func(r loops.AccessRow) *time.Time { return nullTime(r.ClosedAt) }),
		each("reason", "text", rows, func(r loops.AccessRow) *string { return nullText(r.Reason) }),
		each("message", "text", rows, func(r loops.AccessRow) *string { return nullText(r.Message) }),
		each("episode", "bigint", rows, func(r loops.AccessRow) int64 { return r.Episode }),
		every("updated_at", "timestamptz", now))
}

// remaining is what a limit leaves, between 0 and what a bigint holds; nil: no end.
func remaining(limit loops.Limit, used int64) *int64 {
	left := nullLimit(limit)
	switch {
	case left == nil:
	case used < 0 && *left > math.MaxInt64+used:
		*left = math.MaxInt64
	default:
		*left = max(0, *left-used)
	}
	return left
}

func (s *Store) writeEvents(batch *pgx.Batch, st *loops.State, at loops.Position) {
	if len(st.Events) == 0 {
		return
	}
	events := st.Events
	s.insert(batch, "tiergate.access_event", "",
		each("at", "timestamptz", events, func(e loops.Event) time.Time { return e.At }),
		each("kind", "text", events, func(e loops.Event) string { return string(e.Kind) }),
		each("subject_id", "text", events, func(e loops.Event) string { return e.Subject }),
		each("feature", "text", events, func(e loops.Event) string { return e.Feature }),
		each(`"loop"`, "text", events, func(e loops.Event) string { return e.Loop }),
		each("tier", "text", events, func(e loops.Event) string { return e.Tier }),
		each("used", "bigint", events, func(e loops.Event) int64 { return e.Used }),
		each("usage_limit", "bigint", events, func(e loops.Event) *int64 { return nullLimit(e.Limit) }),
		each("episode", "bigint", events, func(e loops.Event) int64 { return e.Episode }),
		each("threshold", "float8", events, func(e loops.Event) *float64 {
			if e.Threshold == 0 {
				return nil
			}
			return &e.Threshold
		}),
		each("silent", "bool", events, func(e loops.Event) bool { return e.Silent }),
		each("over_run", "bigint", events, func(e loops.Event) int64 { return e.Over }),
		every("recorded_at", "timestamptz", st.Now), every("position", "text", string(at)))
}

// writeEmails inserts the outbox rows of events: one an event, and one sent for each wall and episode.
func (s *Store) writeEmails(batch *pgx.Batch, st *loops.State) {
	seen := map[string]bool{}
	for i := range st.Emails {
		e := &st.Emails[i]
		if key := e.Key(); e.Skip == "" && seen[key] {
			e.Skip = loops.SkipDuplicate
		} else if e.Skip == "" {
			seen[key] = true
		}
	}
	for emails := range slices.Chunk(st.Emails, piece) {
		args := []any{loops.SkipDuplicate, st.Now}
		rows := s.inline(&args, "u",
			each("event_id", "bigint", emails, func(e loops.Email) int64 { return e.EventID }),
			each("subject_id", "text", emails, func(e loops.Email) string { return e.Subject }),
			each("feature", "text", emails, func(e loops.Email) string { return e.Feature }),
			each(`"loop"`, "text", emails, func(e loops.Email) string { return e.Loop }),
			each("kind", "text", emails, func(e loops.Email) string { return e.Kind }),
			each("episode", "bigint", emails, func(e loops.Email) int64 { return e.Episode }),
			each("template", "text", emails, func(e loops.Email) string { return e.Template }),
			each("skip", "text", emails, func(e loops.Email) string { return e.Skip }),
			each(`"key"`, "text", emails, func(e loops.Email) string { return e.Key() }))
		batch.Queue(s.query("insert emails", rows), args...)
	}
}
