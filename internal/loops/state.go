package loops

import (
	"slices"
	"time"
)

// Access is one row of feature_access.
type Access struct {
	Allowed     bool
	Tier        string
	Used        int64
	Limit       Limit
	PeriodStart time.Time // zero where no window is open
	ResetsAt    time.Time
	ClosedAt    time.Time // end of the last window: earlier rows no longer count
	Reason      string
	Message     string
	Episode     int64
	Buckets     []Bucket    // of a rolling window, by their start
	Held        bool        // a strict row that somebody else may be changing: it can be read, and no more
	gone        []time.Time // the starts of buckets that went
	stored      bool
	dirty       bool
}

// Reasons why a flag is down.
const (
	ReasonLimit   = "limit_reached"
	ReasonPlan    = "not_in_plan"
	ReasonPastDue = "past_due"
)

// ReasonGranted is why a flag is up that would be down without grants.
const ReasonGranted = "granted"

// Subject is whom the limits apply to: its tier, where to write to it, and its row per loop.
type Subject struct {
	ID        string
	UserKey   string // identity of its row in the users table; empty: not listed there
	Tier      string
	Status    string    // of the subscription the tier comes from
	TierUntil time.Time // when the tier changes by itself (grace, trial); zero: never
	Billing   Span      // the period of that subscription
	Email     string
	Name      string
	Customer  string
	Deleted   bool
	Since     time.Time // when it came back, or went: what it used before does not count; zero: it never left
	Access    []*Access // by the plan's loops; nil where there is no row
	Subs      map[string]*Subscription
	Gauges    map[string]*Gauge
	Grants    []Grant // the open ones
	totals    []total // of its gauges, by the plan's loops; nil until they are needed
	stored    bool
	dirty     bool
	removed   bool // its rows and its contact data go
	again     bool // a row that had to change was held: it must be looked at again
}

// Subscription is the mirror of one subscription row.
type Subscription struct {
	Key          string
	Subject      string
	Status       string
	Plan         string
	Price        string
	Customer     string
	PeriodStart  time.Time
	PeriodEnd    time.Time
	PastDueSince time.Time
	dirty        bool
	removed      bool
}

// EventKind is what happened to a subject's access.
type EventKind string

// The kinds of access_event.
const (
	Warned      EventKind = "warned"
	Blocked     EventKind = "blocked"
	Unblocked   EventKind = "unblocked"
	Reset       EventKind = "reset"
	TierChanged EventKind = "tier_changed"
	Converted   EventKind = "converted"
	Churned     EventKind = "churned"
	Refused     EventKind = "refused" // by consume_feature
	Granted     EventKind = "granted"
	Revoked     EventKind = "revoked"  // a grant, by a person
	Expired     EventKind = "expired"  // a grant, by time
	Counted     EventKind = "counted"  // a new loop was counted
	Verified    EventKind = "verified" // somebody compared the flags with the data
)

// Event is one row of access_event.
type Event struct {
	ID        int64 // zero until stored
	Kind      EventKind
	Subject   string
	Feature   string // empty for events of the whole subject
	Loop      string
	Tier      string
	Used      int64
	Limit     Limit
	Over      int64 // how far the count went beyond the limit, as far as this decision has seen
	Episode   int64
	Threshold float64 // of Warned: the fraction that was crossed
	At        time.Time
	Silent    bool // recorded, never mailed
}

// State is what one decision sees and changes: the subjects that the changes name, as stored, and
// the database's clock. Whoever loads it writes back what Written returns.
type State struct {
	Now      time.Time     // the database's clock, or the test clock
	Shift    time.Duration // how far the test clock is ahead of commit times
	Counting bool          // a count, not the stream: what was not known before stays silent
	// Elsewhere marks the loops whose uses are counted by somebody else: new ones, until they are let in, or
	// all but those. What is found of them is no crossing.
	Elsewhere []bool
	// FirstEpisode is where new rows begin: behind all those of a table that was dropped.
	FirstEpisode int64
	Sparse       bool             // too many users for a row each
	Due          []string         // subjects of whom a row was held: they are looked at again
	Vacant       map[RowName]bool // strict rows that do not exist, and that nobody else is making
	Subjects     map[string]*Subject
	Keys         map[string]string // subscription key → subject, for rows that name only their key
	Users        map[string]string // user key → subject
	GaugeKeys    map[string]string // gauge key → subject
	Stored       map[int64]Event   // the events that came back on the stream
	Events       []Event
	Emails       []Email
	Late         int // rows older than their subject's window
	Unknown      int // rows without a subject
	loops        int
}

// RowName names a row of feature_access: the subject, and the loop by its place in the plan.
type RowName struct {
	Subject string
	Loop    int
}

// NewState returns an empty state for a plan of n loops.
func NewState(now time.Time, shift time.Duration, n int) *State {
	return &State{
		Now: now, Shift: shift, loops: n,
		Subjects: map[string]*Subject{}, Keys: map[string]string{}, Users: map[string]string{}, GaugeKeys: map[string]string{}, Stored: map[int64]Event{},
	}
}

// when is the time of a change on the decision's clock: now, where it was read from a table and not
// from the stream.
func (s *State) when(c *Change) time.Time {
	if c.Committed.IsZero() {
		return s.Now
	}
	return c.Committed.Add(s.Shift)
}

// present is the moment that a batch has come to: now, where the stream is quiet.
func (s *State) present(b Batch) time.Time {
	if through := b.Through.Add(s.Shift); !b.Through.IsZero() && through.Before(s.Now) {
		return through
	}
	return s.Now
}

func (s *State) elsewhere(i int) bool { return s.Elsewhere != nil && s.Elsewhere[i] }

// Load adds a stored subject.
func (s *State) Load(sub Subject) *Subject {
	sub.stored = true
	return s.add(sub)
}

func (s *State) add(sub Subject) *Subject {
	sub.Access = make([]*Access, s.loops)
	sub.Subs, sub.Gauges = map[string]*Subscription{}, map[string]*Gauge{}
	s.Subjects[sub.ID] = &sub
	if sub.UserKey != "" {
		s.Users[sub.UserKey] = sub.ID
	}
	return &sub
}

// LoadAccess adds a stored row of the plan's i-th loop.
func (s *State) LoadAccess(subject string, i int, a Access) {
	a.stored = true
	s.subject(subject).Access[i] = &a
}

// Row returns a loaded row; nil: there is none.
func (s *State) Row(subject string, i int) *Access {
	if sub := s.Subjects[subject]; sub != nil {
		return sub.Access[i]
	}
	return nil
}

// LoadBucket adds a stored bucket to a loaded row. Buckets of rows that are not there are nobody's.
func (s *State) LoadBucket(subject string, i int, b Bucket) {
	if a := s.subject(subject).Access[i]; a != nil {
		*a.bucket(b) = b
	}
}

// LoadSubscription adds a stored mirror row.
func (s *State) LoadSubscription(sub Subscription) {
	s.Keys[sub.Key] = sub.Subject
	s.subject(sub.Subject).Subs[sub.Key] = &sub
}

// LoadGauge adds a stored mirror row. All rows of a subject are loaded, or none.
func (s *State) LoadGauge(g Gauge) {
	s.GaugeKeys[g.Key] = g.Subject
	s.subject(g.Subject).Gauges[g.Key] = &g
}

func (s *State) subject(id string) *Subject {
	if sub, ok := s.Subjects[id]; ok {
		return sub
	}
	return s.add(Subject{ID: id, Tier: DefaultTier})
}

// Written is what a decision changed.
type Written struct {
	Subjects      []*Subject
	Removed       []string // subjects whose access rows go
	Access        []AccessRow
	Subscriptions []*Subscription
	Gone          []string // keys of subscriptions that go
	Gauges        []*Gauge
	GoneGauges    []string // keys of gauges that go
	Ended         []Grant  // that expired, or whose subject went
	Again         []string // subjects to be looked at again
	NextDue       time.Time
}

// AccessRow names the row that an Access is.
type AccessRow struct {
	Subject string
	Loop    int
	*Access
}

// Written returns what must be stored, and the next moment at which something is due by itself.
func (s *State) Written() Written {
	var w Written
	due := func(t time.Time) {
		if !t.IsZero() && (w.NextDue.IsZero() || t.Before(w.NextDue)) {
			w.NextDue = t
		}
	}
	for id, sub := range s.Subjects {
		if sub.dirty || (!sub.stored && !sub.Deleted && sub.inUse()) {
			w.Subjects = append(w.Subjects, sub)
		}
		if sub.removed {
			w.Removed = append(w.Removed, id)
		}
		if sub.again {
			w.Again = append(w.Again, id)
		}
		due(sub.TierUntil)
		for i, a := range sub.Access {
			if a == nil || a.Held {
				continue
			}
			if a.dirty || !a.stored {
				w.Access = append(w.Access, AccessRow{Subject: id, Loop: i, Access: a})
			}
			due(a.due())
		}
		for i := range sub.Grants {
			switch g := &sub.Grants[i]; {
			case !g.Ended.IsZero() && !g.Held:
				w.Ended = append(w.Ended, *g)
			case !sub.Deleted && g.Ended.IsZero():
				due(g.ExpiresAt)
			}
		}
		sub.mirrors(&w)
	}
	return w
}

// mirrors adds what changed in the mirrors of a subject's rows.
func (sub *Subject) mirrors(w *Written) {
	for key, m := range sub.Subs {
		switch {
		case m.removed:
			w.Gone = append(w.Gone, key)
		case m.dirty:
			w.Subscriptions = append(w.Subscriptions, m)
		}
	}
	for key, g := range sub.Gauges {
		switch {
		case g.removed:
			w.GoneGauges = append(w.GoneGauges, key)
		case g.dirty:
			w.Gauges = append(w.Gauges, g)
		}
	}
}

// New reports whether the row is not stored yet.
func (a *Access) New() bool { return !a.stored }

// due returns when the row changes by itself; zero: never.
func (a *Access) due() time.Time {
	if off := a.rollsOff(); !off.IsZero() {
		return off
	}
	return a.ResetsAt
}

// Idle reports whether a decision changed nothing at all.
func (s *State) Idle(w Written) bool {
	return len(s.Events)+len(s.Emails)+len(w.Subjects)+len(w.Removed)+len(w.Access)+len(w.Subscriptions)+len(w.Gone)+
		len(w.Gauges)+len(w.GoneGauges)+len(w.Ended)+len(w.Again)+len(s.Due) == 0
}

func (sub *Subject) inUse() bool {
	return len(sub.Subs) > 0 || slices.ContainsFunc(sub.Access, func(a *Access) bool { return a != nil })
}

// hasRow reports whether the subject was known before this decision, in any feature.
func (sub *Subject) hasRow() bool {
	return slices.ContainsFunc(sub.Access, func(a *Access) bool { return a != nil && a.stored })
}
