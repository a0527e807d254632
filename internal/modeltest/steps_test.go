package modeltest

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func seeds(t *testing.T, many uint64) (first, count uint64) {
	if text := os.Getenv("TIERGATE_TEST_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("TIERGATE_TEST_SEED: %v", err)
		}
		return n, 1
	}
	if os.Getenv("TIERGATE_TEST_LONG") != "" {
		return 1, 4 * many
	}
	return 1, many
}

// someSubject is mostly a user, sometimes somebody the users table does not know.
func (h *history) someSubject() string {
	if h.chance(8) {
		return pick(h, []string{"org-1", "key-2"})
	}
	return pick(h, h.users)
}

var paths = []string{"/api/features/1", "/api/features/2?full=1", "/api/features/3/", "/api/features/4", "/api/exports", "/api/exports/",
	"/api/reports/q1", "/api/reports/q2", "/api/beta/x", "/api/sso", "/api/features", "/api/exports/7", "/api/reports/a/b", "/health"}

// use inserts one to four usage rows in one statement. The rows become facts when their transaction
// commits: whoever calls says when that is.
func (h *history) use(conn *pgx.Conn, who string, later func(func())) {
	for range 1 + h.rng.IntN(4)/2 {
		u := usage{subject: who, path: pick(h, paths), method: "POST", quantity: 1}
		if h.chance(5) {
			u.method = "GET"
		}
		if h.chance(10) {
			u.quantity = int64(1 + h.rng.IntN(3))
		}
		status := 200
		if h.chance(6) {
			status, u.refused = 429, true
		}
		row := conn.QueryRow(h.t.Context(), `INSERT INTO usage (`+h.shape.columns()+`, quantity, status)
			VALUES ($1, $2, $3, `+h.shape.now()+`, $4, $5) RETURNING id, `+h.shape.at, u.subject, u.path, u.method, u.quantity, status)
		if err := row.Scan(&u.id, &u.at); err != nil {
			h.t.Fatal(err)
		}
		later(func() {
			h.say("usage of %s: %s %s ×%d status %d at %s", u.subject, u.method, u.path, u.quantity, status, u.at.Format(time.DateTime))
			h.m.used(u)
		})
	}
}

// useMany is one transaction of many rows, which the sidecar applies in pieces.
func (h *history) useMany() {
	who, n := h.someSubject(), 300+h.rng.IntN(1200)
	var id int64 // of the first one
	var at time.Time
	err := h.conn.QueryRow(h.t.Context(), `WITH rows AS (INSERT INTO usage (`+h.shape.columns()+`)
		SELECT $1, CASE WHEN i % 100 = 0 THEN '/api/features/9' ELSE '/api/bulk' END, 'POST', `+h.shape.now()+` FROM generate_series(1, $2) i RETURNING id, `+h.shape.at+` AS at)
		SELECT min(id), max(at) FROM rows`, who, n).Scan(&id, &at)
	if err != nil {
		h.t.Fatal(err)
	}
	h.fact(func() {
		h.say("%d usage rows of %s in one transaction", n, who)
		for i := range n {
			u := usage{id: id + int64(i), subject: who, path: "/api/bulk", method: "POST", quantity: 1, at: at}
			if (i+1)%100 == 0 {
				u.path = "/api/features/9"
			}
			h.m.used(u)
		}
	})
}

// stepTransaction begins a transaction, or goes on with one that is open.
func (h *history) stepTransaction() {
	ctx := h.t.Context()
	if len(h.open) < 3 && h.chance(40) {
		conn, err := pgx.Connect(ctx, h.url)
		if err != nil {
			h.t.Fatal(err)
		}
		h.open = append(h.open, &transaction{conn: conn})
		h.must(conn, "BEGIN")
		return
	}
	if len(h.open) == 0 {
		return
	}
	tx := pick(h, h.open)
	later := func(f func()) { tx.facts = append(tx.facts, f) }
	switch h.rng.IntN(6) {
	case 0, 1:
		h.use(tx.conn, h.someSubject(), later)
	case 2:
		kept := len(tx.facts)
		h.must(tx.conn, "SAVEPOINT s")
		h.use(tx.conn, h.someSubject(), later)
		if h.chance(60) {
			h.must(tx.conn, "ROLLBACK TO s")
			tx.facts = tx.facts[:kept]
		}
	case 3:
		h.subscribeIn(tx.conn, later)
	case 4:
		h.finish(tx, h.chance(80))
	case 5:
		h.addUserIn(tx.conn, later)
	}
}

func (h *history) must(conn *pgx.Conn, sql string) {
	h.t.Helper()
	if _, err := conn.Exec(h.t.Context(), sql); err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

func (h *history) finish(tx *transaction, commit bool) {
	h.open = slices.DeleteFunc(h.open, func(x *transaction) bool { return x == tx })
	switch {
	case h.m.events != nil:
		h.m.now = h.finishAt(tx, commit)
	case commit:
		h.must(tx.conn, "COMMIT")
	}
	if commit {
		h.say("transaction of %d rows committed:", len(tx.facts))
		for _, f := range tx.facts {
			h.fact(f)
		}
	} else {
		tx.rolledBack()
	}
	h.m.release(tx, commit)
	tx.conn.Close(h.t.Context())
}

func (h *history) finishAll() {
	for len(h.open) > 0 {
		h.finish(h.open[0], h.chance(70))
	}
}

func (h *history) addUser() { h.addUserIn(h.conn, func(f func()) { h.fact(f) }) }

func (h *history) addUserIn(conn *pgx.Conn, later func(func())) {
	h.nextUser++
	id := "u" + strconv.Itoa(h.nextUser)
	var email *string
	if !h.chance(10) {
		address := id + "@shop.test"
		email = &address
	}
	scan[string](h.t, conn, `INSERT INTO users (id, email, name) VALUES ($1, $2, 'Ann') RETURNING id`, id, email)
	later(func() {
		h.say("user %s joins", id)
		h.users, h.fresh[id] = append(h.users, id), true
		h.join(id, email)
	})
}

func (h *history) join(id string, email *string) {
	address := ""
	if email != nil {
		address = *email
	}
	if h.emails[id] == nil {
		h.emails[id] = map[string]bool{}
	}
	h.emails[id][address] = true
	h.m.joined(id, address)
}

// deleteUser spares those who came in a gap: nobody who counts again can know that they were there.
func (h *history) deleteUser() {
	id := pick(h, h.users)
	if !h.m.subject(id).user || (h.m.gap && h.fresh[id]) {
		return
	}
	h.exec(`DELETE FROM users WHERE id = $1`, id)
	h.fact(func() { h.say("user %s is deleted", id); h.m.left(id) })
}

func (h *history) returnUser() {
	id := pick(h, h.users)
	if h.m.gap || h.m.subject(id).user {
		return
	}
	address := id + "@new.test"
	h.exec(`INSERT INTO users (id, email, name) VALUES ($1, $2, 'Ann')`, id, address)
	h.m.now = h.clock()
	h.fact(func() { h.say("user %s is back", id); h.join(id, &address) })
	h.sync() // the moment of return is the sidecar's word: see revive
}

func (h *history) renameUser() {
	id := pick(h, h.users)
	if s := h.m.subject(id); !s.user || s.email == "" {
		return
	}
	address := id + "-" + strconv.Itoa(h.rng.IntN(100)) + "@shop.test"
	h.exec(`UPDATE users SET email = $2 WHERE id = $1`, id, address)
	h.fact(func() { h.say("user %s writes from %s", id, address); h.join(id, &address) })
}

// randomStatus is one that a gap leaves certain: past_due begins its grace when the sidecar sees it.
func (h *history) randomStatus() (status string, end time.Time) {
	statuses := []string{"active", "active", "active", "canceled", "unpaid", "trialing", "incomplete"}
	if !h.m.gap {
		statuses = append(statuses, "past_due", "past_due")
	}
	status = pick(h, statuses)
	if status == "trialing" {
		end = h.clock().Add(time.Duration(1+h.rng.IntN(20*24))*time.Hour + 30*time.Minute).UTC().Truncate(time.Second)
	}
	h.syncFirst = h.syncFirst || status == "past_due"
	return status, end
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (h *history) subscribe() { h.subscribeIn(h.conn, func(f func()) { h.fact(f) }) }

func (h *history) subscribeIn(conn *pgx.Conn, later func(func())) {
	status, end := h.randomStatus()
	sub := subscription{subject: h.someSubject(), status: status, plan: pick(h, []string{"pro", "pro", "paid", "gold"}), end: end}
	key := scan[int64](h.t, conn, `INSERT INTO subscriptions (user_id, status, plan, period_end) VALUES ($1, $2, $3, $4) RETURNING id`,
		sub.subject, sub.status, sub.plan, nullTime(sub.end))
	later(func() {
		h.say("subscription %d of %s: %s %s %s", key, sub.subject, sub.status, sub.plan, sub.end.Format(time.DateTime))
		h.subs = append(h.subs, key)
		h.m.subscribed(key, sub)
	})
}

func (h *history) changeSubscription() {
	if len(h.subs) == 0 {
		return
	}
	key := pick(h, h.subs)
	sub := *h.m.subs[key]
	if h.chance(75) {
		sub.status, sub.end = h.randomStatus()
	}
	if h.chance(25) {
		sub.plan = pick(h, []string{"pro", "paid", "gold"})
	}
	if h.chance(8) {
		sub.subject = h.someSubject()
	}
	h.exec(`UPDATE subscriptions SET user_id = $2, status = $3, plan = $4, period_end = $5 WHERE id = $1`,
		key, sub.subject, sub.status, sub.plan, nullTime(sub.end))
	h.fact(func() {
		h.say("subscription %d of %s is now: %s %s %s", key, sub.subject, sub.status, sub.plan, sub.end.Format(time.DateTime))
		h.m.subscribed(key, sub)
	})
}

func (h *history) deleteSubscription() {
	if len(h.subs) == 0 {
		return
	}
	key := pick(h, h.subs)
	h.exec(`DELETE FROM subscriptions WHERE id = $1`, key)
	h.subs = slices.DeleteFunc(h.subs, func(k int64) bool { return k == key })
	h.fact(func() { h.say("subscription %d is deleted", key); h.m.unsubscribed(key) })
}
