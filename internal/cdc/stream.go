package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	// maxBytes bounds what gathers while a batch commits, beside maxPending.
	maxBytes = 32 << 20
	// statusEvery is how often the server hears from us; it gives a silent client up after 60 s.
	statusEvery = 5 * time.Second
	// An idle stream's position is worth storing when others wrote this much WAL, or a little and a
	// minute has passed. Our own writes alone are not worth it.
	idleBytes  = 16 << 20
	idleLittle = 64 << 10
	idleEvery  = time.Minute
)

// stream reads one replication connection. A goroutine of its own owns the socket: it decodes, gathers
// and answers the server. Next and Ack only touch what mu guards.
type stream struct {
	conn    *pgconn.PgConn
	backlog pglogrepl.LSN // where the WAL ended when the stream began: time does not pass before
	until   pglogrepl.LSN // the stream ends here; zero: never
	decoder *decoder
	log     *slog.Logger
	done    chan struct{} // closed when the goroutine has ended
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
	err      error
	closed   bool

	// Only the goroutine's own.
	committed time.Time      // of the open transaction
	skip      int64          // rows of it that are done
	resume    position       // where it began, until the first transaction has been matched
	scratch   []loops.Change // of one row
	nextTell  time.Time
	told      pglogrepl.LSN
}

func newStream(conn *pgconn.PgConn, from position, backlog, until pglogrepl.LSN, c Config) *stream {
	s := &stream{
		conn: conn, backlog: backlog, until: until, decoder: newDecoder(c.Watches, c.Since), log: c.Log,
		done: make(chan struct{}), ready: make(chan struct{}, 1), space: make(chan struct{}, 1),
		at: from, whole: from.Final == 0, acked: from.End, idleSeen: time.Now(), resume: from,
	}
	go s.run()
	return s
}

// Next waits until whole transactions, or a full buffer, are pending, or until wake, but not before what
// was committed while nobody read has been returned: who reads takes an empty batch for the present.
func (s *stream) Next(ctx context.Context, wake time.Time) (loops.Batch, error) {
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
func (s *stream) takePending(late bool) (b loops.Batch, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := len(s.pending) >= maxPending || s.bytes >= maxBytes
	switch {
	case len(s.pending) > 0 && (s.whole || full || s.err != nil):
	case s.err != nil:
		return b, false, s.err
	case !late || max(s.at.End, s.idle) < s.backlog:
		return b, false, nil
	case len(s.pending) == 0 && s.whole:
		s.settleIdle()
	}
	b = loops.Batch{Changes: s.pending, Position: s.at.encode(), Open: !s.whole, Through: s.through}
	s.pending, s.bytes, s.through = nil, 0, time.Time{}
	ring(s.space)
	return b, true, nil
}

// settleIdle moves the position of a quiet stream to the end of the WAL, if that is worth storing:
// otherwise the server keeps what others write for us.
func (s *stream) settleIdle() {
	moved := uint64(0)
	if s.idle > s.at.End {
		moved = uint64(s.idle - s.at.End)
	}
	if moved > idleBytes || (moved > idleLittle && time.Since(s.idleSeen) > idleEvery) {
		s.at.End, s.idleSeen = s.idle, time.Now()
	}
}

// Ack lets the server forget what is committed.
func (s *stream) Ack(at loops.Position) {
	p, err := decodePosition(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && p.End > s.acked {
		s.acked = p.End
	}
}

// Close ends the stream and waits for its goroutine.
func (s *stream) Close() {
	s.mu.Lock()
	s.closed = true
	s.conn.Conn().SetReadDeadline(time.Now()) //nolint:errcheck // a dead connection ends as well
	s.mu.Unlock()
	ring(s.space)
	<-s.done
	closeConn(s.conn)
}

func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run owns the connection until it fails or is closed.
func (s *stream) run() {
	defer close(s.done)
	err := s.read()
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	ring(s.ready)
}

var errClosed = errors.New("the stream was closed")

func (s *stream) read() error {
	for s.until == 0 || !s.reached(s.at.End) {
		if err := s.tell(false); err != nil {
			return err
		}
		if err := s.awaitSpace(); err != nil {
			return err
		}
		// One deadline for many messages: a plain deadline, because cancelling a context breaks the connection.
		message, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				continue
			}
			return explain("read the change stream", err)
		}
		switch m := message.(type) {
		case *pgproto3.CopyData:
			err = s.handle(m.Data)
		case *pgproto3.ErrorResponse:
			err = explain("read the change stream", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.CopyDone:
			err = &loops.Fault{Step: "read the change stream", Err: errors.New("the server ended it"), Kind: loops.Transient}
		}
		if err != nil {
			return err
		}
	}
	return io.EOF
}

// reached reports whether a stream that ends somewhere has come there.
func (s *stream) reached(at pglogrepl.LSN) bool { return s.until > 0 && at >= s.until }

// tell sends the acknowledged position when it is time, or at once when the server asks.
func (s *stream) tell(asked bool) error {
	now := time.Now()
	acked, due, err := s.schedule(now, asked)
	if err != nil || !due {
		return err
	}
	s.told = acked
	err = pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: acked})
	if err != nil {
		return explain("acknowledge the change stream", err)
	}
	return nil
}

// schedule sets the deadline of the next status message, unless none is due yet. Close sets one too,
// under the same lock, which must not be overwritten.
func (s *stream) schedule(now time.Time, asked bool) (acked pglogrepl.LSN, due bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, false, errClosed
	}
	if !asked && now.Before(s.nextTell) {
		return 0, false, nil
	}
	pause := statusEvery
	if s.acked != s.told {
		pause = time.Second // while positions move, so that the server can let go of WAL
	}
	s.nextTell = now.Add(pause)
	if err := s.conn.Conn().SetReadDeadline(s.nextTell); err != nil {
		return 0, false, explain("read the change stream", err)
	}
	return s.acked, true, nil
}

// awaitSpace waits while the buffer is full, and goes on answering the server meanwhile.
func (s *stream) awaitSpace() error {
	for {
		s.mu.Lock()
		full := len(s.pending) >= maxPending || s.bytes >= maxBytes
		s.mu.Unlock()
		if !full {
			return nil
		}
		ring(s.ready)
		select {
		case <-s.space:
		case <-time.After(time.Second):
		}
		if err := s.tell(false); err != nil {
			return err
		}
	}
}

func (s *stream) handle(data []byte) error {
	if len(data) == 0 {
		return errShort
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return explain("read a keepalive", err)
		}
		s.mu.Lock()
		s.idle = k.ServerWALEnd
		whole := s.whole
		s.mu.Unlock()
		ring(s.ready) // the backlog may be over
		if whole && s.reached(k.ServerWALEnd) {
			return io.EOF
		}
		if k.ReplyRequested {
			return s.tell(true)
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return explain("read the change stream", err)
		}
		message, err := s.decoder.decode(x.WALData)
		if err != nil {
			return err
		}
		return s.take(message, len(x.WALData))
	default:
		return fmt.Errorf("read the change stream: unknown message %q", data[0])
	}
}

// take adds one message to what is pending, and moves the position over it in the same step.
func (s *stream) take(message any, size int) error {
	switch m := message.(type) {
	case beginMessage:
		return s.begin(m)
	case commitMessage:
		s.mu.Lock()
		s.at.End, s.at.Final, s.at.Xid, s.at.Rows = max(s.at.End, m.end), 0, 0, 0
		s.whole, s.skip, s.idleSeen = true, 0, time.Now()
		some := len(s.pending) > 0
		s.mu.Unlock()
		if some {
			ring(s.ready)
		}
		return nil
	case rowMessage:
		return s.row(m, size)
	case truncateMessage:
		return s.truncated(m)
	default:
		return nil
	}
}

// begin opens a transaction. The first one after a position inside a transaction must be that one;
// while its rows that are done pass by, the position stays.
func (s *stream) begin(m beginMessage) error {
	if s.reached(m.final) {
		return io.EOF
	}
	from := s.resume
	s.resume, s.committed = position{}, m.committed
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case from.Final != 0 && (m.final != from.Final || m.xid != from.Xid):
		return gap("the transaction that was half applied (xid %d) does not come again", from.Xid)
	case from.Final != 0:
		s.skip = from.Rows
	case m.final < s.at.End:
		s.skip = math.MaxInt64 // applied as a whole before
	default:
		s.at.Final, s.at.Xid, s.at.Rows, s.whole = m.final, m.xid, 0, false
	}
	return nil
}

func (s *stream) row(m rowMessage, size int) error {
	if s.skip > 0 {
		s.skip--
		return nil
	}
	changes, unread, err := m.changes(s.scratch[:0], s.committed)
	if err != nil {
		return err
	}
	if unread != nil {
		s.log.Warn("a usage row cannot be read and does not count", "error", unread)
	}
	s.scratch = changes
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at.Rows++
	if len(changes) > 0 {
		s.pending = append(s.pending, changes...)
		s.bytes += size
		s.through = s.committed
	}
	return nil
}

func (s *stream) truncated(m truncateMessage) error {
	if len(m.tables) == 0 {
		return nil
	}
	return gap("table %s was truncated", m.tables[0].views[0].watch.Table)
}
