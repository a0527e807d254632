package modeltest

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// shape is what the usage table is like at the moment: an application may rename and retype its columns.
type shape struct {
	user, endpoint, at string
	naive              bool // the time has no zone, and is UTC
	note               bool // it has a column that means nothing
	indexes            int
}

func firstShape() shape { return shape{user: "user_id", endpoint: "endpoint", at: "created_at"} }

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

// columns lists the columns that a use fills.
func (s shape) columns() string {
	return strings.Join([]string{quoted(s.user), s.endpoint, "method", s.at}, ", ")
}

// now is the time of a use.
func (s shape) now() string {
	if s.naive {
		return "(tiergate.now() AT TIME ZONE 'UTC')"
	}
	return "tiergate.now()"
}

func other(is, one, two string) string {
	if is == one {
		return two
	}
	return one
}

// migrate runs DDL in a transaction with uses before and after it, or by itself. No other transaction is
// open: it would wait for that one.
func (h *history) migrate(next shape, script ...string) {
	h.finishAll()
	h.say("migration: %s", strings.Join(script, "; "))
	var facts []func()
	later := func(f func()) { facts = append(facts, f) }
	inside := h.chance(50)
	if inside {
		h.exec("BEGIN")
		h.use(h.conn, h.someSubject(), later)
	}
	for _, sql := range script {
		h.exec(sql)
	}
	h.shape = next
	h.use(h.conn, h.someSubject(), later)
	if inside {
		h.exec("COMMIT")
	}
	for _, f := range facts {
		h.fact(f)
	}
}

// addColumn and what follows change nothing that the sidecar reads: it goes on where it was.
func (h *history) addColumn() {
	next := h.shape
	switch h.rng.IntN(4) {
	case 0, 1:
		if next.note = !next.note; next.note {
			h.migrate(next, "ALTER TABLE usage ADD note "+pick(h, []string{"text", "text DEFAULT 'none'", "double precision DEFAULT random()"}))
		} else {
			h.migrate(next, "ALTER TABLE usage DROP note")
		}
	case 2:
		next.indexes++
		h.migrate(next, fmt.Sprintf("CREATE INDEX usage_%d ON usage (%s)", next.indexes, next.endpoint))
	case 3:
		table := pick(h, []string{"users", "subscriptions"})
		h.migrate(next, "ALTER TABLE "+table+" ADD IF NOT EXISTS note text DEFAULT 'none'", "ALTER TABLE "+table+" DROP note")
		if h.chance(50) {
			h.exec("ALTER TABLE " + table + " ADD note text")
		}
	}
}

// changeColumn renames or retypes what the sidecar reads. It counts again, and all of that is a gap.
func (h *history) changeColumn() {
	if !h.enterGap() {
		return
	}
	next := h.shape
	switch h.rng.IntN(7) {
	case 0:
		next.user = other(next.user, "user_id", "userId")
		h.migrate(next, "ALTER TABLE usage RENAME "+quoted(h.shape.user)+" TO "+quoted(next.user))
	case 1:
		next.endpoint = other(next.endpoint, "endpoint", "path")
		h.migrate(next, "ALTER TABLE usage RENAME "+h.shape.endpoint+" TO "+next.endpoint)
	case 2:
		next.at = other(next.at, "created_at", "occurred_at")
		h.migrate(next, "ALTER TABLE usage RENAME "+h.shape.at+" TO "+next.at)
	case 3:
		h.migrate(next, "ALTER TABLE usage ALTER "+quoted(next.user)+" TYPE "+pick(h, []string{"text", "varchar", "varchar(40)"}))
	case 4:
		next.naive = !next.naive
		kind := other(fmt.Sprint(next.naive), "false", "timestamptz")
		if next.naive {
			kind = "timestamp"
		}
		h.migrate(next, "ALTER TABLE usage ALTER "+next.at+" TYPE "+kind+" USING "+next.at+" AT TIME ZONE 'UTC'")
	case 5:
		h.migrate(next, "ALTER TABLE users ALTER email TYPE "+pick(h, []string{"text", "varchar(200)"}), "UPDATE users SET name = 'Ann'")
	case 6:
		h.migrate(next, "ALTER TABLE usage RENAME TO usage_old", "CREATE TABLE usage (LIKE usage_old INCLUDING ALL)",
			"INSERT INTO usage SELECT * FROM usage_old", "ALTER SEQUENCE usage_id_seq OWNED BY usage.id", "DROP TABLE usage_old")
	}
}

// loseFlags drops or empties feature_access. Everything is derived from the usage table again, which must
// not become another one meanwhile: late rows of before the clock moved would open other windows.
func (h *history) loseFlags() {
	h.sync()
	if h.chance(70) {
		h.killSidecar()
	}
	sql := pick(h, []string{"DROP TABLE feature_access", "TRUNCATE feature_access", "DELETE FROM feature_access"})
	h.say("%s", sql)
	h.exec(sql)
	h.m.gap, h.ahead, h.syncFirst, h.m.synced = true, 0, true, false
	clear(h.fresh)
	h.m.lostFlags()
}

// purge deletes usage, as an application tidies up: what was counted stays so. While something may be
// counted again it waits.
func (h *history) purge() {
	if h.m.gap || h.m.countingNow() {
		return
	}
	sql := pick(h, []string{"DELETE FROM usage WHERE id % 3 = 0", "DELETE FROM usage WHERE id % 2 = 0", "DELETE FROM usage",
		"DELETE FROM usage WHERE " + quoted(h.shape.user) + " = '" + h.someSubject() + "'",
		"DELETE FROM usage WHERE " + h.shape.at + " < " + h.shape.now() + " - interval '20 days'"})
	rows, err := h.conn.Query(h.t.Context(), sql+" RETURNING id")
	if err != nil {
		h.t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		h.t.Fatal(err)
	}
	if sql == "DELETE FROM usage" && len(h.open) == 0 {
		h.exec("TRUNCATE usage")
	}
	h.say("%s: %d rows", sql, len(ids))
	h.m.purge(ids)
}

// forget asks for a count that follows the table downwards.
func (h *history) forget() {
	h.sync()
	h.say("resync --down")
	h.command("resync", "--down")
	h.m.forget()
	h.sync()
}
