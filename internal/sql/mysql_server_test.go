package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// mysqlServer is shared by all tests of the package; each has a database of its own.
var mysqlServer = sync.OnceValues(func() (*dbserver.MySQL, error) {
	mysqlStarted.Store(true)
	return dbserver.StartMySQL(context.Background(), dbserver.MySQLOptions{Fast: true,
		Settings: map[string]string{"max_connections": "300", "default_time_zone": "+05:30", "innodb_lock_wait_timeout": "120"}})
})

var mysqlStarted atomic.Bool

// myApp is an application's database on a MySQL or MariaDB, with one session.
type myApp struct {
	t    *testing.T
	name string
	db   *sql.DB
	conn *sql.Conn
}

// newMySQL returns a database that holds the tables and the routines, with a clock that can be moved.
func newMySQL(t *testing.T) *myApp {
	t.Helper()
	a := emptyMySQL(t)
	a.install(MySQLInstall{TestClock: true})
	return a
}

func emptyMySQL(t *testing.T) *myApp {
	t.Helper()
	m, err := mysqlServer()
	if err != nil {
		t.Fatal(err)
	}
	a := &myApp{t: t, name: fmt.Sprintf("app%d", databases.Add(1))}
	if err := m.CreateDatabase(t.Context(), a.name); err != nil {
		t.Fatal(err)
	}
	if a.db, err = sql.Open("mysql", m.DSN(a.name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.db.Close() })
	a.conn = a.connect()
	return a
}

func (a *myApp) install(o MySQLInstall) (changed bool) {
	a.t.Helper()
	tables, err := InstallMySQL(a.t.Context(), a.conn, o)
	if err != nil {
		a.t.Fatal(err)
	}
	routines, err := InstallMySQLRoutines(a.t.Context(), a.conn, o)
	if err != nil {
		a.t.Fatal(err)
	}
	return tables || routines
}

// connect returns another session.
func (a *myApp) connect() *sql.Conn {
	a.t.Helper()
	conn, err := a.db.Conn(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return conn
}

// as returns a session of another account, which it creates. It is in no database, as the account has no rights.
func (a *myApp) as(account string) *sql.Conn {
	a.t.Helper()
	a.exec(`CREATE USER '` + account + `'@'%' IDENTIFIED BY 'a password'`)
	m, err := mysqlServer()
	if err != nil {
		a.t.Fatal(err)
	}
	config, err := mysql.ParseDSN(m.DSN(a.name))
	if err != nil {
		a.t.Fatal(err)
	}
	config.User, config.Passwd, config.DBName = account, "a password", ""
	connector, err := mysql.NewConnector(config)
	if err != nil {
		a.t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	a.t.Cleanup(func() {
		db.Close()
		a.conn.ExecContext(context.Background(), `DROP USER '`+account+`'@'%'`)
	})
	conn, err := db.Conn(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return conn
}

func (a *myApp) exec(statement string, args ...any) {
	a.t.Helper()
	if _, err := a.conn.ExecContext(a.t.Context(), statement, args...); err != nil {
		a.t.Fatalf("%s: %v", statement, err)
	}
}

// lines returns a query's only column.
func (a *myApp) lines(query string, args ...any) (out []string) {
	a.t.Helper()
	rows, err := a.conn.QueryContext(a.t.Context(), query, args...)
	if err != nil {
		a.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var line sql.NullString
		if err := rows.Scan(&line); err != nil {
			a.t.Fatalf("%s: %v", query, err)
		}
		out = append(out, line.String)
	}
	if err := rows.Err(); err != nil {
		a.t.Fatalf("%s: %v", query, err)
	}
	return out
}

func (a *myApp) expect(query string, want ...string) {
	a.t.Helper()
	if got := a.lines(query); !slices.Equal(got, want) {
		a.t.Errorf("%s\n got %q\nwant %q", query, got, want)
	}
}

func (a *myApp) want(said, want string) {
	a.t.Helper()
	if said != want {
		a.t.Errorf("it says %q, want %q", said, want)
	}
}

// fails checks that a statement fails with a SQLSTATE and words.
func (a *myApp) fails(conn *sql.Conn, statement, state, words string) {
	a.t.Helper()
	_, err := conn.ExecContext(a.t.Context(), statement)
	var server *mysql.MySQLError
	if !errors.As(err, &server) || string(server.SQLState[:]) != state || !strings.Contains(server.Message, words) {
		a.t.Errorf("%s: %v, want SQLSTATE %s with %q", statement, err, state, words)
	}
}

// clock moves the test clock to a moment, in UTC.
func (a *myApp) clock(at string) {
	a.t.Helper()
	a.exec(`UPDATE tiergate_clock SET shift = TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), ?)`, at)
}

// newMySQLStrict returns a database with one strict loop, no sidecar, and a clock that stands at half past a minute.
func newMySQLStrict(t *testing.T, change func(*loops.Loop)) *myApp {
	t.Helper()
	a := newMySQL(t)
	l := features(3)
	l.Enforcement = loops.Strict
	if change != nil {
		change(&l)
	}
	a.store(&l)
	a.clock("2026-03-01 10:00:30")
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := FillMySQLCalendar(t.Context(), a.conn, planOf(l), from); err != nil {
		t.Fatal(err)
	}
	return a
}

// store writes a loop as the sidecar does.
func (a *myApp) store(l *loops.Loop) {
	a.t.Helper()
	w := l.Window
	var length, resolution *int64
	if w.Kind != loops.Lifetime && w.Period.Length > 0 {
		n := w.Period.Length.Microseconds()
		length = &n
	}
	if width := resolutionOf(w); width != nil {
		n := width.Microseconds()
		resolution = &n
	}
	zone := ""
	if w.Zone != nil {
		zone = w.Zone.String()
	}
	warn := strings.ReplaceAll(fmt.Sprint(warnings(l)), " ", ",")
	for tier, limit := range l.Limits {
		a.exec(`INSERT INTO tiergate_plan (feature, tier, `+"`loop`"+`, usage_limit, window_kind, period, zone, enforcement, message, unit, length, resolution, warn_at, grace)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, l.Feature, tier, l.Name, nullLimit(limit), string(w.Kind), nullText(w.Period.Text), nullText(zone),
			string(l.Enforcement), l.Message, nullText(string(w.Period.Unit)), length, resolution, warn, (7 * 24 * time.Hour).Microseconds())
	}
	limit := nullLimit(l.Limit(loops.DefaultTier))
	a.exec(`INSERT INTO feature_access (subject_id, feature, allowed, tier, usage_limit, remaining, reason, message, updated_at)
		VALUES ('*', ?, COALESCE(? <> 0, TRUE), 'free', ?, ?, IF(? = 0, 'not_in_plan', NULL), IF(? = 0, ?, NULL), tiergate_now())`, l.Feature, limit, limit, limit, limit, limit, l.Message)
}

func (a *myApp) subscribe(tier string) {
	a.t.Helper()
	a.exec(`INSERT INTO tiergate_subject (subject_id, tier, updated_at) VALUES ('ann', ?, tiergate_now()) ON DUPLICATE KEY UPDATE tier = ?`, tier, tier)
}

// together lets sessions work at the same time, each with a connection and dice of its own.
func (a *myApp) together(sessions int, work func(ctx context.Context, conn *sql.Conn, r *rand.Rand) error) {
	a.t.Helper()
	var all sync.WaitGroup
	for i := range sessions {
		conn := a.connect()
		all.Go(func() {
			defer conn.Close()
			if err := work(a.t.Context(), conn, rand.New(rand.NewPCG(uint64(i), 5))); err != nil {
				a.t.Error(err)
			}
		})
	}
	all.Wait()
}
