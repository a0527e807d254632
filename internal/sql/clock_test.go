package sql

import "testing"

// TestClockStandsWithoutTestClock: what moves time in a test moves nothing where test_clock is off, or off again.
func TestClockStandsWithoutTestClock(t *testing.T) {
	a := newConventional(t)
	stands := func(want string) {
		t.Helper()
		a.expect(`SELECT (tiergate.now() = statement_timestamp())::text`, want)
	}
	a.expect(`SELECT (to_regclass('tiergate.clock') IS NULL)::text`, "true")
	stands("true")
	o := a.options()
	o.TestClock = true
	if _, err := Install(t.Context(), a.own, o); err != nil {
		t.Fatal(err)
	}
	a.exec(`UPDATE tiergate.clock SET shift = '31 days'`)
	stands("false")
	a.install()
	stands("true")
}
