// Package sql is the only one that writes SQL. It keeps the flags, the events, the emails and the
// position of what they are made of, in the application's own database.
//
// Guarantee: flags, events, emails and position change in one transaction, whose last statement moves
// the checkpoint only if nobody else has. Who holds the lease may write; a sidecar that lost it fails
// with loops.Deposed and changes nothing.
package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// Purpose names a connection in pg_stat_activity, and bounds what it may hold up.
type Purpose string

// The sidecar's connections, besides the replication stream's own.
const (
	ForApply   Purpose = "tiergate apply"
	ForOutbox  Purpose = "tiergate outbox"
	ForLease   Purpose = "tiergate lease"
	ForCount   Purpose = "tiergate count" // reads for as long as it takes
	ForCommand Purpose = "tiergate command"
	ForVerify  Purpose = "tiergate verify" // reads for as long as it takes
	ForStream  Purpose = "tiergate stream" // the replication connection
)

// ownSchema is where the sidecar's own tables are; on MySQL, the prefix of their names.
const ownSchema = "tiergate"

// Connect opens a session that speaks UTC, and gives up rather than hold the application up. The caller closes it.
func Connect(ctx context.Context, url string, purpose Purpose) (*Session, error) {
	return connect(ctx, url, purpose, nil)
}

// connect opens a session. view returns the session that sees a snapshot of MySQL's change stream, by its name.
func connect(ctx context.Context, url string, purpose Purpose, view func(name string) (*sql.Conn, bool)) (*Session, error) {
	if isMySQL(url) {
		return connectMySQL(ctx, url, purpose, view)
	}
	return connectPostgres(ctx, url, purpose)
}

// dialectOf is the dialect of a connection string's database.
func dialectOf(url string) dialect {
	if isMySQL(url) {
		return mysqlDialect()
	}
	return postgresDialect()
}

// explain turns a driver's error into a fault with a way out. Nothing of a password is in it.
func explain(step string, err error) error {
	if err == nil {
		return nil
	}
	var fault *loops.Fault
	if errors.As(err, &fault) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", step, err)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		kind, hint := wayOut(pg.Code)
		return &loops.Fault{Step: step, Err: fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code), Hint: hint, Kind: kind}
	}
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		kind, hint := mysqlWayOut(my.Number)
		return &loops.Fault{Step: step, Err: fmt.Errorf("%s (error %d)", my.Message, my.Number), Hint: hint, Kind: kind}
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		hint := "is the server running, and does DATABASE_URL name the right host and port?"
		if noIPv6(err) {
			hint = "the address is an IPv6 one, and this machine has no way there: run the sidecar where there is IPv6, or give the database " +
				"an IPv4 address (Supabase: the IPv4 add-on)"
		}
		return &loops.Fault{Step: step, Err: connectCause(connect), Hint: hint, Kind: loops.Transient}
	}
	return &loops.Fault{Step: step, Err: err, Hint: mysqlConnectHint(err), Kind: loops.Transient}
}

// refusedWords reports whether a function of the sidecar refused an argument, in its words.
func refusedWords(err error) (words, hint string, is bool) {
	const invalid = "22023"
	var pg *pgconn.PgError
	var my *mysql.MySQLError
	switch {
	case errors.As(err, &pg) && pg.Code == invalid:
		return pg.Message, pg.Hint, true
	case errors.As(err, &my) && string(my.SQLState[:]) == invalid:
		words, hint, _ = strings.Cut(my.Message, ": ")
		return words, hint, true
	}
	return "", "", false
}

// noIPv6 reports whether every address that was tried is an IPv6 one that no route leads to.
func noIPv6(err error) bool {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if tried, ok := inner.(interface{ Unwrap() []error }); ok {
			return !slices.ContainsFunc(tried.Unwrap(), func(err error) bool { return !noIPv6(err) })
		}
	}
	var dial *net.OpError
	if !errors.As(err, &dial) {
		return false
	}
	address, ok := dial.Addr.(*net.TCPAddr)
	return ok && address.IP.To4() == nil && slices.ContainsFunc([]error{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT},
		func(cause error) bool { return errors.Is(dial, cause) })
}

// connectCause keeps the last cause: the driver's text repeats every address it tried.
func connectCause(err *pgconn.ConnectError) error {
	text := err.Error()
	if i := strings.LastIndex(text, "\n"); i >= 0 {
		text = strings.TrimSpace(text[i:])
	}
	return errors.New(text)
}

// ident quotes a name: MySQL sessions have ANSI quotes.
func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// nullTime and nullLimit turn "none" into NULL.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func nullLimit(n loops.Limit) *int64 {
	if n == loops.Unlimited {
		return nil
	}
	v := int64(n)
	return &v
}

func nullText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func orUnlimited(n *int64) loops.Limit {
	if n == nil {
		return loops.Unlimited
	}
	return loops.Limit(*n)
}
