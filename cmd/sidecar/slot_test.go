package main

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// running is a sidecar that follows the database.
type running struct {
	app *app
	cmd *exec.Cmd
	log *lockedText
}

// lockedText can be read while a process writes into it.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start runs the sidecar until stop, and waits until it follows.
func (a *app) start(args ...string) *running {
	a.t.Helper()
	p := &running{app: a, cmd: a.command(args...), log: &lockedText{}}
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			p.cmd.Wait()
		}
		if a.t.Failed() {
			a.t.Log(p.log)
		}
	})
	await(a.t, "the sidecar to follow", func() bool {
		return a.text("SELECT (to_regclass('tiergate.checkpoint') IS NOT NULL)::text") == "true" &&
			a.text("SELECT count(*)::text FROM tiergate.checkpoint WHERE position <> ''") == "1"
	})
	return p
}

// stop asks the sidecar to end, which it does without a complaint.
func (p *running) stop() {
	p.app.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.app.t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.app.t.Errorf("run ended with %v:\n%s", err, p.log)
	}
}

const ann = "00000000-0000-0000-0000-00000000000a"

// use inserts n uses of ann's.
func (a *app) use(n int) {
	a.t.Helper()
	for range n {
		a.exec("INSERT INTO usage (user_id, endpoint, method) VALUES ('" + ann + "', '/api/features/1', 'POST')")
	}
}

func (a *app) awaitUsed(want string) {
	a.t.Helper()
	await(a.t, "used = "+want, func() bool {
		return a.text("SELECT coalesce((SELECT used::text FROM feature_access WHERE subject_id = $1), '')", ann) == want
	})
}

// recounted waits until the sidecar has said that and why it counts again.
func (p *running) recounted(why string) {
	p.app.t.Helper()
	await(p.app.t, "word of the recount", func() bool {
		said := p.log.String()
		return strings.Contains(said, "the change stream does not join") && strings.Contains(said, why) && strings.Contains(said, "usage counted")
	})
}

func TestSlotDroppedUnderAStoppedSidecar(t *testing.T) {
	a := newApp(t)
	p := a.start("run")
	a.use(2)
	a.awaitUsed("2")
	p.stop()
	a.use(1)
	a.dropSlot(t.Context())
	a.use(1)
	p = a.start("run")
	a.awaitUsed("4")
	p.recounted("is gone")
	a.use(1)
	a.awaitUsed("5")
	a.must("verify")
	p.stop()
}

func TestSlotDroppedUnderARunningSidecar(t *testing.T) {
	a := newApp(t)
	p := a.start("run")
	a.use(1)
	a.awaitUsed("1")
	for i, want := range []string{"3", "5"} {
		a.use(1)
		a.dropSlot(context.Background())
		a.use(1)
		a.awaitUsed(want)
		p.recounted("is gone")
		if n := a.text("SELECT count(*)::text FROM tiergate.access_event WHERE kind = 'blocked'"); n != "1" {
			t.Errorf("round %d: %s walls, want 1", i, n)
		}
	}
	a.must("verify")
	p.stop()
}

// TestPublicationAlteredUnderAStoppedSidecar: what somebody altered and set right again has hidden rows.
func TestPublicationAlteredUnderAStoppedSidecar(t *testing.T) {
	for _, test := range []struct{ name, before, after string }{
		{"table", "ALTER PUBLICATION tiergate_usage DROP TABLE usage", "ALTER PUBLICATION tiergate_usage ADD TABLE usage"},
		{"options", "ALTER PUBLICATION tiergate_usage SET (publish = 'delete')", "ALTER PUBLICATION tiergate_usage SET (publish = 'insert')"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApp(t)
			p := a.start("run")
			a.use(1)
			a.awaitUsed("1")
			p.stop()
			a.exec(test.before)
			a.use(1)
			a.exec(test.after)
			a.use(1)
			p = a.start("run")
			a.awaitUsed("3")
			p.recounted("publications were changed")
			p.stop()
		})
	}
}

// TestTypesOfTheApplication: enums and domains are compared as the text they print, in the count as in
// the stream.
func TestTypesOfTheApplication(t *testing.T) {
	a := newApp(t)
	a.exec(`CREATE TYPE verb AS ENUM ('POST', 'GET'); CREATE DOMAIN route AS varchar(99); CREATE TYPE standing AS ENUM ('active', 'canceled');
		ALTER TABLE usage ALTER method TYPE verb USING method::verb, ALTER endpoint TYPE route;
		ALTER TABLE subscriptions ALTER status TYPE standing USING status::standing`)
	a.use(1)
	a.must("run", "--once")
	a.awaitUsed("1")
	p := a.start("run")
	a.use(1)
	a.awaitUsed("2")
	a.exec("INSERT INTO subscriptions (user_id, status, plan) VALUES ('" + ann + "', 'active', 'pro')")
	await(t, "the upgrade", func() bool { return a.text("SELECT tier FROM feature_access WHERE subject_id = $1", ann) == "paid" })
	a.must("verify")
	p.stop()
}

// TestMigrationsUnderARunningSidecar: what a migration tool does to the tables is noticed, and no count
// is lost.
func TestMigrationsUnderARunningSidecar(t *testing.T) {
	for _, test := range []struct{ name, migration string }{
		{"flags dropped", "DROP TABLE feature_access"},
		{"usage made again", `CREATE TABLE fresh (LIKE usage INCLUDING ALL); INSERT INTO fresh (user_id, endpoint, method, created_at) SELECT user_id, endpoint, method, created_at FROM usage;
			DROP TABLE usage; ALTER TABLE fresh RENAME TO usage`},
		{"publication dropped", "DROP PUBLICATION tiergate_usage"},
		{"usage left the publication", "ALTER PUBLICATION tiergate_usage DROP TABLE usage"},
		{"usage not published for a while", "ALTER PUBLICATION tiergate_usage SET (publish = 'delete')"},
		{"column retyped", "ALTER TABLE usage ALTER user_id TYPE text"},
		{"column added", "ALTER TABLE usage ADD note text DEFAULT 'none'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApp(t)
			p := a.start("run")
			a.use(1)
			a.awaitUsed("1")
			a.exec(test.migration)
			a.use(1)
			await(t, "the second use", func() bool {
				return a.text("SELECT (to_regclass('feature_access') IS NOT NULL)::text") == "true" &&
					a.text("SELECT coalesce((SELECT used::text FROM feature_access WHERE subject_id = $1), '')", ann) == "2"
			})
			a.must("verify")
			p.stop()
		})
	}
}

// TestRetainedWAL lets a transaction of the application stand open while much is written, so that the server has
// to keep it for the slot: past the bound the slot is given up, and usage is counted again once that is possible.
func TestRetainedWAL(t *testing.T) {
	a := newApp(t)
	a.set("TIERGATE_MAX_RETAINED_WAL", "4MB")
	p := a.start("run")
	a.use(1)
	open := a.connect(a.url)
	for _, statement := range []string{"BEGIN", "CREATE TABLE never (id int)"} {
		if _, err := open.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	a.exec("CREATE TABLE filler (text text); INSERT INTO filler SELECT repeat(md5(i::text), 8) FROM generate_series(1, 40000) i; CHECKPOINT")
	await(t, "the slot to be given up", func() bool { return strings.Contains(p.log.String(), "the slot is given up") })
	a.use(1)
	if _, err := open.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	await(t, "both uses to be counted", func() bool {
		return a.text(`SELECT coalesce((SELECT concat_ws(' ', used, allowed) FROM feature_access WHERE subject_id = $1 AND feature = 'features'), '')`, ann) == "2 f"
	})
	p.stop()
}
