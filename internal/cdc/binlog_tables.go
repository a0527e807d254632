package cdc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/tiergate/tiergate/internal/loops"
)

// MySQLColumn is a column of a watched table as information_schema describes it.
type MySQLColumn struct {
	Schema, Table, Name string
	Type                string // COLUMN_TYPE: "bigint unsigned", "enum('a','b')", "uuid"
	Charset             string // empty where it holds no text
	RowEnd              bool   // of a system-versioned table: when the row ended
	Hidden              bool   // only the server knows it
}

// layout is what the server said of the watched tables' columns, and when. A change that was logged before it was asked
// is in it; one that was logged after it had answered is not.
type layout struct {
	columns  map[string][]MySQLColumn // by schema and table, in the table's order
	charsets map[uint64]string        // by collation
	names    string                   // identifies them
	asked    binlogPosition
	answered binlogPosition
}

func tableKey(schema, table string) string { return schema + "\x00" + table }

// readLayout asks the server.
func (m *MySQL) readLayout(ctx context.Context) (l *layout, err error) {
	l = &layout{columns: map[string][]MySQLColumn{}}
	if l.asked, err = m.now(ctx); err != nil {
		return nil, err
	}
	columns, err := m.config.Columns(ctx)
	if err != nil {
		return nil, err
	}
	digest := sha256.New()
	for _, c := range columns {
		key := tableKey(c.Schema, c.Table)
		l.columns[key] = append(l.columns[key], c)
		fmt.Fprintf(digest, "%q", []string{c.Schema, c.Table, c.Name, c.Type, c.Charset})
	}
	l.names = hex.EncodeToString(digest.Sum(nil)[:8])
	if l.charsets, err = m.config.Charsets(ctx); err != nil {
		return nil, err
	}
	l.answered, err = m.now(ctx)
	return l, err
}

// now is the place where the server writes.
func (m *MySQL) now(ctx context.Context) (binlogPosition, error) {
	facts, err := m.config.Facts(ctx)
	if err != nil {
		return binlogPosition{}, err
	}
	return facts.end()
}

// binlogTable is a watched table as the binlog's last table map describes it.
type binlogTable struct {
	table
	announced []byte          // the table map's bytes
	columns   []*binlogColumn // by place in the row; nil where nobody needs the value
	names     []string
	ends      int // the column that says when a row ended; -1: the table has none
}

// tableOf returns the table of a row event, nil where nobody watches it. A table map comes before each
// statement's rows: only one that says something new is read.
func (s *binlogStream) tableOf(m *replication.TableMapEvent) (*binlogTable, error) {
	key := tableKey(string(m.Schema), string(m.Table))
	if !s.source.watched[key] {
		return nil, nil
	}
	t := s.tables[key]
	if t == nil || !bytes.Equal(t.announced, s.announced[m.TableID]) {
		var err error
		if t, err = s.readTableMap(m, key); err != nil {
			return nil, err
		}
		t.announced = s.announced[m.TableID]
		s.tables[key] = t
	}
	return t, nil
}

// readTableMap matches a table map with what is watched. Names, labels and signs come with it, as the server is
// set, or from information_schema, if that is known to be of this time.
func (s *binlogStream) readTableMap(m *replication.TableMapEvent, key string) (*binlogTable, error) {
	known := s.layout.columns[key]
	t := &binlogTable{table: table{width: int(m.ColumnCount)}, names: m.ColumnNameString(), ends: -1}
	t.columns = make([]*binlogColumn, t.width)
	if t.names == nil {
		if err := s.fits(m, known); err != nil {
			return nil, err
		}
		for _, c := range known {
			t.names = append(t.names, c.Name)
		}
	}
	for i := range slices.Backward(s.source.config.Watches) { // users before usage: who there is before what they use
		w := &s.source.config.Watches[i]
		if tableKey(w.Schema, w.Table) != key {
			continue
		}
		v, err := s.viewOf(w, t.names, known)
		if err != nil {
			return nil, err
		}
		t.views = append(t.views, v)
	}
	for _, c := range known {
		if c.RowEnd {
			t.ends = slices.Index(t.names, c.Name)
		}
	}
	return t, s.describe(t, m, known)
}

// fits reports a Gap where a table map without names is not of the table that information_schema describes. MariaDB
// has hashes of long unique keys behind the columns.
func (s *binlogStream) fits(m *replication.TableMapEvent, known []MySQLColumn) error {
	doubt := func(format string, args ...any) error {
		return &loops.Fault{Step: "resume the change stream", Kind: loops.Gap,
			Err:  fmt.Errorf("table %s: %s, and the binlog does not name columns", m.Table, fmt.Sprintf(format, args...)),
			Hint: "usage is counted again; with SET GLOBAL binlog_row_metadata = 'FULL' it need not be"}
	}
	switch {
	case !s.sure:
		return doubt("it was altered after this place")
	case len(known) > int(m.ColumnCount), len(known) < int(m.ColumnCount) && s.from.Flavor != flavorMariaDB:
		return doubt("its rows have %d columns and not %d", m.ColumnCount, len(known))
	}
	for i, c := range known {
		dataType, _, _ := strings.Cut(strings.ReplaceAll(c.Type, "(", " "), " ")
		if kinds := kindsOf(dataType); kinds != nil && !slices.Contains(kinds, kindOf(m, i)) {
			return doubt("column %s is no %s", c.Name, c.Type)
		}
	}
	return nil
}

// kindOf returns a column's type; ENUM and SET hide behind CHAR.
func kindOf(m *replication.TableMapEvent, i int) byte {
	switch {
	case m.IsEnumColumn(i):
		return mysql.MYSQL_TYPE_ENUM
	case m.IsSetColumn(i):
		return mysql.MYSQL_TYPE_SET
	}
	return m.ColumnType[i]
}

// viewOf finds a watch's columns among a table's.
func (s *binlogStream) viewOf(w *loops.Watch, names []string, known []MySQLColumn) (view, error) {
	v := view{watch: w}
	for f, column := range w.Columns {
		c := slices.Index(names, column.Name)
		if c < 0 {
			return v, s.lostColumn(w, column.Name, "tables."+section(w.Role)+"."+f.String())
		}
		v.fields = append(v.fields, field{f, c})
	}
	for _, column := range w.Key {
		c := slices.Index(names, column)
		if c < 0 {
			return v, s.lostColumn(w, column, "the table's primary key")
		}
		v.key = append(v.key, c)
	}
	if w.Shape != "" && w.Shape != shapeOf(names, known) && !s.earlier(&s.source.since) {
		return v, s.changed("", "table %s.%s has other columns than before", w.Schema, w.Table)
	}
	return v, nil
}

// shapeOf is a table's shape in a binlog's words: its columns' names in their order, each with a comma.
func shapeOf(names []string, known []MySQLColumn) string {
	var shape strings.Builder
	for _, name := range names {
		hidden := slices.ContainsFunc(known, func(c MySQLColumn) bool { return c.Hidden && c.Name == name })
		if !hidden && !strings.HasPrefix(name, "DB_ROW_HASH_") {
			shape.WriteString(name + ",")
		}
	}
	return shape.String()
}

func (s *binlogStream) lostColumn(w *loops.Watch, column, setting string) error {
	return s.changed("; if it was renamed, set "+setting+" in sidecar.yaml", "table %s.%s no longer has column %q", w.Schema, w.Table, column)
}

// changed means that the tables must be looked up again. Where they were looked up after that, the stream
// cannot be read on from here.
func (s *binlogStream) changed(hint, format string, args ...any) error {
	if s.earlier(&s.source.since) {
		return gap(format, args...)
	}
	return &loops.Fault{Step: "read the change stream", Err: fmt.Errorf(format, args...), Kind: loops.Changed,
		Hint: "the tables are looked up again" + hint}
}

// describe says of each column that somebody needs how its values are read.
func (s *binlogStream) describe(t *binlogTable, m *replication.TableMapEvent, known []MySQLColumn) error {
	needed := map[int]bool{}
	if t.ends >= 0 {
		needed[t.ends] = true
	}
	for _, v := range t.views {
		for _, f := range v.fields {
			needed[f.column] = true
		}
		for _, c := range v.key {
			needed[c] = true
		}
	}
	unsigned, collations := m.UnsignedMap(), m.CollationMap()
	labelCollations, enums, sets := m.EnumSetCollationMap(), m.EnumStrValueMap(), m.SetStrValueMap()
	for i := range needed {
		c := &binlogColumn{name: t.names[i], kind: kindOf(m, i), unsigned: unsigned[i]}
		at := slices.IndexFunc(known, func(k MySQLColumn) bool { return k.Name == c.name })
		var k MySQLColumn
		if at >= 0 {
			k = known[at]
		}
		if m.SignednessBitmap == nil {
			c.unsigned = strings.Contains(k.Type, "unsigned")
		}
		charset := k.Charset
		if id, ok := collations[i]; ok {
			charset = s.layout.charsets[id]
		}
		if c.kind == mysql.MYSQL_TYPE_STRING {
			c.size = int(m.ColumnMeta[i] & 0xff)
			if typ := k.Type; typ == "uuid" || typ == "inet4" || typ == "inet6" {
				c.network, charset = typ, "binary"
			}
		}
		if c.kind == mysql.MYSQL_TYPE_GEOMETRY || c.kind == mysql.MYSQL_TYPE_VECTOR {
			charset = "binary"
		}
		var err error
		if c.labels = slices.Concat(enums[i], sets[i]); c.kind == mysql.MYSQL_TYPE_ENUM || c.kind == mysql.MYSQL_TYPE_SET {
			if c.labels == nil { // information_schema speaks UTF-8
				c.labels = labelsOf(k.Type)
			} else if id, ok := labelCollations[i]; ok {
				err = decodeLabels(c.labels, s.layout.charsets[id])
			}
		} else {
			err = c.read(charset)
		}
		if err != nil {
			return &loops.Fault{Step: "read the change stream", Err: fmt.Errorf("column %s of table %s: %w", c.name, m.Table, err),
				Hint: "convert the column to utf8mb4"}
		}
		t.columns[i] = c
	}
	return nil
}

// read sets how text is decoded.
func (c *binlogColumn) read(charset string) error {
	switch c.kind {
	case mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING, mysql.MYSQL_TYPE_BLOB,
		mysql.MYSQL_TYPE_GEOMETRY, mysql.MYSQL_TYPE_VECTOR:
	default:
		return nil
	}
	if charset == "" || charset == "binary" {
		c.binary = true
		return nil
	}
	c.size = 0
	var ok bool
	if c.decoder, ok = encodingOf(charset); !ok {
		return unreadCharset(charset)
	}
	return nil
}

func unreadCharset(charset string) error {
	return errors.New("character set " + charset + " is not supported in this version")
}

func decodeLabels(labels []string, charset string) error {
	decoder, ok := encodingOf(charset)
	if charset == "" || charset == "binary" || decoder == nil && ok {
		return nil
	}
	if !ok {
		return unreadCharset(charset)
	}
	for i, label := range labels {
		decoded, err := decoder.NewDecoder().String(label)
		if err != nil {
			return err
		}
		labels[i] = decoded
	}
	return nil
}

// labelsOf takes the labels out of a COLUMN_TYPE: enum('a','it”s').
func labelsOf(columnType string) (labels []string) {
	rest := columnType[strings.IndexByte(columnType, '(')+1:]
	for len(rest) > 0 && rest[0] == '\'' {
		var label string
		label, rest = quoted(rest)
		labels, rest = append(labels, label), strings.TrimPrefix(rest, ",")
	}
	return labels
}
