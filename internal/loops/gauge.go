package loops

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
)

// Gauge is the mirror of one usage row that holds a count. A subject's rows add up; a delete names only
// the key, and an update only what the row holds now.
type Gauge struct {
	Key      string
	Subject  string
	Endpoint string
	Method   string
	Feature  string
	Value    int64 // NULL is 0; a row may be negative
	dirty    bool
	removed  bool
}

// total is what a subject's rows of one loop add up to.
type total struct {
	rows int
	sum  big.Int
}

// used is the sum as feature_access holds it.
func (t *total) used() int64 {
	switch {
	case t.sum.Sign() < 0:
		return 0
	case !t.sum.IsInt64():
		return math.MaxInt64
	default:
		return t.sum.Int64()
	}
}

// gauge mirrors a row that holds a count, and moves the counts of those it belonged and belongs to. A
// count of the whole table moves them afterwards: in between, the sums are nobody's.
func (d *Decider) gauge(s *State, c *Change) error {
	key := c.Key
	if c.OldKey != "" {
		key = c.OldKey
	}
	var old *Gauge
	var next Gauge
	if owner, known := s.GaugeKeys[key]; known {
		old = s.Subjects[owner].Gauges[key]
		next = *old
	}
	next.Key = c.Key
	if err := next.take(d.watches[Usage], c); err != nil {
		return err
	}
	if old != nil && next == *old && c.Op != Delete {
		return nil // such a table is updated for other reasons all the time
	}
	var moved []*Subject
	if old != nil {
		sub := s.Subjects[old.Subject]
		d.weigh(sub, old, -1)
		old.removed = true
		delete(s.GaugeKeys, key)
		moved = append(moved, sub)
	}
	switch {
	case c.Op == Delete:
	case Nobody(next.Subject):
		s.Unknown++
	default:
		sub := s.subject(next.Subject)
		next.dirty = true
		d.weigh(sub, &next, 1)
		sub.Gauges[next.Key] = &next
		s.GaugeKeys[next.Key] = next.Subject
		moved = append(moved, sub)
	}
	if s.Counting && d.watches[Usage].Gauge() {
		return nil
	}
	for _, sub := range moved {
		d.elapse(s, sub, s.when(c))
		for i := range sub.Access {
			d.read(s, sub, i, s.when(c))
		}
	}
	return nil
}

// take reads the columns of a usage row.
func (g *Gauge) take(w *Watch, c *Change) error {
	if c.Op == Delete {
		return nil
	}
	c.Row.merge(FieldSubject, &g.Subject)
	c.Row.merge(FieldEndpoint, &g.Endpoint)
	c.Row.merge(FieldMethod, &g.Method)
	c.Row.merge(FieldFeature, &g.Feature)
	text := strconv.FormatInt(g.Value, 10)
	c.Row.merge(FieldCount, &text)
	if text == "" {
		text = "0" // NULL
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return &Fault{Step: "read table " + w.Table + ", row " + c.Key, Kind: Changed,
			Err:  fmt.Errorf("column %s holds %q, which is not a whole number", w.Columns[FieldCount].Name, text),
			Hint: "the columns are looked up again; tables.usage.count names one that is an integer type"}
	}
	g.Value = n
	return nil
}

// totals adds up a subject's rows, once.
func (d *Decider) totals(sub *Subject) []total {
	if sub.totals == nil {
		sub.totals = make([]total, len(sub.Access))
		for _, g := range sub.Gauges {
			if !g.removed {
				d.weigh(sub, g, 1)
			}
		}
	}
	return sub.totals
}

// weigh adds a row to the totals of the loops it belongs to, or with sign -1 takes it away.
func (d *Decider) weigh(sub *Subject, g *Gauge, sign int) {
	totals, value := d.totals(sub), big.NewInt(g.Value)
	if sign < 0 {
		value.Neg(value)
	}
	for _, i := range d.match(&Use{Endpoint: g.Endpoint, Method: g.Method, Feature: g.Feature}) {
		totals[i].rows += sign
		totals[i].sum.Add(&totals[i].sum, value)
	}
}

// read sets what the subject used of a loop to what its rows add up to. A window that is still open, from
// when uses were counted, is over: a gauge has none.
func (d *Decider) read(s *State, sub *Subject, i int, at time.Time) {
	t := &d.totals(sub)[i]
	if sub.Deleted || d.plan.Loops[i].Enforcement == Strict || (sub.Access[i] == nil && t.rows == 0) {
		return
	}
	a := d.access(s, sub, i)
	if !a.ResetsAt.IsZero() {
		a.PeriodStart, a.ResetsAt, a.dirty = time.Time{}, time.Time{}, true
	}
	if used := t.used(); used != a.Used {
		d.move(s, sub, i, used, at)
	}
}
