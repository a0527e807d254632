package sql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// server is shared by all tests of the package; each has a database of its own.
var server = sync.OnceValues(func() (*dbserver.Postgres, error) {
	p, err := dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true, Settings: map[string]string{"max_connections": "250"}})
	if err == nil {
		started = append(started, p)
	}
	return p, err
})

// started lists the servers that tests have asked for.
var started []interface{ Stop() }

var databases atomic.Int32

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range started {
		s.Stop()
	}
	os.Exit(code)
}

// app is an application's database.
type app struct {
	t       *testing.T
	url     string
	schema  string
	conn    *pgx.Conn
	own     *Session
	plan    *loops.Plan
	watches []loops.Watch
}

// newApp returns an empty database.
func newApp(t *testing.T) *app {
	t.Helper()
	p, err := server()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("app%d", databases.Add(1))
	if err := p.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, url: p.URL(name), schema: "public"}
	if a.conn, err = pgx.Connect(t.Context(), a.url); err != nil {
		t.Fatal(err)
	}
	a.own = Postgres(a.conn)
	t.Cleanup(func() { a.conn.Close(context.Background()) })
	return a
}

// newEmpty returns an empty database, of the server that onBoth runs a test on.
func newEmpty(t *testing.T) *app {
	t.Helper()
	if isOnMySQL(t) {
		return newMySQLApp(t)
	}
	return newApp(t)
}

// newConventional returns a database with conventional tables, installed for one loop.
func newConventional(t *testing.T) *app {
	t.Helper()
	a := newEmpty(t)
	a.watches = []loops.Watch{
		watch(loops.Usage, "usage", nil, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id", Type: "text"},
			loops.FieldEndpoint: {Name: "endpoint", Type: "text"}, loops.FieldMethod: {Name: "method", Type: "text"}, loops.FieldAt: {Name: "created_at", Type: "timestamp with time zone"}}),
		watch(loops.Users, "users", []string{"id"}, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "id", Type: "text"},
			loops.FieldEmail: {Name: "email", Type: "text"}, loops.FieldName: {Name: "name", Type: "text"}}),
		watch(loops.Subscriptions, "subscriptions", []string{"id"}, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id", Type: "text"},
			loops.FieldStatus: {Name: "status", Type: "text"}, loops.FieldPlan: {Name: "plan", Type: "text"},
			loops.FieldPeriodEnd: {Name: "current_period_end", Type: "timestamp with time zone"}}),
	}
	for i := range a.watches {
		a.watches[i].Schema = a.schema
	}
	a.makeTables()
	a.plan = planOf(features(2))
	a.install()
	return a
}

func watch(role loops.Role, table string, key []string, columns map[loops.Field]loops.Column) loops.Watch {
	return loops.Watch{Role: role, Schema: "public", Table: table, Key: key, Columns: columns, Zone: time.UTC}
}

func features(limit loops.Limit) loops.Loop {
	return loops.Loop{Name: "freemium.features", Feature: "features", Enforcement: loops.Async, Message: "Upgrade to go on",
		Trigger: loops.Trigger{Kind: loops.OnAPI, Endpoint: "/api/features/*", Method: "POST"},
		Limits:  map[string]loops.Limit{loops.DefaultTier: limit, loops.PayingTier: loops.Unlimited},
		Window:  loops.Window{Kind: loops.Anchored, Period: loops.Period{Text: "30d", Length: 30 * 24 * time.Hour}},
		Prompt:  &loops.Prompt{Provider: "resend", Template: "upgrade_prompt", Retries: -1}}
}

func planOf(l ...loops.Loop) *loops.Plan {
	return &loops.Plan{Loops: l, Tiers: map[string]string{}, Grace: 7 * 24 * time.Hour}
}

func (a *app) options() InstallOptions { return InstallOptions{Schema: a.schema, Watches: a.watches} }

func (a *app) install() (changed bool) {
	a.t.Helper()
	changed, err := Install(a.t.Context(), a.own, a.options())
	if err != nil {
		a.t.Fatal(err)
	}
	return changed
}

// store begins a term and returns a store that writes under it.
func (a *app) store() *Store {
	a.t.Helper()
	a.exec(`UPDATE tiergate.checkpoint SET term = term + 1`)
	return a.storeAt(a.term())
}

func (a *app) term() (term int64) {
	a.t.Helper()
	a.scan(`SELECT term FROM tiergate.checkpoint`, &term)
	return term
}

func (a *app) storeAt(term int64) *Store {
	s := NewStore(Options{URL: a.url, Schema: a.schema, Plan: a.plan, Watches: a.watches, Term: term, Log: slog.New(slog.DiscardHandler), Gauges: noGauges{}})
	a.t.Cleanup(s.Close)
	return s
}

type noGauges struct{}

func (noGauges) Applied(int, int, int, int, int64, time.Time) {}
func (noGauges) Following()                                   {}

func (a *app) decider() *loops.Decider { return loops.NewDecider(a.plan, a.watches) }

// count makes the flags agree with the tables as they are.
func (a *app) count(s *Store) {
	a.t.Helper()
	defer s.Close()
	if err := s.Count(a.t.Context(), loops.Snapshot{}, a.decider()); err != nil {
		a.t.Fatal(err)
	}
}

func (a *app) exec(sql string, args ...any) {
	a.t.Helper()
	statements := []string{sql}
	if a.conn == nil {
		statements = strings.Split(a.words(sql), ";")
	}
	for _, statement := range statements {
		if _, err := a.own.Exec(a.t.Context(), statement, args...); err != nil {
			a.t.Fatalf("%s: %v", statement, err)
		}
	}
}

func (a *app) scan(sql string, dest ...any) {
	a.t.Helper()
	if err := a.own.QueryRow(a.t.Context(), a.words(sql)).Scan(dest...); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

// lines returns a query's only column.
func (a *app) lines(sql string, args ...any) []string {
	a.t.Helper()
	rows, err := a.own.Query(a.t.Context(), a.words(sql), args...)
	if err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

func (a *app) expect(sql string, want ...string) {
	a.t.Helper()
	want = a.said(want)
	if got := a.lines(sql); !slices.Equal(got, want) {
		a.t.Errorf("%s\n got %q\nwant %q", sql, got, want)
	}
}

func kindIs(t *testing.T, err error, want loops.Kind) {
	t.Helper()
	var fault *loops.Fault
	if !errors.As(err, &fault) || fault.Kind != want {
		t.Errorf("kind %d of %v, want %d", loops.KindOf(err), err, want)
	}
}

// reader follows a slot, as the stream does.
func (a *app) reader(slot string) *pgconn.PgConn {
	a.t.Helper()
	config, err := pgconn.ParseConfig(a.url)
	if err != nil {
		a.t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(a.t.Context(), config)
	if err != nil {
		a.t.Fatal(err)
	}
	err = pglogrepl.StartReplication(a.t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + UsagePublication + "'"}})
	if err != nil {
		a.t.Fatal(err)
	}
	return conn
}
