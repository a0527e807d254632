package sql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// querier asks a database, in a transaction or not. All dialects have the shape of pgx: its rows, batches and transactions.
type querier interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// life is that of a connection.
type life interface {
	Ping(ctx context.Context) error
	IsClosed() bool
	Close(ctx context.Context) error
}

// worker does more than one statement at a time.
type worker interface {
	// SendBatch runs statements in one transaction, which is the one that is open, or one of their own.
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Begin(ctx context.Context) (pgx.Tx, error)
	// view begins a transaction that only reads, and sees the data of one moment: as of a snapshot of the change
	// stream, or of now where that has no name.
	view(ctx context.Context, of loops.Snapshot) (pgx.Tx, error)
}

// Session is one connection to the application's database. It belongs to one goroutine at a time.
type Session struct {
	querier
	life
	worker
	dialect
	Host      string // as it was dialed
	Database  string
	Encrypted bool // over TLS
}

// within does work in one transaction.
func (s *Session) within(ctx context.Context, work func(pgx.Tx) error) error {
	tx, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// End closes a session, within a second: there is nothing to be done about one that does not end well.
func (s *Session) End() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Close(ctx)
}

// clock asks the one clock of functions and sidecar.
func clock(ctx context.Context, q querier) (now time.Time, err error) {
	err = q.QueryRow(ctx, `SELECT tiergate.now()`).Scan(&now)
	return now.UTC(), explain("read the clock", err)
}
