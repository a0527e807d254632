package sql

import (
	"context"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestFeatureRemovedWithAnExpiredWindow counts under a plan that lost a feature, whose rows wait for a
// window to close that nobody knows any more.
func TestFeatureRemovedWithAnExpiredWindow(t *testing.T) {
	onBoth(t, testFeatureRemovedWithAnExpiredWindow)
}

func testFeatureRemovedWithAnExpiredWindow(t *testing.T) {
	a := newConventional(t)
	gone := features(2)
	gone.Name, gone.Feature = "freemium.gone", "gone"
	a.plan = planOf(features(2), gone)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	a.count(a.store())
	a.exec(`UPDATE feature_access SET resets_at = now() - interval '1 hour' WHERE subject_id = 'ann' AND feature = 'gone'`)

	a.plan = planOf(features(2))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s := a.store()
	if err := s.Count(ctx, loops.Snapshot{}, a.decider()); err != nil {
		t.Fatal(err)
	}
	a.expect(`SELECT feature FROM feature_access WHERE subject_id = 'ann'`, "features")
}

// TestRevivedUserInACount brings a deleted user back between two counts: what was used before is over.
func TestRevivedUserInACount(t *testing.T) { onBoth(t, testRevivedUserInACount) }

func testRevivedUserInACount(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@example.com', 'Ann')`)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/1', 'POST' FROM generate_series(1, 5)`)
	a.count(a.store())
	a.exec(`DELETE FROM users`)
	a.count(a.store())
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@example.com', 'Ann')`)
	a.count(a.store())
	a.expect(`SELECT concat(used, ' ', allowed) FROM feature_access WHERE subject_id = 'ann'`, "0 t")
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	a.count(a.store())
	a.expect(`SELECT concat(used, ' ', allowed) FROM feature_access WHERE subject_id = 'ann'`, "1 t")
}

// TestPeriodAddedToALifetimeLimit gives a limit its period later: what was used before that period is over.
func TestPeriodAddedToALifetimeLimit(t *testing.T) { onBoth(t, testPeriodAddedToALifetimeLimit) }

func testPeriodAddedToALifetimeLimit(t *testing.T) {
	a := newConventional(t)
	a.plan.Loops[0].Window = loops.Window{Kind: loops.Lifetime}
	for _, who := range []string{"ann", "bob"} {
		a.exec(`INSERT INTO usage (user_id, endpoint, method, created_at) SELECT '` + who + `', '/api/features/1', 'POST', now() - interval '90 days' FROM generate_series(1, 5)`)
	}
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	a.count(a.store())
	a.expect(`SELECT concat_ws(' ', subject_id, used, allowed) FROM feature_access WHERE subject_id <> '*' ORDER BY 1`, "ann 6 f", "bob 5 f")

	a.plan = planOf(features(2))
	a.count(a.store())
	a.expect(`SELECT concat_ws(' ', subject_id, used, allowed, resets_at > now()) FROM feature_access WHERE subject_id <> '*' ORDER BY 1`, "ann 1 t t", "bob 0 t")
}

// TestSlotGivenUpUnderAReader drops the slot while somebody reads it.
func TestSlotGivenUpUnderAReader(t *testing.T) {
	a := newConventional(t)
	slot := SlotName(a.conn.Config().Database)
	a.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	reader := a.reader(slot)
	defer reader.Close(context.Background())
	if err := GiveUpSlot(t.Context(), a.own); err != nil {
		t.Fatal(err)
	}
	a.expect(`SELECT slot_name::text FROM pg_replication_slots WHERE slot_name = '` + slot + `'`)
}
