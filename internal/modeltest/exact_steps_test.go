package modeltest

import (
	"fmt"
	"slices"
	"time"
)

// exactUse inserts a usage row. Those of strict features mean nothing.
func (h *history) exactUse() {
	who, r := h.someSubject(), pick(h, h.m.rules)
	if r.direct && r.strict && r.feature != "models" {
		return // a recount after a switch would find them
	}
	u := usage{subject: who, path: "/api/" + r.feature + "/x", method: "POST", quantity: int64(1 + h.rng.IntN(4)/2)}
	h.in(true, func(tx *transaction, later func(func())) {
		err := tx.conn.QueryRow(h.t.Context(), `INSERT INTO usage (user_id, endpoint, method, created_at, quantity)
			VALUES ($1, $2, $3, tiergate.now(), $4) RETURNING id, created_at`, u.subject, u.path, u.method, u.quantity).Scan(&u.id, &u.at)
		if err != nil {
			h.t.Fatal(err)
		}
		h.say("usage %d of %s: %s ×%d", u.id, who, u.path, u.quantity)
		later(func() {
			h.say("usage %d is committed", u.id)
			h.m.elapse(h.m.subject(who), h.m.now)
			h.m.used(u)
			h.m.elapse(h.m.subject(who), h.m.now) // it may be of a window that is over
		})
	})
}

// exactConsume calls consume_feature, where nobody else holds the row.
func (h *history) exactConsume() {
	rules := slices.DeleteFunc(slices.Clone(h.m.rules), func(r *rule) bool { return !r.strict })
	who, r := h.someSubject(), pick(h, rules)
	quantity := int64(1 + h.rng.IntN(3))
	if h.chance(15) {
		quantity = -quantity
	}
	h.in(true, func(tx *transaction, later func(func())) {
		s := h.m.subject(who)
		if held := s.held[r.feature]; held != nil && (held.by != tx || held.lost) {
			return
		}
		if s.unsynced && (r.window == "billing" || !s.since.IsZero()) {
			return // which period or which of its lives the subject is in is what the sidecar knows
		}
		var a answer
		err := tx.conn.QueryRow(h.t.Context(), `SELECT c.*, tiergate.now() FROM tiergate.consume_feature($1::text, $2, $3) c`, who, r.feature, quantity).
			Scan(&a.allowed, &a.used, &a.limit, &a.remaining, &a.resets, &a.message, &h.m.now)
		if err != nil {
			h.t.Fatalf("consume %s of %s: %v", r.feature, who, err)
		}
		h.say("%s consumes %d of %s: allowed=%t used=%d limit=%d", who, quantity, r.feature, a.allowed, a.used, orUnlimited(a.limit))
		if wrong := h.m.consume(s, r, tx, quantity, h.m.now, a, later); wrong != "" {
			h.t.Fatalf("consume %d of %s for %s: %s", quantity, r.feature, who, wrong)
		}
	})
}

// grant gives a subject more of a feature.
func (h *history) grant() {
	who, r := h.someSubject(), pick(h, h.m.rules)
	g := &grant{feature: r.feature, quantity: int64(1 + h.rng.IntN(4))}
	if h.chance(15) {
		g.quantity = unlimited
	}
	if h.chance(60) {
		g.expires = h.clock().UTC().Truncate(time.Second).Add(time.Duration(1+h.rng.IntN(25))*day + 7*time.Hour/2)
	}
	h.in(true, func(tx *transaction, later func(func())) {
		if h.m.subject(who).gone {
			return // the sidecar ends it or not: it reads grants as they are
		}
		var quantity *int64
		if g.quantity != unlimited {
			quantity = &g.quantity
		}
		g.id = scan[int64](h.t, tx.conn, `SELECT tiergate.grant_feature($1::text, $2, $3, $4)`, who, g.feature, quantity, nullTime(g.expires))
		h.say("grant %d to %s: %d of %s until %s", g.id, who, g.quantity, g.feature, g.expires.Format(time.DateTime))
		tx.grants = append(tx.grants, who)
		later(func() {
			s := h.m.subject(who)
			h.m.elapse(s, h.m.now)
			h.grants = append(h.grants, g)
			h.granted[g.id] = who
			h.m.granted(s, g)
			h.m.elapse(s, h.m.now)
		})
	})
}

func (h *history) revoke() {
	if len(h.grants) == 0 {
		return
	}
	g := pick(h, h.grants)
	who := h.granted[g.id]
	h.in(true, func(tx *transaction, later func(func())) {
		if s := h.m.subject(who); g.locked || s.gone || g.ended && s.unsynced {
			return // who is deleted loses it when the sidecar knows
		}
		now := h.clock()
		ended := scan[bool](h.t, tx.conn, `SELECT tiergate.revoke_grant($1)`, g.id)
		h.say("revoke grant %d of %s: %t", g.id, who, ended)
		if open := !g.ended && (g.expires.IsZero() || g.expires.After(now)); ended != open {
			h.t.Fatalf("revoke_grant says %t, and the grant is open: %t", ended, open)
		}
		if !ended {
			return
		}
		g.locked = true
		tx.undo = append(tx.undo, func() { g.locked = false })
		tx.grants = append(tx.grants, who)
		later(func() {
			g.locked = false
			h.m.elapseBut(h.m.subject(who), g)
			h.m.revoked(h.m.subject(who), g)
		})
	})
}

// state is a change of users or subscriptions, in a transaction of its own: two of one row would wait for each other.
func (h *history) state(who, sql string, args ...any) func(fact func(s *subject)) {
	return func(fact func(s *subject)) {
		h.in(false, func(tx *transaction, later func(func())) {
			if _, err := tx.conn.Exec(h.t.Context(), sql, args...); err != nil {
				h.t.Fatalf("%s: %v", sql, err)
			}
			later(func() {
				s := h.m.subject(who)
				h.m.elapse(s, h.m.now)
				fact(s)
				h.m.subject(who).unsynced = true
			})
		})
	}
}

func (h *history) exactAddUser() {
	h.nextUser++
	id := fmt.Sprint("u", h.nextUser)
	address := id + "@shop.test"
	h.state(id, `INSERT INTO users (id, email, name) VALUES ($1, $2, 'Ann')`, id, address)(func(*subject) {
		h.say("user %s joins", id)
		h.users = append(h.users, id)
		h.join(id, &address)
	})
}

func (h *history) exactDeleteUser() {
	id := pick(h, h.users)
	pending := slices.ContainsFunc(h.open, func(tx *transaction) bool { return slices.Contains(tx.grants, id) })
	if !h.m.subject(id).user || pending {
		return
	}
	h.state(id, `DELETE FROM users WHERE id = $1`, id)(func(*subject) { h.say("user %s is deleted", id); h.m.left(id) })
}

func (h *history) exactReturnUser() {
	id := pick(h, h.users)
	if h.m.subject(id).user {
		return
	}
	address := id + "@new.test"
	h.state(id, `INSERT INTO users (id, email, name) VALUES ($1, $2, 'Ann')`, id, address)(func(*subject) {
		h.say("user %s is back", id)
		h.join(id, &address)
	})
}

// randomSubscription is one with a billing period around now, or one that is over.
func (h *history) randomSubscription() subscription {
	start := h.clock().UTC().Truncate(time.Hour).Add(-time.Duration(h.rng.IntN(20)) * day).Add(-30 * time.Minute)
	sub := subscription{status: pick(h, []string{"active", "active", "active", "canceled", "trialing", "past_due"}),
		plan: pick(h, []string{"pro", "pro", "gold"}), start: start, end: addMonths(start, 1)}
	if h.chance(30) {
		sub.end = start.Add(14 * day)
	}
	return sub
}

func (h *history) exactSubscribe() {
	sub := h.randomSubscription()
	sub.subject = h.someSubject()
	h.nextSub++
	key := h.nextSub
	h.state(sub.subject, `INSERT INTO subscriptions (id, user_id, status, plan, period_start, period_end) VALUES ($1, $2, $3, $4, $5, $6)`,
		key, sub.subject, sub.status, sub.plan, sub.start, sub.end)(func(*subject) {
		h.say("subscription %d of %s: %s", key, sub.subject, sub)
		h.subs = append(h.subs, key)
		h.m.subscribed(key, sub)
	})
}

func (s subscription) String() string {
	return fmt.Sprintf("%s %s %s–%s", s.status, s.plan, s.start.Format(time.DateTime), s.end.Format(time.DateTime))
}

func (h *history) exactChangeSubscription() {
	if len(h.subs) == 0 {
		return
	}
	key := pick(h, h.subs)
	sub, next := *h.m.subs[key], h.randomSubscription()
	if h.chance(70) {
		sub.status = next.status
	}
	if h.chance(30) {
		sub.plan = next.plan
	}
	if h.chance(50) {
		sub.start, sub.end = next.start, next.end
	}
	h.state(sub.subject, `UPDATE subscriptions SET status = $2, plan = $3, period_start = $4, period_end = $5 WHERE id = $1`,
		key, sub.status, sub.plan, sub.start, sub.end)(func(*subject) {
		h.say("subscription %d of %s is now: %s", key, sub.subject, sub)
		h.m.subscribed(key, sub)
	})
}

func (h *history) exactDeleteSubscription() {
	if len(h.subs) == 0 {
		return
	}
	key := pick(h, h.subs)
	h.state(h.m.subs[key].subject, `DELETE FROM subscriptions WHERE id = $1`, key)(func(*subject) {
		h.say("subscription %d is deleted", key)
		h.subs = slices.DeleteFunc(h.subs, func(k int64) bool { return k == key })
		h.m.unsubscribed(key)
	})
}

// exactMoveClock moves time while the sidecar has nothing to catch up with: what it reads later is of the new time.
func (h *history) exactMoveClock() {
	if h.chance(50) {
		h.finishAll()
	}
	h.quiet()
	if h.chance(30) {
		h.killSidecar()
	}
	d := pick(h, []time.Duration{time.Hour, 5 * time.Hour, day, 3 * day, 8 * day, 10 * day, 15 * day, 31 * day, 45 * day})
	h.exec(`UPDATE tiergate.clock SET shift = shift + $1::interval`, d)
	h.m.passed(h.clock())
	h.say("%v later: %s", d, h.m.now.Format(time.DateTime))
}

// exactLimits raises and lowers limits.
func (h *history) exactLimits() {
	h.quiet()
	r := pick(h, h.m.rules)
	h.m.now = h.clock()
	for _, s := range h.m.subjects {
		if s.inUse() {
			h.m.complete(s)
		}
	}
	h.m.relimit(r, r.otherLimits(h.rng), r.warnAt)
	h.reconfigure("limits of %s are %v", r.feature, r.limits)
	h.quiet()
}

// switchEnforcement lets usage rows count what consume_feature did, or the other way round. What is used stays.
func (h *history) switchEnforcement() {
	r := pick(h, h.m.rules[len(h.m.rules)-4:])
	if r.feature != "tokens" && r.feature != "burst" {
		return
	}
	h.finishAll()
	h.quiet()
	for _, s := range h.m.subjects {
		if s.inUse() {
			h.m.complete(s)
		}
	}
	r.strict = !r.strict
	h.reconfigure("%s is strict: %t", r.feature, r.strict)
	h.quiet()
}

// exactRecount counts again while nothing happens: that changes nothing.
func (h *history) exactRecount() {
	h.finishAll()
	h.quiet()
	h.countAgain()
	for _, s := range h.m.subjects {
		if s.inUse() {
			h.m.complete(s)
		}
	}
	h.quiet()
}

// quiet waits until the sidecar has caught up with what is committed, and compares.
func (h *history) quiet() {
	h.awaitSidecar()
	h.m.now = h.clock()
	h.m.said()
	h.m.caughtUp()
	h.say("caught up, %d transactions are open", len(h.open))
	h.compareExact()
}
