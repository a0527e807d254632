package cdc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	// maxBytes bounds what gathers while a batch commits, beside maxPending.
	maxBytes = 32 << 20
	// An idle stream's position is worth storing when others wrote this much WAL, or a little and a
	// minute has passed. Our own writes alone are not worth it.
	idleBytes  = 16 << 20
	idleLittle = 64 << 10
	idleEvery  = time.Minute
)

// gatherer is what a stream has read and nobody has taken yet, and the position after it. It does not
// know where the messages come from.
type gatherer struct {
	backlog pglogrepl.LSN // where the WAL ended when the stream began: time does not pass before
	decoder *decoder
	log     *slog.Logger
	ready   chan struct{} // rings when something can be taken
	space   chan struct{} // rings when something was taken

	mu       sync.Mutex
	pending  []loops.Change
	bytes    int
	at       position // after the last pending change
	through  time.Time
	whole    bool // at is between transactions
	acked    pglogrepl.LSN
	idle     pglogrepl.LSN // end of WAL, as the server says while nothing is open
	idleSeen time.Time     // when the position last moved
	until    pglogrepl.LSN // the stream goes no further for now; zero: no bound
	beyond   bool          // and what comes next is beyond it
	err      error
	closed   bool

	// Only the reading goroutine's own.
	committed time.Time      // of the open transaction
	skip      int64          // rows of it that are done
	resume    position       // where reading began, until the first transaction has been matched
	scratch   []loops.Change // of one row
	commits   int            // transactions read
}

func newGatherer(from position, backlog pglogrepl.LSN, c Config) gatherer {
	return gatherer{
		backlog: backlog, decoder: newDecoder(c.Watches, c.Since), log: c.Log,
		ready: make(chan struct{}, 1), space: make(chan struct{}, 1),
		at: from, whole: from.Final == 0, acked: from.End, idleSeen: time.Now(), resume: from,
	}
}

// Next waits until whole transactions, or a full buffer, are pending, or until wake, but not before what
// was committed while nobody read has been returned: who reads takes an empty batch for the present.
func (g *gatherer) Next(ctx context.Context, wake time.Time) (loops.Batch, error) {
	timer := time.NewTimer(time.Until(wake))
	defer timer.Stop()
	for late := false; ; {
		if b, ok, err := g.takePending(late); ok || err != nil {
			return b, err
		}
		select {
		case <-ctx.Done():
			return loops.Batch{}, ctx.Err()
		case <-g.ready:
		case <-timer.C:
			late = true
		}
	}
}

// takePending empties the buffer. When late it also returns a batch without changes.
func (g *gatherer) takePending(late bool) (b loops.Batch, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case len(g.pending) > 0 && (g.whole || g.full() || g.err != nil):
	case g.err != nil:
		return b, false, g.err
	case g.until > 0 && g.whole && (g.beyond || max(g.at.End, g.idle) >= g.until):
		return b, false, io.EOF
	case !late || max(g.at.End, g.idle) < g.backlog:
		return b, false, nil
	case len(g.pending) == 0 && g.whole:
		g.settleIdle()
	}
	b = loops.Batch{Changes: g.pending, Position: g.at.encode(), Open: !g.whole, Through: g.through}
	g.pending, g.bytes, g.through = nil, 0, time.Time{}
	ring(g.space)
	return b, true, nil
}

func (g *gatherer) full() bool { return len(g.pending) >= maxPending || g.bytes >= maxBytes }

// settleIdle moves the position of a quiet stream to the end of the WAL, if that is worth storing:
// otherwise the server keeps what others write for us.
func (g *gatherer) settleIdle() {
	moved := uint64(0)
	if g.idle > g.at.End {
		moved = uint64(g.idle - g.at.End)
	}
	if moved > idleBytes || (moved > idleLittle && time.Since(g.idleSeen) > idleEvery) {
		g.at.End, g.idleSeen = g.idle, time.Now()
	}
}

// Ack lets the server forget what is committed.
func (g *gatherer) Ack(at loops.Position) {
	p, err := decodePosition(at)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && p.End > g.acked {
		g.acked = p.End
	}
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var errClosed = errors.New("the stream was closed")

// errBeyond says that a message is not to be read yet.
var errBeyond = errors.New("beyond the stream's bound")

// alive fails once the stream was closed.
func (g *gatherer) alive() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	return nil
}

// fail ends the stream: Next returns err after what is pending.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	g.err = err
	g.mu.Unlock()
	ring(g.ready)
}

// awaitSpace waits while the buffer is full. Every second, and when something was taken, it calls meanwhile.
func (g *gatherer) awaitSpace(meanwhile func() error) error {
	for {
		g.mu.Lock()
		full := g.full()
		g.mu.Unlock()
		if !full {
			return nil
		}
		ring(g.ready)
		select {
		case <-g.space:
		case <-time.After(time.Second):
		}
		if err := meanwhile(); err != nil {
			return err
		}
	}
}

// extend lets a bounded stream go on to a later place.
func (g *gatherer) extend(until pglogrepl.LSN) {
	g.mu.Lock()
	if until > g.until {
		g.until, g.beyond = until, false
	}
	g.mu.Unlock()
	ring(g.space)
}

// bounded reports whether a transaction lies beyond the place that the stream may go to.
func (g *gatherer) bounded(final pglogrepl.LSN) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beyond = g.until > 0 && final >= g.until
	return g.beyond
}

// walEnds is told how far the WAL goes while nothing is open.
func (g *gatherer) walEnds(at pglogrepl.LSN) {
	g.mu.Lock()
	g.idle = at
	g.mu.Unlock()
	ring(g.ready) // the backlog may be over
}

// passed is told that all that was committed up to an LSN has been taken in: where nothing of it was
// for us, no commit has moved the position.
func (g *gatherer) passed(upto pglogrepl.LSN) {
	g.mu.Lock()
	if g.whole {
		g.at.End = max(g.at.End, upto)
	}
	g.mu.Unlock()
	ring(g.ready)
}

// take adds one message of pgoutput to what is pending, and moves the position over it in the same step.
func (g *gatherer) take(data []byte) error {
	message, err := g.decoder.decode(data)
	if err != nil {
		return err
	}
	switch m := message.(type) {
	case beginMessage:
		return g.begin(m)
	case commitMessage:
		g.commit(m)
		return nil
	case rowMessage:
		return g.row(m, len(data))
	case truncateMessage:
		return g.truncated(m)
	default:
		return nil
	}
}

// begin opens a transaction. The first one after a position inside a transaction must be that one;
// while its rows that are done pass by, the position stays.
func (g *gatherer) begin(m beginMessage) error {
	if g.bounded(m.final) {
		return errBeyond
	}
	from := g.resume
	g.resume, g.committed, g.skip = position{}, m.committed, 0 // a broken-off chunk may have left some to skip
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case from.Final != 0 && (m.final != from.Final || m.xid != from.Xid):
		return gap("the transaction that was half applied (xid %d) does not come again", from.Xid)
	case from.Final != 0:
		g.skip = from.Rows
	case m.final < g.at.End:
		g.skip = math.MaxInt64 // applied as a whole before
	default:
		g.at.Final, g.at.Xid, g.at.Rows, g.whole = m.final, m.xid, 0, false
	}
	return nil
}

func (g *gatherer) commit(m commitMessage) {
	g.commits++
	g.mu.Lock()
	g.at.End, g.at.Final, g.at.Xid, g.at.Rows = max(g.at.End, m.end), 0, 0, 0
	g.whole, g.skip, g.idleSeen = true, 0, time.Now()
	some := len(g.pending) > 0
	g.mu.Unlock()
	if some {
		ring(g.ready)
	}
}

func (g *gatherer) row(m rowMessage, size int) error {
	if g.skip > 0 {
		g.skip--
		return nil
	}
	changes, unread, err := m.changes(g.scratch[:0], g.committed)
	if err != nil {
		return err
	}
	if unread != nil {
		g.log.Warn("a usage row cannot be read and does not count", "error", unread)
	}
	g.scratch = changes
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at.Rows++
	if len(changes) > 0 {
		g.pending = append(g.pending, changes...)
		g.bytes += size
		g.through = g.committed
	}
	return nil
}

func (g *gatherer) truncated(m truncateMessage) error {
	if len(m.tables) == 0 || g.skip > 0 {
		return nil
	}
	return gap("table %s was truncated", m.tables[0].views[0].watch.Table)
}
