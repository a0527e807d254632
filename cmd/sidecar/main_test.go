package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/dbserver"
)

// asSidecar makes the test binary be the sidecar: the tests run it as people do.
const asSidecar = "RUN_AS_SIDECAR"

// server is the database server that the tests share.
var server *dbserver.Postgres

func TestMain(m *testing.M) {
	if os.Getenv(asSidecar) != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(func() int {
		var err error
		if server, err = dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Stop()
		return m.Run()
	}())
}

// appConfig is a loop that mails, for the tables of appTables.
const appConfig = `import { defineLoop } from '@skene/sdk';
export default defineLoop({
  type: 'freemium',
  opinion: 'two are enough to see the point',
  steps: [{
    trigger: { type: 'api', endpoint: '/api/features/*', method: 'POST' },
    condition: { type: 'usage', limit: { free: 2, paid: Infinity }, period: '30d' },
    action: { type: 'block', message: "That's it", upgradePrompt: { type: 'email', provider: 'resend', template: 'upgrade_prompt' } },
  }],
});
`

const appTables = `
CREATE TABLE users (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text, name text);
CREATE TABLE subscriptions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid, status text, plan text, price_id text, current_period_end timestamptz);
CREATE TABLE usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid, endpoint text, method text, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON usage (created_at);
`

// app is an application: its own database, and a folder with loops.
type app struct {
	t    *testing.T
	name string // of the database
	url  string // as the superuser
	dir  string
	env  []string
	db   *pgx.Conn // the superuser's
}

func newApp(t *testing.T) *app {
	t.Helper()
	return newAppOn(t, server)
}

func newAppOn(t *testing.T, on *dbserver.Postgres) *app {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "_", " ", "_", ",", "", "`", "", "'", "").Replace(t.Name()))
	return newAppNamed(t, on, name[max(0, len(name)-60):])
}

func newAppNamed(t *testing.T, on *dbserver.Postgres, name string) *app {
	t.Helper()
	if err := on.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, name: name, url: on.URL(name), dir: t.TempDir()}
	a.db = a.connect(a.url)
	a.exec(appTables)
	a.write("skene.config.ts", appConfig)
	a.set("DATABASE_URL", a.url)
	a.set("UPGRADE_URL", "https://acme.example/pricing")
	a.set("EMAIL_FROM", "Acme <hello@acme.example>")
	a.set("TIERGATE_ADMIN_LISTEN", "127.0.0.1:0")
	// The slot's name is one a server: the next test needs it.
	t.Cleanup(func() { a.dropSlot(context.Background()) })
	return a
}

func (a *app) set(name, value string) { a.env = append(a.env, name+"="+value) }

func (a *app) write(name, text string) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *app) connect(url string) *pgx.Conn {
	a.t.Helper()
	conn, err := pgx.Connect(a.t.Context(), url)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// exec runs statements as the superuser.
func (a *app) exec(statements string) {
	a.t.Helper()
	if _, err := a.db.Exec(a.t.Context(), statements); err != nil {
		a.t.Fatalf("%v\n%s", err, statements)
	}
}

// text returns a query's one value.
func (a *app) text(query string, args ...any) string {
	a.t.Helper()
	var s string
	if err := a.db.QueryRow(a.t.Context(), query, args...).Scan(&s); err != nil {
		a.t.Fatalf("%v\n%s", err, query)
	}
	return s
}

// role creates a login with a password of its own and returns its URL. Roles are the server's: each
// test has other names.
func (a *app) role(options string) (name, url string) {
	a.t.Helper()
	name = "r_" + a.name
	a.exec("DROP ROLE IF EXISTS " + pgx.Identifier{name}.Sanitize() + "; CREATE ROLE " + pgx.Identifier{name}.Sanitize() + " LOGIN PASSWORD 'guarded-word' " + options)
	return name, as(a.url, name)
}

// as is a URL for another user, with the password that role gives.
func as(url, user string) string {
	_, rest, _ := strings.Cut(url, "@")
	return "postgres://" + user + ":guarded-word@" + rest
}

func (a *app) dropSlot(ctx context.Context) {
	a.t.Helper()
	conn, err := pgx.Connect(ctx, a.url)
	if err != nil {
		a.t.Log(err)
		return
	}
	defer conn.Close(ctx)
	const drop = `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name LIKE 'tiergate%' AND active_pid IS NOT NULL;
		SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'tiergate%'`
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err = conn.Exec(ctx, drop); err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Error(err)
			return
		}
	}
}

// outcome is how a command ended.
type outcome struct {
	code     int
	out, err string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit %d\n--- stdout\n%s--- stderr\n%s", o.code, o.out, o.err)
}

// command prepares the sidecar in the app's folder.
func (a *app) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(a.t.Context(), os.Args[0], args...)
	c.Dir = a.dir
	c.Env = append([]string{asSidecar + "=1", "HOME=" + a.dir, "PATH=" + os.Getenv("PATH")}, a.env...)
	return c
}

// sidecar runs a command to its end.
func (a *app) sidecar(args ...string) outcome {
	a.t.Helper()
	var out, errs strings.Builder
	c := a.command(args...)
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must runs a command that has to succeed, and returns what it printed.
func (a *app) must(args ...string) string {
	a.t.Helper()
	o := a.sidecar(args...)
	if o.code != 0 {
		a.t.Fatalf("sidecar %s: %s", strings.Join(args, " "), o)
	}
	return o.out
}

// await waits for a condition.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !is() {
		select {
		case <-deadline:
			t.Fatal("waited 30 s for " + what)
		case <-tick.C:
		}
	}
}
