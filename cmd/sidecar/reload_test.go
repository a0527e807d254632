package main

import (
	"context"
	"strings"
	"syscall"
	"testing"
)

// TestReload changes the configuration under a running sidecar: a mistake is refused and changes nothing, what
// is right holds at once and for the window that is open.
func TestReload(t *testing.T) {
	a := newApp(t)
	a.exec("INSERT INTO users (id, email) VALUES ('" + ann + "', 'ann@example.com')")
	p := a.start("run")
	a.use(2)
	allowed := func() string {
		return a.text(`SELECT coalesce((SELECT concat_ws(' ', allowed, used, usage_limit) FROM feature_access WHERE subject_id = $1 AND feature = 'features'), '')`, ann)
	}
	await(t, "the flag to close", func() bool { return allowed() == "f 2 2" })
	hangup := func(config string) {
		t.Helper()
		a.write("skene.config.ts", config)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	said := func(text string) func() bool { return func() bool { return strings.Contains(p.log.String(), text) } }

	hangup(strings.ReplaceAll(appConfig, "free: 2", "free: '3'"))
	await(t, "the sidecar to refuse what it was told", said("the changed configuration is refused, the old one holds"))
	if !said("skene.config.ts:7:")() {
		t.Errorf("it does not say where:\n%s", p.log)
	}
	a.use(1)
	await(t, "the old configuration to go on", func() bool { return allowed() == "f 3 2" })

	a.write(".env", "TIERGATE_ADMIN_TOKEN=another\n")
	hangup(appConfig)
	await(t, "the sidecar to refuse another admin token", said("cannot change while the sidecar runs"))
	a.write(".env", "")

	hangup(strings.ReplaceAll(appConfig, "free: 2", "free: 5"))
	await(t, "a raised limit to open the flag", func() bool { return allowed() == "t 3 5" })
	hangup(strings.ReplaceAll(appConfig, "free: 2", "free: 3"))
	await(t, "a lowered limit to close it", func() bool { return allowed() == "f 3 3" })
	a.use(1)
	await(t, "the stream to go on", func() bool { return allowed() == "f 4 3" })
	p.stop()
}

// TestWaitsForTheTable takes the usage table away from a running sidecar, which begins again and finds none: it
// waits, says why, and goes on when there is one.
func TestWaitsForTheTable(t *testing.T) {
	a := newApp(t)
	p := a.start("run")
	a.exec(`ALTER TABLE usage RENAME TO elsewhere`)
	await(t, "the sidecar to say what is missing", func() bool { return strings.Contains(p.log.String(), "there is no table called usage") })
	a.exec(`ALTER TABLE elsewhere RENAME TO usage`)
	a.use(2)
	await(t, "the flag to close", func() bool {
		return a.text(`SELECT count(*)::text FROM feature_access WHERE subject_id = $1 AND NOT allowed`, ann) == "1"
	})
	p.stop()
}

// TestNewLoopUnderLoad adds a loop while the application goes on without a pause: not one use is lost or
// counted twice at the seam, in the new loop or in the old one.
func TestNewLoopUnderLoad(t *testing.T) {
	a := newApp(t)
	insert := `INSERT INTO usage (user_id, endpoint, method) SELECT ('00000000-0000-0000-0000-' || lpad((i % 50)::text, 12, '0'))::uuid,
		CASE WHEN i % 3 = 0 THEN '/api/exports' ELSE '/api/features/1' END, 'POST' FROM generate_series(1, $1::int) i`
	if _, err := a.db.Exec(t.Context(), insert, 20000); err != nil {
		t.Fatal(err)
	}
	p := a.start("run")
	stop, stopped := make(chan struct{}), make(chan error)
	conn := a.connect(a.url)
	go func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if _, err := conn.Exec(context.Background(), insert, 1+n%7); err != nil {
				stopped <- err
				return
			}
		}
	}()
	a.write("skene.config.ts", strings.ReplaceAll(appConfig, "  steps: [{", `  steps: [{
    trigger: { type: 'api', endpoint: '/api/exports', method: 'POST' },
    condition: { type: 'usage', limit: { free: 1000000, paid: Infinity } },
    action: { type: 'block', message: "That's it" },
  }, {`))
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, "the new loop to follow", func() bool { return strings.Contains(p.log.String(), "new loops are counted and follow the stream") })
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	const agree = `SELECT (count(*) = 0)::text FROM (SELECT user_id::text AS id, f, count(*) AS n FROM usage
			CROSS JOIN LATERAL (SELECT CASE WHEN endpoint = '/api/exports' THEN 'exports' ELSE 'features' END AS f) e GROUP BY 1, 2) u
		FULL JOIN (SELECT * FROM feature_access WHERE subject_id <> '*' AND used > 0) fa ON fa.subject_id = u.id AND fa.feature = u.f
		WHERE fa.used IS DISTINCT FROM u.n`
	await(t, "every flag to agree with the data", func() bool { return a.text(agree) == "true" })
	if out := a.must("verify"); !strings.Contains(out, "clean") || strings.Contains(out, "purged") {
		t.Errorf("verify says\n%s", out)
	}
	p.stop()
}
