package main

import (
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
