package cdc

import (
	"context"
	"io"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// binlogGatherer is what a stream has read of a binlog and nobody has taken yet, and the position after it.
type binlogGatherer struct {
	source  *MySQL
	backlog binlogPosition // where the binlog ended when the stream began: time does not pass before
	ready   chan struct{}  // rings when something can be taken
	space   chan struct{}  // rings when something was taken

	pending  []loops.Change
	bytes    int
	at       binlogPosition // after the last pending change
	through  time.Time
	whole    bool // at is between transactions
	seenFile string
	seen     uint64 // offset in seenFile: everything before was received
	caughtUp bool
	urgent   bool // the position itself is news

	told     loops.Position // returned last
	toldAt   binlogPosition
	toldOpen bool
	toldWhen time.Time

	until  *binlogPosition // the stream goes no further for now; nil: no bound
	beyond bool            // and what comes next is beyond it
	err    error
}

// Next waits until whole transactions, or a full buffer, are pending, or until wake, but not before what
// was committed while nobody read has been returned: who reads takes an empty batch for the present.
func (s *binlogStream) Next(ctx context.Context, wake time.Time) (loops.Batch, error) {
	timer := time.NewTimer(time.Until(wake))
	defer timer.Stop()
	for late := false; ; {
		if b, ok, err := s.takePending(late); ok || err != nil {
			return b, err
		}
		select {
		case <-ctx.Done():
			return loops.Batch{}, ctx.Err()
		case <-s.ready:
		case <-timer.C:
			late = true
		}
	}
}

// takePending empties the buffer. When late it also returns a batch without changes.
func (s *binlogStream) takePending(late bool) (b loops.Batch, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	some := len(s.pending) > 0
	switch {
	case some && (s.whole || s.full() || s.err != nil):
	case s.urgent && s.whole:
	case s.err != nil:
		return b, false, s.err
	case s.until != nil && s.whole && (s.beyond || s.at.covers(s.until)):
		return b, false, io.EOF
	case !late || !s.present():
		return b, false, nil
	}
	if some || s.urgent || s.worthStoring() {
		s.told, s.toldAt, s.toldOpen, s.toldWhen = s.at.encode(), s.at.clone(), !s.whole, time.Now()
	}
	b = loops.Batch{Changes: s.pending, Position: s.told, Open: s.toldOpen, Through: s.through}
	s.pending, s.bytes, s.through, s.urgent = nil, 0, time.Time{}, false
	ring(s.space)
	return b, true, nil
}

func (g *binlogGatherer) full() bool { return len(g.pending) >= maxPending || g.bytes >= maxBytes }

// present reports whether the stream has come to where the binlog ended when it began.
func (g *binlogGatherer) present() bool {
	g.caughtUp = g.caughtUp || g.at.covers(&g.backlog) || !before(g.seenFile, g.seen, g.backlog.File, g.backlog.Offset)
	return g.caughtUp
}

// worthStoring reports whether the place of a quiet stream has moved far enough. What we write comes back in
// the stream, the position as well: storing each one would never end. But a file that is not needed any
// more is purged some day, and then an old position is lost.
func (g *binlogGatherer) worthStoring() bool {
	if !g.whole {
		return false
	}
	moved := uint64(idleBytes) + 1
	if g.at.File == g.toldAt.File && g.at.Offset >= g.toldAt.Offset {
		moved = g.at.Offset - g.toldAt.Offset
	}
	quiet := time.Since(g.toldWhen)
	return moved > idleBytes || (moved > idleLittle && quiet > idleEvery) || (moved > 0 && quiet > time.Hour) ||
		g.source.wanted(&g.toldAt, &g.at)
}

// Ack does nothing: a server keeps its binlog for a time, whoever has read it.
func (*binlogStream) Ack(loops.Position) {}

// fail ends the stream: Next returns err after what is pending.
func (s *binlogStream) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	ring(s.ready)
}

// awaitSpace waits while the buffer is full, and where the position must be stored before what comes next.
func (s *binlogStream) awaitSpace() error {
	for {
		s.mu.Lock()
		full := s.full() || (s.urgent && s.whole)
		s.mu.Unlock()
		if !full {
			return s.ctx.Err()
		}
		ring(s.ready)
		if err := s.awaitTaken(); err != nil {
			return err
		}
	}
}

// awaitTaken waits until something was taken, or the stream's bound moved.
func (s *binlogStream) awaitTaken() error {
	select {
	case <-s.space:
		return nil
	case <-s.ctx.Done():
		return errClosed
	}
}

// extend lets a bounded stream go on to a later place.
func (s *binlogStream) extend(until *binlogPosition) {
	s.mu.Lock()
	if until.covers(s.until) {
		s.until, s.beyond = until, false
	}
	s.mu.Unlock()
	ring(s.space)
}

// bounded reports whether a transaction lies beyond the place that the stream may go to.
func (s *binlogStream) bounded(t *transaction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beyond = s.until != nil && !t.within(s.until, &s.at)
	return s.beyond
}

// add makes changes pending, those of a prepared transaction only when it is committed. The caller holds mu.
func (g *binlogGatherer) add(changes []loops.Change, size int, committed time.Time) {
	if len(changes) > 0 {
		g.pending = append(g.pending, changes...)
		g.bytes += size
		g.through = committed
	}
}
