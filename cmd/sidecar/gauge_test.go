package main

import (
	"strings"
	"testing"
)

// TestGauge takes an application that keeps its users' counts itself from the first check to a repair.
func TestGauge(t *testing.T) {
	a := newApp(t)
	a.set("TIERGATE_EMAIL_MODE", "off")
	a.exec(`ALTER TABLE users ADD api_calls int; INSERT INTO users (id, email, api_calls) VALUES ('00000000-0000-0000-0000-000000000001', 'ann@shop.test', 1)`)
	const ann = "00000000-0000-0000-0000-000000000001"
	a.write("sidecar.yaml", "tables: {usage: {table: users, subject: id, count: api_calls}}\n")
	o := a.sidecar("run", "--once")
	for _, want := range []string{"a gauge has no window", "features (skene.config.ts:5:", "leave period and window out of these loops"} {
		if o.code != 1 || !strings.Contains(o.err, want) {
			t.Fatalf("no %q in %s", want, o)
		}
	}
	a.change(", period: '30d'", "")
	out := a.must("check")
	for _, want := range []string{"✓ usage — public.users: subject = id, count = api_calls; a gauge", "✓ users — public.users: subject = id, email = email"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	a.must("run", "--once")
	for name, want := range map[string]string{"tiergate_usage": "access_event", "tiergate_state": "access_grant,subscriptions,users"} {
		if got := a.text(`SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = $1`, name); got != want {
			t.Errorf("%s has %s", name, got)
		}
	}
	if out := a.must("explain", ann, "features"); !strings.Contains(out, "gauge         1\n") || !strings.Contains(out, "1 of 2") {
		t.Error(out)
	}
	a.must("verify")

	for damage, said := range map[string]string{
		`UPDATE feature_access SET used = 0 WHERE subject_id = '` + ann + `'`: "used is 0, its rows add up to 1",
		`UPDATE tiergate.gauge SET value = 9`:                                 "table users says otherwise",
	} {
		a.exec(damage)
		if o := a.sidecar("verify"); o.code != 1 || !strings.Contains(o.out, said) {
			t.Errorf("after %s: %s", damage, o)
		}
		a.must("run", "--once")
		a.must("verify")
	}
	a.must("uninstall", "--yes")
}
