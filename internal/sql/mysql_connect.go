package sql

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

func isMySQL(url string) bool { return strings.HasPrefix(url, "mysql://") }

// MySQLConfig is how a mysql:// URL's server is connected to. tls may be true, false, preferred or skip-verify, and is preferred
// where it is left out.
func MySQLConfig(address string) (*mysql.Config, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, &loops.Fault{Step: "read DATABASE_URL", Err: errors.New("it is no URL"), Kind: loops.Permanent} // the parser's words hold the password
	}
	c := mysql.NewConfig()
	c.Net, c.Addr, c.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if u.Port() == "" {
		c.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	c.User = u.User.Username()
	c.Passwd, _ = u.User.Password()
	c.TLSConfig = "preferred"
	if t := u.Query().Get("tls"); t != "" {
		c.TLSConfig = t
	}
	c.Timeout, c.ParseTime, c.InterpolateParams, c.ClientFoundRows, c.RejectReadOnly = 10*time.Second, true, true, true, true
	c.Logger = &mysql.NopLogger{}
	return c, c.Apply(mysql.TimeTruncate(time.Microsecond))
}

// OpenMySQL returns a pool of sessions, for whoever opens views and asks about the binlog. The caller closes it.
func OpenMySQL(address string) (*sql.DB, error) {
	config, err := MySQLConfig(address)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, &loops.Fault{Step: "read DATABASE_URL", Err: err, Kind: loops.Permanent}
	}
	return sql.OpenDB(connector), nil
}

// connectMySQL opens a session that speaks UTC and ANSI quotes, and gives up rather than hold the application up.
func connectMySQL(ctx context.Context, address string, purpose Purpose, view func(name string) (*sql.Conn, bool)) (*Session, error) {
	const step = "connect to the database"
	config, err := MySQLConfig(address)
	if err != nil {
		return nil, err
	}
	db, err := OpenMySQL(address)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, explain(step, errors.Join(err, db.Close()))
	}
	l := &mysqlLink{db: db, conn: conn, text: newMySQLText(), borrowed: view}
	host, _, _ := net.SplitHostPort(config.Addr)
	s := &Session{querier: l, life: l, worker: l, dialect: mysqlDialect(), Host: host, Database: config.DBName}
	if err := l.set(ctx, purpose); err != nil {
		s.End()
		return nil, explain(step, err)
	}
	for _, statement := range []string{`SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED`, nameSession(purpose)} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			s.End()
			return nil, explain(step, err)
		}
	}
	var cipher string
	if err := conn.QueryRowContext(ctx, `SHOW SESSION STATUS LIKE 'Ssl_cipher'`).Scan(new(string), &cipher); err != nil {
		s.End()
		return nil, explain(step, err)
	}
	s.Encrypted = cipher != ""
	return s, nil
}

// set makes a session's settings ours. The collation is by code point, so that our constants are compared as the sidecar's columns are.
func (l *mysqlLink) set(ctx context.Context, purpose Purpose) error {
	var version string
	if err := l.conn.QueryRowContext(ctx, `SELECT VERSION()`).Scan(&version); err != nil {
		return err
	}
	collation, bound, idle := "utf8mb4_0900_bin", "max_execution_time = 20000", ""
	if strings.Contains(version, "MariaDB") {
		collation, bound, idle = "utf8mb4_nopad_bin", "max_statement_time = 20", ", idle_transaction_timeout = 20"
	}
	if purpose == ForCount || purpose == ForVerify {
		bound, idle = strings.TrimRight(bound, "0123456789")+"0", ""
	}
	for _, statement := range []string{
		"SET NAMES utf8mb4 COLLATE " + collation,
		"SET SESSION time_zone = '+00:00', sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', " +
			"lock_wait_timeout = 5, innodb_lock_wait_timeout = 5, wait_timeout = " + strconv.Itoa(idleFor(purpose)) + ", " + bound + idle,
	} {
		if _, err := l.conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// idleFor is how long, in seconds, a session may say nothing before the server ends it. Whoever holds the lease speaks every leasePing: a
// machine that vanished gives it up.
func idleFor(purpose Purpose) int {
	if purpose == ForLease {
		return 25
	}
	return 8 * 3600
}

// nameSession takes a lock whose name says whose session this is: the server tells no application's name.
func nameSession(purpose Purpose) string {
	return fmt.Sprintf("DO GET_LOCK(%s, 1)", sessionLock(purpose))
}

func sessionLock(purpose Purpose) string {
	return fmt.Sprintf("CONCAT('%s ', LEFT(SHA2(DATABASE(), 256), 20))", purpose)
}

// mysqlWayOut says what can be done about an error of the server, by its number.
func mysqlWayOut(number uint16) (kind loops.Kind, hint string) {
	switch number {
	case 1045, 1698:
		return loops.Permanent, "the user or the password in DATABASE_URL is wrong"
	case 1044, 1142, 1143, 1227, 1370:
		return loops.Permanent, "the sidecar's user lacks a privilege: run `sidecar check` for the exact statement"
	case 1049:
		return loops.Permanent, "the database named in DATABASE_URL does not exist"
	case 1146, 1054, 1305, 1072:
		return loops.Changed, "a table changed under the sidecar; it is looked at again"
	case 1040, 1203, 1226:
		return loops.Transient, "the server has no free connection slot: the sidecar needs 6"
	case 1053:
		return loops.Transient, "the server is shutting down"
	case 1290, 1792, 1836:
		return loops.Transient, "the server takes no writes: is this a replica, or one that fails over?"
	case 1021, 1114:
		return loops.Transient, "the server's disk is full"
	default:
		return loops.Transient, ""
	}
}

// mysqlConnectHint says what can be done about a server that is not reached.
func mysqlConnectHint(err error) string {
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return "the server's certificate is not trusted: add ?tls=skip-verify to DATABASE_URL, or have it signed"
	case errors.As(err, &dial):
		return "is the server running, and does DATABASE_URL name the right host and port?"
	default:
		return ""
	}
}
