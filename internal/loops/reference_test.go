package loops

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// The reference: what must be true of one feature after a history, by the rules of DESIGN.md and
// docs/reference.md, from everything that was ever committed. It keeps no sums: each is added up again, use by use,
// whenever somebody asks. It calls nothing of what it judges.

// facts are all records there are, and when time was told to have passed.
type facts struct {
	loop    Loop
	grace   time.Duration
	records []record
	passed  []decision
}

// decision is one call of Decide: time passed until a moment, on a clock that showed now.
type decision struct{ until, now time.Time }

// account is how the reference goes through the facts of one subject.
type account struct {
	*facts
	who        string
	known      bool // they have a row
	seen       []record
	window     []int // the window, by its number, that each of seen counts in; 0: none
	number     int   // of the present window
	start, end time.Time
	closed     time.Time
	now        time.Time
	is         worth
	expired    map[int64]bool
	episode    int64
	late       int
	events     []string
}

// account works out everything about a subject, until a moment.
func (f *facts) account(who string, until time.Time) *account {
	a := &account{facts: f, who: who, number: 1, is: worth{tier: DefaultTier}, expired: map[int64]bool{}}
	for _, r := range f.records {
		if r.who != who {
			continue
		}
		a.pass(r.committed)
		a.now = r.committed
		before := a.limit()
		a.seen, a.window = append(a.seen, r), append(a.window, 0)
		switch {
		case r.use != nil:
			a.count(r)
		case r.sub != nil:
			a.regrade()
		default:
			a.relimited(before, a.is.tier)
		}
		a.known = true
	}
	a.pass(until)
	return a
}

// pass lets happen what time brings until a moment, in its order: at one moment first windows end, then tiers, then
// grants.
func (a *account) pass(until time.Time) {
	for {
		end, lapse, expiry := a.end, a.is.until, time.Time{}
		if a.loop.Window.Kind == Rolling {
			end = a.nextOff()
		}
		for _, g := range a.open() {
			if !g.ExpiresAt.IsZero() && (expiry.IsZero() || g.ExpiresAt.Before(expiry)) {
				expiry = g.ExpiresAt
			}
		}
		next := soonest(end, lapse, expiry)
		if next.IsZero() || next.After(until) {
			return
		}
		a.now = next
		switch {
		case next.Equal(end):
			a.close(a.limit())
		case next.Equal(lapse):
			a.regrade()
		default:
			a.expire()
		}
	}
}

func soonest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// used adds up every use that counts now.
func (a *account) used() (sum int64) { return a.live(a.now) }

func (a *account) live(at time.Time) (sum int64) {
	for i, r := range a.seen {
		if r.use == nil || a.window[i] != a.number {
			continue
		}
		if a.loop.Window.Kind == Rolling {
			if _, off := a.bucket(r.use.at); !off.After(at) {
				continue
			}
		}
		sum += r.use.quantity
	}
	return sum
}

// bucket is the stretch that a use of a rolling window rolls off with.
func (a *account) bucket(at time.Time) (start, off time.Time) {
	width := bucketWidth(a.loop.Window.Period)
	start = time.UnixMicro(at.UnixMicro() / width.Microseconds() * width.Microseconds()).UTC()
	return start, start.Add(a.loop.Window.Period.Length + width)
}

// buckets are the live ones, where as much was given back as used too.
func (a *account) buckets() (starts []time.Time) {
	sums := map[time.Time]int64{}
	for i, r := range a.seen {
		if r.use == nil || a.window[i] != a.number {
			continue
		}
		if start, off := a.bucket(r.use.at); off.After(a.now) {
			sums[start] += r.use.quantity
		}
	}
	return slices.SortedFunc(maps.Keys(sums), time.Time.Compare)
}

func (a *account) nextOff() time.Time {
	if starts := a.buckets(); len(starts) > 0 {
		_, off := a.bucket(starts[0])
		return off
	}
	return time.Time{}
}

func shut(used int64, limit Limit) bool {
	return limit == 0 || (limit != Unlimited && used >= int64(limit))
}

// bounds is the window of a use.
func (a *account) bounds(at time.Time) (start, end time.Time) {
	switch kind := a.loop.Window.Kind; {
	case kind == Calendar:
		start, end = unitAround(a.loop.Window.Period.Unit, a.loop.Window.Zone, at)
	case kind == Billing && !a.is.end.IsZero():
		start, end = periodAround(a.is.start, a.is.end, at)
	case kind == Anchored || kind == Billing:
		start = at.Add(-time.Minute)
		start = start.Add(-time.Duration(start.Second())*time.Second - time.Duration(start.Nanosecond()))
		if start.Before(a.closed) {
			start = a.closed
		}
		end = after(a.loop.Window.Period, start)
	}
	if start.Before(a.closed) {
		start = a.closed
	}
	return start, end
}

// count says whether a use counts, and what it crosses.
func (a *account) count(r record) {
	at := r.use.at
	if at.After(r.committed) {
		at = r.committed
	}
	before := a.used()
	switch a.loop.Window.Kind {
	case Lifetime:
	case Rolling:
		if _, off := a.bucket(at); !off.After(r.committed) {
			a.late++
			return
		}
	default:
		start, end := a.start, a.end
		if end.IsZero() {
			start, end = a.bounds(at)
		}
		if at.Before(start) || at.Before(a.closed) || !end.After(r.committed) {
			a.late++
			return
		}
		a.start, a.end = start, end
	}
	a.seen[len(a.seen)-1].use = &pastUse{at, r.use.quantity}
	a.window[len(a.seen)-1] = a.number
	a.crossed(before, at, r.decided)
}

// crossed says what another sum shuts, opens, or warns of.
func (a *account) crossed(before int64, at, decided time.Time) {
	after, limit := a.used(), a.limit()
	switch was, is := shut(before, limit), shut(after, limit); {
	case is && !was:
		a.mailed(Event{Kind: Blocked}, at, decided)
	case was && !is && limit > 0:
		a.say(Event{Kind: Unblocked}, at)
	case !is && limit != Unlimited:
		highest := 0.0
		for _, fraction := range a.loop.WarnAt {
			if line := a.line(fraction); before < line && line <= after {
				highest = fraction
			}
		}
		if highest > 0 {
			a.mailed(Event{Kind: Warned, Threshold: highest}, at, decided)
		}
	}
}

// line is the first whole number of uses that is a fraction of the limit.
func (a *account) line(fraction float64) int64 {
	hundredths := int64(math.Round(fraction * 100))
	for n := int64(1); ; n++ {
		if n*100 >= hundredths*int64(a.limit()) {
			return n
		}
	}
}

// relimited says what another limit shuts or opens.
func (a *account) relimited(before Limit, tierBefore string) {
	if !a.known {
		return
	}
	if a.loop.Window.Kind == Lifetime && tierBefore != a.is.tier {
		a.episode++
	}
	switch was, is := shut(a.used(), before), shut(a.used(), a.limit()); {
	case is && !was:
		a.mailed(Event{Kind: Blocked, Silent: a.limit() == 0}, a.now, a.decidedAt(a.now))
	case was && !is:
		a.say(Event{Kind: Unblocked}, a.now)
	}
}

// close ends a window, or lets a rolling one roll on.
func (a *account) close(limit Limit) {
	if a.loop.Window.Kind == Rolling {
		a.roll()
		return
	}
	used := a.used()
	if limit > 0 && shut(used, limit) {
		a.events = append(a.events, fmt.Sprintf("%s reset %s %d/%s at %s in episode %d, %d over", a.who, a.loop.Feature, used, limit,
			a.end.Format(exact), a.episode, max(0, used-int64(limit))))
	}
	a.closed, a.start, a.end = a.end, time.Time{}, time.Time{}
	a.number++
	a.episode++
}

// roll lets go what has rolled off. The next episode begins where the sum falls to half of the lowest line, and where
// nothing is left.
func (a *account) roll() {
	before := a.live(a.now.Add(-time.Nanosecond))
	a.crossed(before, a.now, a.decidedAt(a.now))
	if limit := a.limit(); limit != Unlimited && limit != 0 {
		half := int64(limit)
		if len(a.loop.WarnAt) > 0 {
			half = a.line(a.loop.WarnAt[0])
		}
		if half /= 2; before > half && a.used() <= half {
			a.episode++
			return
		}
	}
	if len(a.buckets()) == 0 {
		a.episode++
	}
}

// decidedAt is what the clock showed when a moment was decided that came by itself, or was a record's.
func (a *account) decidedAt(at time.Time) time.Time {
	for _, d := range a.passed {
		if !d.until.Before(at) {
			return d.now
		}
	}
	return at
}

// exact is the format of moments in messages.
const exact = "2006-01-02 15:04:05.999999"

// say records an event. Whether it is silent matters where it would be mailed.
func (a *account) say(ev Event, at time.Time) {
	text := fmt.Sprintf("%s %s %s %d/%s at %s in episode %d", a.who, ev.Kind, a.loop.Feature, a.used(), a.limit(), at.Format(exact), a.episode)
	if ev.Threshold > 0 {
		text += fmt.Sprintf(", line %v", ev.Threshold)
	}
	if ev.Silent {
		text += ", silent"
	}
	a.events = append(a.events, text)
}

// mailed records an event that is mailed, unless that is too late: the window is over.
func (a *account) mailed(ev Event, at, decided time.Time) {
	end := a.row().ResetsAt
	if a.loop.Window.Kind == Rolling && ev.Kind == Warned {
		end = a.rolledBelow(a.line(ev.Threshold))
	}
	ev.Silent = ev.Silent || a.loop.Enforcement == Shadow || (!end.IsZero() && !end.After(decided))
	a.say(ev, at)
}

// row is what feature_access says now.
func (a *account) row() Access {
	used, limit := a.used(), a.limit()
	row := Access{Tier: a.is.tier, Used: used, Limit: limit, PeriodStart: a.start, ResetsAt: a.end, Episode: a.episode}
	if a.loop.Window.Kind == Rolling {
		row.PeriodStart, row.ResetsAt = a.frame()
	}
	down := shut(used, limit)
	switch {
	case a.loop.Enforcement == Shadow:
		row.Allowed = true
		return row
	case !down && shut(used, a.tierLimit(a.is.tier)):
		row.Reason = ReasonGranted
	case down && limit == 0:
		row.Reason = ReasonPlan
	case down && a.is.status == StatusPastDue:
		row.Reason = ReasonPastDue
	case down:
		row.Reason = ReasonLimit
	}
	if row.Allowed = !down; down {
		row.Message = a.loop.Message
	}
	return row
}

// frame is a rolling window: from its oldest bucket to when the flag opens by itself, else to when the next one rolls
// off. A flag that never does opens no sooner than all have.
func (a *account) frame() (start, end time.Time) {
	starts := a.buckets()
	if len(starts) == 0 {
		return start, end
	}
	switch limit := a.limit(); {
	case !shut(a.used(), limit):
		end = a.nextOff()
	case limit == 0:
		end = a.rolledBelow(math.MinInt64)
	default:
		end = a.rolledBelow(int64(limit))
	}
	return starts[0], end
}

// rolledBelow is when a rolling window comes below a line by itself.
func (a *account) rolledBelow(line int64) (end time.Time) {
	for _, s := range a.buckets() {
		if _, end = a.bucket(s); a.live(end) < line {
			break
		}
	}
	return end
}
