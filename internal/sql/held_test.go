package sql

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// held is a strict database whose sidecar applies, one change at a time, beside a session that sits in its transaction.
type held struct {
	*app
	store *Store
	idle  *Session
}

func newHeld(t *testing.T, change func(*loops.Loop)) *held {
	t.Helper()
	a := newStrict(t, change)
	a.exec(`INSERT INTO users (id, email) VALUES ('ann', 'ann@shop.test')`)
	a.count(a.store())
	h := &held{app: a, store: a.store(), idle: a.beside()}
	if _, _, err := h.store.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// hold runs a statement in the session that sits in its transaction.
func (h *held) hold(sql string) {
	h.t.Helper()
	for _, statement := range strings.Split(h.words(sql), ";") {
		if _, err := h.idle.Exec(h.t.Context(), statement); err != nil {
			h.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// apply lets the sidecar decide on changes, and on what is due.
func (h *held) apply(changes ...loops.Change) {
	h.t.Helper()
	h.store.nextDue = time.Time{}
	for i := range changes {
		changes[i].Committed = time.Now()
	}
	if _, err := h.store.Apply(h.t.Context(), loops.Batch{Position: "p", Changes: changes}, h.decider()); err != nil {
		h.t.Fatal(err)
	}
}

// settle applies what was held, until nothing is.
func (h *held) settle() {
	h.t.Helper()
	h.exec(`UPDATE tiergate.due SET at = '1000-01-01'`)
	h.apply()
	h.expect(`SELECT subject_id FROM tiergate.due`)
}

func userIs(op loops.Op, id string) loops.Change {
	c := loops.Change{Role: loops.Users, Op: op, Key: id}
	if op != loops.Delete {
		c.Row = loops.Row{loops.FieldSubject: loops.Text(id)}
	}
	return c
}

// TestHeldRowOfReturnedUser: what was consumed before a user was deleted and came back does not count, though the row was
// held all the while; what they consume afterwards does.
func TestHeldRowOfReturnedUser(t *testing.T) { onBoth(t, testHeldRowOfReturnedUser) }

func testHeldRowOfReturnedUser(t *testing.T) {
	for _, first := range []string{"the sidecar", "a consumer"} {
		t.Run(first, func(t *testing.T) {
			h := newHeld(t, nil)
			h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features', 3)`)
			h.apply(userIs(loops.Delete, "ann"))
			h.apply(userIs(loops.Insert, "ann"))
			h.hold(`COMMIT`)
			h.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "3")
			if first == "a consumer" {
				h.want(h.consume(1), "granted 1/3")
			}
			h.settle()
			if first == "the sidecar" {
				h.expect(`SELECT concat_ws(' ', used, allowed) FROM feature_access WHERE subject_id = 'ann'`, "0 t")
				h.want(h.consume(1), "granted 1/3")
			}
			h.expect(`SELECT concat_ws(' ', used, allowed, fa.closed_at = s.since) FROM feature_access fa JOIN tiergate.subject s ON s.subject_id = fa.subject_id
				WHERE s.subject_id = 'ann'`, "1 t t")
		})
	}
}

// TestHeldRowOfDeletedUser: rows and buckets of a user who is gone go when they are let go.
func TestHeldRowOfDeletedUser(t *testing.T) { onBoth(t, testHeldRowOfDeletedUser) }

func testHeldRowOfDeletedUser(t *testing.T) {
	h := newHeld(t, func(l *loops.Loop) { l.Window.Kind = loops.Rolling })
	h.want(h.consume(1), "granted 1/3")
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features', 1)`)
	h.apply(userIs(loops.Delete, "ann"))
	h.expect(`SELECT used::text FROM tiergate.bucket`, "1")
	h.exec(`UPDATE tiergate.due SET at = '1000-01-01'`)
	h.apply() // and it is held still
	h.expect(`SELECT subject_id FROM tiergate.due`, "ann")
	h.hold(`COMMIT`)
	h.expect(`SELECT used::text FROM tiergate.bucket`, "2")
	h.settle()
	h.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*' UNION ALL SELECT used::text FROM tiergate.bucket`)
}

// TestHeldGrantExpires: a grant ends on time for the limit, though somebody holds its row; and is recorded once it is known how.
func TestHeldGrantExpires(t *testing.T) { onBoth(t, testHeldGrantExpires) }

func testHeldGrantExpires(t *testing.T) {
	for revoked, want := range map[bool]string{true: "revoked", false: "expired"} {
		if revoked && isOnMySQL(t) {
			continue // the test clock is locked by whoever revokes
		}
		t.Run(want, func(t *testing.T) {
			h := newHeld(t, func(l *loops.Loop) { l.Enforcement = loops.Async })
			h.exec(`SELECT tiergate.grant_feature('ann', 'features', 5, tiergate.now() + interval '1 hour', '')`)
			h.apply(loops.Change{Role: loops.Grants, Op: loops.Insert, Key: "1", Row: loops.Row{loops.FieldSubject: loops.Text("ann")}})
			h.expect(`SELECT usage_limit::text FROM feature_access WHERE subject_id = 'ann'`, "8")
			h.hold(`BEGIN; SELECT id FROM tiergate.access_grant FOR UPDATE`)
			if revoked {
				h.hold(`SELECT tiergate.revoke_grant(1)`)
			}
			h.clock("2026-03-01 12:00")
			h.apply()
			h.expect(`SELECT usage_limit::text FROM feature_access WHERE subject_id = 'ann'`, "3")
			h.rests()
			h.hold(`COMMIT`)
			h.settle()
			h.expect(`SELECT kind FROM tiergate.access_event WHERE kind IN ('expired', 'revoked')`, want)
			h.expect(`SELECT count(ended_at)::text FROM tiergate.access_grant`, "1")
		})
	}
}

// TestBucketsOfLostRows: buckets without their row neither keep the sidecar busy nor count in a row that is made again.
func TestBucketsOfLostRows(t *testing.T) { onBoth(t, testBucketsOfLostRows) }

func testBucketsOfLostRows(t *testing.T) {
	for _, enforcement := range []loops.Enforcement{loops.Strict, loops.Async} {
		t.Run(string(enforcement), func(t *testing.T) {
			h := newHeld(t, func(l *loops.Loop) { l.Window.Kind, l.Enforcement = loops.Rolling, enforcement })
			for _, id := range []string{"ann", "org"} {
				h.exec(`INSERT INTO tiergate.bucket VALUES ('` + id + `', 'features', tiergate.now() - interval '1 day', tiergate.now() + interval '30 days', 2)`)
				h.exec(`INSERT INTO tiergate.bucket VALUES ('` + id + `', 'features', tiergate.now() - interval '40 days', tiergate.now() - interval '9 days', 2)`)
			}
			h.exec(`DELETE FROM feature_access WHERE subject_id = 'ann'`)
			h.apply()
			h.rests()
			if enforcement == loops.Strict {
				h.want(h.consume(1), "granted 1/3")
				h.want(h.consume(1), "granted 2/3")
			} else {
				use := loops.Change{Role: loops.Usage, Op: loops.Insert, Use: loops.Use{Subject: "ann", Endpoint: "/api/features/1", Method: "POST", Quantity: 1, At: time.Now()}}
				h.clock("2026-03-01 10:01")
				h.apply(use)
				h.apply(use)
			}
			h.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "2")
			h.expect(`SELECT sum(used)::text FROM tiergate.bucket WHERE subject_id = 'ann'`, "2")
		})
	}
}

// TestLeavesStrict: a feature that is not strict any more is the stream's when those who consumed it have ended.
func TestLeavesStrict(t *testing.T) { onBoth(t, testLeavesStrict) }

func testLeavesStrict(t *testing.T) {
	h := newHeld(t, nil)
	h.apply() // which gives it a position
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features', 2)`)
	h.plan.Loops[0].Enforcement = loops.Async
	h.store = h.app.store()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, _, err := h.store.Resume(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
			return
		}
		use := loops.Use{Subject: "ann", Endpoint: "/api/features/1", Method: "POST", Quantity: 1, At: time.Now()}
		b := loops.Batch{Position: "q", Changes: []loops.Change{{Role: loops.Usage, Op: loops.Insert, Committed: time.Now(), Use: use}}}
		if _, err := h.store.Apply(context.WithoutCancel(t.Context()), b, h.decider()); err != nil {
			t.Error(err)
		}
	}()
	// It waits for the end of the consumer's transaction, before it has read anything: not for its row, to overwrite it.
	h.await(h.waits(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tiergate apply'
		AND (wait_event_type = 'Lock' OR query LIKE '%pg_snapshot_xmin%'))`))
	h.hold(`COMMIT`)
	<-done
	h.expect(`SELECT concat_ws(' ', used, allowed) FROM feature_access WHERE subject_id = 'ann'`, "3 f")
}

// TestVisible: the sidecar waits for what the stream has shown and nobody sees, while somebody who may have written it is
// about to commit; what was deleted it does not wait for.
func TestVisible(t *testing.T) { onBoth(t, testVisible) }

func testVisible(t *testing.T) {
	h := newHeld(t, nil)
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features', 3)`)
	var id int64
	if h.conn != nil {
		h.scan(`SELECT last_value FROM tiergate.access_event_id_seq`, &id)
	} else if err := h.idle.QueryRow(t.Context(), `SELECT max(id) FROM tiergate.access_event`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	applied := make(chan error, 1)
	go func() {
		_, err := h.store.Apply(context.WithoutCancel(t.Context()), loops.Batch{Position: "p", Changes: []loops.Change{
			{Role: loops.Events, Op: loops.Insert, Event: id, Committed: time.Now()}, {Role: loops.Events, Op: loops.Insert, Event: id + 1000, Committed: time.Now()},
		}}, h.decider())
		applied <- err
	}()
	h.await(h.waits(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tiergate apply'
			AND clock_timestamp() - xact_start > interval '200 ms')
		OR (SELECT position = 'p' FROM tiergate.checkpoint)`))
	h.hold(`COMMIT`)
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	h.expect(`SELECT kind FROM tiergate.email`, "blocked")
}

// beside is another session, of the application.
func (a *app) beside() *Session {
	a.t.Helper()
	if a.conn != nil {
		return Postgres(a.connect())
	}
	s, err := Connect(a.t.Context(), a.url, ForVerify)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(s.End)
	return s
}

// waits is the question whether the sidecar's transaction lasts, as PostgreSQL is asked or as MySQL is.
func (a *app) waits(postgres string) string {
	if a.conn != nil {
		return postgres
	}
	return `SELECT EXISTS (SELECT 1 FROM information_schema.processlist p WHERE p.id = IS_USED_LOCK(` + sessionLock(ForApply) + `))`
}

// await asks again and again until a query says yes.
func (a *app) await(sql string) {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		var yes bool
		if a.scan(sql, &yes); yes {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("in vain: %s", sql)
		}
	}
}

// TestHeldRowThatIsMade: a row that a consumer is making is not made by the sidecar, which makes those that nobody makes.
func TestHeldRowThatIsMade(t *testing.T) { onBoth(t, testHeldRowThatIsMade) }

func testHeldRowThatIsMade(t *testing.T) {
	h := newHeld(t, nil)
	h.exec(`DELETE FROM feature_access WHERE subject_id <> '*'`)
	h.hold(`BEGIN; SELECT tiergate.consume_feature('ann', 'features', 2)`)
	begun := time.Now()
	h.apply(userIs(loops.Update, "ann"), userIs(loops.Insert, "bob"))
	if waited := time.Since(begun); waited > 4*time.Second {
		t.Errorf("it waited for %s", waited)
	}
	h.expect(`SELECT concat_ws(' ', subject_id, used) FROM feature_access WHERE subject_id <> '*'`, "bob 0")
	h.hold(`COMMIT`)
	h.settle()
	h.expect(`SELECT concat_ws(' ', subject_id, used, tier) FROM feature_access WHERE subject_id <> '*' ORDER BY subject_id`, "ann 2 free", "bob 0 free")
	h.want(h.consume(1), "granted 3/3")
}
