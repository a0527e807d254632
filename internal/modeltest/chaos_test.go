package modeltest

import (
	"time"
)

const day = 24 * time.Hour

// moveClock moves the time of database and sidecar alike. In a gap it stays within a period: what a
// recount makes of windows that opened and closed unseen is not the stream's.
func (h *history) moveClock() {
	d := pick(h, []time.Duration{time.Hour, 5 * time.Hour, day, 3 * day, 8 * day, 10 * day, 15 * day, 31 * day, 45 * day})
	if h.m.gap {
		if d, h.ahead = min(d, 10*day), h.ahead+min(d, 10*day); h.ahead > 20*day {
			return
		}
	}
	if h.m.gap || h.chance(70) {
		h.finishAll()
	}
	if h.syncFirst || h.m.unsettled() || (!h.m.gap && h.chance(60)) {
		h.sync()
	}
	h.exec(`UPDATE tiergate.clock SET shift = shift + $1::interval`, d)
	h.m.passed(h.clock())
	h.m.synced = false
	h.say("%v later: %s", d, h.m.now.Format(time.DateTime))
}

func (h *history) startSidecar() {
	if h.leader() == nil {
		h.say("a sidecar starts")
		h.spawn()
	}
}

func (h *history) killSidecar() {
	if p := h.leader(); p != nil {
		h.say("SIGKILL")
		p.kill()
	}
}

// killSidecarSoon kills it while it does whatever it does, starting and counting included.
func (h *history) killSidecarSoon() {
	h.startSidecar()
	d := time.Duration(h.rng.IntN(400)) * time.Millisecond
	h.say("SIGKILL in %v", d)
	h.leader().killAfter(d)
}

func (h *history) stopSidecar() {
	if p := h.leader(); p != nil {
		h.say("SIGTERM")
		p.terminate(h.t)
	}
}

// takeOver starts a second sidecar, which waits, and kills the first.
func (h *history) takeOver() {
	h.startSidecar()
	first := h.leader()
	h.say("a second sidecar starts, SIGKILL of the first in a moment")
	h.spawn()
	first.killAfter(time.Duration(h.rng.IntN(300)) * time.Millisecond)
}

// killServer crashes the database server. What was not committed is lost.
func (h *history) killServer() {
	h.restarts++
	h.say("the server crashes")
	h.server.Kill()
	if err := h.server.Restart(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	for _, tx := range h.open {
		tx.conn.Close(h.t.Context())
		tx.rolledBack()
		h.m.release(tx, false)
	}
	h.open = nil
	h.conn.Close(h.t.Context())
	h.connect()
}

// beginGap begins a time in which the stream may be lost: all of it counts as one step then.
func (h *history) beginGap() {
	if !h.m.gap && h.enterGap() && h.chance(80) {
		h.killSidecar()
	}
}

// enterGap fails where a count would not find what it found before.
func (h *history) enterGap() bool {
	if h.m.gap {
		return true
	}
	if h.m.purged() {
		if h.chance(50) {
			return false
		}
		h.forget()
	}
	h.sync()
	h.say("a gap may begin")
	h.m.gap, h.ahead = true, 0
	clear(h.fresh)
	return true
}

// loseStream makes the sidecar count again: the slot is dropped while it is down, or somebody asks.
func (h *history) loseStream() {
	if !h.m.gap {
		return
	}
	h.countAgain()
}

// recount makes it count again while nothing happens: that changes nothing, whatever was purged.
func (h *history) recount() {
	h.sync()
	h.countAgain()
	h.sync()
}

func (h *history) countAgain() {
	if h.leader() != nil {
		h.say("resync")
		h.command("resync")
		return
	}
	for _, p := range h.running {
		p.kill()
	}
	h.say("the slot is dropped")
	h.exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND database = current_database()`)
	h.await("the slot to be free", func() (bool, string) {
		return !scan[bool](h.t, h.conn, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active)`), ""
	})
	h.exec(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`)
}

// troubleMail makes the next requests fail, unless such faults still wait: the pauses double.
func (h *history) troubleMail() {
	n := 1 + h.rng.IntN(2)
	if h.resend.Requests() < h.trouble {
		return
	}
	h.trouble = h.resend.Requests() + n
	switch h.rng.IntN(4) {
	case 0:
		h.resend.Fail(429, n)
	case 1:
		h.resend.Fail(500, n)
	default:
		h.resend.Lose(n)
	}
}

// sync waits until the sidecar has caught up, and compares.
func (h *history) sync() {
	h.finishAll()
	h.awaitSidecar()
	h.m.caughtUp()
	h.m.gap, h.syncFirst = false, false
	h.say("caught up")
	h.compare()
}
