package main

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

// strictApp is an application whose one feature is consumed, by a role of its own, beside a sidecar that runs.
func strictApp(t *testing.T) (*app, *pgx.Conn) {
	a := newApp(t)
	a.change("action:", "enforcement: 'strict', action:")
	name, url := a.role("")
	a.exec("GRANT INSERT ON usage TO " + pgx.Identifier{name}.Sanitize())
	a.exec("INSERT INTO users (id, email) VALUES ('" + ann + "', 'ann@shop.test')")
	a.start("run")
	a.want(fine, "consume_feature", "may be called by postgres, "+name, "")
	return a, a.connect(url)
}

// TestSlowWork is the pattern of docs/strict.md: consume, commit, call, give back on failure. While the slow call lasts nobody
// is held up, and a call that failed has cost nothing.
func TestSlowWork(t *testing.T) {
	a, conn := strictApp(t)
	ctx := t.Context()
	consume := func(ctx context.Context, quantity int) (allowed bool) {
		t.Helper()
		if err := conn.QueryRow(ctx, `SELECT allowed FROM tiergate.consume_feature($1::uuid, 'features', $2)`, ann, quantity).Scan(&allowed); err != nil {
			t.Fatal(err)
		}
		return allowed
	}
	work := func(call func() error) (served bool) {
		if !consume(ctx, 1) {
			return false
		}
		if call() != nil {
			consume(context.WithoutCancel(ctx), -1)
			return false
		}
		return true
	}
	slow := func() error {
		// The sidecar and everybody else see the unit, and change the row, in the middle of the call.
		a.awaitUsed("1")
		a.exec("INSERT INTO subscriptions (user_id, status, plan) VALUES ('" + ann + "', 'active', 'paid')")
		await(t, "the paying tier", func() bool { return a.text("SELECT tier FROM feature_access WHERE subject_id = $1", ann) == "paid" })
		a.exec("DELETE FROM subscriptions")
		await(t, "the free tier", func() bool { return a.text("SELECT tier FROM feature_access WHERE subject_id = $1", ann) == "free" })
		return nil
	}
	if !work(slow) {
		t.Error("the first call of two is refused")
	}
	for range 3 {
		if work(func() error { return errors.New("the model is down") }) {
			t.Error("a call that failed is served")
		}
	}
	a.awaitUsed("1")
	if !work(func() error { return nil }) || work(func() error { t.Error("called beyond the limit"); return nil }) {
		t.Error("two calls of two are not exactly two")
	}
	await(t, "the prompt", func() bool {
		return a.text("SELECT count(*)::text FROM tiergate.email WHERE kind = 'blocked' AND subject_id = $1", ann) != "0"
	})
	a.must("verify")
}
