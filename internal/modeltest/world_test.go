package modeltest

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// world is a database of its own on a server of its own, the sidecars that run on it, and a stand-in
// for Resend.
type world struct {
	t        *testing.T
	server   *dbserver.Postgres
	url      string
	dir      string // of skene.config.ts
	binary   string
	env      []string
	resend   *resendtest.Server
	conn     *pgx.Conn
	running  []*process
	restarts int             // of the server
	held     func() []string // the rows and grants that open transactions hold; nil: none
	pending  func() string   // what a sidecar still has to notice before it can be waited for; nil: nothing
}

func newWorld(t *testing.T, name, binary string) *world {
	w := &world{t: t, server: shared.borrow(t), dir: t.TempDir(), binary: binary, resend: resendtest.New("", 0)}
	if err := w.server.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	w.url = w.server.URL(name)
	t.Cleanup(func() { w.end(name) })
	web := httptest.NewServer(w.resend)
	t.Cleanup(web.Close)
	w.env = environment(w.url, web.URL)
	w.connect()
	return w
}

// end leaves the server empty for the next one.
func (w *world) end(name string) {
	for _, p := range w.running {
		if p.kill(); w.t.Failed() {
			w.t.Logf("a sidecar said:\n%s", p.out.String())
		}
	}
	ctx := context.Background()
	w.conn.Close(ctx)
	admin, err := pgx.Connect(ctx, w.server.URL(""))
	if err != nil {
		w.t.Error(err)
		return
	}
	defer admin.Close(ctx)
	for _, sql := range []string{
		`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active`,
		`DO $$ BEGIN
			WHILE EXISTS (SELECT FROM pg_replication_slots WHERE active) LOOP PERFORM pg_sleep(0.01); END LOOP;
			PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots;
		END $$`,
		`DROP DATABASE ` + pgx.Identifier{name}.Sanitize() + ` WITH (FORCE)`,
	} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			w.t.Errorf("%s: %v", sql, err)
		}
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // at once: a sidecar may be reading
		w.t.Fatal(err)
	}
}

func (w *world) connect() {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.conn = conn
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// scan runs a query that returns one value.
func scan[V any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v V) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// command runs a sidecar command to its end, and returns what it said if it succeeded.
func (w *world) command(args ...string) string {
	w.t.Helper()
	p := spawn(w.t, w.binary, w.dir, w.env, args...)
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		w.t.Fatalf("sidecar %v: exit code %d\n%s", args, code, p.out.String())
	}
	return p.out.String()
}

// leader returns a sidecar that runs, or nil.
func (w *world) leader() *process {
	i := slices.IndexFunc(w.running, (*process).alive)
	if i < 0 {
		return nil
	}
	return w.running[i]
}

func (w *world) spawn() {
	p := spawn(w.t, w.binary, w.dir, w.env, "run")
	p.restarts = w.restarts
	w.running = append(w.running, p)
}

// caughtUp names what is still to come: everything before a point in the WAL is in the flags, nothing
// is due, every event has its email row, and no email waits.
const caughtUp = `SELECT concat_ws('; ',
	(SELECT 'the flags stand at ' || position FROM tiergate.checkpoint
		WHERE CASE WHEN position = '' THEN true ELSE (position::jsonb ->> 'end')::pg_lsn < $1::text::pg_lsn END),
	(SELECT 'not counted: ' || string_agg(feature, ', ') FROM (SELECT DISTINCT feature FROM tiergate.plan) p
		WHERE NOT coalesce((SELECT value::jsonb -> 'loops' ? p.feature FROM tiergate.meta WHERE key = 'counted'), false)),
	(SELECT count(*) || ' windows are over' FROM feature_access WHERE resets_at <= tiergate.now() AND subject_id || ' ' || feature <> ALL($2) HAVING count(*) > 0),
	(SELECT count(*) || ' buckets are over' FROM tiergate.bucket WHERE rolls_off <= tiergate.now() AND subject_id || ' ' || feature <> ALL($2) HAVING count(*) > 0),
	(SELECT count(*) || ' grants are over' FROM tiergate.access_grant WHERE ended_at IS NULL AND expires_at <= tiergate.now() AND id::text <> ALL($2) HAVING count(*) > 0),
	(SELECT string_agg(subject_id, ', ') || ' had held rows' FROM tiergate.due
		WHERE hashtext(subject_id) & 63 <> ALL(SELECT hashtext(split_part(h, ' ', 1)) & 63 FROM unnest($2::text[]) h)),
	(SELECT count(*) || ' tiers are over' FROM tiergate.subject WHERE tier_until <= tiergate.now() HAVING count(*) > 0),
	(SELECT count(*) || ' events without email' FROM tiergate.access_event e LEFT JOIN tiergate.email m ON m.event_id = e.id
		WHERE e.kind IN ('blocked', 'warned') AND m.id IS NULL HAVING count(*) > 0),
	(SELECT string_agg(format('email %s is %s: %s', id, status, reason), ', ') FROM tiergate.email WHERE status IN ('queued', 'sending')))`

// awaitSidecar waits until a sidecar has caught up with what is committed now, and starts one where
// none runs.
func (w *world) awaitSidecar() {
	w.t.Helper()
	if w.pending != nil {
		w.await("the sidecar to notice", func() (bool, string) {
			w.keepOne()
			why := w.pending()
			return why == "", why
		})
	}
	held := []string{}
	if w.held != nil {
		held = w.held()
	}
	point := scan[string](w.t, w.conn, `INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, loop, tier, used, episode, position, silent)
		VALUES (now(), now(), 'verified', '', '', '', '', 0, 0, '', true) RETURNING pg_current_wal_insert_lsn()::text`)
	w.await("the sidecar", func() (bool, string) {
		w.keepOne()
		behind := scan[string](w.t, w.conn, caughtUp, point, held)
		return behind == "", behind
	})
}

// keepOne lets a sidecar run. One that ended by itself is a failure, unless the server went down under it.
func (w *world) keepOne() {
	w.t.Helper()
	for _, p := range w.running {
		if p.ended() && !p.doomed.Load() && p.restarts == w.restarts && !p.hungUp() {
			w.t.Fatal("a sidecar ended by itself")
		}
	}
	if w.leader() == nil {
		w.spawn()
	}
}

// await asks again and again until something is so.
func (w *world) await(what string, so func() (bool, string)) {
	w.t.Helper()
	patience := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := so()
		if ok {
			return
		}
		select {
		case <-patience:
			w.t.Fatalf("waited too long for %s: %s", what, why)
		case <-tick.C:
		}
	}
}
