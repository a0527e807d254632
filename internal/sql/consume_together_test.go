package sql

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// together lets sessions work at the same time, each with a connection and dice of its own.
func (a *app) together(sessions int, work func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error) {
	a.t.Helper()
	var all sync.WaitGroup
	for i := range sessions {
		conn := a.connect()
		all.Go(func() {
			defer conn.Close(context.Background())
			if err := work(a.t.Context(), conn, rand.New(rand.NewPCG(uint64(i), 4))); err != nil {
				a.t.Error(err)
			}
		})
	}
	all.Wait()
}

// long stretches a test that is run in the long form.
func long(n int) int {
	if os.Getenv("TIERGATE_TEST_LONG") != "" {
		return 20 * n
	}
	return n
}

// tally adds up what was granted and committed.
type tally[K comparable] struct {
	mu    sync.Mutex
	units map[K]int64
}

func (y *tally[K]) add(units map[K]int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.units == nil {
		y.units = map[K]int64{}
	}
	for k, n := range units {
		y.units[k] += n
	}
}

// take asks for units of one subject, and returns those that were granted, and the window they belong to.
func take(ctx context.Context, tx pgx.Tx, subject string, quantity int64, limit int64) (granted int64, resets time.Time, err error) {
	var allowed bool
	var used int64
	err = tx.QueryRow(ctx, `SELECT allowed, used, coalesce(resets_at, 'epoch') FROM tiergate.consume_feature($1::text, 'features', $2)`, subject, quantity).
		Scan(&allowed, &used, &resets)
	if err == nil && (used < 0 || used > limit || (quantity < 0 && !allowed)) {
		err = fmt.Errorf("%s: %d of %d used, after %d, which is granted: %t", subject, used, limit, quantity, allowed)
	}
	if allowed {
		granted = quantity
	}
	return granted, resets, err
}

// end commits, or now and then rolls back.
func end(ctx context.Context, tx pgx.Tx, r *rand.Rand) (committed bool, err error) {
	if r.IntN(5) == 0 {
		return false, tx.Rollback(ctx)
	}
	return true, tx.Commit(ctx)
}

// TestConsumeOneSubjectTogether: two hundred sessions want more of one subject's thousand units than there are, roll back
// and give back as they like: a thousand are granted in the end, and not one more at any time.
func TestConsumeOneSubjectTogether(t *testing.T) {
	const limit = 1000
	a := newStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = limit })
	var all tally[string]
	consume := func(turns int, quantity func(mine int64, r *rand.Rand) int64) func(context.Context, *pgx.Conn, *rand.Rand) error {
		return func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
			mine := int64(0)
			for turn := 0; turns == 0 || turn < turns; turn++ {
				tx, err := conn.Begin(ctx)
				if err != nil {
					return err
				}
				granted, _, err := take(ctx, tx, "ann", quantity(mine, r), limit)
				if err != nil {
					return err
				}
				committed, err := end(ctx, tx, r)
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
	a.together(200, consume(long(6), func(mine int64, r *rand.Rand) int64 {
		if mine > 0 && r.IntN(4) == 0 {
			return -1 - r.Int64N(mine)
		}
		return 1 + r.Int64N(5)
	}))
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(all.units["ann"]))
	a.together(16, consume(0, func(int64, *rand.Rand) int64 { return 1 }))
	a.consistent()
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, fmt.Sprint(limit))
	if all.units["ann"] != limit {
		t.Errorf("%d units were granted of %d", all.units["ann"], limit)
	}
	a.expect(`SELECT count(*) FILTER (WHERE kind = 'blocked') - count(*) FILTER (WHERE kind = 'unblocked') || ' ' || count(*) FILTER (WHERE kind = 'refused')
		FROM tiergate.access_event`, "1 1")
}

// TestConsumeManySubjectsTogether: sessions use and give back the units of ten thousand subjects at random, several in one
// transaction: every count is exact.
func TestConsumeManySubjectsTogether(t *testing.T) {
	const limit, subjects = 4, 10_000
	a := newStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = limit })
	var all tally[string]
	a.together(16, func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
		mine := map[string]int64{}
		for range long(200) {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			changed := map[string]int64{}
			for range 1 + r.IntN(4) {
				changed[fmt.Sprintf("s%04d", r.IntN(subjects))] = 0
			}
			for _, subject := range slices.Sorted(maps.Keys(changed)) { // in one order: no deadlock
				quantity := 1 + r.Int64N(3)
				if mine[subject] > 0 && r.IntN(2) == 0 {
					quantity = -1
				}
				if changed[subject], _, err = take(ctx, tx, subject, quantity, limit); err != nil {
					return err
				}
			}
			committed, err := end(ctx, tx, r)
			if err != nil {
				return err
			}
			for subject, n := range changed {
				if committed {
					mine[subject] += n
				}
			}
		}
		all.add(mine)
		return nil
	})
	a.consistent()
	for _, line := range a.lines(`SELECT subject_id || ' ' || used FROM feature_access WHERE subject_id <> '*'`) {
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
}

// TestConsumeWhileWindowsTurn: the clock jumps from window to window while sessions consume. Every unit is in one window,
// and no window has more than fit.
func TestConsumeWhileWindowsTurn(t *testing.T) {
	const limit = 50
	a := newStrict(t, func(l *loops.Loop) {
		l.Limits[loops.DefaultTier] = limit
		l.Window.Period = loops.Period{Text: "1h", Length: time.Hour}
	})
	var all tally[time.Time]
	var done sync.WaitGroup
	stop := make(chan struct{})
	clock := a.connect()
	done.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := clock.Exec(t.Context(), `UPDATE tiergate.clock SET shift = shift + interval '90 seconds'`); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	a.together(16, func(ctx context.Context, conn *pgx.Conn, r *rand.Rand) error {
		mine := map[time.Time]int64{}
		for range long(200) {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			granted, window, err := take(ctx, tx, "ann", 1+r.Int64N(9), limit)
			if err != nil {
				return err
			}
			committed, err := end(ctx, tx, r)
			if err != nil {
				return err
			}
			if committed && granted > 0 {
				mine[window.UTC()] += granted
			}
		}
		all.add(mine)
		return nil
	})
	close(stop)
	done.Wait()
	a.consistent()
	var used, episode int64
	var last time.Time
	a.scan(`SELECT used, episode, coalesce(resets_at, 'epoch') FROM feature_access WHERE subject_id = 'ann'`, &used, &episode, &last)
	if n := all.units[last.UTC()]; n != used {
		t.Errorf("the open window has %d units, and %d were granted", used, n)
	}
	for window, n := range all.units {
		if n > limit {
			t.Errorf("%d units were granted in the window that ends at %s", n, window)
		}
	}
	full := 0
	for _, line := range a.lines(`SELECT extract(epoch FROM at)::bigint || ' ' || used FROM tiergate.access_event WHERE kind = 'reset'`) {
		var at, held int64
		fmt.Sscan(line, &at, &held)
		full++
		for window, n := range all.units {
			if window.Unix() == at && n != held {
				t.Errorf("the window that ends at %s held %d, and %d were granted", window, held, n)
			}
		}
	}
	t.Logf("%d windows, %d of them with units, %d full", episode+1, len(all.units), full)
	if full == 0 || len(all.units) < 5 {
		t.Error("too few windows for a test: is the clock moving?")
	}
}
