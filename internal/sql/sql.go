// Package sql is the only one that writes SQL. It keeps the flags, the events, the emails and the
// position of what they are made of, in the application's own database.
//
// Guarantee: flags, events, emails and position change in one transaction, whose last statement moves
// the checkpoint only if nobody else has. Who holds the lease may write; a sidecar that lost it fails
// with loops.Deposed and changes nothing.
package sql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

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

// Connect opens a session that speaks UTC and ISO dates, finds nothing by search path, and gives up
// rather than hold the application up. The caller closes it.
func Connect(ctx context.Context, url string, purpose Purpose) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, &loops.Fault{Step: "read DATABASE_URL", Err: err, Kind: loops.Permanent}
	}
	config.ConnectTimeout = 10 * time.Second
	for name, value := range map[string]string{
		"application_name":                    string(purpose),
		"timezone":                            "UTC",
		"datestyle":                           "ISO",
		"search_path":                         "pg_catalog",
		"lock_timeout":                        "5s",
		"statement_timeout":                   "20s",
		"idle_in_transaction_session_timeout": "20s",
		"idle_session_timeout":                "0",
		"tcp_keepalives_idle":                 "10",
		"tcp_keepalives_interval":             "5",
		"tcp_keepalives_count":                "3",
		"synchronous_commit":                  "on",
		"default_transaction_isolation":       "read committed", // whatever the database's is: we look again until we see
	} {
		config.RuntimeParams[name] = value
	}
	if purpose == ForCount || purpose == ForVerify {
		config.RuntimeParams["statement_timeout"] = "0"
		config.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
		// The planner cannot know how many rows match a loop, and takes them for few. Hashing suits many.
		for name, value := range map[string]string{"enable_sort": "off", "enable_nestloop": "off", "enable_mergejoin": "off",
			"cursor_tuple_fraction": "1", "work_mem": "64MB"} {
			config.RuntimeParams[name] = value
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, explain("connect to the database", err)
	}
	if err := bounded(ctx, conn, config.RuntimeParams["lock_timeout"]); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

// bounded makes sure that the session has the bounds it asked for. A pooler that drops them hands out
// sessions that may hold the application up, and whose advisory locks are anybody's.
func bounded(ctx context.Context, conn *pgx.Conn, want string) error {
	var have string
	err := conn.QueryRow(ctx, "SHOW lock_timeout", pgx.QueryExecModeSimpleProtocol).Scan(&have)
	if err == nil && have != want {
		return &loops.Fault{Step: "connect to the database", Kind: loops.Permanent, Hint: pastPooler,
			Err: fmt.Errorf("something in between drops the session's settings: lock_timeout is %s, not %s", have, want)}
	}
	return explain("connect to the database", err)
}

// pastPooler is the way out of every pooler.
const pastPooler = "a connection pooler stands in between: set DIRECT_URL to the database itself"

// wayOut says what can be done about an error of the server, by SQLSTATE.
func wayOut(code string) (kind loops.Kind, hint string) {
	switch code {
	case "28P01":
		return loops.Permanent, "the password in DATABASE_URL is wrong"
	case "28000":
		return loops.Permanent, "the server's pg_hba.conf does not let this user in from here"
	case "3D000":
		return loops.Permanent, "the database named in DATABASE_URL does not exist"
	case "42501":
		return loops.Permanent, "the sidecar's role lacks a privilege: run `sidecar check` for the exact statement"
	case "08P01":
		return loops.Permanent, pastPooler
	case "42P01", "3F000", "42703":
		return loops.Changed, "a table changed under the sidecar; it is looked at again"
	case "53300":
		return loops.Transient, "the server has no free connection slot: the sidecar needs 6"
	case "57P03":
		return loops.Transient, "the server is starting up or shutting down"
	case "55006":
		return loops.Transient, "another process follows the sidecar's replication slot"
	case "53100":
		return loops.Transient, "the server's disk is full"
	default:
		return loops.Transient, ""
	}
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
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		hint := "is the server running, and does DATABASE_URL name the right host and port?"
		if noIPv6(err) {
			hint = "the address is an IPv6 one, and this machine has no way there: run the sidecar where there is IPv6, or give the database " +
				"an IPv4 address (Supabase: the IPv4 add-on)"
		}
		return &loops.Fault{Step: step, Err: connectCause(connect), Hint: hint, Kind: loops.Transient}
	}
	return &loops.Fault{Step: step, Err: err, Kind: loops.Transient}
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

// ident quotes a name.
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
