package cdc

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

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// server is shared by all tests of the package; each has a database and a slot of its own.
var server = sync.OnceValues(func() (*dbserver.Postgres, error) {
	return dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true, Settings: map[string]string{
		"wal_sender_timeout": "2s", "max_replication_slots": "40", "max_wal_senders": "40",
	}})
})

var databases atomic.Int32

func TestMain(m *testing.M) {
	code := m.Run()
	if p, err := server(); err == nil {
		p.Stop()
	}
	mysqlServers.stop()
	os.Exit(code)
}

// app is a database with the tables of an application, two publications and a name for a slot.
type app struct {
	t    *testing.T
	url  string
	slot string
	conn *pgx.Conn
}

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
	a := &app{t: t, url: p.URL(name), slot: name}
	a.conn = a.connect()
	a.exec(`CREATE TABLE usage (id serial, user_id text, endpoint text, created_at timestamptz)`)
	a.exec(`CREATE TABLE users (id int PRIMARY KEY, email text, name text)`)
	a.exec(`CREATE TABLE seats (org text, seat int, plan text, PRIMARY KEY (org, seat))`)
	a.exec(`CREATE TABLE other (id int PRIMARY KEY, filler text)`)
	a.exec(`CREATE TABLE stranger (id int PRIMARY KEY, filler text)`)
	a.exec(`CREATE PUBLICATION p_usage FOR TABLE usage WITH (publish = 'insert', publish_via_partition_root)`)
	a.exec(`CREATE PUBLICATION p_state FOR TABLE users, seats, other WITH (publish_via_partition_root)`)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), p.URL(""))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		a.conn.Close(context.Background())
		for _, sql := range []string{
			`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '` + a.slot + `' AND active`,
			`DROP DATABASE ` + name + ` WITH (FORCE)`,
		} {
			if _, err := conn.Exec(context.Background(), sql); err != nil && !strings.Contains(err.Error(), "is used by") && !strings.Contains(err.Error(), "logical replication slot") {
				t.Error(err)
			}
		}
	})
	return a
}

func (a *app) connect() *pgx.Conn {
	a.t.Helper()
	conn, err := pgx.Connect(a.t.Context(), a.url)
	if err != nil {
		a.t.Fatal(err)
	}
	return conn
}

func (a *app) exec(sql string) {
	a.t.Helper()
	execOn(a.t, a.conn, sql)
}

func execOn(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (a *app) text(sql string) (text string) {
	a.t.Helper()
	if err := a.conn.QueryRow(a.t.Context(), `SELECT coalesce((`+sql+`)::text, '')`).Scan(&text); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// watches are the tables of app, but for "other", which is published and not watched, and "stranger",
// which is neither.
func (a *app) watches() []loops.Watch {
	return []loops.Watch{
		{Role: loops.Usage, Schema: "public", Table: "usage", Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "user_id"}, loops.FieldEndpoint: {Name: "endpoint"}, loops.FieldAt: {Name: "created_at"}}},
		{Role: loops.Users, Schema: "public", Table: "users", Key: []string{"id"}, Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "id"}, loops.FieldEmail: {Name: "email"}, loops.FieldName: {Name: "name"}}},
		{Role: loops.Subscriptions, Schema: "public", Table: "seats", Key: []string{"org", "seat"}, Zone: time.UTC, Columns: map[loops.Field]loops.Column{
			loops.FieldSubject: {Name: "org"}, loops.FieldPlan: {Name: "plan"}}},
	}
}

func (a *app) facts(ctx context.Context) (Facts, error) {
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		return Facts{}, err
	}
	defer conn.Close(ctx)
	f := Facts{Exists: true}
	err = conn.QueryRow(ctx, `SELECT coalesce(plugin::text, ''), coalesce(database::text, ''), coalesce(wal_status = 'lost', false), coalesce(confirmed_flush_lsn::text, '')
		FROM pg_replication_slots WHERE slot_name = $1`, a.slot).Scan(&f.Plugin, &f.Database, &f.Lost, &f.ConfirmedFlush)
	if errors.Is(err, pgx.ErrNoRows) {
		f.Exists, err = false, nil
	}
	if err != nil {
		return f, err
	}
	return f, conn.QueryRow(ctx, `SELECT current_database(), (SELECT coalesce(string_agg(prpubid || ':' || prrelid, ' ' ORDER BY prpubid, prrelid), '') FROM pg_publication_rel)`).
		Scan(&f.ThisDatabase, &f.Publications)
}

func (a *app) source() *Postgres {
	return NewPostgres(Config{URL: a.url, Name: "test stream", Slot: a.slot, Publications: []string{"p_usage", "p_state"},
		Watches: a.watches(), Facts: a.facts, Log: slog.New(slog.DiscardHandler)})
}

// begin makes the slot and returns its first position.
func (a *app) begin() loops.Position {
	a.t.Helper()
	view, err := a.source().Snapshot(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	view.Close()
	return view.At
}

func (a *app) open(at loops.Position) loops.Stream {
	a.t.Helper()
	var stream loops.Stream
	await(a.t, "the slot to be free", func() bool {
		var err error
		stream, err = a.source().Resume(a.t.Context(), at)
		if err != nil && !strings.Contains(err.Error(), "55006") {
			a.t.Fatal(err)
		}
		return err == nil
	})
	return stream
}

// cut ends the stream's connection on the server.
func (a *app) cut() {
	a.t.Helper()
	a.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'test stream'`)
}

// read returns the next n changes, as text, and the position after them.
func read(t *testing.T, stream loops.Stream, n int) (texts []string, at loops.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for len(texts) < n {
		b, err := stream.Next(ctx, time.Now().Add(time.Minute))
		if err != nil {
			t.Fatalf("after %d changes, the last %q: %v", len(texts), texts[max(0, len(texts)-3):], err)
		}
		for _, c := range b.Changes {
			texts = append(texts, changeText(c))
		}
		at = b.Position
	}
	return texts, at
}

func changeText(c loops.Change) string {
	if c.Role == loops.Usage && !c.Gauge() {
		return fmt.Sprintf("%c %s %s", c.Op, c.Use.Subject, c.Use.Endpoint)
	}
	text := fmt.Sprintf("%c %s", c.Op, strings.ReplaceAll(c.Key, "\x1f", "+"))
	if c.OldKey != "" {
		text += " was " + strings.ReplaceAll(c.OldKey, "\x1f", "+")
	}
	fields := []loops.Field{loops.FieldSubject, loops.FieldPlan, loops.FieldEmail, loops.FieldName, loops.FieldCount}
	for _, f := range fields {
		v, ok := c.Row[f]
		if !ok {
			continue
		}
		kinds := []string{"missing", "null", "unchanged", v.Text}
		if len(v.Text) > 40 {
			kinds[3] = fmt.Sprintf("%d bytes", len(v.Text))
		}
		text += fmt.Sprintf(" %s=%s", f, kinds[v.Kind])
	}
	return text
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited 30 s for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
