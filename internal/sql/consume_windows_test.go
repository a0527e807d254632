package sql

import (
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestConsumeTurnsWindows: windows of every kind close by the clock and open with the next use, one behind the other.
func TestConsumeTurnsWindows(t *testing.T) {
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
		{"billing", loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}, "2026-01-31 12:00, 2026-02-28 12:00",
			"2026-02-28 12:00 to 2026-03-31 12:00", "2026-03-31 12:00 to 2026-04-30 12:00", "2026-03-31 12:00:01"},
		{"billing without a subscription", loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}, "",
			"2026-03-01 09:59 to 2026-04-01 09:59", "2026-04-20 09:59 to 2026-05-20 09:59", "2026-04-20 10:00:30"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newStrict(t, func(l *loops.Loop) { l.Window = test.window })
			if start, end, ok := strings.Cut(test.billed, ", "); ok {
				a.subscribe("free")
				a.exec(`UPDATE tiergate.subject SET billing_start = $1::timestamptz, billing_end = $2::timestamptz`, start, end)
			}
			a.want(a.consume(2), "granted 2/3")
			a.want(a.consume(1), "granted 3/3")
			a.window(test.first)
			a.clock(test.at)
			a.expect(`SELECT tiergate.has_feature('ann', 'features')::text || ' ' || used || ' ' || remaining FROM tiergate.feature_status('ann')`, "true 0 3")
			a.want(a.consume(4), "refused 0/3: Upgrade to go on")
			a.window("none")
			a.want(a.consume(1), "granted 1/3")
			a.window(test.later)
			a.expect(`SELECT episode::text FROM feature_access WHERE subject_id = 'ann'`, "1")
			a.events("blocked 3/3 episode 0", "reset 3/3 episode 0", "refused 0/3 episode 1")
			a.expect(`SELECT (at = closed_at)::text FROM tiergate.access_event JOIN feature_access fa USING (subject_id) WHERE kind = 'reset'`, "true")
		})
	}
	t.Run("lifetime", func(t *testing.T) {
		a := newStrict(t, func(l *loops.Loop) { l.Window = loops.Window{Kind: loops.Lifetime} })
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

// TestConsumeAheadOfItsClock: who waited for the lock may have been called before the window that it now finds.
func TestConsumeAheadOfItsClock(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) {
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

// TestConsumeBillingMoves: a billing period that moves takes the open window along, or closes it.
func TestConsumeBillingMoves(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}
	})
	bill := func(start, end string) {
		t.Helper()
		a.exec(`UPDATE tiergate.subject SET billing_start = $1::timestamptz, billing_end = $2::timestamptz`, start, end)
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
	a.expect(`SELECT episode::text FROM feature_access WHERE subject_id = 'ann'`, "2")
}

// TestConsumeRolling: uses roll off by their buckets, and a give-back takes the newest.
func TestConsumeRolling(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Rolling, Period: loops.Period{Text: "1d", Length: 24 * time.Hour}}
		l.Limits[loops.DefaultTier] = 10
	})
	buckets := func(want ...string) {
		t.Helper()
		a.expect(`SELECT to_char(start AT TIME ZONE 'UTC', 'DD HH24:MI') || '+' || used FROM tiergate.bucket ORDER BY start`, want...)
	}
	a.want(a.consume(4), "granted 4/10")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.clock("2026-03-01 10:59:30")
	a.want(a.consume(1), "granted 5/10")
	a.clock("2026-03-01 12:00:30")
	a.want(a.consume(2), "granted 7/10")
	a.want(a.consume(4), "refused 7/10: Upgrade to go on")
	a.want(a.consume(3), "granted 10/10")
	buckets("01 10:00+5", "01 12:00+5")
	a.window("2026-03-01 10:00 to 2026-03-02 11:00")
	a.want(a.consume(-6), "granted 4/10")
	buckets("01 10:00+4", "01 12:00+0")
	a.want(a.consume(6), "granted 10/10")
	a.expect(`SELECT tiergate.has_feature('ann', 'features')::text`, "false")
	a.clock("2026-03-02 11:00:30") // the first bucket has rolled off, and nobody has written that
	a.expect(`SELECT tiergate.has_feature('ann', 'features')::text`, "true")
	a.expect(`SELECT concat_ws(' ', allowed, used, remaining, to_char(resets_at AT TIME ZONE 'UTC', 'DD HH24:MI'), reason) FROM tiergate.feature_status('ann')`, "t 6 4 02 13:00")
	a.want(a.consume(0), "granted 6/10")
	a.want(a.consume(5), "refused 6/10: Upgrade to go on")
	a.window("2026-03-01 12:00 to 2026-03-02 13:00")
	a.want(a.consume(4), "granted 10/10")
	buckets("01 12:00+6", "02 11:00+4")
	a.events("refused 7/10 episode 0", "blocked 10/10 episode 0", "unblocked 4/10 episode 0", "blocked 10/10 episode 0", "unblocked 6/10 episode 0", "blocked 10/10 episode 0")
	a.clock("2026-03-02 13:00:30") // from above half of the limit to below it: a new episode
	a.want(a.consume(1), "granted 5/10")
	a.expect(`SELECT episode::text FROM feature_access WHERE subject_id = 'ann'`, "1")
	a.clock("2026-03-09 13:00:30")
	a.expect(`SELECT used || coalesce(resets_at::text, '') FROM tiergate.feature_status('ann')`, "0")
	a.want(a.consume(-1), "granted 0/10")
	a.window("none")
	a.expect(`SELECT episode::text FROM feature_access WHERE subject_id = 'ann'`, "2") // nothing was left
	a.want(a.consume(1), "granted 1/10")
	buckets("09 13:00+1")
	a.want(a.consume(-1), "granted 0/10")
	a.clock("2026-03-12 13:00:30")
	a.want(a.consume(1), "granted 1/10")
	a.expect(`SELECT episode::text FROM feature_access WHERE subject_id = 'ann'`, "3") // nor was anything of what was given back
}

// TestConsumeAfterAnotherWindow: what was used under another kind of window counts on as far as it can.
func TestConsumeAfterAnotherWindow(t *testing.T) {
	a := newStrict(t, nil)
	turn := func(set string) {
		t.Helper()
		a.exec(`UPDATE tiergate.plan SET ` + set)
	}
	a.consume(1)
	turn(`window_kind = 'lifetime', length = NULL`)
	a.want(a.consume(1), "granted 2/3")
	a.window("none")
	turn(`window_kind = 'calendar', unit = 'day', zone = 'UTC'`)
	a.want(a.consume(-1), "granted 1/3")
	a.want(a.consume(1), "granted 2/3")
	a.window("2026-03-01 00:00 to 2026-03-02 00:00")
	turn(`window_kind = 'rolling', length = '1 day', resolution = '1 hour', unit = NULL`)
	a.want(a.consume(0), "granted 2/3")
	a.want(a.consume(1), "granted 3/3")
	a.expect(`SELECT to_char(start AT TIME ZONE 'UTC', 'DD HH24:MI') || '+' || used FROM tiergate.bucket ORDER BY start`, "01 00:00+2", "01 10:00+1")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
	turn(`window_kind = 'anchored', length = '1 day'`)
	a.want(a.consume(1), "refused 3/3: Upgrade to go on")
	a.window("2026-03-01 00:00 to 2026-03-02 01:00")
}

// TestBillingGrace: with the sidecar away a renewal is taken for granted for the time of grace, and no longer.
func TestBillingGrace(t *testing.T) {
	a := newStrict(t, func(l *loops.Loop) {
		l.Window = loops.Window{Kind: loops.Billing, Period: loops.Period{Text: "month", Unit: loops.UnitMonth}}
	})
	a.subscribe("free")
	a.exec(`UPDATE tiergate.subject SET billing_start = '2026-02-15', billing_end = '2026-03-15'`)
	a.consume(3)
	a.consumeAs("bob", 3) // pays for nothing: anchored
	for at, want := range map[string]string{"2026-03-14 23:59:00": "false false 3", "2026-03-15 00:00:00": "true false 0", "2026-03-21 23:59:00": "true false 0",
		"2026-03-22 00:00:00": "false false 3", "2026-04-09 00:00:00": "false true 3"} {
		a.clock(at)
		a.expect(`SELECT concat_ws(' ', tiergate.has_feature('ann', 'features')::text, tiergate.has_feature('bob', 'features')::text, used) FROM tiergate.feature_status('ann')`, want)
	}
}
