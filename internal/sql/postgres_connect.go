package sql

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// connectPostgres opens a session that speaks UTC and ISO dates, finds nothing by search path, and gives up
// rather than hold the application up.
func connectPostgres(ctx context.Context, url string, purpose Purpose) (*Session, error) {
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
	s := Postgres(conn)
	if err := bounded(ctx, conn, config.RuntimeParams["lock_timeout"]); err != nil {
		s.End()
		return nil, err
	}
	return s, nil
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

// postgresLink is a connection to PostgreSQL.
type postgresLink struct{ *pgx.Conn }

// Postgres makes a session of a connection that is open. What that connection is set to stays.
func Postgres(conn *pgx.Conn) *Session {
	l := postgresLink{conn}
	_, encrypted := conn.PgConn().Conn().(*tls.Conn)
	return &Session{querier: l, life: l, worker: l, dialect: postgresDialect(), Host: conn.Config().Host, Database: conn.Config().Database,
		Encrypted: encrypted}
}

func (l postgresLink) view(ctx context.Context, of loops.Snapshot) (pgx.Tx, error) {
	tx, err := l.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil || of.Name == "" {
		return tx, err
	}
	_, err = tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+literal(of.Name))
	return tx, err
}
