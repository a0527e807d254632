package cdc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tiergate/tiergate/internal/loops"
)

// The messages of pgoutput, protocol 1, that mean something to the sidecar. Decoding takes bytes and
// gives values: it knows no connection.
type (
	beginMessage struct {
		final     pglogrepl.LSN // where the commit record will start
		committed time.Time
		xid       uint32
	}
	commitMessage struct {
		end       pglogrepl.LSN // where the commit record ends
		committed time.Time
	}
	// rowMessage is one insert, update or delete.
	rowMessage struct {
		op    loops.Op
		table *table
		old   tuple // the identity before, if it changed or the row is gone
		new   tuple
	}
	truncateMessage struct{ tables []*table }
	// otherMessage means nothing here: origins, types, logical messages, and the stray stream-abort that
	// PostgreSQL 18 sends even in protocol 1.
	otherMessage struct{ kind byte }
)

// tuple is a row's columns in the table's order.
type tuple []loops.Value

// table is what the last Relation message said of a table, matched with what is watched.
type table struct {
	width int    // columns
	views []view // one for each role it has; none where nobody watches it
}

// view is a table in one role.
type view struct {
	watch  *loops.Watch
	fields []field // what means something; one column may have several meanings
	key    []int   // columns of the replica identity, in the watch's order
}

// field is a meaning and the column that has it.
type field struct {
	loops.Field
	column int
}

// decoder keeps the tables announced so far.
type decoder struct {
	watches []loops.Watch
	since   pglogrepl.LSN // when the watches were looked up: what a table was like before is history
	final   pglogrepl.LSN // of the open transaction
	tables  map[uint32]*table
}

func newDecoder(watches []loops.Watch, since pglogrepl.LSN) *decoder {
	return &decoder{watches: watches, since: since, tables: map[uint32]*table{}}
}

// epoch is where PostgreSQL's timestamps begin, in microseconds after 1970.
const epoch = 946684800 * 1_000_000

var errShort = errors.New("message ends too early")

// reader takes a message apart; after the first lack of bytes it only returns zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) text() string {
	end := slices.Index(r.b, 0)
	if end < 0 {
		r.short, r.b = true, nil
		return ""
	}
	s := string(r.b[:end])
	r.b = r.b[end+1:]
	return s
}

func (r *reader) time() time.Time { return time.UnixMicro(int64(r.u64()) + epoch).UTC() }

// decode returns one message. It fails on bytes that are no pgoutput message, and where a watched
// table has lost a column that is needed.
func (d *decoder) decode(message []byte) (any, error) {
	if len(message) == 0 {
		return nil, errShort
	}
	r := &reader{b: message[1:]}
	var out any
	var err error
	switch message[0] {
	case 'B':
		d.final = pglogrepl.LSN(r.u64())
		out = beginMessage{final: d.final, committed: r.time(), xid: r.u32()}
	case 'C':
		r.take(9) // flags and the commit record's start
		out = commitMessage{end: pglogrepl.LSN(r.u64()), committed: r.time()}
	case 'R':
		err = d.relation(r)
		out = otherMessage{'R'}
	case 'I', 'U', 'D':
		out, err = d.row(loops.Op(message[0]), r)
	case 'T':
		out, err = d.truncate(r)
	default:
		return otherMessage{message[0]}, nil
	}
	if err == nil && r.short {
		err = errShort
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// relation takes over a table's columns; it comes before the table's first row and after every change.
func (d *decoder) relation(r *reader) error {
	id, schema, name := r.u32(), r.text(), r.text()
	r.u8() // replica identity
	n := r.u16()
	names := make([]string, 0, min(n, len(r.b)))
	var shape strings.Builder
	for range n {
		r.u8() // flags
		names = append(names, r.text())
		fmt.Fprintf(&shape, "%s:%d:%d,", names[len(names)-1], r.u32(), int32(r.u32()))
		if r.short {
			return errShort
		}
	}
	t := &table{width: n}
	for i := range slices.Backward(d.watches) { // users before usage: who there is before what they use
		if w := &d.watches[i]; w.Schema == schema && w.Table == name {
			v, err := d.viewOf(w, names, shape.String())
			if err != nil {
				return err
			}
			t.views = append(t.views, v)
		}
	}
	if old := d.tables[id]; old.watched() && !t.watched() {
		w := old.views[0].watch
		return d.changed("if none is found, set tables."+section(w.Role)+".table in sidecar.yaml",
			"table %s.%s is now %s.%s", w.Schema, w.Table, schema, name)
	}
	d.tables[id] = t
	return nil
}

// viewOf finds a watch's columns among a table's. Other columns than those that were looked up may mean
// something: a status that is new.
func (d *decoder) viewOf(w *loops.Watch, names []string, shape string) (view, error) {
	v := view{watch: w}
	for f, column := range w.Columns {
		c := slices.Index(names, column.Name)
		if c < 0 {
			return v, d.lostColumn(w, column.Name, "tables."+section(w.Role)+"."+f.String())
		}
		v.fields = append(v.fields, field{f, c})
	}
	for _, column := range w.Key {
		c := slices.Index(names, column)
		if c < 0 {
			return v, d.lostColumn(w, column, "the table's primary key")
		}
		v.key = append(v.key, c)
	}
	if w.Shape != "" && w.Shape != shape && d.final >= d.since {
		return v, d.changed("", "table %s.%s has other columns than before", w.Schema, w.Table)
	}
	return v, nil
}

// changed means that the tables must be looked up again. Where they were looked up after that, the stream
// cannot be read on from here.
func (d *decoder) changed(hint, format string, args ...any) error {
	if d.final < d.since {
		return gap(format, args...)
	}
	if hint != "" {
		hint = "; " + hint
	}
	return &loops.Fault{Step: "read the change stream", Err: fmt.Errorf(format, args...), Kind: loops.Changed,
		Hint: "the tables are looked up again" + hint}
}

// watched reports whether anybody watches the table.
func (t *table) watched() bool { return t != nil && len(t.views) > 0 }

func (d *decoder) lostColumn(w *loops.Watch, column, setting string) error {
	return d.changed("if it was renamed, set "+setting+" in sidecar.yaml", "table %s.%s no longer has column %q", w.Schema, w.Table, column)
}

func section(role loops.Role) string {
	return [...]string{"usage", "subscriptions", "users", "access_event", "access_grant"}[role]
}

func (d *decoder) row(op loops.Op, r *reader) (any, error) {
	id := r.u32()
	t, ok := d.tables[id]
	if !ok {
		return nil, fmt.Errorf("a row of table %d came before the table", id)
	}
	m := rowMessage{op: op, table: t}
	if !t.watched() {
		return m, nil
	}
	for n := 0; len(r.b) > 0; n++ {
		var err error
		switch kind := r.u8(); {
		case n < 2 && kind == 'N':
			m.new, err = readTuple(r)
		case n < 2 && (kind == 'K' || kind == 'O'):
			m.old, err = readTuple(r)
		default:
			err = fmt.Errorf("tuple of unknown kind %q", kind)
		}
		if err != nil {
			return nil, err
		}
	}
	if (op != loops.Delete && len(m.new) != t.width) || (op == loops.Delete && len(m.old) != t.width) ||
		(m.old != nil && len(m.old) != t.width) {
		return nil, fmt.Errorf("a row of table %s does not have the table's %d columns", t.views[0].watch.Table, t.width)
	}
	return m, nil
}

// readTuple reads a row's columns. All values share one string: one allocation a row, not one a column.
func readTuple(r *reader) (tuple, error) {
	n := r.u16()
	if n > len(r.b) {
		return nil, errShort
	}
	all := string(r.b)
	out := make(tuple, n)
	for i := range out {
		switch kind := r.u8(); kind {
		case 'n':
			out[i].Kind = loops.Null
		case 'u':
			out[i].Kind = loops.Unchanged
		case 't':
			size := int(r.u32())
			from := len(all) - len(r.b)
			if r.take(size); r.short {
				return nil, errShort
			}
			out[i] = loops.Text(all[from : from+size])
		default:
			return nil, fmt.Errorf("column of unknown kind %q", kind)
		}
	}
	return out, nil
}

func (d *decoder) truncate(r *reader) (any, error) {
	n := int(r.u32())
	r.u8() // cascade, restart identity
	var m truncateMessage
	for range n {
		t := d.tables[r.u32()]
		if r.short {
			return nil, errShort
		}
		if t.watched() {
			m.tables = append(m.tables, t)
		}
	}
	return m, nil
}

// changes appends what a row means in each of its table's roles. A usage row that cannot be read counts as
// one without a subject: unread says why, and it stops nobody.
func (m rowMessage) changes(to []loops.Change, committed time.Time) (all []loops.Change, unread, err error) {
	for i := range m.table.views {
		v := &m.table.views[i]
		if !v.counts(m.op) {
			continue
		}
		change, invalid := v.change(m, committed)
		switch {
		case invalid != nil && v.watch.Role != loops.Usage:
			return to, unread, invalid
		case invalid != nil:
			unread, change.Use = invalid, loops.Use{}
		}
		to = append(to, change)
	}
	return to, unread, nil
}

// counts reports whether a row means something. Of tables that are only appended to, updates and deletes
// do not: somebody may have widened their publication.
func (v *view) counts(op loops.Op) bool { return op == loops.Insert || v.watch.State() }

// keyText joins the values of the replica identity.
func (v *view) keyText(row tuple) string {
	if len(v.key) == 1 {
		return row[v.key[0]].Text
	}
	parts := make([]string, len(v.key))
	for i, c := range v.key {
		parts[i] = row[c].Text
	}
	return strings.Join(parts, "\x1f")
}

// change turns a row into what the core understands.
func (v *view) change(m rowMessage, committed time.Time) (c loops.Change, invalid error) {
	c = loops.Change{Role: v.watch.Role, Op: m.op, Committed: committed}
	switch {
	case v.watch.Role == loops.Events:
		_, err := fmt.Sscan(v.value(m.new, loops.FieldID).Text, &c.Event)
		return c, err
	case !v.watch.State():
		c.Use, invalid = v.watch.Use(func(f loops.Field) loops.Value { return v.value(m.new, f) }, committed)
		return c, invalid
	}
	if m.op == loops.Delete {
		c.Key = v.keyText(m.old)
		return c, nil
	}
	c.Key = v.keyText(m.new)
	if m.old != nil {
		if old := v.keyText(m.old); old != c.Key {
			c.OldKey = old
		}
	}
	c.Row = loops.Row{}
	for _, f := range v.fields {
		c.Row[f.Field] = m.new[f.column]
	}
	return c, nil
}

func (v *view) value(row tuple, f loops.Field) loops.Value {
	for i := range v.fields {
		if v.fields[i].Field == f {
			return row[v.fields[i].column]
		}
	}
	return loops.Value{}
}
