package sql

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// consume says what one call answers: "granted 1/3", or "refused 3/3: message".
func (a *myApp) consume(quantity int64) string {
	a.t.Helper()
	return a.consumeAs("ann", quantity)
}

func (a *myApp) consumeAs(subject string, quantity int64) string {
	a.t.Helper()
	var allowed bool
	var used int64
	var limit, remaining sql.NullInt64
	var resets, message sql.NullString
	err := a.conn.QueryRowContext(a.t.Context(), `CALL tiergate_consume_feature(?, 'features', ?)`, subject, quantity).
		Scan(&allowed, &used, &limit, &remaining, &resets, &message)
	if err != nil {
		a.t.Fatalf("consume %d: %v", quantity, err)
	}
	a.consistent()
	said, of := "refused", "∞"
	if allowed {
		said = "granted"
	}
	if limit.Valid {
		of = fmt.Sprint(limit.Int64)
	}
	if message.Valid {
		message.String = ": " + message.String
	}
	return fmt.Sprintf("%s %d/%s%s", said, used, of, message.String)
}

// consistent checks what every row must say of itself.
func (a *myApp) consistent() {
	a.t.Helper()
	a.expect(`SELECT CONCAT_WS(' ', subject_id, allowed, used, usage_limit, remaining, period_start, resets_at, reason, message) FROM feature_access WHERE subject_id <> '*' AND (
		allowed = COALESCE(used >= usage_limit OR usage_limit = 0, FALSE) OR tier = ''
		OR NOT remaining <=> GREATEST(0, CAST(usage_limit AS DECIMAL(20)) - used)
		OR (message IS NULL) <> allowed OR (reason IS NOT NULL AND reason <> 'granted') = allowed
		OR (period_start IS NULL) <> (resets_at IS NULL) OR period_start >= resets_at OR closed_at > period_start)`)
}

// events lists what was recorded: kind, uses, limit, episode; and whether it is silent.
func (a *myApp) events(want ...string) {
	a.t.Helper()
	a.expect(`SELECT CONCAT_WS(' ', CONCAT(kind, COALESCE(CONCAT('@', threshold), '')), CONCAT(used, '/', COALESCE(usage_limit, '∞')), 'episode', episode, IF(silent, 'silent', NULL))
		FROM tiergate_access_event ORDER BY id`, want...)
}

func (a *myApp) window(want string) {
	a.t.Helper()
	a.expect(`SELECT COALESCE(CONCAT(LEFT(period_start, 16), ' to ', LEFT(resets_at, 16)), 'none') FROM feature_access WHERE subject_id = 'ann'`, want)
}

func (a *myApp) buckets(want ...string) {
	a.t.Helper()
	a.expect(`SELECT CONCAT(DATE_FORMAT(start, '%d %H:%i'), '+', used) FROM tiergate_bucket ORDER BY start`, want...)
}

func TestMySQLConsume(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.want(a.consume(1), "granted 1/3")
	a.want(a.consume(3), "refused 1/3: Upgrade to go on")
	a.want(a.consume(0), "granted 1/3")
	a.want(a.consume(2), "granted 3/3")
	a.want(a.consume(0), "refused 3/3: Upgrade to go on")
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.window("2026-03-01 09:59 to 2026-03-31 09:59")
	a.expect(`SELECT reason FROM feature_access WHERE subject_id = 'ann'`, "limit_reached")
	a.events("refused 1/3 episode 0", "blocked 3/3 episode 0")
	a.want(a.consume(-2), "granted 1/3")
	a.want(a.consume(-2), "granted 0/3")
	a.events("refused 1/3 episode 0", "blocked 3/3 episode 0", "unblocked 1/3 episode 0")
	a.want(a.consumeAs("bob", -1), "granted 0/3")
	a.expect(`SELECT CONCAT(used, COALESCE(resets_at, '')) FROM feature_access WHERE subject_id = 'bob'`, "0")
	a.expect(`SELECT CONCAT_WS(' ', at = recorded_at, subject_id, feature, `+"`loop`"+`, tier, over_run, position = '', COALESCE(threshold, '-')) FROM tiergate_access_event LIMIT 1`,
		"1 ann features freemium.features free 0 1 -")
}

// TestMySQLConsumeTellsSubjectsApart: by every code point, as PostgreSQL does.
func TestMySQLConsumeTellsSubjectsApart(t *testing.T) {
	a := newMySQLStrict(t, nil)
	for i, subject := range []string{"a", "a ", "A", "á", "a  ", " a", "a\u0301", "a\t", `a\`, `a'`, "🙂"} {
		for range i%3 + 1 {
			a.consumeAs(subject, 1)
		}
		if got := a.lines(`SELECT used FROM feature_access WHERE subject_id = ?`, subject); len(got) != 1 || got[0] != fmt.Sprint(i%3+1) {
			t.Errorf("%q has used %q, want %d", subject, got, i%3+1)
		}
	}
}

// TestMySQLConsumeLooks: a quantity of zero neither writes nor locks, whatever there would be to do.
func TestMySQLConsumeLooks(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.want(a.consume(0), "granted 0/3")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.consume(3)
	a.clock("2026-04-02 10:00:30")
	tx := a.begin(a.connect(), sql.LevelDefault)
	if _, err := tx.Exec(`SELECT 1 FROM feature_access WHERE subject_id = 'ann' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	a.want(a.consume(0), "granted 0/3")
	a.events("blocked 3/3 episode 0")
	a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, "3")
}

func (a *myApp) begin(conn *sql.Conn, level sql.IsolationLevel) *sql.Tx {
	a.t.Helper()
	tx, err := conn.BeginTx(a.t.Context(), &sql.TxOptions{Isolation: level})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { tx.Rollback() })
	return tx
}

// TestMySQLConsumeRollsBack: a consumption belongs to its transaction, and to its savepoint.
func TestMySQLConsumeRollsBack(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.exec(`CREATE TABLE work (id INT PRIMARY KEY)`)
	for _, begin := range []string{`BEGIN`, `SET autocommit = 0`} {
		a.exec(begin)
		a.exec(`INSERT INTO work VALUES (1)`)
		a.want(a.consume(3), "granted 3/3")
		a.want(a.consume(1), "refused 3/3: Upgrade to go on")
		a.exec(`ROLLBACK`)
		a.exec(`SET autocommit = 1`)
		a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*' UNION ALL SELECT id FROM work`)
		a.events()
	}
	a.exec(`BEGIN`)
	a.want(a.consume(1), "granted 1/3")
	a.exec(`SAVEPOINT tiergate`) // the application may call its own like ours
	a.exec(`SAVEPOINT s`)
	a.want(a.consume(2), "granted 3/3")
	a.exec(`ROLLBACK TO s`)
	a.want(a.consume(1), "granted 2/3")
	a.exec(`COMMIT`)
	a.expect(`SELECT used FROM feature_access WHERE subject_id = 'ann'`, "2")
	a.events()
	a.exec(`BEGIN`) // an error takes back what the call did, and nothing else
	a.exec(`INSERT INTO work VALUES (2)`)
	a.want(a.consume(1), "granted 3/3")
	a.fails(a.conn, `CALL tiergate_consume_feature('new', 'nothing', 1)`, "22023", "no loop has a feature")
	a.exec(`COMMIT`)
	a.expect(`SELECT CONCAT(subject_id, used) FROM feature_access WHERE subject_id <> '*' UNION ALL SELECT id FROM work`, "ann3", "2")
	a.fails(a.conn, `CALL tiergate_consume_feature('new', 'nothing', 1)`, "22023", "no loop has a feature")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id = 'new'`)
}

// TestMySQLConsumeWarns: the highest line that one consumption crosses, and none that it leaves behind at the wall.
func TestMySQLConsumeWarns(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = 10; l.WarnAt = []float64{0.5, 0.8} })
	a.consume(4)
	a.events()
	a.consume(1)
	a.consume(1)
	a.events("warned@0.5 5/10 episode 0")
	a.consume(-2)
	a.consume(5)
	a.events("warned@0.5 5/10 episode 0", "warned@0.8 9/10 episode 0")
	a.consume(-9)
	a.consume(10)
	a.events("warned@0.5 5/10 episode 0", "warned@0.8 9/10 episode 0", "blocked 10/10 episode 0")
}

// TestMySQLConsumeTurnsWindows: windows of every kind close by the clock and open with the next use, one behind the other.
func TestMySQLConsumeTurnsWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name         string
		window       loops.Window
		billed       string
		first, later string // windows
		at           string
	}{
		{"anchored", loops.Window{Kind: loops.Anchored, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}, "",
			"2026-03-01 09:59 to 2026-04-01 09:59", "2026-04-01 09:59 to 2026-05-01 09:59", "2026-04-01 09:59:01"},
		{"calendar", loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay, Length: 24 * time.Hour}, Zone: berlin}, "",
			"2026-02-28 23:00 to 2026-03-01 23:00", "2026-03-01 23:00 to 2026-03-02 23:00", "2026-03-02 10:00:30"},
		{"the day the clock springs forward", loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay, Length: 24 * time.Hour}, Zone: berlin}, "",
			"2026-02-28 23:00 to 2026-03-01 23:00", "2026-03-28 23:00 to 2026-03-29 22:00", "2026-03-29 10:00:30"},
		{"billing", loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}, "2026-01-31 12:00, 2026-02-28 12:00",
			"2026-02-28 12:00 to 2026-03-31 12:00", "2026-03-31 12:00 to 2026-04-30 12:00", "2026-03-31 12:00:01"},
		{"billing without a subscription", loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}, "",
			"2026-03-01 09:59 to 2026-04-01 09:59", "2026-04-20 09:59 to 2026-05-20 09:59", "2026-04-20 10:00:30"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newMySQLStrict(t, func(l *loops.Loop) { l.Window = test.window })
			if start, end, ok := strings.Cut(test.billed, ", "); ok {
				a.subscribe("free")
				a.exec(`UPDATE tiergate_subject SET billing_start = ?, billing_end = ?`, start, end)
			}
			a.want(a.consume(2), "granted 2/3")
			a.want(a.consume(1), "granted 3/3")
			a.window(test.first)
			a.clock(test.at)
			a.want(a.status("ann"), "1 0 3")
			a.want(a.consume(4), "refused 0/3: Upgrade to go on")
			a.window("none")
			a.want(a.consume(1), "granted 1/3")
			a.window(test.later)
			a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, "1")
			a.events("blocked 3/3 episode 0", "reset 3/3 episode 0", "refused 0/3 episode 1")
			a.expect(`SELECT at = closed_at FROM tiergate_access_event JOIN feature_access fa USING (subject_id) WHERE kind = 'reset'`, "1")
		})
	}
	t.Run("lifetime", func(t *testing.T) {
		a := newMySQLStrict(t, func(l *loops.Loop) { l.Window = loops.Window{Kind: loops.Lifetime} })
		a.consume(3)
		a.clock("2036-03-01 10:00:30")
		a.want(a.consume(1), "refused 3/3: Upgrade to go on")
		a.window("none")
		a.subscribe("paid")
		a.want(a.consume(1), "granted 4/∞")
		a.subscribe("free")
		a.want(a.consume(1), "refused 4/3: Upgrade to go on")
		a.events("blocked 3/3 episode 0", "refused 3/3 episode 0", "unblocked 3/∞ episode 1", "blocked 4/3 episode 2", "refused 4/3 episode 2")
	})
}

// status is what has_feature says, and then tiergate_feature_status of used and remaining.
func (a *myApp) status(subject string) string {
	a.t.Helper()
	var feature, tier, allowed, used string
	var limit, remaining, start, resets, reason, message sql.NullString
	err := a.conn.QueryRowContext(a.t.Context(), `CALL tiergate_feature_status(?)`, subject).
		Scan(&feature, &allowed, &tier, &used, &limit, &remaining, &start, &resets, &reason, &message)
	if err != nil {
		a.t.Fatal(err)
	}
	has := a.lines(`SELECT tiergate_has_feature(?, 'features')`, subject)
	if has[0] != allowed {
		a.t.Errorf("has_feature says %s, feature_status %s", has[0], allowed)
	}
	said := strings.TrimSpace(strings.Join([]string{allowed, used, remaining.String, resets.String, reason.String}, " "))
	return strings.Join(strings.Fields(said), " ")
}

// TestMySQLConsumeAheadOfItsClock: a clock that stepped back does not open a window before the last one.
func TestMySQLConsumeAheadOfItsClock(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "hour", Unit: loops.UnitHour, Length: time.Hour}, Zone: time.UTC}
	})
	a.want(a.consume(1), "granted 1/3")
	a.clock("2026-03-01 11:00:01")
	a.want(a.consume(4), "refused 0/3: Upgrade to go on")
	a.clock("2026-03-01 10:59:58")
	a.want(a.consume(1), "granted 1/3")
	a.window("2026-03-01 11:00 to 2026-03-01 12:00")
	a.want(a.consume(1), "granted 2/3")
}

// TestMySQLConsumeBillingMoves: a billing period that moves takes the open window along, or closes it.
func TestMySQLConsumeBillingMoves(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}
	})
	bill := func(start, end string) {
		t.Helper()
		a.exec(`UPDATE tiergate_subject SET billing_start = ?, billing_end = ?`, start, end)
	}
	a.subscribe("free")
	bill("2026-02-15", "2026-03-15")
	a.want(a.consume(1), "granted 1/3")
	bill("2026-02-15", "2026-03-20")
	a.want(a.consume(1), "granted 2/3")
	a.window("2026-02-15 00:00 to 2026-03-20 00:00")
	bill("2026-03-05", "2026-04-05") // begins inside the open window: that closes then
	a.want(a.consume(1), "granted 3/3")
	a.window("2026-02-15 00:00 to 2026-03-05 00:00")
	a.clock("2026-03-06 10:00:30")
	a.want(a.consume(1), "granted 1/3")
	a.window("2026-03-05 00:00 to 2026-04-05 00:00")
	bill("2026-03-06 09:00", "2026-04-06 09:00")
	a.want(a.consume(1), "granted 1/3")
	a.window("2026-03-06 10:00 to 2026-04-06 09:00")
	bill("2026-01-01", "2026-02-01") // over: its renewal is assumed, and the window stays
	a.want(a.consume(1), "granted 2/3")
	a.window("2026-03-06 10:00 to 2026-04-06 09:00")
	a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, "2")
}

// TestMySQLConsumeRolling: uses roll off by their buckets, and a give-back takes the newest.
func TestMySQLConsumeRolling(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Rolling, Period: loops.Period{Text: "1d", Length: 24 * time.Hour}}
		l.Limits[loops.DefaultTier] = 10
	})
	a.want(a.consume(4), "granted 4/10")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.clock("2026-03-01 10:59:30")
	a.want(a.consume(1), "granted 5/10")
	a.clock("2026-03-01 12:00:30")
	a.want(a.consume(2), "granted 7/10")
	a.want(a.consume(4), "refused 7/10: Upgrade to go on")
	a.want(a.consume(3), "granted 10/10")
	a.buckets("01 10:00+5", "01 12:00+5")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.want(a.consume(-6), "granted 4/10")
	a.buckets("01 10:00+4", "01 12:00+0")
	a.want(a.consume(6), "granted 10/10")
	a.want(a.status("ann"), "0 10 0 2026-03-02 11:00:00.000000 limit_reached")
	a.clock("2026-03-02 11:00:30") // the first bucket has rolled off, and nobody has written that
	a.want(a.status("ann"), "1 6 4 2026-03-02 13:00:00.000000")
	a.want(a.consume(0), "granted 6/10")
	a.want(a.consume(5), "refused 6/10: Upgrade to go on")
	a.window("2026-03-01 12:00 to 2026-03-02 13:00")
	a.want(a.consume(4), "granted 10/10")
	a.buckets("01 12:00+6", "02 11:00+4")
	a.events("refused 7/10 episode 0", "blocked 10/10 episode 0", "unblocked 4/10 episode 0", "blocked 10/10 episode 0", "unblocked 6/10 episode 0", "blocked 10/10 episode 0")
	a.clock("2026-03-02 13:00:30") // from above half of the limit to below it: a new episode
	a.want(a.consume(1), "granted 5/10")
	a.expect(`SELECT episode FROM feature_access WHERE subject_id = 'ann'`, "1")
	a.clock("2026-03-09 13:00:30")
	a.want(a.status("ann"), "1 0 10")
	a.want(a.consume(-1), "granted 0/10")
	a.window("none")
	a.want(a.consume(1), "granted 1/10")
	a.buckets("09 13:00+1")
}

// TestMySQLConsumeAfterAnotherWindow: what was used under another kind of window counts on as far as it can.
func TestMySQLConsumeAfterAnotherWindow(t *testing.T) {
	a := newMySQLStrict(t, nil)
	turn := func(set string) {
		t.Helper()
		a.exec(`UPDATE tiergate_plan SET ` + set)
	}
	utc := loops.Window{Kind: loops.Calendar, Period: loops.Period{Text: "day", Unit: loops.UnitDay, Length: 24 * time.Hour}, Zone: time.UTC}
	if err := FillMySQLCalendar(t.Context(), a.conn, planOf(loops.Loop{Window: utc}), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	a.consume(1)
	turn(`window_kind = 'lifetime', length = NULL`)
	a.want(a.consume(1), "granted 2/3")
	a.window("none")
	turn(`window_kind = 'calendar', unit = 'day', zone = 'UTC'`)
	a.want(a.consume(-1), "granted 1/3")
	a.want(a.consume(1), "granted 2/3")
	a.window("2026-03-01 00:00 to 2026-03-02 00:00")
	turn(`window_kind = 'rolling', length = 86400000000, resolution = 3600000000, unit = NULL`)
	a.want(a.consume(0), "granted 2/3")
	a.want(a.consume(1), "granted 3/3")
	a.buckets("01 00:00+2", "01 10:00+1")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
	turn(`window_kind = 'anchored', length = 86400000000`)
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
}

// TestMySQLConsumeKnowsGrants: grants count from the moment they are committed, with no sidecar to tell.
func TestMySQLConsumeKnowsGrants(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) { l.Limits[loops.DefaultTier] = 0; l.Limits["pro"] = 2 })
	grant := func(quantity, expires string) {
		t.Helper()
		a.exec(`INSERT INTO tiergate_access_grant (subject_id, feature, quantity, expires_at, note, granted_by, granted_at)
			VALUES ('ann', 'features', ` + quantity + `, ` + expires + `, '', '', tiergate_now())`)
	}
	reason := func(want string) {
		t.Helper()
		a.expect(`SELECT COALESCE(reason, 'none') FROM feature_access WHERE subject_id = 'ann'`, want)
	}
	a.want(a.consume(1), "refused 0/0: Upgrade to go on")
	reason("not_in_plan")
	grant("2", "tiergate_now() + INTERVAL 1 HOUR")
	a.want(a.consume(1), "granted 1/2")
	reason("granted")
	grant("1", "NULL")
	a.want(a.consume(2), "granted 3/3")
	a.exec(`UPDATE tiergate_access_grant SET ended_at = tiergate_now() WHERE quantity = 1`)
	a.want(a.consume(-1), "granted 2/2")
	reason("limit_reached")
	a.subscribe("pro")
	a.want(a.consume(1), "granted 3/4")
	reason("granted")
	a.clock("2026-03-01 12:00:30")
	a.want(a.consume(1), "refused 3/2: Upgrade to go on")
	grant("NULL", "NULL")
	a.want(a.consume(5), "granted 8/∞")
	a.exec(`UPDATE tiergate_access_grant SET ended_at = tiergate_now()`)
	a.exec(`UPDATE tiergate_subject SET status = 'past_due'`)
	a.want(a.consume(1), "refused 8/2: Upgrade to go on")
	reason("past_due")
	a.subscribe("gold") // a tier that no loop names: as paid
	a.want(a.consume(1), "granted 9/∞")
	a.subscribe("free")
	a.want(a.consume(1), "refused 9/0: Upgrade to go on")
	a.events("refused 0/0 episode 0", "unblocked 0/2 episode 0", "blocked 3/3 episode 0", "unblocked 2/4 episode 0",
		"blocked 3/2 episode 0", "unblocked 3/∞ episode 0", "blocked 8/2 episode 0", "unblocked 8/∞ episode 0", "blocked 9/0 episode 0 silent")
}

func TestMySQLConsumeRefusesNonsense(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.exec(`INSERT INTO tiergate_plan (feature, tier, ` + "`loop`" + `, window_kind, enforcement, message) VALUES ('other', 'free', 'l', 'lifetime', 'async', '')`)
	for call, want := range map[string]string{
		`'ann', 'nothing', 1`:             `no loop has a feature 'nothing'`,
		`'ann', 'features ', 1`:           `no loop has a feature 'features '`,
		`'ann', NULL, 1`:                  `no loop has a feature NULL`,
		`'ann', REPEAT('é', 4000), 1`:     `no loop has a feature 'ééé`,
		`'ann', 'other', 1`:               `the loop of feature 'other' is not strict`,
		`'ann', 'other', 0`:               `the loop of feature 'other' is not strict`,
		`NULL, 'features', 1`:             `the subject is NULL`,
		`'', 'features', 1`:               `the subject is NULL, empty`,
		`'*', 'features', 1`:              `the subject is NULL, empty`,
		`REPEAT('é', 192), 'features', 1`: `longer than 191 characters`,
		`'ann', 'features', NULL`:         `the quantity is NULL`,
	} {
		a.fails(a.conn, `CALL tiergate_consume_feature(`+call+`)`, "22023", want)
	}
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.want(a.consumeAs(strings.Repeat("é", 191), 1), "granted 1/3")
}

// TestMySQLConsumeKnowsTheDeleted: who was deleted is refused and leaves no trace; who came back begins anew.
func TestMySQLConsumeKnowsTheDeleted(t *testing.T) {
	a := newMySQLStrict(t, nil)
	a.subscribe("paid")
	a.exec(`UPDATE tiergate_subject SET deleted = TRUE`)
	a.want(a.consume(1), "refused 0/∞: this user was deleted")
	a.want(a.consume(0), "refused 0/∞: this user was deleted")
	a.expect(`SELECT subject_id FROM feature_access WHERE subject_id <> '*'`)
	a.events()
	a.exec(`UPDATE tiergate_subject SET deleted = FALSE, tier = 'free', since = tiergate_now()`)
	a.exec("INSERT INTO tiergate_meta VALUES ('first_episode', '7')")
	a.consume(1)
	a.expect(`SELECT CONCAT(episode, ' ', period_start = closed_at) FROM feature_access WHERE subject_id = 'ann'`, "1772359230 1") // by the time of the return
}

func TestMySQLConsumeHoldsAtTheEdges(t *testing.T) {
	const most = 1<<63 - 1
	a := newMySQLStrict(t, nil)
	a.want(a.consume(most), "refused 0/3: Upgrade to go on")
	a.want(a.consume(-most-1), "granted 0/3")
	a.exec(`UPDATE feature_access SET used = -2, remaining = 5 WHERE subject_id = 'ann'`) // a credit from before the loop was strict
	a.want(a.consume(-1), "granted -2/3")
	a.want(a.consume(6), "refused -2/3: Upgrade to go on")
	a.want(a.consume(5), "granted 3/3")
	a.subscribe("paid")
	a.want(a.consume(most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consume(most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consume(-most-1), "granted 0/∞")
	for range 2 {
		a.exec(`INSERT INTO tiergate_access_grant (subject_id, feature, quantity, note, granted_by, granted_at) VALUES ('bob', 'features', ?, '', '', tiergate_now())`, int64(most))
	}
	a.want(a.consumeAs("bob", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.exec(`UPDATE tiergate_plan SET window_kind = 'rolling', resolution = 86400000000`)
	a.want(a.consumeAs("cid", 1), "granted 1/3")
	a.exec(`UPDATE tiergate_plan SET usage_limit = NULL`)
	a.want(a.consumeAs("cid", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.clock("2026-03-02 10:00:30")
	a.want(a.consumeAs("cid", most), fmt.Sprintf("granted %d/∞", int64(most)))
	a.want(a.consumeAs("cid", -most), "granted 0/∞")
	a.fails(a.conn, `CALL tiergate_consume_feature('cid', 'features', 9223372036854775808)`, "22003", "")
}

// TestMySQLBillingGrace: with the sidecar away a renewal is taken for granted for the time of grace, and no longer.
func TestMySQLBillingGrace(t *testing.T) {
	a := newMySQLStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}
	})
	a.subscribe("free")
	a.exec(`UPDATE tiergate_subject SET billing_start = '2026-02-15', billing_end = '2026-03-15'`)
	a.consume(3)
	a.consumeAs("bob", 3) // pays for nothing: anchored
	for at, want := range map[string]string{"2026-03-14 23:59:00": "0 3 0 2026-03-15 00:00:00.000000 limit_reached, 0", "2026-03-15 00:00:00": "1 0 3, 0", "2026-03-21 23:59:00": "1 0 3, 0",
		"2026-03-22 00:00:00": "0 3 0 2026-03-15 00:00:00.000000 limit_reached, 0", "2026-04-09 00:00:00": "0 3 0 2026-03-15 00:00:00.000000 limit_reached, 1"} {
		a.clock(at)
		if got := a.status("ann") + ", " + a.status("bob")[:1]; got != want {
			t.Errorf("at %s: %q, want %q", at, got, want)
		}
	}
}
