package sql

import (
	"fmt"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestMySQLConsumeRolling: uses roll off by their buckets, and a give-back takes the newest.
func TestMySQLConsumeRolling(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Rolling, Period: loops.Period{Text: "1d", Length: 24 * time.Hour}}
		l.Limits[loops.DefaultTier] = 10
	})
	a.want(a.consume(4), "granted 4/10")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.clock("2026-03-01 10:59:30")
	a.want(a.consume(1), "granted 5/10")
	a.clock("2026-03-01 12:00:30")
	a.want(a.consume(2), "granted 7/10")
	a.want(a.consume(4), "refused 7/10: Upgrade to go on")
	a.want(a.consume(3), "granted 10/10")
	a.buckets("01 10:00+5", "01 12:00+5")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.want(a.consume(-6), "granted 4/10")
	a.buckets("01 10:00+4", "01 12:00+0")
	a.want(a.consume(6), "granted 10/10")
	a.want(a.status("ann"), "0 10 0 2026-03-02 11:00:00.000000 limit_reached")
	a.clock("2026-03-02 11:00:30") // the first bucket has rolled off, and nobody has written that
	a.want(a.status("ann"), "1 6 4 2026-03-02 13:00:00.000000")
	a.want(a.consume(0), "granted 6/10")
	a.want(a.consume(5), "refused 6/10: Upgrade to go on")
	a.window("2026-03-01 12:00 to 2026-03-02 13:00")
	a.want(a.consume(4), "granted 10/10")
	a.buckets("01 12:00+6", "02 11:00+4")
	a.events("refused 7/10 episode 0", "blocked 10/10 episode 0", "unblocked 4/10 episode 0", "blocked 10/10 episode 0", "unblocked 6/10 episode 0", "blocked 10/10 episode 0")
	a.clock("2026-03-02 13:00:30") // from above half of the limit to below it: a new episode
	a.want(a.consume(1), "granted 5/10")
	a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, "1")
	a.clock("2026-03-09 13:00:30")
	a.want(a.status("ann"), "1 0 10")
	a.want(a.consume(-1), "granted 0/10")
	a.window("none")
	episode := func(want string) {
		t.Helper()
		a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, want)
	}
	episode("2") // nothing was left
	a.want(a.consume(1), "granted 1/10")
	a.buckets("09 13:00+1")
	a.want(a.consume(-1), "granted 0/10")
	a.clock("2026-03-12 13:00:30")
	a.want(a.consume(1), "granted 1/10")
	episode("3") // nor was anything of what was given back
	a.subscribe("paid")
	a.want(a.consume(20), "granted 21/∞")
	episode("3")
	a.clock("2026-03-14 13:00:30")
	a.want(a.consume(0), "granted 0/∞")
	a.want(a.consume(1), "granted 1/∞")
	episode("4") // nor of what had no limit
}

// TestMySQLConsumeAfterAnotherWindow: what was used under another kind of window counts on as far as it can.
func TestMySQLConsumeAfterAnotherWindow(t *testing.T) {
	a := newMySQLStrict(t, nil)
	turn := func(set string) {
		t.Helper()
		a.exec(`UPDATE tiergate_plan SET ` + set)
	}
	utc := loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay, Length: 24 * time.Hour}, Zone: time.UTC}
	if err := FillMySQLCalendar(t.Context(), a.conn, planOf(loops.Loop{Window: utc}), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	a.consume(1)
	turn(`window_kind = 'lifetime', length = NULL`)
	a.want(a.consume(1), "granted 2/3")
	a.window("none")
	turn(`window_kind = 'calendar', unit = 'day', zone = 'UTC'`)
	a.want(a.consume(-1), "granted 1/3")
	a.want(a.consume(1), "granted 2/3")
	a.window("2026-03-01 00:00 to 2026-03-02 00:00")
	turn(`window_kind = 'rolling', length = 86400000000, resolution = 3600000000, unit = NULL`)
	a.want(a.consume(0), "granted 2/3")
	a.want(a.consume(1), "granted 3/3")
	a.buckets("01 00:00+2", "01 10:00+1")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
	turn(`window_kind = 'anchored', length = 86400000000`)
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
}

// TestMySQLConsumeKnowsTheDeleted: who was deleted is refused and leaves no trace; who came back begins anew.
func TestMySQLConsumeKnowsTheDeleted(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.subscribe("paid")
	a.exec(`UPDATE tiergate_subject SET deleted = TRUE`)
	a.want(a.consume(1), "refused 0/∞: this user was deleted")
	a.want(a.consume(0), "refused 0/∞: this user was deleted")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.events()
	a.exec(`UPDATE tiergate_subject SET deleted = FALSE, tier = 'free', since = tiergate_now()`)
	a.exec("INSERT INTO tiergate_meta VALUES ('first_episode', '7')")
	a.consume(1)
	a.expect(`SELECT CONCAT(episode, ' ', period_start = closed_at) FROM feature_access WHERE subject_id = 'ann'`, "1772359230 1") // the moment of the return
}

// TestMySQLConsumeOfReturnedUser: what was consumed before a user was deleted and came back does not count, though the sidecar
// could not change the row meanwhile; what they consume afterwards does.
func TestMySQLConsumeOfReturnedUser(t *testing.T) {
	for _, kind := range []loops.WindowKind{loops.Anchored, loops.Rolling} {
		t.Run(string(kind), func(t *testing.T) {
			a := newMySQLStrict(t, func(l *loops.Loop) {
				l.Window = loops.Window{Kind: kind, Period: loops.Period{Text: "1d", Length: 24 * time.Hour}}
			})
			a.want(a.consume(3), "granted 3/3")
			a.clock("2026-03-01 11:00:30")
			a.subscribe("free")
			a.exec(`UPDATE tiergate_subject SET since = tiergate_now()`)
			a.clock("2026-03-01 12:00:30")
			a.want(a.consume(0), "granted 0/3")
			a.want(a.consume(4), "refused 0/3: Upgrade to go on")
			a.window("none")
			a.want(a.consume(1), "granted 1/3")
			a.want(a.consume(1), "granted 2/3")
			if kind == loops.Rolling {
				a.buckets("01 12:00+2")
			}
			const born = 1772362830 // 2026-03-01 11:00:30
			a.expect(`SELECT CONCAT(episode, ' ', fa.closed_at = s.since) FROM feature_access fa JOIN tiergate_subject s USING (subject_id)`, fmt.Sprint(born, " 1"))
			a.events("blocked 3/3 episode 0", fmt.Sprint("refused 0/3 episode ", born))
			a.exec(`UPDATE feature_access SET episode = 2000000000 WHERE subject_id = 'ann'`)
			a.exec(`UPDATE tiergate_subject SET since = '2026-03-01 13:00:00'`)
			a.clock("2026-03-01 13:00:30")
			a.want(a.consume(1), "granted 1/3")
			a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, "2000000001")
		})
	}
}

// TestMySQLBucketsOfLostRows: buckets without their row do not count in one that is made again.
func TestMySQLBucketsOfLostRows(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) { l.Window.Kind = loops.Rolling })
	a.want(a.consumeAs("bob", 2), "granted 2/3")
	a.want(a.consume(3), "granted 3/3")
	a.exec(`DELETE FROM feature_access WHERE subject_id = 'ann'`)
	a.want(a.consume(0), "granted 0/3")
	a.want(a.consume(1), "granted 1/3")
	a.want(a.consume(1), "granted 2/3")
	a.expect(`SELECT CONCAT(subject_id, used) FROM tiergate_bucket ORDER BY subject_id`, "ann2", "bob2")
}
