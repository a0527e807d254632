package cdc

import (
	"fmt"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// effect tells whether a statement may have changed a watched table's columns, and reports a Gap where rows
// came or went without being told.
func (s *binlogStream) effect(q statement) (altered bool, err error) {
	for i := range s.source.config.Watches {
		w := &s.source.config.Watches[i]
		switch q.means(w) {
		case meansAltered:
			altered = true
		case meansEmptied:
			return false, gap("table %s was truncated", w.Table)
		case meansLost:
			return false, gap("table %s was dropped, renamed or swapped for another one", w.Table)
		case meansWritten:
			return false, &loops.Fault{Step: "read the change stream", Kind: loops.Gap,
				Err:  fmt.Errorf("a session writes table %s in statement format, which does not tell rows", w.Table),
				Hint: "SET GLOBAL binlog_format = 'ROW', and do not set it in sessions; usage is counted again"}
		}
	}
	return altered, nil
}

// altered reads the columns of the watched tables again, where the change need not be in what was read. Where it is,
// later ones may be as well: it is not known how the table was meanwhile, and rows that name their columns can do
// without.
func (s *binlogStream) altered() error {
	clear(s.tables)
	if s.earlier(&s.layout.asked) {
		s.sure = false
		s.rename("")
		return nil
	}
	l, err := s.source.readLayout(s.ctx)
	if err != nil {
		return err
	}
	s.layout, s.sure = l, true
	s.rename(l.names)
	return nil
}

func (s *binlogStream) rename(names string) {
	s.mu.Lock()
	s.urgent = s.at.Names != names
	s.at.Names = names
	s.mu.Unlock()
}

// prepared is a transaction that was prepared, and has neither been committed nor rolled back.
type prepared struct {
	changes []loops.Change
	bytes   int
	lost    bool
}

// hold keeps what a prepared transaction did until that is decided. What is more than a full buffer is given up:
// its commit is a Gap. The caller holds mu.
func (s *binlogStream) hold(t *transaction, changes []loops.Change, size int) {
	held := len(t.changes)
	for _, p := range s.held {
		held += len(p.changes)
	}
	if t.lost = t.lost || held+len(changes) > maxPending; t.lost {
		t.changes, t.bytes = nil, 0
		return
	}
	t.changes = append(t.changes, changes...)
	t.bytes += size
}

// xa handles a statement of a distributed transaction. Its rows come when it is prepared; another transaction
// of the binlog says how it ended.
func (s *binlogStream) xa(q statement, query string) error {
	words := strings.Fields(query)
	if len(words) < 3 {
		return nil
	}
	xid := strings.Join(words[2:], "")
	switch {
	case q.is(1, "START"), q.is(1, "BEGIN"):
		s.tx.prepares, s.tx.open, s.tx.xid = true, true, xid
	case q.is(1, "END"):
		s.tx.xid = xid
	case q.is(1, "COMMIT"):
		if err := s.decided(xid); err != nil {
			return err
		}
		return s.commit()
	case q.is(1, "ROLLBACK"):
		s.forget(xid)
		return s.commit()
	}
	return nil
}

// prepare ends the part of a distributed transaction that has its rows. One phase is a commit.
func (s *binlogStream) prepare(event []byte) error {
	t := s.tx
	if t == nil {
		return nil
	}
	s.mu.Lock()
	if len(event) > 0 && event[0] != 0 {
		if t.lost {
			s.mu.Unlock()
			return gap("distributed transaction %s is too large to be held", t.xid)
		}
		s.add(t.changes, t.bytes, t.committed)
	} else {
		s.held[t.xid] = &prepared{changes: t.changes, bytes: t.bytes, lost: t.lost}
		if s.at.XA == nil {
			s.at.XA = map[string]bool{}
		}
		s.at.XA[t.xid] = t.watched
	}
	s.mu.Unlock()
	return s.commit()
}

// decided delivers what a transaction did that was prepared before. One that was prepared before the stream
// began may have changed anything.
func (s *binlogStream) decided(xid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	watched, known := s.at.XA[xid]
	p := s.held[xid]
	switch {
	case !known:
		return gap("distributed transaction %s was prepared before the stream began", xid)
	case watched && (p == nil || p.lost):
		return gap("what distributed transaction %s did is not held any more", xid)
	}
	if p != nil {
		for i := range p.changes {
			p.changes[i].Committed = s.tx.committed
		}
		s.add(p.changes, p.bytes, s.tx.committed)
	}
	delete(s.held, xid)
	delete(s.at.XA, xid)
	return nil
}

func (s *binlogStream) forget(xid string) {
	s.mu.Lock()
	delete(s.held, xid)
	delete(s.at.XA, xid)
	s.mu.Unlock()
}
