package sql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// leasePing is how often the holder looks whether its session still lives; the server gives a dead
// one up after 25 s (see Connect).
const leasePing = 5 * time.Second

// leaseBound is how long the database may take to answer the holder before the session counts as lost.
const leaseBound = 15 * time.Second

// Lease is the right to write. It lives as long as its session: no heartbeat is written, so an idle
// database stays idle.
type Lease struct {
	Term int64
	conn *Session
}

// Acquire waits until no other sidecar holds the lease, ends what an earlier holder left running, and
// begins a new term. With wait false it fails instead of waiting.
func Acquire(ctx context.Context, url, holder string, wait bool, log *slog.Logger) (*Lease, error) {
	conn, err := Connect(ctx, url, ForLease)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		held, err := try(ctx, conn)
		if err != nil {
			conn.End()
			return nil, err
		}
		if held {
			break
		}
		if !wait {
			defer conn.End()
			return nil, &loops.Fault{Step: "ask for the lease", Err: fmt.Errorf("another sidecar is running: %s", holderOf(ctx, conn)),
				Hint: "stop it first", Kind: loops.Permanent}
		}
		if !told {
			log.Info("another sidecar is running; waiting for its lease", "holder", holderOf(ctx, conn))
		}
		select {
		case <-ctx.Done():
			conn.End()
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	l := &Lease{conn: conn}
	if err := l.begin(ctx, holder); err != nil {
		conn.End()
		return nil, err
	}
	return l, nil
}

// try asks for the lease once. The answer has its time: a server that vanished would be waited for while
// another one has taken its place.
func try(ctx context.Context, conn *Session) (held bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, leasePing)
	defer cancel()
	err = conn.QueryRow(bounded, conn.query("lease take")).Scan(&held)
	return held, explain("ask for the lease", err)
}

// begin ends the last holder's sessions, so that nothing of theirs commits any more, and moves the term.
func (l *Lease) begin(ctx context.Context, holder string) error {
	if err := l.conn.endOthers(ctx, l.conn, ForApply, ForOutbox, ForCount, ForStream); err != nil {
		return explain("end the last sidecar's sessions", err)
	}
	return explain("begin a term", l.conn.within(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE tiergate.checkpoint SET term = term + 1`); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT term FROM tiergate.checkpoint`).Scan(&l.Term); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, l.conn.query("lease store"), l.Term, holder)
		return err
	}))
}

func holderOf(ctx context.Context, conn *Session) string {
	var holder string
	var since time.Time
	if err := conn.QueryRow(ctx, `SELECT holder, acquired_at FROM tiergate.lease`).Scan(&holder, &since); err != nil {
		return "unknown"
	}
	return holder + ", since " + since.UTC().Format("2006-01-02 15:04:05Z07:00")
}

// Hold looks at the database through the lease's session every so often, which also shows that the
// session lives. It returns when that is lost, with Deposed, when look fails, or when ctx ends.
func (l *Lease) Hold(ctx context.Context, look func(context.Context, *Session) error) error {
	for {
		bounded, cancel := context.WithTimeout(ctx, leaseBound)
		err := look(bounded, l.conn)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && l.conn.IsClosed():
			return &loops.Fault{Step: "hold the lease", Err: errors.Join(errors.New("its session is lost"), err), Kind: loops.Deposed}
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(leasePing):
		}
	}
}

// Release gives the lease up at once.
func (l *Lease) Release() { l.conn.End() }
