package loops

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Position is a place in a change stream. Only the package that reads the stream knows its form and
// order; everybody else stores it and hands it back. Empty: no place yet.
type Position string

// Op is what happened to a row.
type Op byte

// The operations of a change.
const (
	Insert   Op = 'I'
	Update   Op = 'U'
	Delete   Op = 'D'
	Truncate Op = 'T'
)

// Change is one committed fact from the stream, in commit order.
type Change struct {
	Role      Role
	Op        Op
	Committed time.Time // the database's clock; zero: read from a table, not from the stream
	Use       Use       // of Usage that is rows
	Key       string    // of state (Watch.State): the row's replica identity
	OldKey    string    // the identity before an update that changed it; else empty
	Row       Row       // of state; nil for Delete
	Event     int64     // of Events: the row's id
}

// Gauge reports whether the change is of a usage row that holds a count.
func (c *Change) Gauge() bool { return c.Role == Usage && (c.Op == Delete || c.Row != nil) }

// Batch is what the stream had ready: changes, and the place after them.
type Batch struct {
	Changes  []Change
	Position Position
	Open     bool      // the place is inside a transaction
	Through  time.Time // commit time of the newest change; zero where the stream was quiet
}

// Use is one usage row.
type Use struct {
	Subject  string // empty: NULL
	Endpoint string
	Method   string
	Feature  string
	Quantity int64
	At       time.Time // never after the commit
	Refused  bool      // the application answered with status 400 or above: does not count
}

// Row holds the columns of a row of state that the flow knows.
type Row map[Field]Value

// Value is one column's value as text.
type Value struct {
	Text string
	Kind ValueKind
}

// ValueKind says what stands in a column.
type ValueKind byte

// A column may be missing from the table, NULL, left out of an update because it did not change, or there.
const (
	Missing ValueKind = iota
	Null
	Unchanged
	Present
)

// Text returns a value that is there.
func Text(s string) Value { return Value{Text: s, Kind: Present} }

// merge puts the row's value of f into *to, unless the stream left it out as unchanged.
func (r Row) merge(f Field, to *string) {
	switch v := r[f]; v.Kind {
	case Unchanged:
	case Present:
		*to = v.Text
	default:
		*to = ""
	}
}

func (r Row) mergeTime(f Field, to *time.Time, zone *time.Location) error {
	var text string
	if r[f].Kind == Unchanged {
		return nil
	}
	r.merge(f, &text)
	if text == "" {
		*to = time.Time{}
		return nil
	}
	t, err := ParseTime(text, zone)
	if err != nil {
		return fmt.Errorf("%s: %w", f, err)
	}
	*to = t
	return nil
}

// Use reads a usage row. value returns a column by its field. A time ahead of the commit is clamped
// to it: the database's clock is the only one that counts.
func (w *Watch) Use(value func(Field) Value, committed time.Time) (Use, error) {
	u := Use{
		Subject:  value(FieldSubject).Text,
		Endpoint: value(FieldEndpoint).Text,
		Method:   value(FieldMethod).Text,
		Feature:  value(FieldFeature).Text,
		Quantity: 1,
		At:       committed,
	}
	if v := value(FieldQuantity); v.Kind == Present {
		n, err := strconv.ParseInt(v.Text, 10, 64)
		if err != nil {
			return Use{}, fmt.Errorf("column %s of %s holds %q, which is not a whole number", w.Columns[FieldQuantity].Name, w.Table, v.Text)
		}
		u.Quantity = n
	}
	if v := value(FieldStatus); v.Kind == Present {
		n, err := strconv.Atoi(v.Text)
		u.Refused = err == nil && n >= 400
	}
	if v := value(FieldAt); v.Kind == Present {
		t, err := ParseTime(v.Text, w.Zone)
		if err != nil {
			return Use{}, fmt.Errorf("column %s of %s: %w", w.Columns[FieldAt].Name, w.Table, err)
		}
		u.At = t
	}
	return u, nil
}

// ParseTime reads a timestamp as databases print it in ISO style, with or without zone; zone is what
// "without" means. It returns UTC. What lies beyond the years 1 to 9999, or at infinity, becomes the end
// of that span.
func ParseTime(s string, zone *time.Location) (time.Time, error) {
	if zone == nil {
		zone = time.UTC
	}
	if t, ok := parseFast(s); ok && zone == time.UTC {
		return t, nil
	}
	switch year, _, dated := strings.Cut(s, "-"); {
	case s == "infinity", dated && len(year) > 4 && strings.Trim(year, "0123456789") == "":
		return time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC), nil
	case s == "-infinity", strings.HasSuffix(s, " BC"):
		return time.Time{}.Add(time.Microsecond), nil // what databases keep, and not the zero that means none
	}
	for _, layout := range []string{
		"2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07:00:00",
	} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	for _, layout := range []string{"2006-01-02 15:04:05.999999999", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return inZone(t, zone), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time that can be read", s)
}

// inZone returns when a wall clock showed what t shows in UTC. What a change of the clock repeats or
// leaves out is standard time, as for PostgreSQL's AT TIME ZONE; time.Date does not say what it takes.
func inZone(t time.Time, zone *time.Location) time.Time {
	_, before := t.AddDate(0, 0, -1).In(zone).Zone()
	_, after := t.AddDate(0, 0, 1).In(zone).Zone()
	shown := func(offset int) (at time.Time, ok bool) {
		at = t.Add(-time.Duration(offset) * time.Second)
		_, there := at.In(zone).Zone()
		return at, there == offset
	}
	standard, ok := shown(min(before, after))
	if summer, only := shown(max(before, after)); only && !ok {
		return summer
	}
	return standard
}

// parseFast reads "2026-03-01 10:00:30[.ffffff][+00]": what a session in UTC prints, without the
// layouts' cost, because every usage row has one.
func parseFast(s string) (time.Time, bool) {
	if len(s) < 19 || s[4] != '-' || s[7] != '-' || s[10] != ' ' || s[13] != ':' || s[16] != ':' {
		return time.Time{}, false
	}
	ok := true
	num := func(from, to int) (n int) {
		for _, c := range []byte(s[from:to]) {
			ok = ok && c >= '0' && c <= '9'
			n = n*10 + int(c-'0')
		}
		return n
	}
	year, month, day := num(0, 4), num(5, 7), num(8, 10)
	hour, minute, sec := num(11, 13), num(14, 16), num(17, 19)
	rest, nanos := s[19:], 0
	if len(rest) > 1 && rest[0] == '.' && rest[1] >= '0' && rest[1] <= '9' {
		scale := 100_000_000
		rest = rest[1:]
		for rest != "" && rest[0] >= '0' && rest[0] <= '9' && scale > 0 {
			nanos += int(rest[0]-'0') * scale
			scale /= 10
			rest = rest[1:]
		}
	}
	if !ok || (rest != "" && rest != "+00") || month < 1 || month > 12 || hour > 23 || minute > 59 || sec > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, sec, nanos, time.UTC)
	return t, t.Day() == day
}
