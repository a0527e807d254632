package loops

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"
)

// fact is a use as the application committed it.
type fact struct {
	at, committed time.Time
	quantity      int64
}

// jump is how far the clock moves between two facts: mostly little, sometimes very far.
func jump(rng *rand.Rand) time.Duration {
	most := []time.Duration{time.Second, time.Hour, 30 * time.Hour, 12 * 24 * time.Hour, 90 * 24 * time.Hour}
	return within(rng, most[rng.IntN(len(most))])
}

// within returns a random stretch of time, at most so long.
func within(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most) + 1))
}

// history makes uses, some of them late, and applies them batch by batch. check is told of each moment and
// of all facts until then.
func history(t *testing.T, rng *rand.Rand, w *world, steps int, check func(now time.Time, facts []fact)) {
	t.Helper()
	var facts []fact
	for range steps {
		var batch []Change
		for range 1 + rng.IntN(4) {
			w.now = w.now.Add(jump(rng))
			f := fact{at: w.now, committed: w.now, quantity: int64(1 + rng.IntN(3))}
			switch rng.IntN(6) {
			case 0:
				f.at = f.at.Add(-within(rng, 2*time.Minute))
			case 1:
				f.at = f.at.Add(-within(rng, 40*24*time.Hour))
			case 2:
				f.quantity = -f.quantity
			}
			facts = append(facts, f)
			c := use("ann", f.committed)
			c.Use.At, c.Use.Quantity = f.at, f.quantity
			batch = append(batch, c)
		}
		w.apply(batch...)
		check(w.now, facts)
		if rng.IntN(3) == 0 { // nobody does anything
			w.now = w.now.Add(jump(rng))
			w.apply()
			check(w.now, facts)
		}
	}
}

// TestRollingAgainstFacts compares a rolling window with all uses there ever were, counted one by one.
func TestRollingAgainstFacts(t *testing.T) {
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 4))
		days := []int{1, 7, 30, 45}[rng.IntN(4)]
		limit := []Limit{1, 4, 12, Unlimited}[rng.IntN(4)]
		period := Period{Length: time.Duration(days) * 24 * time.Hour}
		width := map[int]time.Duration{1: time.Hour, 7: 6 * time.Hour, 30: 24 * time.Hour, 45: 24 * time.Hour}[days]
		w := newWorld(t, planOf(features(freeOnly(limit), func(l *Loop) { l.Window = Window{Kind: Rolling, Period: period} })), utc("2026-03-01 10:17:00"))
		ok := true
		history(t, rng, w, 12, func(now time.Time, facts []fact) {
			off := func(f fact) time.Time {
				return f.at.Add(-time.Duration(f.at.UnixNano() % int64(width))).Add(period.Length + width)
			}
			live := func(at time.Time) (sum int64) {
				for _, f := range facts {
					if off(f).After(at) {
						sum += f.quantity
					}
				}
				return sum
			}
			a := w.access["ann"][0]
			down := limit != Unlimited && live(now) >= int64(limit)
			var resets time.Time
			for _, f := range facts {
				end := off(f)
				opens := !down || live(end) < int64(limit)
				if end.After(now) && opens && a.bucketAt(end.Add(-period.Length-width)) && (resets.IsZero() || end.Before(resets)) {
					resets = end
				}
			}
			if a.Used != live(now) || a.Allowed == down || (!resets.IsZero() && !a.ResetsAt.Equal(resets)) {
				ok = false
				t.Errorf("seed %d at %v: used %d, allowed %v until %v, want %d, %v until %v", seed, now, a.Used, a.Allowed, a.ResetsAt, live(now), !down, resets)
			}
		})
		if !ok {
			return
		}
	}
}

// bucketAt reports whether uses of a stretch are kept: what gives back as much as was used leaves none.
func (a Access) bucketAt(start time.Time) bool {
	return slices.ContainsFunc(a.Buckets, func(b Bucket) bool { return b.Start.Equal(start) })
}

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
	if a := w.row("ann"); a.Used != 0 || a.Episode != 1 || !a.Allowed || len(a.Buckets) != 0 {
		t.Errorf("after a pause: %+v", a)
	}
}

// TestBillingAgainstFacts compares a billing window with all uses of the period that holds the present. Renewals
// come on time, late, or never.
func TestBillingAgainstFacts(t *testing.T) {
	for seed := range uint64(1500) {
		rng := rand.New(rand.NewPCG(seed, 5))
		w := newWorld(t, planOf(features(map[string]Limit{DefaultTier: 3, PayingTier: 9}, func(l *Loop) {
			l.Window = Window{Kind: Billing, Period: Period{Unit: UnitMonth}}
		})), utc("2026-01-31 08:00:00").AddDate(0, 0, -rng.IntN(40)))
		months := []int{1, 3, 12}[rng.IntN(3)]
		first := w.now.AddDate(0, 0, -rng.IntN(28))
		period := func(at time.Time) (start, end time.Time) { // month by month from the first
			begin := func(k int) time.Time {
				y, m, d := first.Date()
				last := time.Date(y, m+time.Month(k*months)+1, 0, 0, 0, 0, 0, time.UTC).Day()
				return time.Date(y, m+time.Month(k*months), min(d, last), first.Hour(), first.Minute(), first.Second(), 0, time.UTC)
			}
			k := -200
			for !begin(k + 1).After(at) {
				k++
			}
			return begin(k), begin(k + 1)
		}
		renew := func(now time.Time) {
			start, end := period(now)
			w.apply(subscribe(Update, "s1", "ann", StatusActive, now, map[Field]string{
				FieldPlan: "pro", FieldPeriodStart: start.Format(time.DateTime), FieldPeriodEnd: end.Format(time.DateTime)}))
		}
		renew(w.now)
		renews := first.Day() <= 28 && rng.IntN(2) == 0
		ok := true
		history(t, rng, w, 12, func(now time.Time, facts []fact) {
			if renews && rng.IntN(2) == 0 {
				renew(now)
			}
			start, end := period(now)
			var want int64
			for _, f := range facts {
				if !f.at.Before(start) && f.at.Before(end) {
					want += f.quantity
				}
			}
			a := w.access["ann"][0]
			if a.Used != want || (!a.ResetsAt.IsZero() && !a.ResetsAt.Equal(end)) || a.Allowed == (want >= 9) {
				ok = false
				t.Errorf("seed %d at %v: used %d until %v, want %d until %v (%s)", seed, now, a.Used, a.ResetsAt, want, end, strconv.Itoa(months))
			}
		})
		if !ok {
			return
		}
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
