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

// The advisory locks of one database: 'TGAT', and which.
const (
	lockClass   = 0x54474154
	lockLease   = 1
	lockInstall = 2
)

// leaseHeld is the condition that some sidecar holds the lease of this database: $1 and $2 are the lock.
const leaseHeld = `EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = $2 AND granted
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`

// leasePing is how often the holder looks whether its session still lives; the server gives a dead
// one up after 25 s (see Connect).
const leasePing = 5 * time.Second

// leaseBound is how long the database may take to answer the holder before the session counts as lost.
const leaseBound = 15 * time.Second

// Lease is the right to write. It lives as long as its session: no heartbeat is written, so an idle
// database stays idle.
type Lease struct {
	Term int64
	conn *pgx.Conn
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
			closeConn(conn)
			return nil, err
		}
		if held {
			break
		}
		if !wait {
			defer closeConn(conn)
			return nil, &loops.Fault{Step: "ask for the lease", Err: fmt.Errorf("another sidecar is running: %s", holderOf(ctx, conn)),
				Hint: "stop it first", Kind: loops.Permanent}
		}
		if !told {
			log.Info("another sidecar is running; waiting for its lease", "holder", holderOf(ctx, conn))
		}
		select {
		case <-ctx.Done():
			closeConn(conn)
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
	l := &Lease{conn: conn}
	if err := l.begin(ctx, holder); err != nil {
		closeConn(conn)
		return nil, err
	}
	return l, nil
}

// try asks for the lease once. The answer has its time: a server that vanished would be waited for while
// another one has taken its place.
func try(ctx context.Context, conn *pgx.Conn) (held bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, leasePing)
	defer cancel()
	err = conn.QueryRow(bounded, `SELECT pg_try_advisory_lock($1, $2)`, lockClass, lockLease).Scan(&held)
	return held, explain("ask for the lease", err)
}

// begin ends the last holder's sessions, so that nothing of theirs commits any more, and moves the term.
func (l *Lease) begin(ctx context.Context, holder string) error {
	_, err := l.conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND usename = current_user AND application_name = ANY($1)`,
		[]string{string(ForApply), string(ForOutbox), string(ForCount), string(ForStream)})
	if err != nil {
		return explain("end the last sidecar's sessions", err)
	}
	tx, err := l.conn.Begin(ctx)
	if err != nil {
		return explain("begin a term", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	err = tx.QueryRow(ctx, `UPDATE tiergate.checkpoint SET term = term + 1 RETURNING term`).Scan(&l.Term)
	if err != nil {
		return explain("begin a term", err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO tiergate.lease (term, holder, backend_pid, acquired_at) VALUES ($1, $2, pg_backend_pid(), now())
		ON CONFLICT (id) DO UPDATE SET term = EXCLUDED.term, holder = EXCLUDED.holder, backend_pid = EXCLUDED.backend_pid,
			acquired_at = EXCLUDED.acquired_at`, l.Term, holder)
	if err != nil {
		return explain("begin a term", err)
	}
	return explain("begin a term", tx.Commit(ctx))
}

func holderOf(ctx context.Context, conn *pgx.Conn) string {
	var text string
	err := conn.QueryRow(ctx, `SELECT format('%s, since %s', holder, date_trunc('second', acquired_at)) FROM tiergate.lease`).Scan(&text)
	if err != nil {
		return "unknown"
	}
	return text
}

// Hold looks at the database through the lease's session every so often, which also shows that the
// session lives. It returns when that is lost, with Deposed, when look fails, or when ctx ends.
func (l *Lease) Hold(ctx context.Context, look func(context.Context, *pgx.Conn) error) error {
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
func (l *Lease) Release() { closeConn(l.conn) }
