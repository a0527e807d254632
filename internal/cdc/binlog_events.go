package cdc

import (
	"fmt"
	"slices"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/google/uuid"

	"github.com/tiergate/tiergate/internal/loops"
)

// transaction is one of the binlog, as the event that announces it says.
type transaction struct {
	id        string // its GTID, or where the event stands
	committed time.Time
	mysql     *replication.GTIDEvent // nil without a GTID
	maria     *mysql.MariadbGTID
	file      string // where it begins
	start     uint64 // 0: not known

	open     bool   // there is more than one statement in it
	skip     int64  // row events that are done
	rows     int64  // row events received
	watched  bool   // some of a watched table
	xid      string // of a prepared one, once it is known
	prepares bool   // it only prepares
	changes  []loops.Change
	bytes    int
	lost     bool // its changes are more than are held
}

// mariaPrepares is a flag of MariaDB's GTID events that go-mysql has no name for: the transaction is only prepared.
const mariaPrepares = 1 << 6

// transactionOf returns the transaction that an event announces, nil for others.
func (s *binlogStream) transactionOf(e *replication.BinlogEvent) (*transaction, error) {
	t := &transaction{file: s.file, start: s.end}
	switch event := e.Event.(type) {
	case *replication.GTIDEvent:
		t.mysql = event
	case *replication.GtidTaggedLogEvent:
		t.mysql = &event.GTIDEvent
	case *replication.MariadbGTIDEvent:
		t.maria, t.id = &event.GTID, event.GTID.String()
		t.prepares, t.open = event.Flags&mariaPrepares != 0, !event.IsStandalone()
		// To the second: a row may be younger, but no second younger, than that.
		t.committed = time.Unix(int64(e.Header.Timestamp), 999_999_000).UTC()
		return t, nil
	default:
		return nil, nil
	}
	t.committed = t.mysql.ImmediateCommitTime().UTC()
	if t.committed.IsZero() {
		t.committed = time.Unix(int64(e.Header.Timestamp), 999_999_000).UTC()
	}
	switch {
	case e.Header.EventType != replication.ANONYMOUS_GTID_EVENT:
		set, err := t.mysql.GTIDNext()
		if err != nil {
			return nil, fmt.Errorf("read a GTID: %w", err)
		}
		t.id = set.String()
	case s.from.ByGTID:
		return nil, gap("%v", errNoGTID)
	default:
		t.id, t.mysql = fmt.Sprintf("%s:%d", s.file, e.Header.LogPos), nil
	}
	return t, nil
}

// within reports whether a transaction is one of those that had been executed at a place.
func (t *transaction) within(p, at *binlogPosition) bool {
	switch {
	case !p.ByGTID:
		return before(at.File, at.Offset, p.File, p.Offset)
	case t.maria != nil:
		last, ok := p.gtids.(*mysql.MariadbGTIDSet).Sets[t.maria.DomainID]
		return ok && last.Contain(t.maria)
	default:
		return p.gtids.Contain(t.set())
	}
}

// set is the transaction's own GTID.
func (t *transaction) set() *mysql.MysqlGTIDSet {
	set := mysql.NewMysqlGTIDSet()
	t.addTo(&set)
	return &set
}

func (t *transaction) addTo(gtids mysql.GTIDSet) {
	switch set := gtids.(type) {
	case *mysql.MariadbGTIDSet:
		set.Sets[t.maria.DomainID] = t.maria.Clone()
	case *mysql.MysqlGTIDSet:
		set.AddGTIDWithTag(uuid.UUID(t.mysql.SID), t.mysql.Tag, t.mysql.GNO)
	}
}

// earlier reports whether the open transaction is older than a place where the server once was.
func (s *binlogStream) earlier(place *binlogPosition) bool {
	switch {
	case place.File == "" || s.tx == nil:
		return false
	case s.tx.start > 0 && place.Offset > 0:
		return before(s.tx.file, s.tx.start, place.File, place.Offset)
	default:
		return s.tx.within(place, &s.at)
	}
}

// begin opens a transaction. The first one after a position inside a transaction must be that one; while its
// row events that are done pass by, the position stays.
func (s *binlogStream) begin(t *transaction) error {
	if s.bounded(t) {
		return errBeyond
	}
	if s.tx != nil {
		return fmt.Errorf("read the change stream: %v begins before %v has ended", t, s.tx)
	}
	if s.resume != "" && s.resume != t.id {
		return gap("the transaction that was half applied (%s) does not come again", s.resume)
	}
	if s.resume != "" {
		t.skip, s.resume = s.from.Rows, ""
	}
	s.tx = t
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = false
	if !s.sure && !s.earlier(&s.layout.answered) {
		s.sure, s.at.Names = true, s.layout.names // no change of theirs lies between
	}
	return nil
}

// inside handles an event that belongs to a transaction.
func (s *binlogStream) inside(e *replication.BinlogEvent) error {
	switch event := e.Event.(type) {
	case *replication.TableMapEvent:
		if s.source.watched[tableKey(string(event.Schema), string(event.Table))] {
			s.announced[event.TableID] = e.RawData[replication.EventHeaderSize:]
		}
		return nil
	case *replication.RowsEvent:
		return s.rows(event, e)
	case *replication.QueryEvent:
		return s.query(string(event.Query), string(event.Schema))
	case *replication.XIDEvent:
		return s.commit()
	case *replication.ExecuteLoadQueryEvent:
		return s.query("LOAD "+string(e.RawData[replication.EventHeaderSize:]), "")
	case *replication.GenericEvent:
		if e.Header.EventType == replication.XA_PREPARE_LOG_EVENT {
			return s.prepare(event.Data)
		}
	}
	return nil
}

// rows takes in one row event. Its number counts, whatever it is of.
func (s *binlogStream) rows(event *replication.RowsEvent, e *replication.BinlogEvent) error {
	t := s.tx
	if t == nil {
		return fmt.Errorf("read the change stream: rows of %s outside of a transaction", event.Table.Table)
	}
	if t.rows++; t.rows <= t.skip {
		return nil
	}
	table, err := s.tableOf(event.Table)
	if err != nil {
		return err
	}
	var changes []loops.Change
	if table != nil {
		t.watched = true
		if changes, err = s.changes(table, event, e.Header.EventType); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.prepares {
		s.hold(t, changes, len(e.RawData))
		return nil
	}
	s.at.Tx, s.at.Rows = t.id, t.rows
	s.add(changes, len(e.RawData), t.committed)
	return nil
}

// changes returns what the rows of an event mean.
func (s *binlogStream) changes(t *binlogTable, event *replication.RowsEvent, kind replication.EventType) (all []loops.Change, err error) {
	op, images := loops.Insert, 1
	switch event.Type() {
	case replication.EnumRowsEventTypeInsert:
	case replication.EnumRowsEventTypeDelete:
		op = loops.Delete
	default: // updates, and those that tell JSON in part
		op, images = loops.Update, 2
	}
	s.scratch = s.scratch[:0]
	for i := 0; i+images <= len(event.Rows); i += images {
		m := rowMessage{op: op, table: &t.table}
		if op != loops.Insert {
			if m.old, err = t.tuple(event, i); err != nil {
				return nil, err
			}
		}
		if op != loops.Delete {
			if m.new, err = t.tuple(event, i+images-1); err != nil {
				return nil, err
			}
		}
		if err := t.complete(&m); err != nil {
			return nil, err
		}
		if t.ends >= 0 && !m.versioned(t.ends) {
			continue
		}
		var unread error
		if s.scratch, unread, err = m.changes(s.scratch, s.tx.committed); err != nil {
			return nil, err
		}
		if unread != nil {
			s.source.config.Log.Warn("a usage row cannot be read and does not count", "error", unread)
		}
	}
	return s.scratch, nil
}

// versioned turns what happens to a row of a system-versioned table into what happens to the table: a row whose
// end is set was deleted, and one that is written with its end is history. It reports whether anything happens.
func (m *rowMessage) versioned(ends int) bool {
	was, is := m.old != nil && endless(m.old[ends]), m.new != nil && endless(m.new[ends])
	if m.op == loops.Update && was && !is {
		m.op, m.new = loops.Delete, nil
	}
	return was || is
}

// tuple returns the columns of a row that somebody needs. What the image leaves out is Missing.
func (t *binlogTable) tuple(event *replication.RowsEvent, row int) (tuple, error) {
	out := make(tuple, t.width)
	for i, c := range t.columns {
		if c == nil || slices.Contains(event.SkippedColumns[row], i) {
			continue
		}
		var err error
		if out[i], err = c.value(event.Rows[row][i]); err != nil {
			return nil, &loops.Fault{Step: "read the change stream", Err: fmt.Errorf("table %s: %w", event.Table.Table, err), Kind: loops.Gap,
				Hint: "SET GLOBAL binlog_row_value_options = '', and do not set it in sessions; usage is counted again"}
		}
	}
	return out, nil
}

// complete fills in what an image in part leaves out: in an update, what did not change. A new row of which a
// column is missing, or one that cannot be told from others, is a Gap.
func (t *binlogTable) complete(m *rowMessage) error {
	for i, c := range t.columns {
		switch {
		case c == nil:
		case m.op == loops.Update && m.new[i].Kind == loops.Missing:
			if m.new[i] = m.old[i]; m.new[i].Kind == loops.Missing {
				m.new[i].Kind = loops.Unchanged
			}
		case m.op == loops.Insert && m.new[i].Kind == loops.Missing:
			return t.inPart(i)
		}
	}
	for _, v := range t.views {
		for _, i := range v.key {
			if m.old != nil && m.old[i].Kind == loops.Missing {
				return t.inPart(i)
			}
		}
	}
	return nil
}

func (t *binlogTable) inPart(column int) error {
	return &loops.Fault{Step: "read the change stream", Kind: loops.Gap,
		Err:  fmt.Errorf("a row of table %s came without column %s: a session writes with binlog_row_image = MINIMAL or NOBLOB", t.views[0].watch.Table, t.names[column]),
		Hint: "SET GLOBAL binlog_row_image = 'FULL', and do not set it in sessions; usage is counted again"}
}

// commit ends the transaction: the position is after it.
func (s *binlogStream) commit() error {
	t := s.tx
	if t == nil {
		return fmt.Errorf("read the change stream: the end of a transaction came before its beginning")
	}
	if t.rows < t.skip {
		return gap("%v is shorter than what was applied of it", t)
	}
	s.tx = nil
	clear(s.announced)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at.File, s.at.Offset, s.at.Tx, s.at.Rows = s.file, s.end, "", 0
	if s.at.ByGTID {
		t.addTo(s.at.gtids)
	}
	s.whole = true
	ring(s.ready)
	return nil
}

// query handles a statement: where transactions begin and end, what changes tables, and rows that a session
// has written in statement format.
func (s *binlogStream) query(query, database string) error {
	if s.tx == nil {
		return nil
	}
	q := parseStatement(query, database)
	switch {
	case q.is(0, "BEGIN"):
		s.tx.open = true
		return nil
	case q.is(0, "COMMIT"):
		return s.commit()
	case q.is(0, "XA"):
		return s.xa(q, query)
	case q.is(0, "ROLLBACK"):
		if s.tx.watched || s.tx.skip > 0 {
			return gap("a transaction was rolled back after its rows were logged: it mixes tables with and without transactions")
		}
		if q.is(1, "TO") {
			return nil
		}
		return s.commit()
	case q.is(0, "SAVEPOINT"):
		return nil
	}
	touched, err := s.effect(q)
	if err != nil {
		return err
	}
	if touched {
		if err := s.altered(); err != nil {
			return err
		}
	}
	if s.tx.open {
		return nil
	}
	return s.commit()
}
