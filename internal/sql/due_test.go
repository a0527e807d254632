package sql

import (
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// rests fails where the sidecar is to look again at once, though there is nothing that it could do.
func (h *held) rests() {
	h.t.Helper()
	if rest := time.Until(h.store.wake()); rest < strictWake/4 {
		h.t.Errorf("the sidecar rests for %s", rest)
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
