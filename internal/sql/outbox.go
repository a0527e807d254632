package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// keyLife is how long a provider remembers an idempotency key, less an hour: an attempt whose
// outcome is unknown for longer may not be repeated.
const keyLife = 23 * time.Hour

// outboxPause is how often the outbox is looked at when nobody rings.
const outboxPause = 5 * time.Second

// Outbox hands out emails. Its connection belongs to the goroutine that delivers.
type Outbox struct {
	open   func(context.Context) (*Session, error)
	access string
	plan   *loops.Plan
	term   int64
	log    *slog.Logger
	// Hold says why nothing is sent at all (a missing setting), or nil.
	hold func() error
	// Route turns an address into the one that is written to, or says why nothing is.
	route func(to string) (address, reason string)

	conn         *Session
	installation string
	held         string // what was said of hold
}

// OutboxOptions says what an Outbox works on.
type OutboxOptions struct {
	URL    string
	Schema string
	Plan   *loops.Plan
	Term   int64
	Log    *slog.Logger
	Hold   func() error
	Route  func(to string) (address, reason string)
}

// NewOutbox returns an outbox; it connects with the first claim.
func NewOutbox(o OutboxOptions) *Outbox {
	open := func(ctx context.Context) (*Session, error) { return connect(ctx, o.URL, ForOutbox, nil) }
	return &Outbox{open: open, access: ident(o.Schema, "feature_access"), plan: o.Plan, term: o.Term, log: o.Log, hold: o.Hold, route: o.Route}
}

// Close ends the outbox's connection.
func (o *Outbox) Close() {
	if o.conn != nil {
		o.conn.End()
		o.conn = nil
	}
}

func (o *Outbox) connect(ctx context.Context) error {
	if o.conn != nil && !o.conn.IsClosed() {
		return nil
	}
	conn, err := o.open(ctx)
	if err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, `SELECT value FROM tiergate.meta WHERE "key" = 'installation'`).Scan(&o.installation); err != nil {
		conn.End()
		return explain("read the installation", err)
	}
	o.conn = conn
	return nil
}

// withheld reports whether nothing may be sent: a setting is missing, or this is a copy of the
// database whose outbox belongs to another installation. It says so once.
func (o *Outbox) withheld(ctx context.Context) (bool, error) {
	why := o.hold()
	if why == nil {
		var err error
		if why, err = CheckHome(ctx, o.conn); err != nil {
			return false, err
		}
	}
	if why == nil {
		o.held = ""
		return false, nil
	}
	if o.held != why.Error() {
		o.held = why.Error()
		o.log.Warn("emails wait", "why", why)
	}
	return true, nil
}

// Claim takes the next email that is due. Those that lost their reason are marked skipped on the way,
// and those that can no longer be tried safely are parked as dead.
func (o *Outbox) Claim(ctx context.Context) (*loops.Email, loops.PromptData, time.Time, error) {
	wake := time.Now().Add(outboxPause)
	if err := o.connect(ctx); err != nil {
		return nil, loops.PromptData{}, wake, err
	}
	if held, err := o.withheld(ctx); held || err != nil {
		return nil, loops.PromptData{}, wake, err
	}
	for {
		e, err := o.next(ctx)
		if err != nil {
			return nil, loops.PromptData{}, wake, err
		}
		if e == nil {
			wake, err = o.nextDue(ctx)
			return nil, loops.PromptData{}, wake, err
		}
		data, reason, err := o.prompt(ctx, e)
		if err != nil {
			return nil, loops.PromptData{}, wake, err
		}
		if reason == "" {
			return e, data, wake, nil
		}
		if err := o.end(ctx, e, "skipped", reason); err != nil {
			return nil, loops.PromptData{}, wake, err
		}
	}
}

// next moves one email to "sending" under the lease's term. One that is there already is ours, left by
// a crash or an error: its outcome is unknown.
func (o *Outbox) next(ctx context.Context) (*loops.Email, error) {
	for {
		var e loops.Email
		var request []byte
		var now time.Time
		var first *time.Time
		err := o.conn.QueryRow(ctx, `SELECT id, event_id, subject_id, feature, "loop", kind, episode, template, attempts, request, first_try, tiergate.now()
			FROM tiergate.email WHERE status IN ('queued', 'sending') AND next_at <= tiergate.now() ORDER BY next_at, id LIMIT 1`).
			Scan(&e.ID, &e.EventID, &e.Subject, &e.Feature, &e.Loop, &e.Kind, &e.Episode, &e.Template, &e.Attempts, &request, &first, &now)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, explain("claim an email", err)
		}
		claimed, err := o.conn.Exec(ctx, `UPDATE tiergate.email SET status = 'sending' WHERE id = $1 AND status IN ('queued', 'sending')
			AND EXISTS (SELECT 1 FROM tiergate.checkpoint WHERE term = $2)`, e.ID, o.term)
		if err != nil || claimed.RowsAffected() == 0 {
			return nil, explain("claim an email", err)
		}
		if first != nil && first.Before(now.Add(-keyLife)) {
			if err := o.end(ctx, &e, "dead", "not delivered within the provider's idempotency window"); err != nil {
				return nil, err
			}
			continue
		}
		if request != nil {
			e.Request = &loops.Message{}
			if err := json.Unmarshal(request, e.Request); err != nil {
				return nil, fmt.Errorf("email %d: read its request: %w", e.ID, err)
			}
		}
		return &e, nil
	}
}

// nextDue returns when an email that waits for its next attempt is due: outboxPause from now at the
// latest, because nobody rings when somebody else queues one.
func (o *Outbox) nextDue(ctx context.Context) (time.Time, error) {
	var next *time.Time
	var now time.Time
	err := o.conn.QueryRow(ctx, `SELECT min(next_at), tiergate.now() FROM tiergate.email WHERE status IN ('queued', 'sending')`).Scan(&next, &now)
	pause := outboxPause
	if next != nil {
		pause = min(pause, next.Sub(now))
	}
	return time.Now().Add(pause), explain("find the next email", err)
}

// prompt loads what the template needs, and asks once more whether the email still has a reason.
func (o *Outbox) prompt(ctx context.Context, e *loops.Email) (data loops.PromptData, skip string, err error) {
	var sub loops.Subject
	var a loops.Access
	var email, name, status *string
	var allowed *bool
	var episode, used, limit *int64
	var resets *time.Time
	err = o.conn.QueryRow(ctx, `SELECT s.subject_id, s.tier, s.email, s.name, s.deleted, s.status, fa.allowed, fa.episode, fa.used, fa.usage_limit, fa.resets_at
		FROM tiergate.subject s LEFT JOIN `+o.access+` fa ON fa.subject_id = s.subject_id AND fa.feature = $2
		WHERE s.subject_id = $1`, e.Subject, e.Feature).
		Scan(&sub.ID, &sub.Tier, &email, &name, &sub.Deleted, &status, &allowed, &episode, &used, &limit, &resets)
	if errors.Is(err, pgx.ErrNoRows) {
		return data, loops.SkipGone, nil
	}
	if err != nil {
		return data, "", explain("load the email's subject", err)
	}
	sub.Email, sub.Name = orZero(email), orZero(name)
	access := &a
	if allowed == nil {
		access = nil
	} else {
		a = loops.Access{Allowed: *allowed, Episode: orZero(episode), Used: orZero(used), Limit: orUnlimited(limit), ResetsAt: orZero(resets)}
	}
	if skip = e.Due(&sub, access); skip != "" {
		return data, skip, nil
	}
	address, reason := o.route(sub.Email)
	if reason != "" {
		return data, reason, nil
	}
	if e.Request != nil {
		// Frozen under another email.mode: what must not be written to then is not written to now.
		if to, _ := o.route(e.Request.To); to != e.Request.To {
			return data, "email.mode changed after the message was frozen", nil
		}
	}
	data = loops.PromptData{Name: sub.Name, Email: address, Subject: sub.ID, Feature: e.Feature, Tier: sub.Tier,
		Used: a.Used, Limit: int64(a.Limit), ResetsAt: a.ResetsAt}
	if l := o.plan.Loop(e.Feature); l != nil {
		data.Message = l.Message
	}
	return data, "", nil
}

// Freeze stores the message that every attempt sends, under a key that no other installation uses.
func (o *Outbox) Freeze(ctx context.Context, e *loops.Email, m loops.Message) error {
	m.Key = messageKey(o.installation, e.Key())
	request, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("freeze the request: %w", err)
	}
	e.Request = &m
	// Of a user who was deleted in this moment, no address is kept.
	return o.record(ctx, e, "freeze the request", `request = CASE WHEN status = 'sending' THEN $3::jsonb END, first_try = tiergate.now()`, string(request))
}

// messageKey keeps a key within the 256 characters that providers take.
func messageKey(installation, key string) string {
	if full := installation + "/" + key; len(full) <= 256 {
		return full
	}
	return installation + "/" + digest(key)
}

// Settle records how an attempt ended.
func (o *Outbox) Settle(ctx context.Context, e *loops.Email, id string, failure error) error {
	if failure == nil {
		o.log.Info("email sent", "email", e.ID, "subject", e.Subject, "feature", e.Feature, "kind", e.Kind)
		return o.record(ctx, e, "record the email as sent", `status = 'sent', provider_id = $3, reason = NULL, attempts = attempts + 1,
			sent_at = tiergate.now()`, id)
	}
	var fault *loops.Fault
	retry := errors.As(failure, &fault) && fault.Kind == loops.Transient
	if l := o.plan.Loop(e.Feature); retry && l != nil && l.Prompt != nil && l.Prompt.Retries >= 0 && e.Attempts >= l.Prompt.Retries {
		retry = fault.RetryAfter > 0 // the provider asked us to come back: that was no attempt
	}
	if !retry {
		o.log.Error("email is dead", "email", e.ID, "subject", e.Subject, "error", failure)
		return o.end(ctx, e, "dead", failure.Error())
	}
	pause := max(loops.BackOff(e.Attempts), fault.RetryAfter)
	o.log.Warn("email waits for its next attempt", "email", e.ID, "in", pause.String(), "error", failure)
	now, err := clock(ctx, o.conn)
	if err != nil {
		return err
	}
	return o.record(ctx, e, "record the failed attempt", `status = 'queued', attempts = attempts + 1, reason = $3, next_at = $4`, failure.Error(), now.Add(pause))
}

func (o *Outbox) end(ctx context.Context, e *loops.Email, status, reason string) error {
	// What was skipped before anything was sent leaves its key to a later crossing of the same episode.
	return o.record(ctx, e, "record the email's end", `status = $3, reason = $4,
		idempotency_key = CASE WHEN $3 = 'skipped' AND request IS NULL THEN NULL ELSE idempotency_key END,
		attempts = attempts + CASE WHEN $3 = 'dead' THEN 1 ELSE 0 END`, status, reason)
}

// record changes an email's row, from $3 on with what is given, while the lease is still ours.
func (o *Outbox) record(ctx context.Context, e *loops.Email, step, set string, args ...any) error {
	tag, err := o.conn.Exec(ctx, `UPDATE tiergate.email SET `+set+`
		WHERE id = $1 AND EXISTS (SELECT 1 FROM tiergate.checkpoint WHERE term = $2)`, append([]any{e.ID, o.term}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		return deposed()
	}
	return explain(step, err)
}

// EmailRow is one row of the outbox, for people.
type EmailRow struct {
	ID      int64  `json:"id"`
	Status  string `json:"status"`
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Feature string `json:"feature"`
	Reason  string `json:"reason"`
}

// ListEmails returns the newest n emails.
func ListEmails(ctx context.Context, conn *Session, n int) ([]EmailRow, error) {
	rows, err := conn.Query(ctx, `SELECT id, status, kind, subject_id, feature, coalesce(reason, '') FROM tiergate.email ORDER BY id DESC LIMIT $1`, n)
	if err != nil {
		return nil, explain("list the emails", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[EmailRow])
	return out, explain("list the emails", err)
}

// RetryEmails queues dead emails again, one by its id or, with 0, all of them, and returns how many.
// They keep their keys: what did arrive is not sent twice within the provider's idempotency window.
func RetryEmails(ctx context.Context, conn *Session, id int64) (queued int64, err error) {
	tag, err := conn.Exec(ctx, `UPDATE tiergate.email SET status = 'queued', attempts = 0, request = NULL, first_try = NULL, next_at = tiergate.now()
		WHERE status = 'dead' AND (id = $1 OR $1 = 0)`, id)
	if err == nil && tag.RowsAffected() == 0 && id != 0 {
		return 0, &loops.Fault{Step: "retry the email", Err: fmt.Errorf("no dead email has id %d", id), Hint: "`sidecar emails list` shows them"}
	}
	return tag.RowsAffected(), explain("retry the email", err)
}
