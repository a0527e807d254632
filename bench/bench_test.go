// Package bench measures the built sidecar against a private server: how long a flag takes to follow
// a commit, and how fast a backlog drains beside the server's own client. `make bench` runs it.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/dbserver"
)

const loop = `import { defineLoop } from '@skene/sdk';
const step = (endpoint: string, free: number) => ({
  trigger: { type: 'api', endpoint, method: 'POST' },
  condition: { type: 'usage', limit: { free, paid: Infinity }, period: '30d' },
  action: { type: 'block', message: "Limit reached." },
});
export default defineLoop({ type: 'bench', steps: [step('/api/probe', 1), step('/api/bulk', 1000000000)] });
`

const schema = `CREATE TABLE usage (id bigserial PRIMARY KEY, user_id text NOT NULL, endpoint text NOT NULL,
	method text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`

// bench is one server with the sidecar's binary and folder.
type bench struct {
	*testing.B
	server *dbserver.Postgres
	url    string
	dir    string
	binary string
}

func newBench(b *testing.B) *bench {
	b.Helper()
	ctx := context.Background()
	server, err := dbserver.StartPostgres(ctx, dbserver.Options{Settings: map[string]string{
		"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min",
	}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	if err := server.CreateDatabase(ctx, "app"); err != nil {
		b.Fatal(err)
	}
	x := &bench{B: b, server: server, url: server.URL("app"), dir: b.TempDir()}
	x.binary = filepath.Join(x.dir, "sidecar")
	if out, err := exec.Command("go", "build", "-o", x.binary, "../cmd/sidecar").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(x.dir, "skene.config.ts"), []byte(loop), 0o600); err != nil {
		b.Fatal(err)
	}
	x.exec(x.connect(), schema)
	return x
}

func (x *bench) connect() *pgx.Conn {
	x.Helper()
	conn, err := pgx.Connect(context.Background(), x.url)
	if err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func (x *bench) exec(conn *pgx.Conn, query string, args ...any) {
	x.Helper()
	if _, err := conn.Exec(context.Background(), query, args...); err != nil {
		x.Fatalf("%s: %v", query, err)
	}
}

func (x *bench) text(conn *pgx.Conn, query string) (s string) {
	x.Helper()
	if err := conn.QueryRow(context.Background(), query).Scan(&s); err != nil {
		x.Fatalf("%s: %v", query, err)
	}
	return s
}

// process is a sidecar that runs as a child.
type process struct {
	cmd *exec.Cmd
	log *bytes.Buffer
}

// run starts the sidecar.
func (x *bench) run() *process {
	x.Helper()
	p := &process{cmd: exec.Command(x.binary, "run", "-C", x.dir), log: &bytes.Buffer{}}
	p.cmd.Env = append(os.Environ(), "DATABASE_URL="+x.url, "TIERGATE_ADMIN_LISTEN=127.0.0.1:0")
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// stop ends the sidecar with a signal, and returns the most memory that it held.
func (p *process) stop(with os.Signal) float64 {
	p.cmd.Process.Signal(with)
	p.cmd.Wait()
	return peakMB(p.cmd.ProcessState)
}

// start runs the sidecar until it follows the stream.
func (x *bench) start(conn *pgx.Conn) *process {
	x.Helper()
	p := x.run()
	deadline := time.Now().Add(20 * time.Minute)
	for x.text(conn, `SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = 'tiergate_app' AND active
		AND EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' OR state = 'catchup')`) == "0" {
		if time.Now().After(deadline) {
			x.Fatalf("the sidecar does not follow:\n%s", p.log.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return p
}

// BenchmarkLatency prints the time from a commit's return to the flag it shuts, under steady traffic.
func BenchmarkLatency(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	defer x.start(conn).stop(os.Interrupt)
	for _, rate := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%d_rows_per_second", rate), func(b *testing.B) {
			took := x.probe(conn, rate, 500)
			b.ReportMetric(0, "ns/op")
			for name, p := range map[string]float64{"p50-ms": .50, "p95-ms": .95, "p99-ms": .99} {
				b.ReportMetric(float64(took[int(p*float64(len(took)-1))].Microseconds())/1000, name)
			}
		})
	}
	b.Log(machine(x, conn))
}

// probe lets n subjects reach their limit while others insert at a rate, and returns how long each
// flag took, sorted.
func (x *bench) probe(conn *pgx.Conn, rate, n int) []time.Duration {
	stop, stopped := make(chan struct{}), make(chan int)
	go func() { stopped <- x.traffic(rate, stop) }()
	took := make([]time.Duration, 0, n)
	ctx := context.Background()
	begun := time.Now()
	for i := range n {
		user := fmt.Sprintf("probe-%d-%d", rate, i)
		x.exec(conn, `INSERT INTO usage (user_id, endpoint, method) VALUES ($1, '/api/probe', 'POST')`, user)
		committed := time.Now()
		for allowed := true; allowed; {
			err := conn.QueryRow(ctx, `SELECT coalesce((SELECT allowed FROM feature_access WHERE subject_id = $1 AND feature = 'probe'), true)`, user).Scan(&allowed)
			if err != nil {
				x.Fatal(err)
			}
			if time.Since(committed) > 10*time.Second {
				x.Fatalf("%s is still allowed after 10 s", user)
			}
		}
		took = append(took, time.Since(committed))
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	rows := <-stopped
	x.Logf("%d rows/s asked for, %.0f reached", rate, float64(rows)/time.Since(begun).Seconds())
	slices.Sort(took)
	return took
}

// traffic inserts single rows at a rate until stop, and returns how many.
func (x *bench) traffic(rate int, stop <-chan struct{}) (rows int) {
	conn, err := pgx.Connect(context.Background(), x.url)
	if err != nil {
		x.Error(err)
		return 0
	}
	defer conn.Close(context.Background())
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return rows
		case <-tick.C:
			_, err := conn.Exec(context.Background(), `INSERT INTO usage (user_id, endpoint, method) VALUES ($1, '/api/bulk', 'POST')`, fmt.Sprint("user-", rows%1000))
			if err != nil {
				x.Error(err)
				return rows
			}
			rows++
		}
	}
}

// BenchmarkDrain prints how fast a backlog drains: through the sidecar into flags, and through
// pg_recvlogical, from a copy of the same slot, into nothing.
func BenchmarkDrain(b *testing.B) {
	x := newBench(b)
	conn := x.connect()
	x.start(conn).stop(os.Interrupt) // installs, counts, and leaves a slot behind
	x.exec(conn, `SET synchronous_commit = off`)
	used := 0
	for _, c := range []struct{ rows, perCommit int }{{200_000, 1}, {2_000_000, 1000}} {
		used += c.rows
		b.Run(fmt.Sprintf("%d_rows_by_%d", c.rows, c.perCommit), func(b *testing.B) {
			x := &bench{b, x.server, x.url, x.dir, x.binary}
			x.exec(conn, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
				INSERT INTO usage (user_id, endpoint, method) SELECT 'user-' || (random() * 10000)::int, '/api/bulk', 'POST' FROM generate_series(1, %d);
				COMMIT; END LOOP; END $$`, c.rows/c.perCommit, c.perCommit))
			x.drain(conn, c.rows, used)
		})
	}
	b.Log(machine(x, conn))
}

// drain measures rows, which are the last of used ones, on their way into flags.
func (x *bench) drain(conn *pgx.Conn, rows, used int) {
	x.Helper()
	end := x.text(conn, `SELECT pg_current_wal_insert_lsn()::text`)
	x.text(conn, `SELECT slot_name::text FROM pg_copy_logical_replication_slot('tiergate_app', 'peer')`)
	peer := x.drainPeer(end)
	x.exec(conn, `SELECT pg_drop_replication_slot('peer')`)

	begun := time.Now()
	p := x.run()
	for x.text(conn, `SELECT coalesce(sum(used), 0)::text FROM feature_access WHERE feature = 'bulk'`) != fmt.Sprint(used) {
		time.Sleep(100 * time.Millisecond)
	}
	ours := time.Since(begun)
	x.ReportMetric(p.stop(os.Interrupt), "peak-MB")
	x.ReportMetric(0, "ns/op")
	x.ReportMetric(float64(rows)/ours.Seconds(), "rows/s")
	x.ReportMetric(float64(rows)/peer.Seconds(), "pg_recvlogical-rows/s")
	x.ReportMetric(peer.Seconds()/ours.Seconds(), "ratio")
}

func (x *bench) drainPeer(end string) time.Duration {
	x.Helper()
	c, err := x.server.Command(context.Background(), "pg_recvlogical", "-d", x.url, "-S", "peer", "--start", "--no-loop", "--endpos", end,
		"-f", os.DevNull, "-o", "proto_version=1", "-o", "publication_names=tiergate_usage,tiergate_state")
	if err != nil {
		x.Fatal(err)
	}
	begun := time.Now()
	if out, err := c.CombinedOutput(); err != nil {
		x.Fatalf("pg_recvlogical: %v\n%s", err, out)
	}
	return time.Since(begun)
}

// peakMB is the most memory that a process held, where the system counts it in kilobytes as Linux does.
func peakMB(p *os.ProcessState) float64 {
	if usage, ok := p.SysUsage().(*syscall.Rusage); ok {
		return float64(usage.Maxrss) / 1024
	}
	return 0
}

func machine(x *bench, conn *pgx.Conn) string {
	cpu := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			cpu, _, _ = strings.Cut(rest, "\n")
		}
	}
	return fmt.Sprintf("%d × %s, %s/%s, %s, fsync on, TCP on loopback, client and server on the same machine",
		runtime.NumCPU(), cpu, runtime.GOOS, runtime.GOARCH, strings.SplitN(x.text(conn, `SELECT version()`), ",", 2)[0])
}
