package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

// myTake asks for units of one subject, and returns those that were granted, and the end of the window they belong to.
func myTake(ctx context.Context, tx *sql.Tx, subject string, quantity, limit int64) (granted int64, resets string, err error) {
	var allowed bool
	var used int64
	var of, remaining, at, message sql.NullString
	err = tx.QueryRowContext(ctx, `CALL tiergate_consume_feature(?, 'features', ?)`, subject, quantity).Scan(&allowed, &used, &of, &remaining, &at, &message)
	if err == nil && (used < 0 || used > limit || (quantity < 0 && !allowed)) {
		err = fmt.Errorf("%s: %d of %d used, after %d, which is granted: %t", subject, used, limit, quantity, allowed)
	}
	if allowed {
		granted = quantity
	}
	return granted, at.String, err
}

// again reports whether an error says that the transaction is to be tried again, and which one: a deadlock, or a stale snapshot.
func again(err error) (deadlock, stale bool) {
	var server *mysql.MySQLError
	if !errors.As(err, &server) || string(server.SQLState[:]) != "40001" {
		return false, false
	}
	return server.Number == 1213, server.Number == 1644
}

// tries counts transactions that had to be tried again.
type tries struct {
	mu               sync.Mutex
	deadlocks, stale int
}

// transact runs a transaction until it is committed, or rolled back on purpose, which it is now and then.
func (y *tries) transact(ctx context.Context, conn *sql.Conn, level sql.IsolationLevel, r *rand.Rand, work func(tx *sql.Tx) error) (committed bool, err error) {
	for {
		tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: level})
		if err != nil {
			return false, err
		}
		if err = work(tx); err == nil {
			if r.IntN(5) == 0 {
				return false, tx.Rollback()
			}
			return true, tx.Commit()
		}
		tx.Rollback()
		deadlock, stale := again(err)
		if !deadlock && !stale {
			return false, err
		}
		y.mu.Lock()
		if deadlock {
			y.deadlocks++
		} else {
			y.stale++
		}
		y.mu.Unlock()
	}
}

// TestMySQLConsumeOneSubjectTogether: sessions want more of one subject's units than there are, roll back and give back
// as they like: as many as there are are granted in the end, and not one more at any time. Some read before they consume, so that
// in REPEATABLE READ none of them sees what the others do. Two hundred sessions stay below the wall for long: at it the row changes
// its length with every give-back, and InnoDB then moves the locks of all who wait.
func TestMySQLConsumeOneSubjectTogether(t *testing.T) {
	anchored := features(0).Window
	rolling := loops.Window{Kind: loops.Rolling, Period: loops.Period{Text: "1d", Length: 24 * time.Hour}}
	for _, test := range []struct {
		name     string
		level    sql.IsolationLevel
		window   loops.Window
		limit    int64
		sessions int
		reads    bool // before it consumes
	}{
		{"read committed", sql.LevelReadCommitted, anchored, 3000, 200, true},
		{"repeatable read", sql.LevelRepeatableRead, anchored, 3000, 200, false},
		{"repeatable read, which has read", sql.LevelRepeatableRead, anchored, 200, 30, true},
		{"rolling, read committed", sql.LevelReadCommitted, rolling, 200, 30, true},
		{"rolling, repeatable read", sql.LevelRepeatableRead, rolling, 200, 30, false},
		{"rolling, repeatable read, which has read", sql.LevelRepeatableRead, rolling, 200, 8, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			limit := test.limit
			a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = loops.Limit(limit); l.Window = test.window })
			a.consume(-1) // the row is there
			var all tally[string]
			var count tries
			consume := func(turns int, quantity func(mine int64, r *rand.Rand) int64) func(context.Context, *sql.Conn, *rand.Rand) error {
				return func(ctx context.Context, conn *sql.Conn, r *rand.Rand) error {
					mine := int64(0)
					for turn := 0; turns == 0 || turn < turns; turn++ {
						var granted int64
						n := quantity(mine, r)
						committed, err := count.transact(ctx, conn, test.level, r, func(tx *sql.Tx) (err error) {
							if test.reads {
								if err := tx.QueryRowContext(ctx, `SELECT used FROM feature_access WHERE subject_id = 'ann'`).Scan(new(int64)); err != nil {
									return err
								}
							}
							granted, _, err = myTake(ctx, tx, "ann", n, limit)
							return err
						})
						if err != nil {
							return err
						}
						if committed {
							mine += granted
						}
						if turns == 0 && granted == 0 {
							break // nothing is left
						}
					}
					all.add(map[string]int64{"ann": mine})
					return nil
				}
			}
			a.together(test.sessions, consume(long(4), func(mine int64, r *rand.Rand) int64 {
				if mine > 0 && r.IntN(4) == 0 {
					return -1 - r.Int64N(mine)
				}
				return 1 + r.Int64N(5)
			}))
			a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(all.units["ann"]))
			a.together(8, consume(0, func(int64, *rand.Rand) int64 { return limit / 20 }))
			a.together(8, consume(0, func(int64, *rand.Rand) int64 { return 1 }))
			a.consistent()
			a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(limit))
			if all.units["ann"] != limit {
				t.Errorf("%d units were granted of %d", all.units["ann"], limit)
			}
			if test.window.Kind == loops.Rolling {
				a.expect(`SELECT SUM(used) FROM tiergate_bucket`, fmt.Sprint(limit))
			}
			a.expect(`SELECT CONCAT(SUM(kind = 'blocked') - SUM(kind = 'unblocked'), ' ', COUNT(DISTINCT IF(kind = 'refused', episode, NULL)) = SUM(kind = 'refused')) FROM tiergate_access_event`, "1 1")
			t.Logf("%d deadlocks, %d stale snapshots", count.deadlocks, count.stale)
			if count.deadlocks > 0 || count.stale > 0 && (!test.reads || test.level != sql.LevelRepeatableRead || test.window.Kind != loops.Rolling) {
				t.Errorf("%d deadlocks, %d stale snapshots", count.deadlocks, count.stale)
			}
		})
	}
}

// TestMySQLConsumeOneNewSubjectTogether: two hundred sessions are the first to use a feature, at once. Where nobody rolls back
// nobody waits in vain: there is no deadlock.
func TestMySQLConsumeOneNewSubjectTogether(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead} {
		t.Run(level.String(), func(t *testing.T) {
			const sessions = 200
			a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = sessions / 2 })
			var all tally[string]
			ready := make(chan struct{})
			var connected sync.WaitGroup
			connected.Add(sessions)
			go func() { connected.Wait(); close(ready) }()
			a.together(sessions, func(ctx context.Context, conn *sql.Conn, _ *rand.Rand) error {
				connected.Done()
				<-ready
				tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: level})
				if err != nil {
					return err
				}
				granted, _, err := myTake(ctx, tx, "ann", 1, sessions/2)
				if err != nil {
					return err
				}
				all.add(map[string]int64{"ann": granted})
				return tx.Commit()
			})
			a.consistent()
			a.expect(`SELECT CONCAT(used, ' ', allowed) FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(sessions/2, " 0"))
			a.events(fmt.Sprintf("blocked %d/%d episode 0", sessions/2, sessions/2), fmt.Sprintf("refused %d/%d episode 0", sessions/2, sessions/2))
			if all.units["ann"] != sessions/2 {
				t.Errorf("%d were granted", all.units["ann"])
			}
		})
	}
}

// TestMySQLConsumeManySubjectsTogether: sessions use and give back the units of ten thousand subjects at random, several in one
// transaction: every count is exact.
func TestMySQLConsumeManySubjectsTogether(t *testing.T) {
	const limit, subjects = 4, 10_000
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead} {
		t.Run(level.String(), func(t *testing.T) {
			a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = limit })
			var all tally[string]
			var count tries
			a.together(16, func(ctx context.Context, conn *sql.Conn, r *rand.Rand) error {
				mine := map[string]int64{}
				for range long(100) {
					changed := map[string]int64{}
					for range 1 + r.IntN(4) {
						subject := fmt.Sprintf("s%04d", r.IntN(subjects))
						changed[subject] = 1 + r.Int64N(3)
						if mine[subject] > 0 && r.IntN(2) == 0 {
							changed[subject] = -1
						}
					}
					granted := map[string]int64{}
					committed, err := count.transact(ctx, conn, level, r, func(tx *sql.Tx) (err error) {
						for _, subject := range slices.Sorted(maps.Keys(changed)) { // in one order: no deadlock
							if granted[subject], _, err = myTake(ctx, tx, subject, changed[subject], limit); err != nil {
								return err
							}
						}
						return nil
					})
					if err != nil {
						return err
					}
					for subject, n := range granted {
						if committed {
							mine[subject] += n
						}
					}
				}
				all.add(mine)
				return nil
			})
			a.consistent()
			for _, line := range a.lines(`SELECT CONCAT(subject_id, ' ', used) FROM feature_access WHERE subject_id <> '*'`) {
				var subject string
				var used int64
				fmt.Sscan(line, &subject, &used)
				if used != all.units[subject] {
					t.Errorf("%s used %d, and was granted %d", subject, used, all.units[subject])
				}
				delete(all.units, subject)
			}
			for subject, n := range all.units {
				if n != 0 {
					t.Errorf("%s was granted %d, and has no row", subject, n)
				}
			}
			t.Logf("%d deadlocks, %d stale snapshots", count.deadlocks, count.stale)
		})
	}
}

// TestMySQLConsumeCommitsByItself: without a transaction a call is one: sessions that have autocommit on are as exact.
func TestMySQLConsumeCommitsByItself(t *testing.T) {
	const limit = 300
	a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = limit })
	var all tally[string]
	a.together(20, func(ctx context.Context, conn *sql.Conn, _ *rand.Rand) error {
		for granted := int64(0); ; granted++ {
			var allowed bool
			var used int64
			var of, remaining, at, message sql.NullString
			err := conn.QueryRowContext(ctx, `CALL tiergate_consume_feature('ann', 'features', 1)`).Scan(&allowed, &used, &of, &remaining, &at, &message)
			if err != nil || !allowed {
				all.add(map[string]int64{"ann": granted})
				return err
			}
		}
	})
	a.consistent()
	a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(limit))
	if all.units["ann"] != limit {
		t.Errorf("%d units were granted of %d", all.units["ann"], limit)
	}
}

// TestMySQLConsumeWhileWindowsTurn: the clock jumps from window to window while sessions consume. Every unit is in one window,
// and no window has more than fit.
func TestMySQLConsumeWhileWindowsTurn(t *testing.T) {
	const limit = 50
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Limits[loops.DefaultTier] = limit
		l.Window.Period = loops.Period{Text: "1h", Length: time.Hour}
	})
	var all tally[string]
	var count tries
	var done sync.WaitGroup
	stop := make(chan struct{})
	clock := a.connect()
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := clock.ExecContext(t.Context(), `UPDATE tiergate_clock SET shift = shift + 90000000`); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	a.consume(-1)
	a.together(16, func(ctx context.Context, conn *sql.Conn, r *rand.Rand) error {
		mine := map[string]int64{}
		for range long(100) {
			var granted int64
			var window string
			committed, err := count.transact(ctx, conn, sql.LevelRepeatableRead, r, func(tx *sql.Tx) (err error) {
				granted, window, err = myTake(ctx, tx, "ann", 1+r.Int64N(9), limit)
				return err
			})
			if err != nil {
				return err
			}
			if committed && granted > 0 {
				mine[window] += granted
			}
		}
		all.add(mine)
		return nil
	})
	close(stop)
	done.Wait()
	a.consistent()
	line := a.lines(`SELECT CONCAT(used, ' ', episode, ' ', COALESCE(resets_at, '')) FROM feature_access WHERE subject_id = 'ann'`)[0]
	var used, episode int64
	fmt.Sscan(line, &used, &episode)
	last := line[len(fmt.Sprint(used, " ", episode, " ")):]
	if n := all.units[last]; n != used {
		t.Errorf("the open window has %d units, and %d were granted", used, n)
	}
	for window, n := range all.units {
		if n > limit {
			t.Errorf("%d units were granted in the window that ends at %s", n, window)
		}
	}
	full := 0
	for _, line := range a.lines(`SELECT CONCAT(used, ' ', at) FROM tiergate_access_event WHERE kind = 'reset'`) {
		var held int64
		fmt.Sscan(line, &held)
		full++
		if n := all.units[line[len(fmt.Sprint(held, " ")):]]; n != held {
			t.Errorf("the window of the reset %q was granted %d", line, n)
		}
	}
	t.Logf("%d windows, %d of them with units, %d full; %d deadlocks, %d stale snapshots", episode+1, len(all.units), full, count.deadlocks, count.stale)
	if full == 0 || len(all.units) < 5 {
		t.Error("too few windows for a test: is the clock moving?")
	}
}

// TestMySQLConsumeIsolation: a snapshot that cannot see what another session wrote into the row is refused where that
// would change the answer, and only there.
func TestMySQLConsumeIsolation(t *testing.T) {
	a := newMySQLStrict(t, nil)
	for _, test := range []struct {
		name, meanwhile string
		stale           bool
	}{
		{"another consumption", `CALL tiergate_consume_feature('ann', 'features', 1)`, false},
		{"an upgrade that is in the row", `UPDATE feature_access SET tier = 'paid', usage_limit = NULL, remaining = NULL WHERE subject_id = 'ann'`, true},
		{"an upgrade that is not yet in the row", `SELECT 1`, false},
		{"a rolling window", `UPDATE tiergate_plan SET window_kind = 'rolling', resolution = 3600000000`, false},
		{"a rolling window, used by another", `CALL tiergate_consume_feature('ann', 'features', 1)`, true},
	} {
		tx := a.begin(a.connect(), sql.LevelRepeatableRead)
		if _, err := tx.ExecContext(t.Context(), `SELECT 1 FROM feature_access`); err != nil {
			t.Fatal(err)
		}
		a.exec(test.meanwhile)
		_, err := tx.ExecContext(t.Context(), `CALL tiergate_consume_feature('ann', 'features', 1)`)
		if _, stale := again(err); stale != test.stale || (err != nil && !stale) {
			t.Errorf("%s: %v, want a stale snapshot: %t", test.name, err, test.stale)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		if test.stale {
			a.exec(`CALL tiergate_consume_feature('ann', 'features', 1)`) // tried again
		}
	}
}
