package loops

import (
	"slices"
	"testing"
	"time"
)

// TestHoveringIsMailedOnce lets somebody sit at the limit of a rolling window for a year, and then come down.
func TestHoveringIsMailedOnce(t *testing.T) {
	w := newWorld(t, planOf(features(freeOnly(10), func(l *Loop) {
		l.Window, l.WarnAt = Window{Kind: Rolling, Period: Period{Length: 30 * 24 * time.Hour}}, []float64{0.8}
	})), march)
	blocked := map[int64]int{}
	day := func(uses int) {
		w.now = w.now.Add(24 * time.Hour)
		for range uses {
			if a, ok := w.access["ann"][0]; !ok || a.Allowed {
				w.apply(use("ann", w.now))
			}
		}
		w.apply()
	}
	for range 365 {
		day(1)
	}
	for _, ev := range w.events {
		if ev.Kind == Blocked {
			blocked[ev.Episode]++
		}
	}
	if len(blocked) != 1 || blocked[0] < 5 {
		t.Errorf("blocked by episode: %v", blocked)
	}
	for range 40 {
		day(0)
	}
	if a := w.row("ann"); a.Used != 0 || a.Episode < 1 || !a.Allowed || len(a.Buckets) != 0 {
		t.Errorf("after a pause: %+v", a)
	}
}

func TestSpansRepeat(t *testing.T) {
	for _, c := range []struct{ start, end, at, want, until string }{
		{"2026-01-31 08:00:00", "2026-02-28 08:00:00", "2026-03-30 00:00:00", "2026-02-28 08:00:00", "2026-03-31 08:00:00"},
		{"2024-02-29 00:00:00", "2025-02-28 00:00:00", "2028-03-01 00:00:00", "2028-02-29 00:00:00", "2029-02-28 00:00:00"},
		{"2026-01-05 00:00:00", "2026-02-02 00:00:00", "2026-03-01 23:59:59", "2026-02-02 00:00:00", "2026-03-02 00:00:00"},
		{"2026-01-05 00:00:00", "2026-02-02 00:00:00", "2025-12-08 00:00:00", "2025-12-08 00:00:00", "2026-01-05 00:00:00"},
		{"2026-01-05 00:00:00", "2026-02-05 00:00:00", "2025-12-04 23:00:00", "2025-11-05 00:00:00", "2025-12-05 00:00:00"},
	} {
		got := Span{utc(c.start), utc(c.end)}.Around(utc(c.at))
		if !got.equal(Span{utc(c.want), utc(c.until)}) {
			t.Errorf("%s of %s: %v", c.at, c.start, got)
		}
	}
	for _, none := range []Span{{}, {march, march}, {march, march.Add(-time.Hour)}, {Start: march}} {
		if none.real() {
			t.Errorf("%v is a span", none)
		}
	}
}

// TestWarningsWhileBehind holds that a warning is mailed as long as its line is crossed, though other uses have rolled off
// before the stream brought the use: and not any more when it is not.
func TestWarningsWhileBehind(t *testing.T) {
	for name, c := range map[string]struct {
		behind time.Duration
		want   []string
	}{
		"a bucket that does not matter": {25 * time.Hour, []string{"ann warned features 6/10"}},
		"the uses themselves":           {31 * 24 * time.Hour, []string{"ann warned features 6/10 silent"}},
	} {
		w := newWorld(t, planOf(features(freeOnly(10), func(l *Loop) {
			l.Window, l.WarnAt = Window{Kind: Rolling, Period: fixed30}, []float64{0.5}
		})), march)
		w.apply(use("ann", march))
		at := march.Add(29*24*time.Hour + 13*time.Hour)
		w.now = at.Add(c.behind)
		crossing := use("ann", at)
		crossing.Use.Quantity = 5
		w.apply(crossing)
		if got := w.said(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
