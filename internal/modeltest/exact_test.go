package modeltest

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// exactPool is the rules of a history in which nothing is lost, so that every event is certain.
func exactPool() []*rule {
	limits := func(free, pro int64) map[string]int64 {
		return map[string]int64{"free": free, "pro": pro, "paid": unlimited}
	}
	return []*rule{
		{feature: "features", path: "/api/features/*", limits: limits(4, 9), period: "30d", warnAt: 0.8, mails: true},
		{feature: "trail", path: "/api/trail/*", limits: limits(4, 8), period: "30d", window: "rolling", warnAt: 0.5, mails: true},
		{feature: "billed", path: "/api/billed/*", limits: limits(3, 7), window: "billing", mails: true},
		{feature: "exports", path: "/api/exports/*", limits: limits(6, 12), mails: true},
		{feature: "models", path: "/api/models/*", limits: limits(4, 8), period: "30d", warnAt: 0.5, mails: true, strict: true, direct: true},
		{feature: "burst", path: "/api/burst/*", limits: limits(4, 8), period: "30d", window: "rolling", warnAt: 0.8, mails: true, strict: true, direct: true},
		{feature: "seats", path: "/api/seats/*", limits: limits(0, 5), mails: true, strict: true, direct: true},
		{feature: "credit", path: "/api/credit/*", limits: limits(3, 6), window: "billing", mails: true, strict: true, direct: true},
		{feature: "tokens", path: "/api/tokens/*", limits: limits(5, 10), period: "30d", mails: true, direct: true},
	}
}

func newExactHistory(t *testing.T, seed uint64) *history {
	h := newHistoryOf(t, fmt.Sprintf("exact_%d", seed), seed, exactPool())
	h.m.events, h.seen = map[string][]string{}, map[int64]bool{}
	h.held = h.heldNames
	h.awaitSidecar() // there is nothing that a first count could find
	for range 3 + h.rng.IntN(3) {
		h.exactAddUser()
	}
	return h
}

func (h *history) exactRepertoire() []step {
	return []step{
		{25, h.exactUse},
		{35, h.exactConsume},
		{8, h.finishOne},
		{3, h.exactAddUser},
		{4, h.exactDeleteUser},
		{4, h.exactReturnUser},
		{6, h.exactSubscribe},
		{8, h.exactChangeSubscription},
		{2, h.exactDeleteSubscription},
		{7, h.grant},
		{5, h.revoke},
		{9, h.exactMoveClock},
		{3, h.killSidecar},
		{3, h.killSidecarSoon},
		{2, h.stopSidecar},
		{6, h.startSidecar},
		{1, h.takeOver},
		{1, h.killServer},
		{5, h.quiet},
		{2, h.troubleMail},
		{2, h.exactLimits},
		{3, h.switchEnforcement},
		{1, h.exactRecount},
	}
}

// in runs a step in a transaction: one that is open already or stays so, or one that ends at once.
func (h *history) in(mayStay bool, act func(tx *transaction, later func(func()))) {
	if mayStay && len(h.open) > 0 && h.chance(40) {
		tx := pick(h, h.open)
		h.inSavepoint(tx, act)
		return
	}
	conn, err := pgx.Connect(h.t.Context(), h.url)
	if err != nil {
		h.t.Fatal(err)
	}
	tx := &transaction{conn: conn}
	h.open = append(h.open, tx)
	h.must(conn, "SET lock_timeout = '30s'; BEGIN")
	if act(tx, tx.later); mayStay && len(h.open) < 4 && h.chance(35) {
		h.say("… stays open")
		return
	}
	h.finish(tx, h.chance(92))
}

func (tx *transaction) later(f func()) { tx.facts = append(tx.facts, f) }

func (tx *transaction) rolledBack() {
	for _, undo := range tx.undo {
		undo()
	}
}

// inSavepoint runs a step behind a savepoint, now and then, and takes it back.
func (h *history) inSavepoint(tx *transaction, act func(tx *transaction, later func(func()))) {
	if !h.chance(20) {
		act(tx, tx.later)
		return
	}
	h.must(tx.conn, "SAVEPOINT s")
	kept := *tx
	restore := h.m.savepoint()
	act(tx, tx.later)
	if h.chance(70) {
		h.must(tx.conn, "ROLLBACK TO s")
		h.say("… rolled back to the savepoint")
		for _, undo := range tx.undo[len(kept.undo):] {
			undo()
		}
		tx.facts, tx.undo, tx.grants = kept.facts[:len(kept.facts):len(kept.facts)], kept.undo[:len(kept.undo):len(kept.undo)], kept.grants
		restore()
	}
}

// finishAt ends a transaction, and returns when that was, on the clock that is moved.
func (h *history) finishAt(tx *transaction, commit bool) time.Time {
	if !commit {
		h.must(tx.conn, "ROLLBACK")
		h.say("transaction of %d rows rolled back", len(tx.facts))
		return h.clock()
	}
	xid := scan[string](h.t, tx.conn, `SELECT pg_current_xact_id()::xid::text`)
	h.must(tx.conn, "COMMIT")
	return scan[time.Time](h.t, h.conn, `SELECT pg_xact_commit_timestamp($1::text::xid) + shift FROM tiergate.clock`, xid)
}

func (h *history) finishOne() {
	if len(h.open) > 0 {
		h.finish(pick(h, h.open), h.chance(70))
	}
}

// TestExactHistories plays histories of what is exact: strict features, grants, and every kind of window, with sidecars
// and servers that crash while transactions are open. Nothing is lost, so that rows, events and mails are certain.
func TestExactHistories(t *testing.T) {
	first, count := seeds(t, 15)
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			h := newExactHistory(t, seed)
			h.steadily(h.exactRepertoire(), 60)
			h.finishAll()
			h.quiet()
		})
	}
}
