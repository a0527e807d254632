package bench

import (
	"os"
	"slices"
	"testing"
	"time"
)

// BenchmarkProtect prints what the policy of tiergate.protect adds to an insert: a row by itself, committed to
// disk and not, and a row of a statement with ten thousand. Both tables are alike and take turns.
func BenchmarkProtect(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	x.start(conn).stop(os.Interrupt) // installs, and brings the plan
	x.exec(conn, `CREATE TABLE plain (LIKE usage INCLUDING ALL); CREATE TABLE protected (LIKE usage INCLUDING ALL);
		CREATE ROLE app LOGIN; GRANT SELECT, INSERT ON plain, protected TO app; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app;
		INSERT INTO feature_access SELECT 'user-' || i, 'bulk', true, 'free', 1, 1000000000, 999999999, now(), now() + interval '1 day', NULL, NULL, now()
			FROM generate_series(1, 10000) i;
		ANALYZE feature_access; SELECT tiergate.protect('protected', 'bulk', 'user_id')`)
	for _, c := range []struct {
		name, sync, from string
		rows, times      int
	}{
		{"one_row_on_disk", "on", "generate_series(1, 1)", 1, 1000},
		{"one_row", "off", "generate_series(1, 1)", 1, 5000},
		{"row_of_10000", "off", "generate_series(1, 10000)", 10_000, 20},
	} {
		b.Run(c.name, func(b *testing.B) {
			x := &bench{b, x.server, x.url, x.dir, x.binary}
			app := x.connect()
			x.exec(app, "SET ROLE app; SET synchronous_commit = "+c.sync)
			took := map[string][]time.Duration{}
			for range c.times {
				for _, table := range []string{"plain", "protected"} {
					begun := time.Now()
					x.exec(app, `INSERT INTO `+table+` (user_id, endpoint, method) SELECT 'user-' || 1 + (random() * 9999)::int, '/api/bulk', 'POST' FROM `+c.from)
					took[table] = append(took[table], time.Since(begun)/time.Duration(c.rows))
				}
			}
			plain, protected := median(took["plain"]), median(took["protected"])
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(plain, "plain-µs")
			b.ReportMetric(protected, "protected-µs")
			b.ReportMetric(protected/plain, "ratio")
		})
	}
	b.Log(machine(x, conn))
}

// median is in microseconds.
func median(took []time.Duration) float64 {
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1000
}
