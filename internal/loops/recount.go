package loops

import "time"

// Tally is what a count found for one subject: its uses in the stored window or, where none is open,
// since the later of the window's horizon and the end of the last one; and the first of them. A zero
// First means that there are none.
type Tally struct {
	Subject string
	Used    int64
	First   time.Time
	Credit  bool // some of them give back
}

// Recount applies a count of the i-th loop, as of now. Usage that was deleted never lowers a count: the
// greater of stored and counted holds, unless it is counted afresh, or something was given back. What is
// stored without a window is no count of one that opens. Where rows hold counts, a tally only names the
// subject. Of a new loop only the loop's own time passes: for the others the stream has not come so far.
func (d *Decider) Recount(s *State, i int, now time.Time, afresh bool, tallies []Tally) {
	window := d.plan.Loops[i].Window
	for _, t := range tallies {
		sub := s.subject(t.Subject)
		if sub.Deleted || Nobody(t.Subject) {
			continue
		}
		if !s.elsewhere(i) {
			d.elapse(s, sub, now)
		}
		if d.watches[Usage].Gauge() {
			d.read(s, sub, i, s.Now)
			continue
		}
		a := d.access(s, sub, i)
		if s.elsewhere(i) {
			if !a.ResetsAt.IsZero() && !a.ResetsAt.After(now) {
				d.close(s, sub, i)
			}
			d.limit(s, sub, i, s.Now)
		}
		if window.Kind == Rolling {
			d.recount(s, sub, i, now, afresh, t)
			continue
		}
		if window.Kind == Lifetime && !a.ResetsAt.IsZero() {
			a.PeriodStart, a.ResetsAt, a.dirty = time.Time{}, time.Time{}, true
		}
		if a.ResetsAt.IsZero() && t.First.Before(a.ClosedAt) && !t.First.IsZero() {
			continue // counted before the row was closed: a user who was deleted and came back
		}
		used := t.Used
		if a.ResetsAt.IsZero() && window.Kind != Lifetime {
			d.reopen(sub, i, now, t.First)
		} else if !afresh && !t.Credit {
			used = max(used, a.Used)
		}
		if used != a.Used || !a.stored {
			d.move(s, sub, i, used, s.Now)
		}
	}
}

// reopen opens the window of a use that a count found, where none is open.
func (d *Decider) reopen(sub *Subject, i int, now, first time.Time) {
	if first.IsZero() {
		return
	}
	a := sub.Access[i]
	floor := d.plan.Loops[i].Window.Horizon(now)
	if a.ClosedAt.After(floor) {
		floor = a.ClosedAt
	}
	d.open(sub, i, first, floor)
	a.dirty = true
}

// Refresh brings every loaded subject in line with a plan that changed: tiers, limits, messages, and
// a row for each feature. The batch is the last that was decided: time goes no further. Loops that are counted
// elsewhere follow when they are.
func (d *Decider) Refresh(s *State, b Batch) error {
	at := s.present(b)
	for _, sub := range s.Subjects {
		if sub.Deleted {
			continue
		}
		d.elapse(s, sub, at)
		d.retier(s, sub, at)
		d.complete(s, sub)
		for i, a := range sub.Access {
			if a != nil && !s.elsewhere(i) {
				d.limit(s, sub, i, at)
			}
		}
		for _, g := range sub.Grants {
			d.access(s, sub, g.Loop)
		}
	}
	return nil
}

// Complete gives the loaded subjects a row for each feature.
func (d *Decider) Complete(s *State) {
	for _, sub := range s.Subjects {
		if !sub.Deleted {
			d.complete(s, sub)
		}
	}
}

// complete gives a subject its row for every feature. Where a users table is too long for that, only
// who pays gets them: for everybody else the row of '*' says the same.
func (d *Decider) complete(s *State, sub *Subject) {
	if s.Sparse && sub.Tier == DefaultTier {
		return
	}
	for i := range sub.Access {
		d.access(s, sub, i)
	}
}
