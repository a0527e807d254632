package sql

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// rests fails where the sidecar is to look again at once, though there is nothing that it could do.
func (h *held) rests() {
	h.t.Helper()
	if late := time.Since(h.store.wake()); late > time.Minute {
		h.t.Errorf("the sidecar is to look again at what was due %s ago", late)
	}
}

// TestNextDueByIndex: what time itself demands next is found by an index, whatever is stored: it is asked every second.
func TestNextDueByIndex(t *testing.T) {
	h := newHeld(t, func(l *loops.Loop) { l.Window.Kind = loops.Rolling })
	h.exec(`INSERT INTO feature_access (subject_id, feature, allowed, tier, updated_at, resets_at)
		SELECT 's' || i, 'features', true, 'free', now(), now() + i * interval '1 minute' FROM generate_series(1, 3000) i`)
	h.exec(`INSERT INTO tiergate.bucket SELECT 's' || i, 'features', now(), now() + i * interval '1 minute', 1 FROM generate_series(1, 3000) i`)
	h.exec(`INSERT INTO tiergate.access_grant (subject_id, feature, quantity, expires_at, note, granted_by, granted_at)
		SELECT 's' || i, 'features', 1, now() + i * interval '1 minute', '', '', now() FROM generate_series(1, 3000) i`)
	h.exec(`ANALYZE`)
	rows, err := h.store.conn.Query(t.Context(), `EXPLAIN `+h.store.nextDueSQL(), h.store.features, h.store.strict, h.store.rolling)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	plan := strings.Join(lines, "\n")
	for _, index := range []string{"feature_access_resets_at", "bucket_rolls_off", "access_grant_expires"} {
		if !strings.Contains(plan, index) {
			t.Errorf("no use of %s:\n%s", index, plan)
		}
	}
}

// TestDueRowIsHeld: a strict row whose window is over, and that somebody holds, is left alone for a while.
func TestDueRowIsHeld(t *testing.T) {
	h := newHeld(t, nil)
	h.want(h.consume(1), "granted 1/3")
	h.hold(`BEGIN; SELECT FROM feature_access WHERE subject_id = 'ann' FOR NO KEY UPDATE`)
	h.clock("2026-04-01 12:00")
	h.apply()
	h.rests()
	h.hold(`COMMIT`)
	h.settle()
	h.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "0")
}

// TestGrantOfDeletedUserExpires: what was granted to somebody who is gone ends as well.
func TestGrantOfDeletedUserExpires(t *testing.T) {
	h := newHeld(t, nil)
	h.apply(userIs(loops.Delete, "ann"))
	h.exec(`SELECT tiergate.grant_feature('ann', 'features', 5, tiergate.now() + interval '1 hour')`)
	h.clock("2026-03-01 12:00")
	h.apply()
	h.rests()
	h.expect(`SELECT (ended_at IS NOT NULL)::text FROM tiergate.access_grant`, "true")
}

// TestGrantAfterDeleteOfHeldUser: what is granted after a user went is for whoever comes back, though a row was held meanwhile.
func TestGrantAfterDeleteOfHeldUser(t *testing.T) {
	h := newHeld(t, nil)
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features')`)
	h.apply(userIs(loops.Delete, "ann"))
	h.exec(`SELECT tiergate.grant_feature('ann', 'features', 5)`)
	h.hold(`COMMIT`)
	h.settle()
	h.expect(`SELECT (ended_at IS NULL)::text FROM tiergate.access_grant`, "true")
}

// TestRowOfDeletedUser: a row that a transaction made of a user whom it did not see go is removed when it is due.
func TestRowOfDeletedUser(t *testing.T) {
	h := newHeld(t, nil)
	h.exec(`DELETE FROM feature_access WHERE subject_id = 'ann'`)
	h.hold(`BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM tiergate.subject`)
	h.apply(userIs(loops.Delete, "ann"))
	h.hold(`SELECT tiergate.consume_feature('ann', 'features'); COMMIT`)
	h.clock("2026-04-01 12:00")
	h.apply()
	h.rests()
	h.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`)
}

// TestBucketsOfOtherWindows: what a rolling window left in the hands of a consumer is no use of the window that came after it.
func TestBucketsOfOtherWindows(t *testing.T) {
	h := newHeld(t, nil)
	h.want(h.consume(2), "granted 2/3")
	h.exec(`INSERT INTO tiergate.bucket SELECT 'ann', 'features', tiergate.now() - interval '40 days', tiergate.now() - interval '1 day', 2`)
	h.apply()
	h.rests()
	h.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "2")
}

// TestBucketsInHands: the sidecar does not wait for a consumer that clears away what a lost row left.
func TestBucketsInHands(t *testing.T) {
	h := newHeld(t, func(l *loops.Loop) { l.Window.Kind = loops.Rolling })
	h.want(h.consume(1), "granted 1/3")
	h.exec(`DELETE FROM feature_access WHERE subject_id = 'ann'`)
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features')`)
	h.apply(userIs(loops.Delete, "ann"))
	h.hold(`COMMIT`)
	h.settle()
	h.expect(`SELECT used::text FROM tiergate.bucket`)
}

// TestPlanBesideConsumer: a rolling window gives way to another one though somebody holds buckets of it.
func TestPlanBesideConsumer(t *testing.T) {
	h := newHeld(t, func(l *loops.Loop) { l.Window.Kind = loops.Rolling })
	h.apply()
	h.want(h.consume(1), "granted 1/3")
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features')`)
	h.plan.Loops[0].Window.Kind = loops.Anchored
	h.store = h.app.store()
	if _, _, err := h.store.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSessionsReadCommitted: a database whose transactions are REPEATABLE READ does not change what the sidecar sees.
func TestSessionsReadCommitted(t *testing.T) {
	a := newApp(t)
	a.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database()); END $$`)
	conn, err := Connect(t.Context(), a.url, ForApply)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.End()
	var level string
	if err := conn.QueryRow(t.Context(), `SHOW transaction_isolation`).Scan(&level); err != nil || level != "read committed" {
		t.Errorf("%s: %v", level, err)
	}
}
