package loops

import "time"

// Span is a stretch of time, [Start, End). One that does not end after it starts is none.
type Span struct{ Start, End time.Time }

func (p Span) real() bool { return p.End.After(p.Start) && !p.Start.IsZero() }

// equal reports whether two spans are the same, or both none.
func (p Span) equal(q Span) bool { return p.Start.Equal(q.Start) && p.End.Equal(q.End) }

// Around returns the billing period that holds t: the span itself, or one of those before and after it, as
// subscriptions renew. Months keep their day: after 31 January and 28 February comes 31 March.
func (p Span) Around(t time.Time) Span {
	if !t.Before(p.Start) && t.Before(p.End) {
		return p
	}
	months := p.months()
	if months == 0 {
		length := p.End.Sub(p.Start)
		start := p.End.Add(t.Sub(p.End).Truncate(length))
		if before := p.Start.Sub(t); before > 0 {
			start = p.Start.Add(-before.Truncate(length))
			if start.After(t) {
				start = start.Add(-length)
			}
		}
		return Span{start, start.Add(length)}
	}
	begin := func(k int) time.Time { return addMonths(p.Start.UTC(), k*months) }
	k := int(t.Sub(p.Start)/p.End.Sub(p.Start)) - 1
	for begin(k).After(t) {
		k--
	}
	for !begin(k + 1).After(t) {
		k++
	}
	return Span{begin(k), begin(k + 1)}
}

// months is how many months the span lasts, as subscriptions are sold; 0: it lasts otherwise.
func (p Span) months() int {
	for _, n := range []int{1, 2, 3, 6, 12, 24, 36} {
		if addMonths(p.Start.UTC(), n).Equal(p.End) {
			return n
		}
	}
	return 0
}

// open opens the window of a use at a time.
func (d *Decider) open(sub *Subject, i int, at, floor time.Time) {
	a := sub.Access[i]
	a.PeriodStart, a.ResetsAt = d.bounds(sub, i, at, floor)
}

// bounds returns the window of a use at a time. floor is the earliest start of one that is not a billing period.
func (d *Decider) bounds(sub *Subject, i int, at, floor time.Time) (start, end time.Time) {
	a, w := sub.Access[i], d.plan.Loops[i].Window
	if w.Kind != Billing || !sub.Billing.real() {
		return w.Open(at, floor)
	}
	period := sub.Billing.Around(at)
	if period.Start.Before(a.ClosedAt) {
		period.Start = a.ClosedAt
	}
	return period.Start.UTC(), period.End.UTC()
}

// follow lets an open window follow a billing period that moved. Where one began inside the window, what was
// used stays behind; the same period with another end keeps it. One that is over is taken as renewed.
func (d *Decider) follow(s *State, sub *Subject, i int, at time.Time) {
	a, period := sub.Access[i], sub.Billing
	if d.plan.Loops[i].Window.Kind != Billing || a.ResetsAt.IsZero() || !period.real() || !period.End.After(at) {
		return
	}
	end := period.End
	if period.Start.After(a.PeriodStart) {
		if !period.Start.Before(a.ResetsAt) {
			return
		}
		if end = period.Start; end.Before(at) {
			end = at
		}
	}
	if end.Equal(a.ResetsAt) {
		return
	}
	if a.Held {
		sub.again = true
		return
	}
	a.ResetsAt, a.dirty = end.UTC(), true
	if !end.After(at) {
		d.close(s, sub, i)
	}
}
