package cdc

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestCapturedBytes decodes what real servers sent.
func TestCapturedBytes(t *testing.T) {
	for name, c := range captured {
		t.Run(name, func(t *testing.T) {
			if *capture && c.sql != "" {
				writeCapture(t, name, c.before, c.sql)
			}
			messages := readCapture(t, name)
			if got := texts(t, messages); !slices.Equal(got, c.want) {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
			sameAsPglogrepl(t, messages)
			for _, m := range messages { // a message cut short is an error, or means nothing
				for n := range m {
					d := warm(t, messages)
					if _, err := d.decode(m[:n]); err == nil && n > 0 && strings.ContainsRune("BCRIUDT", rune(m[0])) && !isUnwatched(d, m[:n]) {
						t.Errorf("%d of %d bytes of %q were taken for a message", n, len(m), m[0])
					}
				}
			}
		})
	}
}

// isUnwatched says that a row's table is known and ignored, so that its bytes are not looked at.
func isUnwatched(d *decoder, m []byte) bool {
	if !strings.ContainsRune("IUD", rune(m[0])) || len(m) < 5 {
		return false
	}
	t := d.tables[binary.BigEndian.Uint32(m[1:])]
	return t != nil && !t.watched()
}

// texts decodes messages in order and prints what becomes of rows and truncations.
func texts(t *testing.T, messages [][]byte) []string {
	t.Helper()
	d := newDecoder((&app{}).watches(), 0)
	out := []string{}
	for i, m := range messages {
		message, err := d.decode(m)
		if err != nil {
			t.Fatalf("message %d (%q): %v", i, m[0], err)
		}
		switch m := message.(type) {
		case rowMessage:
			changes, unread, err := m.changes(nil, time.Now())
			if err != nil || unread != nil {
				t.Fatal(err, unread)
			}
			for _, change := range changes {
				out = append(out, changeText(change))
			}
		case truncateMessage:
			for _, table := range m.tables {
				out = append(out, "T "+table.views[0].watch.Table)
			}
		}
	}
	return out
}

// warm returns a decoder that knows every table of some messages.
func warm(t *testing.T, messages [][]byte) *decoder {
	t.Helper()
	d := newDecoder((&app{}).watches(), 0)
	for _, m := range messages {
		if m[0] == 'R' {
			if _, err := d.decode(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return d
}

// sameAsPglogrepl decodes messages with ours and with the library's decoder, and compares.
func sameAsPglogrepl(t failer, messages [][]byte) {
	t.Helper()
	d := newDecoder((&app{}).watches(), 0)
	for i, data := range messages {
		ours, err := d.decode(data)
		if err != nil {
			t.Fatalf("message %d (%q): %v", i, data[0], err)
		}
		theirs, err := pglogrepl.Parse(data)
		if err != nil {
			if data[0] == 'A' {
				continue // the library has no stream-abort in protocol 1
			}
			t.Fatalf("message %d (%q): the library says %v", i, data[0], err)
		}
		if difference := differ(ours, theirs, d); difference != "" {
			t.Fatalf("message %d (%q): %s", i, data[0], difference)
		}
	}
}

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func differ(ours any, theirs pglogrepl.Message, d *decoder) string {
	var got, want string
	switch w := theirs.(type) {
	case *pglogrepl.BeginMessage:
		got, want = fmt.Sprint(ours), fmt.Sprint(beginMessage{w.FinalLSN, w.CommitTime.UTC(), w.Xid})
	case *pglogrepl.CommitMessage:
		got, want = fmt.Sprint(ours), fmt.Sprint(commitMessage{w.TransactionEndLSN, w.CommitTime.UTC()})
	case *pglogrepl.InsertMessage:
		got, want = rowsText(ours, w.RelationID, nil, w.Tuple, d)
	case *pglogrepl.UpdateMessage:
		got, want = rowsText(ours, w.RelationID, w.OldTuple, w.NewTuple, d)
	case *pglogrepl.DeleteMessage:
		got, want = rowsText(ours, w.RelationID, w.OldTuple, nil, d)
	case *pglogrepl.TruncateMessage:
		var tables []*table
		for _, id := range w.RelationIDs {
			if table := d.tables[id]; table.watched() {
				tables = append(tables, table)
			}
		}
		got, want = fmt.Sprint(ours), fmt.Sprint(truncateMessage{tables})
	case *pglogrepl.RelationMessage:
		for _, v := range d.tables[w.RelationID].views {
			for _, f := range v.fields {
				if got, want := w.Columns[f.column].Name, v.watch.Columns[f.Field].Name; got != want {
					return fmt.Sprintf("column %d is %s, not %s", f.column, got, want)
				}
			}
		}
	default:
		if _, ok := ours.(otherMessage); !ok {
			return fmt.Sprintf("it is %T, not %T", ours, theirs)
		}
	}
	if got != want {
		return fmt.Sprintf("\n got %s\nwant %s", got, want)
	}
	return ""
}

// rowsText prints a row as both decoders see it.
func rowsText(ours any, id uint32, before, after *pglogrepl.TupleData, d *decoder) (got, want string) {
	m := ours.(rowMessage)
	if m.table != d.tables[id] {
		return "another table", ""
	}
	if !m.table.watched() {
		return "", ""
	}
	convert := func(t *pglogrepl.TupleData) tuple {
		if t == nil {
			return nil
		}
		out := tuple{}
		for _, c := range t.Columns {
			switch c.DataType {
			case pglogrepl.TupleDataTypeNull:
				out = append(out, loops.Value{Kind: loops.Null})
			case pglogrepl.TupleDataTypeToast:
				out = append(out, loops.Value{Kind: loops.Unchanged})
			default:
				out = append(out, loops.Text(string(c.Data)))
			}
		}
		return out
	}
	return fmt.Sprint(m.old, m.new), fmt.Sprint(convert(before), convert(after))
}

// TestRandomMessages compares both decoders on valid messages of every form.
func TestRandomMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const id = 77
		names := append([]string{"id", "email", "name"}, rapid.SliceOfN(rapid.StringMatching(`[a-z "ü]{0,9}`), 0, 4).Draw(t, "more columns")...)
		names = rapid.Permutation(names).Draw(t, "order")
		for i := range names { // the first of a name is the one that counts
			if slices.Index(names, names[i]) < i {
				names[i] = fmt.Sprint("column ", i)
			}
		}
		m := [][]byte{relationMessage(id, "users", names)}
		row := func(label string) []byte {
			b := binary.BigEndian.AppendUint16(nil, uint16(len(names)))
			for range names {
				switch kind := rapid.SampledFrom([]byte("ntu")).Draw(t, label); kind {
				case 't':
					text := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
					b = append(binary.BigEndian.AppendUint32(append(b, kind), uint32(len(text))), text...)
				default:
					b = append(b, kind)
				}
			}
			return b
		}
		head := func(kind byte) []byte { return binary.BigEndian.AppendUint32([]byte{kind}, id) }
		old := rapid.SampledFrom([]byte("KO")).Draw(t, "kind of old tuple")
		m = append(m, append(append(head('I'), 'N'), row("new")...), append(append(head('U'), 'N'), row("new")...), append(append(head('D'), old), row("old")...))
		m = append(m, append(append(append(append(head('U'), old), row("old")...), 'N'), row("new")...))
		begin := []byte{'B'}
		commit := []byte{'C', 0}
		for range 5 {
			word := rapid.Uint64Range(0, 1<<52).Draw(t, "word")
			if len(begin) < 17 {
				begin = binary.BigEndian.AppendUint64(begin, word)
			}
			if len(commit) < 26 {
				commit = binary.BigEndian.AppendUint64(commit, word)
			}
		}
		sameAsPglogrepl(t, append(m, binary.BigEndian.AppendUint32(begin, rapid.Uint32().Draw(t, "xid")), commit))
	})
}

func relationMessage(id uint32, table string, columns []string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	b = append(append(append(b, "public\x00"...), table...), 0, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, name := range columns {
		b = append(append(append(b, 1), name...), 0, 0, 0, 0, 25, 255, 255, 255, 255)
	}
	return b
}

func TestMalformedMessages(t *testing.T) {
	users := relationMessage(1, "users", []string{"id", "email", "name"})
	for name, c := range map[string]struct {
		message []byte
		want    string
	}{
		"empty":                   {nil, "too early"},
		"a row before its table":  {[]byte("I\x00\x00\x00\x09N\x00\x00"), "came before the table"},
		"too few columns":         {[]byte("I\x00\x00\x00\x01N\x00\x01n"), "3 columns"},
		"no tuple":                {[]byte("I\x00\x00\x00\x01"), "3 columns"},
		"a delete without key":    {[]byte("D\x00\x00\x00\x01N\x00\x03nnn"), "3 columns"},
		"another kind of tuple":   {[]byte("I\x00\x00\x00\x01X\x00\x00"), "unknown kind"},
		"another kind of column":  {[]byte("I\x00\x00\x00\x01N\x00\x03nxn"), "unknown kind"},
		"a value of 4 GB":         {[]byte("I\x00\x00\x00\x01N\x00\x03t\xff\xff\xff\xff"), "too early"},
		"more columns than bytes": {[]byte("I\x00\x00\x00\x01N\xff\xffn"), "too early"},
		"4 G tables":              {[]byte("T\xff\xff\xff\xff\x00"), "too early"},
		"65535 columns announced": {[]byte("R\x00\x00\x00\x02public\x00users\x00d\xff\xff"), "too early"},
		"a column that is gone":   {relationMessage(1, "users", []string{"id", "email"}), `no longer has column "name"`},
		"a key that is gone":      {relationMessage(1, "seats", []string{"org", "plan"}), `no longer has column "seat"`},
		"a tuple after the last":  {[]byte("I\x00\x00\x00\x01N\x00\x03nnnN\x00\x03nnnN\x00\x03nnn"), "tuple"},
	} {
		d := newDecoder((&app{}).watches(), 0)
		if _, err := d.decode(users); err != nil {
			t.Fatal(err)
		}
		if _, err := d.decode(c.message); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	d := newDecoder((&app{}).watches(), 0)
	_, err := d.decode(relationMessage(1, "users", []string{"id"}))
	if loops.KindOf(err) != loops.Changed {
		t.Errorf("a lost column is of kind %d: %v", loops.KindOf(err), err)
	}
}

// TestOneColumnTwoMeanings holds that a column may be both, as where people's addresses are their ids.
func TestOneColumnTwoMeanings(t *testing.T) {
	d := newDecoder([]loops.Watch{{Role: loops.Users, Schema: "public", Table: "users", Key: []string{"email"},
		Columns: map[loops.Field]loops.Column{loops.FieldSubject: {Name: "email"}, loops.FieldEmail: {Name: "email"}}}}, 0)
	if _, err := d.decode(relationMessage(1, "users", []string{"email"})); err != nil {
		t.Fatal(err)
	}
	message, err := d.decode([]byte("I\x00\x00\x00\x01N\x00\x01t\x00\x00\x00\x05a@b.c"))
	if err != nil {
		t.Fatal(err)
	}
	changes, _, err := message.(rowMessage).changes(nil, time.Time{})
	if err != nil || len(changes) != 1 {
		t.Fatal(changes, err)
	}
	expect(t, []string{changeText(changes[0])}, "I a@b.c subject=a@b.c email=a@b.c")
}

// callsOf lets the users table keep each user's count as well.
func callsOf(column string) loops.Watch {
	return loops.Watch{Role: loops.Usage, Schema: "public", Table: "users", Key: []string{"id"}, Columns: map[loops.Field]loops.Column{
		loops.FieldSubject: {Name: "id"}, loops.FieldCount: {Name: column}}}
}

// TestOneTableTwoRoles holds that a row of a table with two roles is a change in each, users first.
func TestOneTableTwoRoles(t *testing.T) {
	d := newDecoder(append([]loops.Watch{callsOf("calls")}, (&app{}).watches()...), 0)
	if _, err := d.decode(relationMessage(1, "users", []string{"id", "email", "name", "calls"})); err != nil {
		t.Fatal(err)
	}
	for message, want := range map[string][]string{
		"I\x00\x00\x00\x01N\x00\x04t\x00\x00\x00\x011nnt\x00\x00\x00\x017":                               {"I 1 subject=1 email=null name=null", "I 1 subject=1 count=7"},
		"U\x00\x00\x00\x01K\x00\x04t\x00\x00\x00\x011nnnN\x00\x04t\x00\x00\x00\x012nut\x00\x00\x00\x018": {"U 2 was 1 subject=2 email=null name=unchanged", "U 2 was 1 subject=2 count=8"},
		"D\x00\x00\x00\x01K\x00\x04t\x00\x00\x00\x012nnn":                                                {"D 2", "D 2"},
	} {
		m, err := d.decode([]byte(message))
		if err != nil {
			t.Fatal(err)
		}
		changes, unread, err := m.(rowMessage).changes(nil, time.Time{})
		if err != nil || unread != nil {
			t.Fatal(err, unread)
		}
		texts := []string{}
		for _, c := range changes {
			texts = append(texts, changeText(c))
		}
		expect(t, texts, want...)
		if changes[0].Role != loops.Users || !changes[1].Gauge() {
			t.Errorf("roles %d and %d", changes[0].Role, changes[1].Role)
		}
	}
	_, err := d.decode(relationMessage(1, "users", []string{"id", "email", "name"}))
	if err == nil || !strings.Contains(err.Error(), "tables.usage.count") {
		t.Errorf("a count that is gone: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	for name := range captured {
		for _, m := range readCapture(f, name) {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDecoder((&app{}).watches(), 0)
		for id, columns := range map[uint32][]string{1: {"id", "email", "name"}, 2: {"id", "user_id", "endpoint", "created_at"}, 3: {"org", "seat", "plan"}, 4: {"x"}} {
			if _, err := d.decode(relationMessage(id, []string{"", "users", "usage", "seats", "other"}[id], columns)); err != nil {
				t.Fatal(err)
			}
		}
		message, err := d.decode(data)
		if err != nil {
			return
		}
		switch m := message.(type) {
		case rowMessage:
			if len(m.old)+len(m.new) > len(data) {
				t.Fatalf("%d bytes became %d columns", len(data), len(m.old)+len(m.new))
			}
			m.changes(nil, time.Time{})
		case truncateMessage:
			if len(m.tables) > len(data)/4 {
				t.Fatalf("%d bytes became %d tables", len(data), len(m.tables))
			}
		}
	})
}
