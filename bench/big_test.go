package bench

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// watcher samples what the sidecar holds on the server.
type watcher struct {
	stop    chan struct{}
	done    sync.WaitGroup
	longest map[string]time.Duration // transactions, by the session's name
}

// watch begins to sample the transactions of the sidecar's sessions.
func (x *bench) watch() *watcher {
	w := &watcher{stop: make(chan struct{}), longest: map[string]time.Duration{}}
	conn := x.connect()
	w.done.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			rows, err := conn.Query(context.Background(), `SELECT application_name, clock_timestamp() - xact_start FROM pg_stat_activity
				WHERE application_name LIKE 'tiergate %' AND xact_start IS NOT NULL AND datname = current_database()`)
			if err != nil {
				x.Error(err)
				return
			}
			var name string
			var age time.Duration
			if _, err := pgx.ForEachRow(rows, []any{&name, &age}, func() error { w.longest[name] = max(w.longest[name], age); return nil }); err != nil {
				x.Error(err)
				return
			}
		}
	})
	return w
}

// report ends the sampling and tells what was longest.
func (w *watcher) report(b *testing.B) {
	close(w.stop)
	w.done.Wait()
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range w.longest {
			if !yield(name) {
				return
			}
		}
	}) {
		b.Logf("longest transaction of %q: %s", name, w.longest[name].Round(time.Millisecond))
	}
}

// until waits for a query to say true.
func (x *bench) until(conn *pgx.Conn, what, query string) time.Duration {
	x.Helper()
	begun := time.Now()
	for x.text(conn, `SELECT (`+query+`)::text`) != "true" {
		if time.Since(begun) > 20*time.Minute {
			x.Fatalf("waited 20 minutes for %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(begun)
}

// BenchmarkBigTransaction takes ten million rows of one transaction into the flags. In the middle of it the
// sidecar is killed and started again.
func BenchmarkBigTransaction(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	const rows, users = 10_000_000, 10_000
	p := x.start(conn)
	begun := time.Now()
	x.exec(conn, `INSERT INTO usage (user_id, endpoint, method) SELECT 'user-' || i % $2, '/api/bulk', 'POST' FROM generate_series(1, $1) i`, rows, users)
	b.Logf("the application's own transaction took %s", time.Since(begun).Round(time.Millisecond))
	w := x.watch()
	begun = time.Now()
	x.until(conn, "a third of the rows", `(SELECT coalesce((position::jsonb ->> 'rows')::bigint, 0) > 3000000 FROM tiergate.checkpoint)`)
	b.Logf("SIGKILL after %s rows", x.text(conn, `SELECT position::jsonb ->> 'rows' FROM tiergate.checkpoint`))
	first := p.stop(syscall.SIGKILL)
	p = x.run()
	x.until(conn, "all rows", fmt.Sprintf(`(SELECT coalesce(sum(used), 0) >= %d FROM feature_access WHERE feature = 'bulk')`, rows))
	took := time.Since(begun)
	if sum := x.text(conn, `SELECT sum(used)::text FROM feature_access WHERE feature = 'bulk'`); sum != fmt.Sprint(rows) {
		b.Errorf("%s of %d uses are counted", sum, rows)
	}
	w.report(b)
	b.ReportMetric(max(first, p.stop(os.Interrupt)), "peak-MB")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rows/took.Seconds(), "rows/s")
	b.Log(machine(x, conn))
}

// BenchmarkFirstCount counts twenty million rows of a million users, while the application goes on inserting.
func BenchmarkFirstCount(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	const rows, users = 20_000_000, 1_000_000
	x.exec(conn, `CREATE TABLE users (id text PRIMARY KEY, email text, name text)`)
	x.exec(conn, `INSERT INTO users SELECT 'user-' || i, 'user-' || i || '@example.com', 'User' FROM generate_series(0, $1) i`, users-1)
	x.exec(conn, `INSERT INTO usage (user_id, endpoint, method, created_at) SELECT 'user-' || (i::bigint * 7919) % $2, '/api/bulk', 'POST', now() - interval '20 days' * random()
		FROM generate_series(1, $1) i`, rows, users)
	x.exec(conn, `CREATE INDEX ON usage (created_at)`)
	x.exec(conn, `ANALYZE`)
	quiet := x.inserts(10 * time.Second)

	w := x.watch()
	stop := make(chan time.Duration)
	counting := make(chan time.Duration)
	go func() { counting <- x.insertsUntil(stop) }()
	begun := time.Now()
	p := x.start(conn)
	took := time.Since(begun)
	close(stop)
	b.Logf("p99 of an insert: %s before, %s while it counted", quiet.Round(time.Microsecond), (<-counting).Round(time.Microsecond))
	b.Logf("rows of feature_access: %s", x.text(conn, `SELECT count(*)::text FROM feature_access`))
	w.report(b)
	b.ReportMetric(p.stop(os.Interrupt), "peak-MB")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took.Seconds(), "s")
	b.Log(machine(x, conn))
}

// inserts uses the application for a while, and returns the 99th percentile of an insert.
func (x *bench) inserts(lasting time.Duration) time.Duration {
	stop := make(chan time.Duration)
	time.AfterFunc(lasting, func() { close(stop) })
	return x.insertsUntil(stop)
}

func (x *bench) insertsUntil(stop <-chan time.Duration) time.Duration {
	conn := x.connect()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	took := []time.Duration{}
	for {
		select {
		case <-stop:
			slices.Sort(took)
			return took[len(took)*99/100]
		case <-tick.C:
			begun := time.Now()
			if _, err := conn.Exec(context.Background(), `INSERT INTO usage (user_id, endpoint, method) VALUES ('user-1', '/api/probe', 'GET')`); err != nil {
				x.Error(err)
				return 0
			}
			took = append(took, time.Since(begun))
		}
	}
}
