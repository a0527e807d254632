package cdc

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
	store "github.com/tiergate/tiergate/internal/sql"
)

// binlogServer is a server with one way to write its binlog. All tests share those that they do not break.
type binlogServer struct {
	*dbserver.MySQL
	db *sql.DB
}

type binlogServers struct {
	mu      sync.Mutex
	running map[string]*binlogServer
}

var mysqlServers = &binlogServers{running: map[string]*binlogServer{}}

func (s *binlogServers) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.running {
		m.db.Close()
		m.Stop()
	}
}

// The ways to write a binlog: as we like it best, and as servers are shipped.
var (
	fullBinlog    = dbserver.MySQLOptions{Fast: true}
	shippedBinlog = dbserver.MySQLOptions{Fast: true, Shipped: true, NoGTID: true}
)

func startBinlogServer(t *testing.T, o dbserver.MySQLOptions) *binlogServer {
	t.Helper()
	m, err := dbserver.StartMySQL(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("mysql", m.DSN("")+"?multiStatements=true&interpolateParams=true")
	if err != nil {
		t.Fatal(err)
	}
	return &binlogServer{m, db}
}

func sharedBinlogServer(t *testing.T, o dbserver.MySQLOptions) *binlogServer {
	t.Helper()
	mysqlServers.mu.Lock()
	defer mysqlServers.mu.Unlock()
	name := fmt.Sprint(o.Shipped)
	if mysqlServers.running[name] == nil {
		mysqlServers.running[name] = startBinlogServer(t, o)
	}
	return mysqlServers.running[name]
}

// bapp is a database of its own on a server, with the tables of an application.
type bapp struct {
	t      *testing.T
	server *binlogServer
	name   string
	conn   *sql.Conn
}

func newBinlogApp(t *testing.T, server *binlogServer) *bapp {
	t.Helper()
	a := &bapp{t: t, server: server, name: fmt.Sprintf("app%d", databases.Add(1))}
	if err := server.CreateDatabase(t.Context(), a.name); err != nil {
		t.Fatal(err)
	}
	a.conn = a.connect()
	a.exec("CREATE TABLE `usage` (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, user_id varchar(64), endpoint varchar(200), created_at datetime(6) DEFAULT CURRENT_TIMESTAMP(6))")
	a.exec(`CREATE TABLE users (id int PRIMARY KEY, email text, name varchar(80))`)
	a.exec(`CREATE TABLE seats (org varchar(20), seat int, plan varchar(20), PRIMARY KEY (org, seat))`)
	a.exec(`CREATE TABLE stranger (id bigint PRIMARY KEY, filler text)`)
	return a
}

// bothWays runs a test on a server as we like it, and on one as it is shipped.
func bothWays(t *testing.T, test func(*testing.T, *bapp)) {
	for name, o := range map[string]dbserver.MySQLOptions{"full": fullBinlog, "shipped": shippedBinlog} {
		t.Run(name, func(t *testing.T) { test(t, newBinlogApp(t, sharedBinlogServer(t, o))) })
	}
}

func (a *bapp) connect() *sql.Conn {
	a.t.Helper()
	conn, err := a.server.db.Conn(a.t.Context())
	if err == nil {
		_, err = conn.ExecContext(a.t.Context(), "USE "+a.name)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	return conn
}

func (a *bapp) exec(query string, args ...any) {
	a.t.Helper()
	a.execOn(a.conn, query, args...)
}

func (a *bapp) execOn(conn *sql.Conn, query string, args ...any) {
	a.t.Helper()
	if _, err := conn.ExecContext(a.t.Context(), query, args...); err != nil {
		a.t.Fatalf("%s: %v", query, err)
	}
}

func (a *bapp) text(query string) (text string) {
	a.t.Helper()
	if err := a.conn.QueryRowContext(a.t.Context(), query).Scan(&text); err != nil {
		a.t.Fatalf("%s: %v", query, err)
	}
	return text
}

// insertMany inserts n usage rows in one transaction.
func (a *bapp) insertMany(who string, n int) {
	a.t.Helper()
	rows := make([]string, n)
	for i := range rows {
		rows[i] = fmt.Sprintf("('%s', '%d')", who, i+1)
	}
	a.exec("INSERT INTO `usage` (user_id, endpoint) VALUES " + strings.Join(rows, ", "))
}

// numbers is a query of the numbers i from 0 up to n, in a way that both flavors understand.
func numbers(n int) string {
	const digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)"
	sum, from := "d0.d", digits+" d0"
	for power, k := 10, 1; power < n; power, k = power*10, k+1 {
		sum += fmt.Sprintf(" + %d * d%d.d", power, k)
		from += fmt.Sprintf(" CROSS JOIN %s d%d", digits, k)
	}
	return fmt.Sprintf("SELECT %s i FROM %s WHERE %s < %d", sum, from, sum, n)
}

func (a *bapp) watches() []loops.Watch {
	return []loops.Watch{
		{Role: loops.Usage, Schema: a.name, Table: "usage", Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "user_id"}, loops.FieldEndpoint: {Name: "endpoint"}, loops.FieldAt: {Name: "created_at"}}},
		{Role: loops.Users, Schema: a.name, Table: "users", Key: []string{"id"}, Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "id"}, loops.FieldEmail: {Name: "email"}, loops.FieldName: {Name: "name"}}},
		{Role: loops.Subscriptions, Schema: a.name, Table: "seats", Key: []string{"org", "seat"}, Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "org"}, loops.FieldPlan: {Name: "plan"}}},
	}
}

func (a *bapp) config(watches []loops.Watch) MySQLConfig {
	a.t.Helper()
	dsn, err := mysql.ParseDSN(a.server.DSN(""))
	if err != nil {
		a.t.Fatal(err)
	}
	views := store.NewMySQLViews(a.server.db, watches)
	return MySQLConfig{Addr: dsn.Addr, User: dsn.User, Password: dsn.Passwd, Watches: watches, Log: slog.New(slog.DiscardHandler),
		Facts: func(ctx context.Context) (MySQLFacts, error) {
			b, err := store.ReadMySQLBinlog(ctx, a.server.db)
			return MySQLFacts(b), err
		},
		Columns: func(ctx context.Context) (all []MySQLColumn, err error) {
			columns, err := store.MySQLColumns(ctx, a.server.db, watches)
			for _, c := range columns {
				all = append(all, MySQLColumn(c))
			}
			return all, err
		},
		Charsets: func(ctx context.Context) (map[uint64]string, error) { return store.MySQLCharsets(ctx, a.server.db) },
		View: func(ctx context.Context) (MySQLView, error) {
			view, err := views.Open(ctx)
			return MySQLView(view), err
		},
	}
}

func (a *bapp) source() *MySQL { return NewMySQL(a.config(a.watches())) }

// begin returns the position of now.
func (a *bapp) begin() loops.Position {
	a.t.Helper()
	view, err := a.source().Snapshot(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	view.Close()
	return view.At
}

func (a *bapp) open(at loops.Position) loops.Stream {
	a.t.Helper()
	stream, err := a.source().Resume(a.t.Context(), at)
	if err != nil {
		a.t.Fatal(err)
	}
	return stream
}

// reads opens a stream, returns the next n changes and the position after them, and closes it.
func (a *bapp) reads(at loops.Position, n int) ([]string, loops.Position) {
	a.t.Helper()
	stream := a.open(at)
	defer stream.Close()
	return read(a.t, stream, n)
}

// cut ends the stream's connection on the server.
func (a *bapp) cut() {
	a.t.Helper()
	for _, id := range a.column(`SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'`) {
		if _, err := a.conn.ExecContext(a.t.Context(), "KILL "+id); err != nil && !strings.Contains(err.Error(), "Unknown thread") {
			a.t.Fatal(err)
		}
	}
}

func (a *bapp) column(query string) (all []string) {
	a.t.Helper()
	rows, err := a.conn.QueryContext(a.t.Context(), query)
	if err != nil {
		a.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			a.t.Fatal(err)
		}
		all = append(all, text)
	}
	if rows.Err() != nil {
		a.t.Fatal(rows.Err())
	}
	return all
}

func inAMinute() time.Time { return time.Now().Add(time.Minute) }
