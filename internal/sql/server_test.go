package sql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
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
	return dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true, Settings: map[string]string{"max_connections": "250"}})
})

var databases atomic.Int32

func TestMain(m *testing.M) {
	code := m.Run()
	if p, err := server(); err == nil {
		p.Stop()
	}
	os.Exit(code)
}

// app is an application's database.
type app struct {
	t       *testing.T
	url     string
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
	a := &app{t: t, url: p.URL(name)}
	if a.conn, err = pgx.Connect(t.Context(), a.url); err != nil {
		t.Fatal(err)
	}
	a.own = Postgres(a.conn)
	t.Cleanup(func() { a.conn.Close(context.Background()) })
	return a
}

// newConventional returns a database with conventional tables, installed for one loop.
func newConventional(t *testing.T) *app {
	t.Helper()
	a := newApp(t)
	a.exec(`CREATE TABLE usage (id bigserial PRIMARY KEY, user_id text, endpoint text, method text, created_at timestamptz DEFAULT now())`)
	a.exec(`CREATE TABLE users (id text PRIMARY KEY, email text, name text)`)
	a.exec(`CREATE TABLE subscriptions (id text PRIMARY KEY, user_id text, status text, plan text, current_period_end timestamptz)`)
	a.watches = []loops.Watch{
		watch(loops.Usage, "usage", nil, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id", Type: "text"},
			loops.FieldEndpoint: {Name: "endpoint", Type: "text"}, loops.FieldMethod: {Name: "method", Type: "text"}, loops.FieldAt: {Name: "created_at", Type: "timestamp with time zone"}}),
		watch(loops.Users, "users", []string{"id"}, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "id", Type: "text"},
			loops.FieldEmail: {Name: "email", Type: "text"}, loops.FieldName: {Name: "name", Type: "text"}}),
		watch(loops.Subscriptions, "subscriptions", []string{"id"}, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id", Type: "text"},
			loops.FieldStatus: {Name: "status", Type: "text"}, loops.FieldPlan: {Name: "plan", Type: "text"},
			loops.FieldPeriodEnd: {Name: "current_period_end", Type: "timestamp with time zone"}}),
	}
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

func (a *app) options() InstallOptions { return InstallOptions{Schema: "public", Watches: a.watches} }

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
	s := NewStore(Options{URL: a.url, Schema: "public", Plan: a.plan, Watches: a.watches, Term: term, Log: slog.New(slog.DiscardHandler), Gauges: noGauges{}})
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
	if _, err := a.conn.Exec(a.t.Context(), sql, args...); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

func (a *app) scan(sql string, dest ...any) {
	a.t.Helper()
	if err := a.conn.QueryRow(a.t.Context(), sql).Scan(dest...); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

// lines returns a query's only column.
func (a *app) lines(sql string, args ...any) []string {
	a.t.Helper()
	rows, err := a.conn.Query(a.t.Context(), sql, args...)
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
