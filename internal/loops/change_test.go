package loops

import (
	"strings"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, c := range []struct {
		text string
		zone *time.Location
		want string // RFC 3339; empty: refused
	}{
		{"2026-03-01 10:00:30", nil, "2026-03-01T10:00:30Z"},
		{"2026-03-01 10:00:30", time.UTC, "2026-03-01T10:00:30Z"},
		{"2026-03-01 10:00:30.5", time.UTC, "2026-03-01T10:00:30.5Z"},
		{"2026-03-01 10:00:30.123456", time.UTC, "2026-03-01T10:00:30.123456Z"},
		{"2026-03-01 10:00:30+00", time.UTC, "2026-03-01T10:00:30Z"},
		{"2026-03-01 10:00:30.000001+00", time.UTC, "2026-03-01T10:00:30.000001Z"},
		{"2026-03-01 10:00:30.25+02", time.UTC, "2026-03-01T08:00:30.25Z"},
		{"2026-03-01 10:00:30-05", berlin, "2026-03-01T15:00:30Z"},
		{"2026-03-01 10:00:30+05:30", time.UTC, "2026-03-01T04:30:30Z"},
		{"1890-03-01 10:00:30+00:53:28", time.UTC, "1890-03-01T09:07:02Z"},
		{"2026-03-01 10:00:30", berlin, "2026-03-01T09:00:30Z"},
		{"2026-07-01 10:00:30", berlin, "2026-07-01T08:00:30Z"},
		{"2026-03-01 10:00:30+00", berlin, "2026-03-01T10:00:30Z"},
		{"2026-03-01", time.UTC, "2026-03-01T00:00:00Z"},
		{"2026-03-01", berlin, "2026-02-28T23:00:00Z"},
		{"0001-01-01 00:00:00", time.UTC, "0001-01-01T00:00:00Z"},
		{"infinity", time.UTC, "9999-12-31T23:59:59.999999Z"},
		{"294276-12-31 23:59:59.999999", time.UTC, "9999-12-31T23:59:59.999999Z"},
		{"10000-01-01", berlin, "9999-12-31T23:59:59.999999Z"},
		{"2026-02-30 00:00:00", time.UTC, ""},
		{"2026-13-01 00:00:00", time.UTC, ""},
		{"2026-03-01 24:00:00", time.UTC, ""},
		{"2026-03-01T10:00:30", time.UTC, ""},
		{"yesterday", time.UTC, ""},
		{"", time.UTC, ""},
	} {
		got, err := ParseTime(c.text, c.zone)
		switch {
		case c.want == "" && err == nil:
			t.Errorf("%q was read as %s", c.text, got)
		case c.want != "" && (err != nil || got.Format(time.RFC3339Nano) != c.want || got.Location() != time.UTC):
			t.Errorf("%q in %v: %s, %v, want %s", c.text, c.zone, got.Format(time.RFC3339Nano), err, c.want)
		}
	}
	for _, text := range []string{"-infinity", "4714-11-24 00:00:00 BC", "0044-03-15 00:00:00+00 BC"} {
		long, err := ParseTime(text, time.UTC)
		if err != nil || long.Truncate(time.Microsecond).IsZero() || long.Year() > 1 {
			t.Errorf("%q: %s, %v; it must be long ago, and never none, also when microseconds are all that is kept", text, long, err)
		}
	}
}

// TestParseTimeAtClockChanges holds that a local time that a clock change repeats or leaves out is read as
// PostgreSQL's AT TIME ZONE reads it, in standard time: the stream and the count must agree.
func TestParseTimeAtClockChanges(t *testing.T) {
	for _, c := range []struct{ zone, text, want string }{
		{"America/New_York", "2026-11-01 01:30:00", "2026-11-01 06:30:00"},
		{"America/New_York", "2026-03-08 02:30:00", "2026-03-08 07:30:00"},
		{"America/New_York", "2026-03-08 01:59:59", "2026-03-08 06:59:59"},
		{"America/New_York", "2026-03-08 03:00:00", "2026-03-08 07:00:00"},
		{"America/New_York", "2026-11-01 00:59:59", "2026-11-01 04:59:59"},
		{"America/New_York", "2026-11-01 02:00:00", "2026-11-01 07:00:00"},
		{"Europe/Berlin", "2026-10-25 02:30:00", "2026-10-25 01:30:00"},
		{"Europe/Berlin", "2026-03-29 02:30:00", "2026-03-29 01:30:00"},
		{"Europe/Berlin", "2026-03-29 03:30:00", "2026-03-29 01:30:00"},
	} {
		got, err := ParseTime(c.text, zone(t, c.zone))
		if err != nil || got != utc(c.want) {
			t.Errorf("%s in %s: %s, %v, want %s", c.text, c.zone, got, err, c.want)
		}
	}
}

// FuzzParseTime holds that the fast way agrees with the standard library wherever it answers.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-03-01 10:00:30.123456+00", "2026-02-31 10:00:30", "2026-03-01 10:00:30.+00", "0000-00-00 00:00:00",
		"2026-03-01 10:00:30.1234567891", "2026-03-01 10:00:30,5", "-026-03-01 10:00:30", "2026-03-01 10:00:30 BC"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseFast(s)
		if _, err := ParseTime(s, time.UTC); ok && err != nil {
			t.Fatalf("%q: the fast way reads it, ParseTime does not", s)
		}
		if !ok {
			return
		}
		want, err := time.Parse("2006-01-02 15:04:05.999999999", strings.TrimSuffix(s, "+00"))
		if err != nil || !got.Equal(want) {
			t.Fatalf("%q: %s, the standard library says %s, %v", s, got, want, err)
		}
	})
}

func TestReadingAUse(t *testing.T) {
	w := &watches()[0]
	committed := march
	read := func(values map[Field]Value) (Use, error) {
		return w.Use(func(f Field) Value { return values[f] }, committed)
	}
	null := Value{Kind: Null}
	for name, c := range map[string]struct {
		values map[Field]Value
		want   Use
		fails  bool
	}{
		"nothing": {nil, Use{Quantity: 1, At: committed}, false},
		"everything": {map[Field]Value{FieldSubject: Text("ann"), FieldEndpoint: Text("/a"), FieldMethod: Text("GET"), FieldFeature: Text("f"),
			FieldQuantity: Text("7"), FieldStatus: Text("200"), FieldAt: Text("2026-03-01 10:00:00")},
			Use{Subject: "ann", Endpoint: "/a", Method: "GET", Feature: "f", Quantity: 7, At: utc("2026-03-01 10:00:00")}, false},
		"nulls":         {map[Field]Value{FieldSubject: null, FieldQuantity: null, FieldStatus: null, FieldAt: null}, Use{Quantity: 1, At: committed}, false},
		"status 399":    {map[Field]Value{FieldStatus: Text("399")}, Use{Quantity: 1, At: committed}, false},
		"status 400":    {map[Field]Value{FieldStatus: Text("400")}, Use{Quantity: 1, At: committed, Refused: true}, false},
		"negative":      {map[Field]Value{FieldQuantity: Text("-3")}, Use{Quantity: -3, At: committed}, false},
		"half a use":    {map[Field]Value{FieldQuantity: Text("0.5")}, Use{}, true},
		"a broken time": {map[Field]Value{FieldAt: Text("soon")}, Use{}, true},
	} {
		got, err := read(c.values)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "usage") {
			t.Errorf("%s: %v does not name the table", name, err)
		}
	}
}
