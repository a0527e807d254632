package sql

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// Grant is what a subject was given beyond its tier.
type Grant struct {
	ID        int64      `json:"id"`
	Subject   string     `json:"subject"`
	Feature   string     `json:"feature"`
	Quantity  *int64     `json:"quantity"`   // uses beyond the limit, in every window; nil: unlimited
	ExpiresAt *time.Time `json:"expires_at"` // nil: never
	Note      string     `json:"note"`
	GrantedBy string     `json:"granted_by"`
	GrantedAt time.Time  `json:"granted_at"`
	EndedAt   *time.Time `json:"ended_at"` // when it was revoked or expired; nil: it is open
}

// NewGrant is a grant to be made.
type NewGrant struct {
	Subject  string
	Feature  string
	Quantity *int64       // nil: unlimited
	Until    *time.Time   // nil: as For says
	For      loops.Period // from the database's now on; without a Text: until it is revoked
	Note     string
	By       string // empty: the role of the connection
}

// GrantChange is what making or revoking a grant did.
type GrantChange struct {
	Grant   Grant  `json:"grant"`
	Before  *int64 `json:"limit_before"` // the effective limit; nil: unlimited
	After   *int64 `json:"limit_after"`
	Known   bool   `json:"known"`   // the subject was seen before: as a user, or with usage or a subscription
	Running bool   `json:"running"` // a sidecar is there to move the flag
	Ended   bool   `json:"-"`       // this revoked it; false after Revoke: it had ended already
}

// InputError is a fault of whoever asked: an argument that a function of the database refuses, in its words.
type InputError struct{ loops.Fault }

// refusal explains a function's error.
func refusal(step string, err error) error {
	if words, hint, is := refusedWords(err); is {
		return &InputError{loops.Fault{Step: step, Err: errors.New(words), Hint: hint}}
	}
	return explain(step, err)
}

// grantColumns are those of a Grant. What is over has ended, even where no sidecar has said so yet.
const grantColumns = `g.id, g.subject_id, g.feature, g.quantity, g.expires_at, g.note, g.granted_by, g.granted_at,
	coalesce(g.ended_at, CASE WHEN g.expires_at <= tiergate.now() THEN g.expires_at END) AS ended_at`

// Give makes a grant. What it refuses is an InputError.
func Give(ctx context.Context, conn *Session, n NewGrant) (GrantChange, error) {
	return changeGrant(ctx, conn, "make the grant", func(tx pgx.Tx) (c GrantChange, err error) {
		if n.For.Text != "" {
			now, err := clock(ctx, tx)
			if err != nil {
				return c, err
			}
			until := n.For.Add(now)
			n.Until = &until
		}
		if c.Before, c.Known, err = effective(ctx, conn, tx, n.Subject, n.Feature); err != nil {
			return c, err
		}
		var id int64
		if _, err := tx.Exec(ctx, conn.query("granted by"), n.By); err != nil {
			return c, err
		}
		err = tx.QueryRow(ctx, conn.query("grant"), n.Subject, n.Feature, n.Quantity, n.Until, n.Note).Scan(&id)
		if err != nil {
			return c, err
		}
		c.Grant, err = grantOf(ctx, tx, id)
		return c, err
	})
}

// Revoke ends a grant. An id that none has is an InputError.
func Revoke(ctx context.Context, conn *Session, id int64) (GrantChange, error) {
	return changeGrant(ctx, conn, "revoke the grant", func(tx pgx.Tx) (c GrantChange, err error) {
		if c.Grant, err = grantOf(ctx, tx, id); err == nil {
			c.Before, c.Known, err = effective(ctx, conn, tx, c.Grant.Subject, c.Grant.Feature)
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return c, err
		}
		if err := tx.QueryRow(ctx, conn.query("revoke"), id).Scan(&c.Ended); err != nil {
			return c, err
		}
		c.Grant, err = grantOf(ctx, tx, id)
		return c, err
	})
}

// changeGrant does the work in one transaction, and looks at what came of it.
func changeGrant(ctx context.Context, conn *Session, step string, work func(tx pgx.Tx) (GrantChange, error)) (c GrantChange, err error) {
	err = conn.within(ctx, func(tx pgx.Tx) (err error) {
		if c, err = work(tx); err != nil {
			return err
		}
		if c.After, _, err = effective(ctx, conn, tx, c.Grant.Subject, c.Grant.Feature); err != nil {
			return err
		}
		return tx.QueryRow(ctx, conn.query("lease held")).Scan(&c.Running)
	})
	return c, refusal(step, err)
}

// effective returns a subject's limit with all that it was granted, and whether anybody has seen the subject.
func effective(ctx context.Context, conn *Session, tx pgx.Tx, subject, feature string) (limit *int64, known bool, err error) {
	var facts struct {
		Limit  struct{ Effective *int64 }
		Tier   struct{ Tier *string }
		Access struct {
			Subject string `json:"subject_id"`
		}
	}
	var text []byte
	if err := tx.QueryRow(ctx, conn.query("explain"), subject, feature).Scan(&text); err != nil {
		return nil, false, err
	}
	err = json.Unmarshal(text, &facts)
	return facts.Limit.Effective, facts.Tier.Tier != nil || facts.Access.Subject == subject, err
}

func grantOf(ctx context.Context, tx pgx.Tx, id int64) (Grant, error) {
	rows, err := tx.Query(ctx, `SELECT `+grantColumns+` FROM tiergate.access_grant g WHERE g.id = $1`, id)
	if err != nil {
		return Grant{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Grant])
}

// ListGrants returns the open grants of a subject, or of everybody where it is empty, the newest first; with
// ended those too that have ended.
func ListGrants(ctx context.Context, conn *Session, subject string, ended bool) ([]Grant, error) {
	rows, err := conn.Query(ctx, `SELECT * FROM (SELECT `+grantColumns+` FROM tiergate.access_grant g WHERE g.subject_id = $1 OR $1 = '') g
		WHERE $2 OR g.ended_at IS NULL ORDER BY g.id DESC`, subject, ended)
	if err != nil {
		return nil, explain("list the grants", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Grant])
	return out, explain("list the grants", err)
}
