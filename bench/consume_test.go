package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/sql"
)

// rivals are the tables of what an application would write itself.
const rivals = `CREATE TABLE log (id bigserial PRIMARY KEY, user_id text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
	CREATE INDEX ON log (user_id, created_at);
	CREATE TABLE counter (user_id text PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 80);
	CREATE TABLE watched (id bigserial PRIMARY KEY, user_id text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
	CREATE TABLE watched_counter (user_id text PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 80);
	CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO watched_counter VALUES (NEW.user_id, 1) ON CONFLICT (user_id) DO UPDATE SET used = watched_counter.used + 1;
		RETURN NULL; END $$;
	CREATE TRIGGER watch AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch();`

// contender lets a user consume one unit, in a transaction of its own, if the limit leaves room.
type contender struct {
	name    string
	consume func(ctx context.Context, conn *pgx.Conn, user string, limit int64) (granted bool, err error)
}

func contenders() []contender {
	const countUses = `SELECT count(*) FROM log WHERE user_id = $1 AND created_at >= now() - interval '30 days'`
	const insertUse = `INSERT INTO log (user_id) VALUES ($1)`
	return []contender{
		{"consume_feature", func(ctx context.Context, conn *pgx.Conn, user string, _ int64) (granted bool, err error) {
			err = conn.QueryRow(ctx, `SELECT allowed FROM tiergate.consume_feature($1::text, 'exports')`, user).Scan(&granted)
			return granted, err
		}},
		{"counter", func(ctx context.Context, conn *pgx.Conn, user string, limit int64) (bool, error) {
			tag, err := conn.Exec(ctx, `UPDATE counter SET used = used + 1 WHERE user_id = $1 AND used < $2`, user, limit)
			return tag.RowsAffected() == 1, err
		}},
		{"trigger", func(ctx context.Context, conn *pgx.Conn, user string, limit int64) (bool, error) {
			var used int64
			err := conn.QueryRow(ctx, `SELECT used FROM watched_counter WHERE user_id = $1`, user).Scan(&used)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) || used >= limit {
				return false, err
			}
			_, err = conn.Exec(ctx, `INSERT INTO watched (user_id) VALUES ($1)`, user)
			return true, err
		}},
		{"count_insert", func(ctx context.Context, conn *pgx.Conn, user string, limit int64) (bool, error) {
			var used int64
			if err := conn.QueryRow(ctx, countUses, user).Scan(&used); err != nil || used >= limit {
				return false, err
			}
			_, err := conn.Exec(ctx, insertUse, user)
			return true, err
		}},
		{"lock_count_insert", func(ctx context.Context, conn *pgx.Conn, user string, limit int64) (granted bool, err error) {
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext($1))`, user); err != nil {
					return err
				}
				var used int64
				if err := tx.QueryRow(ctx, countUses, user).Scan(&used); err != nil || used >= limit {
					return err
				}
				granted = true
				_, err := tx.Exec(ctx, insertUse, user)
				return err
			})
			return granted, err
		}},
	}
}

// BenchmarkConsume prints what exact enforcement costs beside what an application would write itself: rounds of all of
// them take turns on one server. Afterwards it lets eight sessions at one user's last hundred units.
func BenchmarkConsume(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	x.exec(conn, rivals)
	if _, err := sql.Install(context.Background(), sql.Postgres(conn), sql.InstallOptions{Schema: "public",
		Watches: []loops.Watch{{Role: loops.Usage, Schema: "public", Table: "usage"}}}); err != nil {
		b.Fatal(err)
	}
	for _, s := range []struct{ sessions, users int }{{1, 1}, {8, 1}, {1, 10_000}, {8, 10_000}} {
		b.Run(fmt.Sprintf("%d_sessions_%d_users", s.sessions, s.users), func(b *testing.B) {
			x := &bench{b, x.server, x.url, x.dir, x.binary}
			x.begin(conn, 1_000_000_000)
			x.race(s.sessions, s.users)
		})
	}
	b.Run("over_run", func(b *testing.B) {
		x := &bench{b, x.server, x.url, x.dir, x.binary}
		x.overRun(conn)
	})
	b.Log(machine(x, conn))
}

// begin empties the tables, and sets the limit.
func (x *bench) begin(conn *pgx.Conn, limit int64) {
	x.Helper()
	x.exec(conn, `TRUNCATE log, counter, watched, watched_counter, feature_access, tiergate.plan, tiergate.access_event`)
	x.exec(conn, `INSERT INTO counter SELECT 'user-' || i, 0 FROM generate_series(0, 9999) i`)
	x.exec(conn, `INSERT INTO tiergate.plan (feature, tier, loop, usage_limit, window_kind, period, length, enforcement, message, warn_at)
		VALUES ('exports', 'free', 'bench.exports', $1, 'anchored', '30d', '720 hours', 'strict', 'Limit reached.', '{0.8}')`, limit)
	x.exec(conn, `VACUUM ANALYZE`)
}

// race lets the contenders consume in turns, and reports each one's pace.
func (x *bench) race(sessions, users int) {
	x.Helper()
	const rounds, length = 3, 2 * time.Second
	all := contenders()
	took := make([][]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			took[i] = append(took[i], x.consume(c, sessions, users, length)...)
		}
	}
	pace := func(i int) float64 { return float64(len(took[i])) / (rounds * length).Seconds() }
	for i, c := range all {
		slices.Sort(took[i])
		at := func(p float64) time.Duration { return took[i][int(p*float64(len(took[i])-1))].Round(time.Microsecond) }
		x.Logf("%-18s %6.0f/s, %.2f × consume_feature, p50 %s, p99 %s", c.name, pace(i), pace(i)/pace(0), at(.50), at(.99))
		x.ReportMetric(pace(i), strings.ReplaceAll(c.name, "_", "-")+"/s")
	}
	x.ReportMetric(0, "ns/op")
}

// consume lets sessions consume for a while, and returns how long every call took.
func (x *bench) consume(c contender, sessions, users int, lasting time.Duration) (took []time.Duration) {
	var all sync.WaitGroup
	var mu sync.Mutex
	ctx := context.Background()
	for range sessions {
		conn := x.connect()
		all.Go(func() {
			defer conn.Close(ctx)
			var mine []time.Duration
			for end := time.Now().Add(lasting); time.Now().Before(end); {
				begun := time.Now()
				if _, err := c.consume(ctx, conn, fmt.Sprint("user-", rand.IntN(users)), 1_000_000_000); err != nil {
					x.Error(c.name, err)
					return
				}
				mine = append(mine, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	return took
}

// overRun lets eight sessions consume one user's units until none is left, and reports how many more were granted.
func (x *bench) overRun(conn *pgx.Conn) {
	x.Helper()
	const limit, sessions, runs = 100, 8, 10
	ctx := context.Background()
	for _, c := range contenders() {
		granted := make(chan int, sessions)
		total := 0
		for range runs {
			x.begin(conn, limit)
			for range sessions {
				session := x.connect()
				go func() {
					defer session.Close(ctx)
					n := 0
					for {
						ok, err := c.consume(ctx, session, "user-1", limit)
						if err != nil {
							x.Error(c.name, err)
						}
						if !ok {
							granted <- n
							return
						}
						n++
					}
				}()
			}
			for range sessions {
				total += <-granted
			}
		}
		x.Logf("%-18s %.1f units too many, of %d", c.name, float64(total)/runs-limit, limit)
		x.ReportMetric(float64(total)/runs-limit, strings.ReplaceAll(c.name, "_", "-")+"-over-run")
	}
	x.ReportMetric(0, "ns/op")
}
