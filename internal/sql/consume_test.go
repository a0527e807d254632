package sql

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// newStrict returns a database with one strict loop, its sidecar gone, and a clock that stands at half past a minute.
func newStrict(t *testing.T, change func(*loops.Loop)) *app {
	t.Helper()
	a := newConventional(t)
	l := features(3)
	l.Enforcement = loops.Strict
	if change != nil {
		change(&l)
	}
	a.plan = planOf(l)
	o := a.options()
	o.TestClock = true
	if _, err := Install(t.Context(), a.own, o); err != nil {
		t.Fatal(err)
	}
	a.count(a.store())
	a.clock("2026-03-01 10:00:30")
	return a
}

// clock moves the test clock to a moment, in UTC.
func (a *app) clock(at string) {
	a.t.Helper()
	if a.conn == nil {
		a.exec(`UPDATE tiergate.clock SET shift = TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), $1)`, at)
		return
	}
	a.exec(`UPDATE tiergate.clock SET shift = $1::timestamp AT TIME ZONE 'UTC' - statement_timestamp()`, at)
}

// consume says what one call answers: "granted 1/3", or "refused 3/3: message".
func (a *app) consume(quantity int64) string {
	a.t.Helper()
	return a.consumeAs("ann", quantity)
}

func (a *app) consumeAs(subject string, quantity int64) (said string) {
	a.t.Helper()
	if a.conn == nil {
		return a.callConsume(subject, quantity)
	}
	query := `SELECT CASE WHEN allowed THEN 'granted ' ELSE 'refused ' END || used || '/' || coalesce(usage_limit::text, '∞') || coalesce(': ' || message, '')
		FROM tiergate.consume_feature($1::text, 'features', $2)`
	if err := a.conn.QueryRow(a.t.Context(), query, subject, quantity).Scan(&said); err != nil {
		a.t.Fatalf("consume %d: %v", quantity, err)
	}
	a.consistent()
	return said
}

// consistent checks what every row must say of itself.
func (a *app) consistent() {
	a.t.Helper()
	a.expect(`SELECT subject_id || ': ' || to_json(fa) FROM feature_access fa WHERE subject_id <> '*' AND (
		allowed <> NOT coalesce(used >= usage_limit OR usage_limit = 0, false)
		OR remaining IS DISTINCT FROM CASE WHEN usage_limit IS NOT NULL THEN greatest(0, usage_limit - used) END
		OR (message IS NULL) <> allowed OR (reason IS NOT NULL AND reason <> 'granted') = allowed
		OR (period_start IS NULL) <> (resets_at IS NULL) OR period_start >= resets_at OR closed_at > period_start)`)
}

func (a *app) want(said, want string) {
	a.t.Helper()
	if said != want {
		a.t.Errorf("it says %q, want %q", said, want)
	}
}

// events lists what was recorded: kind, uses, limit, episode; and whether it is silent.
func (a *app) events(want ...string) {
	a.t.Helper()
	a.expect(`SELECT concat_ws(' ', kind || coalesce('@' || threshold, ''), used || '/' || coalesce(usage_limit::text, '∞'), 'episode', episode, CASE WHEN silent THEN 'silent' END)
		FROM tiergate.access_event WHERE kind <> 'counted' ORDER BY id`, want...)
}

func (a *app) window(want string) {
	a.t.Helper()
	a.expect(`SELECT coalesce(to_char(period_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' to ' || to_char(resets_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'none')
		FROM feature_access WHERE subject_id = 'ann'`, want)
}

func (a *app) subscribe(tier string) {
	a.t.Helper()
	a.exec(`INSERT INTO tiergate.subject (subject_id, tier, updated_at) VALUES ('ann', $1, now()) ON CONFLICT (subject_id) DO UPDATE SET tier = EXCLUDED.tier`, tier)
}

func TestConsume(t *testing.T) {
	a := newStrict(t, nil)
	a.want(a.consume(1), "granted 1/3")
	a.want(a.consume(3), "refused 1/3: Upgrade to go on")
	a.want(a.consume(0), "granted 1/3")
	a.want(a.consume(2), "granted 3/3")
	a.want(a.consume(0), "refused 3/3: Upgrade to go on")
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.window("2026-03-01 09:59 to 2026-03-31 09:59")
	a.expect(`SELECT reason FROM feature_access WHERE subject_id = 'ann'`, "limit_reached")
	a.events("refused 1/3 episode 0", "blocked 3/3 episode 0")
	a.want(a.consume(-2), "granted 1/3")
	a.want(a.consume(-2), "granted 0/3")
	a.events("refused 1/3 episode 0", "blocked 3/3 episode 0", "unblocked 1/3 episode 0")
	a.want(a.consumeAs("bob", -1), "granted 0/3")
	a.expect(`SELECT used || coalesce(resets_at::text, '') FROM feature_access WHERE subject_id = 'bob'`, "0")
	a.expect(`SELECT used::text FROM tiergate.consume_feature(7::bigint, 'features')`, "1")
	a.expect(`SELECT used::text FROM tiergate.consume_feature('7b1f3a52-58a4-4a5c-9c3d-2f6f4bd0b9f1'::uuid, 'features')`, "1")
	a.expect(`SELECT used::text FROM tiergate.consume_feature('7', 'features', 2)`, "3")
}

// TestConsumeLooks: a quantity of zero neither writes nor locks, whatever there would be to do.
func TestConsumeLooks(t *testing.T) {
	a := newStrict(t, nil)
	a.want(a.consume(0), "granted 0/3")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.consume(3)
	a.clock("2026-04-02 10:00:30")
	other := a.connect()
	tx := begin(t, other)
	if _, err := tx.Exec(t.Context(), `SELECT FROM feature_access WHERE subject_id = 'ann' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	a.want(a.consume(0), "granted 0/3")
	a.events("blocked 3/3 episode 0")
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "3")
}

func (a *app) connect() *pgx.Conn {
	a.t.Helper()
	conn, err := pgx.Connect(a.t.Context(), a.url)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close(a.t.Context()) })
	return conn
}

func begin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

// TestConsumeRollsBack: a consumption belongs to its transaction, and to its savepoint.
func TestConsumeRollsBack(t *testing.T) {
	a := newStrict(t, nil)
	a.exec(`BEGIN`)
	a.want(a.consume(3), "granted 3/3")
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.exec(`ROLLBACK`)
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.events()
	a.exec(`BEGIN`)
	a.want(a.consume(1), "granted 1/3")
	a.exec(`SAVEPOINT s`)
	a.want(a.consume(2), "granted 3/3")
	a.exec(`ROLLBACK TO s`)
	a.want(a.consume(1), "granted 2/3")
	a.exec(`COMMIT`)
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "2")
	a.events()
}

// TestConsumeWarns: the highest line that one consumption crosses, and none that it leaves behind at the wall.
func TestConsumeWarns(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = 10; l.WarnAt = []float64{0.5, 0.8} })
	a.consume(4)
	a.events()
	a.consume(1)
	a.consume(1)
	a.events("warned@0.5 5/10 episode 0")
	a.consume(-2)
	a.consume(5)
	a.events("warned@0.5 5/10 episode 0", "warned@0.8 9/10 episode 0")
	a.consume(-9)
	a.consume(10)
	a.events("warned@0.5 5/10 episode 0", "warned@0.8 9/10 episode 0", "blocked 10/10 episode 0")
}

// TestConsumeKnowsGrants: grants count from the moment they are committed, with no sidecar to tell.
func TestConsumeKnowsGrants(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = 0; l.Limits["pro"] = 2 })
	grant := func(quantity, expires string) {
		t.Helper()
		a.exec(`INSERT INTO tiergate.access_grant (subject_id, feature, quantity, expires_at, note, granted_by, granted_at)
			VALUES ('ann', 'features', ` + quantity + `, ` + expires + `, '', '', now())`)
	}
	reason := func(want string) {
		t.Helper()
		a.expect(`SELECT coalesce(reason, 'none') FROM feature_access WHERE subject_id = 'ann'`, want)
	}
	a.want(a.consume(1), "refused 0/0: Upgrade to go on")
	reason("not_in_plan")
	grant("2", "tiergate.now() + interval '1 hour'")
	a.want(a.consume(1), "granted 1/2")
	reason("granted")
	grant("1", "NULL")
	a.want(a.consume(2), "granted 3/3")
	a.exec(`UPDATE tiergate.access_grant SET ended_at = now() WHERE quantity = 1`)
	a.want(a.consume(-1), "granted 2/2")
	reason("limit_reached")
	a.subscribe("pro")
	a.want(a.consume(1), "granted 3/4")
	reason("granted")
	a.clock("2026-03-01 12:00:30")
	a.want(a.consume(1), "refused 3/2: Upgrade to go on")
	grant("NULL", "NULL")
	a.want(a.consume(5), "granted 8/∞")
	a.exec(`UPDATE tiergate.access_grant SET ended_at = now(); UPDATE tiergate.subject SET status = 'past_due'`)
	a.want(a.consume(1), "refused 8/2: Upgrade to go on")
	reason("past_due")
	a.subscribe("gold") // a tier that no loop names: as paid
	a.want(a.consume(1), "granted 9/∞")
	a.subscribe("free")
	a.want(a.consume(1), "refused 9/0: Upgrade to go on")
	a.events("refused 0/0 episode 0", "unblocked 0/2 episode 0", "blocked 3/3 episode 0", "unblocked 2/4 episode 0",
		"blocked 3/2 episode 0", "unblocked 3/∞ episode 0", "blocked 8/2 episode 0", "unblocked 8/∞ episode 0", "blocked 9/0 episode 0 silent")
}

func TestConsumeRefusesNonsense(t *testing.T) {
	a := newStrict(t, nil)
	a.exec(`INSERT INTO tiergate.plan (feature, tier, loop, window_kind, enforcement, message) VALUES ('other', 'free', 'l', 'lifetime', 'async', '')`)
	for call, want := range map[string]string{
		`'ann', 'nothing'`:                  `no loop has a feature 'nothing'`,
		`'ann', NULL`:                       `no loop has a feature NULL`,
		`'ann', 'other'`:                    `the loop of feature 'other' is not strict`,
		`NULL::text, 'features'`:            `the subject is NULL`,
		`'', 'features'`:                    `the subject is NULL, empty`,
		`'*', 'features'`:                   `the subject is NULL, empty`,
		`repeat('é', 257), 'features'`:      `longer than 512 bytes`,
		`'ann', 'features', NULL`:           `the quantity is NULL`,
		`NULL::uuid, 'features', 1::bigint`: `the subject is NULL`,
	} {
		_, err := a.conn.Exec(t.Context(), `SELECT * FROM tiergate.consume_feature(`+call+`)`)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "22023" || !strings.Contains(pg.Message, want) || pg.Hint == "" {
			t.Errorf("consume_feature(%s): %v", call, err)
		}
	}
	a.want(a.consumeAs(strings.Repeat("é", 256), 1), "granted 1/3")
}

// TestConsumeKnowsTheDeleted: who was deleted is refused and leaves no trace; who came back begins anew.
func TestConsumeKnowsTheDeleted(t *testing.T) {
	a := newStrict(t, nil)
	a.subscribe("paid")
	a.exec(`UPDATE tiergate.subject SET deleted = true`)
	a.want(a.consume(1), "refused 0/∞: this user was deleted")
	a.want(a.consume(0), "refused 0/∞: this user was deleted")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.events()
	a.exec(`UPDATE tiergate.subject SET deleted = false, tier = 'free', since = '2026-03-01 10:00:30+00'`)
	a.exec(`INSERT INTO tiergate.meta VALUES ('first_episode', '7')`)
	a.consume(1)
	a.expect(`SELECT episode || ' ' || (period_start = closed_at) FROM feature_access WHERE subject_id = 'ann'`, "1772359230 true") // the moment of the return
}

func TestConsumeHoldsAtTheEdges(t *testing.T) {
	const most = 1<<63 - 1
	a := newStrict(t, nil)
	a.want(a.consume(most), "refused 0/3: Upgrade to go on")
	a.want(a.consume(-most-1), "granted 0/3")
	a.exec(`UPDATE feature_access SET used = -2, remaining = 5 WHERE subject_id = 'ann'`) // a credit from before the loop was strict
	a.want(a.consume(-1), "granted -2/3")
	a.want(a.consume(6), "refused -2/3: Upgrade to go on")
	a.want(a.consume(5), "granted 3/3")
	a.subscribe("paid")
	a.want(a.consume(most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consume(most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consume(-most-1), "granted 0/∞")
	a.exec(`INSERT INTO tiergate.access_grant (subject_id, feature, quantity, note, granted_by, granted_at) VALUES ('bob', 'features', $1, '', '', now()), ('bob', 'features', $1, '', '', now())`, int64(most))
	a.want(a.consumeAs("bob", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.exec(`UPDATE tiergate.plan SET window_kind = 'rolling', resolution = '1 day'`)
	a.want(a.consumeAs("cid", 1), "granted 1/3")
	a.exec(`UPDATE tiergate.plan SET usage_limit = NULL`)
	a.want(a.consumeAs("cid", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.clock("2026-03-02 10:00:30")
	a.want(a.consumeAs("cid", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consumeAs("cid", -most), "granted 0/∞")
}

// TestConsumeIsolation: a snapshot that is older than a concurrent consumption cannot be right, and says so.
func TestConsumeIsolation(t *testing.T) {
	a := newStrict(t, nil)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tx, err := a.connect().BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `SELECT FROM feature_access`); err != nil {
			t.Fatal(err)
		}
		a.consume(1)
		_, err = tx.Exec(t.Context(), `SELECT tiergate.consume_feature('ann', 'features')`)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "40001" {
			t.Errorf("%s: %v", level, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConsumePrivileges: who inserts usage consumes, who reads it asks, and nobody gives or does what is internal.
func TestConsumePrivileges(t *testing.T) {
	a := newStrict(t, nil)
	a.exec(`DO $$ DECLARE role text; BEGIN FOREACH role IN ARRAY ARRAY['reads', 'uses', 'named', 'nobody'] LOOP
		IF to_regrole(role) IS NULL THEN EXECUTE 'CREATE ROLE ' || role; END IF; END LOOP; END $$`)
	a.exec(`GRANT SELECT ON usage TO reads; GRANT INSERT ON usage TO uses; GRANT USAGE ON SCHEMA tiergate TO nobody`)
	callable := func(want map[string]string) {
		t.Helper()
		for role, functions := range want {
			a.expect(`SELECT coalesce(string_agg(DISTINCT proname::text, ' '), '') FROM pg_proc
				WHERE pronamespace = 'tiergate'::regnamespace AND has_schema_privilege('`+role+`', 'tiergate', 'USAGE') AND has_function_privilege('`+role+`', oid, 'EXECUTE')`, functions)
		}
	}
	const asking = "explain_access feature_status freshness has_feature now require_feature"
	a.install()
	callable(map[string]string{"reads": asking, "uses": "consume_feature", "named": "", "nobody": ""})
	o := a.options()
	o.AppRoles = []string{"named"}
	if _, err := Install(t.Context(), a.own, o); err != nil {
		t.Fatal(err)
	}
	callable(map[string]string{"named": "consume_feature " + asking})
	a.exec(`SET ROLE uses`)
	a.expect(`SELECT used::text FROM tiergate.consume_feature('ann', 'features')`, "1")
	a.expect(`SELECT used::text FROM tiergate.consume_feature(7, 'features')`, "1")
	a.exec(`RESET ROLE`)
}
