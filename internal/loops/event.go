package loops

import (
	"fmt"
	"math"
	"slices"
)

// event turns a stored event into its one email: the prompt of its loop, or a row that says why not.
func (d *Decider) event(s *State, id int64) {
	ev, ok := s.Stored[id]
	if !ok || (ev.Kind != Blocked && ev.Kind != Warned) {
		return
	}
	mail := Email{EventID: ev.ID, Subject: ev.Subject, Feature: ev.Feature, Loop: ev.Loop, Kind: string(ev.Kind), Episode: ev.Episode}
	if ev.Kind == Warned {
		mail.Kind = fmt.Sprintf("warned_%d", int(math.Round(ev.Threshold*100)))
		mail.Template = WarningTemplate
	}
	l := d.plan.Loop(ev.Feature)
	switch {
	case ev.Silent:
		mail.Skip = SkipSilent
	case l == nil || l.Prompt == nil:
		mail.Skip = SkipNoPrompt
	case ev.Kind == Blocked:
		mail.Template = l.Prompt.Template
	}
	s.Emails = append(s.Emails, mail)
}

// emit records an event of a row. What happens to people nobody knew before, in a window that is already over (of a
// rolling one: what has rolled off since), or in shadow mode, is recorded silently.
func (d *Decider) emit(s *State, sub *Subject, i int, ev Event) *Event {
	a, l := sub.Access[i], &d.plan.Loops[i]
	ends := a.ResetsAt
	if l.Window.Kind == Rolling && ev.Kind == Warned {
		ends = a.rolledBelow(func(left int64) bool { return left < warnLine(ev.Threshold, a.Limit) })
	}
	ev.Silent = ev.Silent || s.elsewhere(i) || l.Enforcement == Shadow || (s.Counting && !a.stored) || (!ends.IsZero() && !ends.After(s.Now))
	ev.Subject, ev.Feature, ev.Loop = sub.ID, l.Feature, l.Name
	ev.Tier, ev.Used, ev.Limit, ev.Episode = a.Tier, a.Used, a.Limit, a.Episode
	s.Events = append(s.Events, ev)
	return &s.Events[len(s.Events)-1]
}

// overRuns records with each block how far the count has gone beyond the limit since: what was served before
// anybody could see the flag.
func (d *Decider) overRuns(s *State) {
	for k := range s.Events {
		ev := &s.Events[k]
		if sub := s.Subjects[ev.Subject]; ev.Kind == Blocked && sub != nil {
			i := slices.IndexFunc(d.plan.Loops, func(l Loop) bool { return l.Feature == ev.Feature })
			if a := sub.Access[i]; a != nil && a.Episode == ev.Episode {
				ev.Over = over(a.Used, a.Limit)
			}
		}
	}
}

// OverRun is how many uses went beyond a limit, with the blocks that this decision recorded.
func (s *State) OverRun() (over int64) {
	for i := range s.Events {
		if ev := &s.Events[i]; ev.Kind == Blocked && !ev.Silent {
			over = plus(over, ev.Over)
		}
	}
	return over
}

// over is how far a count is beyond its limit.
func over(used int64, limit Limit) int64 {
	if limit == Unlimited {
		return 0
	}
	return max(0, plus(used, -int64(limit)))
}
