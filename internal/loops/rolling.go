package loops

import (
	"slices"
	"time"
)

// Bucket holds the uses of one stretch of a rolling window, until they roll off together.
type Bucket struct {
	Start    time.Time
	RollsOff time.Time
	Used     int64
	dirty    bool
}

// bucketOf returns the bucket of a use: its uses count for the period, and at most one resolution longer.
func (w Window) bucketOf(at time.Time) Bucket {
	width := w.Period.Resolution()
	seconds := int64(width / time.Second)
	n := at.Unix() / seconds
	if at.Unix() < 0 && at.Unix()%seconds != 0 {
		n--
	}
	start := time.Unix(n*seconds, 0).UTC()
	return Bucket{Start: start, RollsOff: start.Add(w.Period.Length + width)}
}

// put counts a use in its bucket, unless that has rolled off by now.
func (d *Decider) put(s *State, sub *Subject, i int, quantity int64, at, now time.Time) {
	a, b := sub.Access[i], d.plan.Loops[i].Window.bucketOf(at)
	if at.Before(a.ClosedAt) || !b.RollsOff.After(now) {
		s.Late++
		return
	}
	kept := a.bucket(b)
	kept.Used, kept.dirty = plus(kept.Used, quantity), true
	d.move(s, sub, i, a.rolling(), at)
}

// drop takes buckets away.
func (a *Access) drop(which func(Bucket) bool) {
	a.Buckets = slices.DeleteFunc(a.Buckets, func(b Bucket) bool {
		if !which(b) {
			return false
		}
		a.gone = append(a.gone, b.Start)
		return true
	})
}

// bucket returns the row's bucket that starts when b does: b, where it has none.
func (a *Access) bucket(b Bucket) *Bucket {
	n, found := slices.BinarySearchFunc(a.Buckets, b, func(x, y Bucket) int { return x.Start.Compare(y.Start) })
	if !found {
		a.Buckets = slices.Insert(a.Buckets, n, b)
	}
	return &a.Buckets[n]
}

// ChangedBuckets returns what must be stored of the row's buckets, and the starts of those that went.
func (a *Access) ChangedBuckets() (changed []Bucket, gone []time.Time) {
	for _, b := range a.Buckets {
		if b.dirty {
			changed = append(changed, b)
		}
	}
	return changed, a.gone
}

// rolling is what the row's buckets add up to.
func (a *Access) rolling() (used int64) {
	for i := range a.Buckets {
		used = plus(used, a.Buckets[i].Used)
	}
	return used
}

// rollsOff returns when the next bucket rolls off; zero: there is none.
func (a *Access) rollsOff() (next time.Time) {
	for i := range a.Buckets {
		if off := a.Buckets[i].RollsOff; next.IsZero() || off.Before(next) {
			next = off
		}
	}
	return next
}

// roll lets the buckets go whose time has come. A subject that hovers at its limit is in one episode: the next
// begins when half of the lowest line has rolled off, and once more when nothing is left, whatever the line was.
func (d *Decider) roll(s *State, sub *Subject, i int, at time.Time) {
	a := sub.Access[i]
	a.drop(func(b Bucket) bool { return !b.RollsOff.After(at) })
	before := a.Used
	d.move(s, sub, i, a.rolling(), at)
	half := d.lowestLine(a, i) / 2
	if fell := a.Limit != Unlimited && a.Limit > 0 && before > half && a.Used <= half; fell || len(a.Buckets) == 0 {
		a.Episode++
	}
}

// lowestLine is the number of uses at which the first mail leaves.
func (d *Decider) lowestLine(a *Access, i int) int64 {
	if warnAt := d.plan.Loops[i].WarnAt; len(warnAt) > 0 {
		return warnLine(warnAt[0], a.Limit)
	}
	return int64(a.Limit)
}

// frame sets the bounds of a rolling window: from its oldest bucket on, until the flag opens by itself or,
// where it is open, until the next bucket rolls off.
func (a *Access) frame() {
	if len(a.Buckets) == 0 {
		a.PeriodStart, a.ResetsAt = time.Time{}, time.Time{}
		return
	}
	a.PeriodStart, a.ResetsAt = a.Buckets[0].Start, a.rollsOff()
	if atWall(a.Used, a.Limit) {
		a.ResetsAt = a.rolledBelow(func(left int64) bool { return !atWall(left, a.Limit) })
	}
}

// rolledBelow returns when so much has rolled off that what is left is enough for below, at the latest when all has.
func (a *Access) rolledBelow(below func(left int64) bool) (at time.Time) {
	left := a.Used
	for _, b := range slices.SortedStableFunc(slices.Values(a.Buckets), func(x, y Bucket) int { return x.RollsOff.Compare(y.RollsOff) }) {
		left -= b.Used
		if at = b.RollsOff; below(left) {
			break
		}
	}
	return at
}

// recount sets a bucket to what a count found in it: the greater of stored and counted, unless it is counted
// afresh, or something was given back. A tally without a time only names the subject.
func (d *Decider) recount(s *State, sub *Subject, i int, now time.Time, afresh bool, t Tally) {
	a := sub.Access[i]
	if !t.First.IsZero() {
		b := d.plan.Loops[i].Window.bucketOf(t.First)
		if !b.RollsOff.After(now) {
			return
		}
		kept := a.bucket(b)
		used := t.Used
		if !afresh && !t.Credit {
			used = max(used, kept.Used)
		}
		kept.dirty = kept.dirty || used != kept.Used
		kept.Used = used
		if afresh {
			a.drop(func(b Bucket) bool { return b.Used == 0 })
		}
	}
	if used := a.rolling(); used != a.Used || !a.stored {
		d.move(s, sub, i, used, s.Now)
	} else {
		before := [2]time.Time{a.PeriodStart, a.ResetsAt}
		a.frame()
		a.dirty = a.dirty || before != [2]time.Time{a.PeriodStart, a.ResetsAt}
	}
}
