package cdc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tiergate/tiergate/internal/loops"
)

// statusEvery is how often the server hears from us; it gives a silent client up after 60 s.
const statusEvery = 5 * time.Second

// stream reads one replication connection into a gatherer: a large backlog by SQL first (catchup.go), then
// as the server sends it. A goroutine of its own owns the socket, and answers the server. Next and Ack
// only touch what mu guards.
type stream struct {
	gatherer
	conn   *pgconn.PgConn
	config Config
	done   chan struct{} // closed when the goroutine has ended

	// Only the goroutine's own.
	nextTell time.Time
	told     pglogrepl.LSN
}

func newStream(conn *pgconn.PgConn, from position, backlog pglogrepl.LSN, c Config) *stream {
	return &stream{gatherer: newGatherer(from, backlog, c), conn: conn, config: c, done: make(chan struct{})}
}

// open takes the slot and begins to read.
func (s *stream) open(ctx context.Context) error {
	read := s.read
	if s.until == 0 && s.far() && s.forget(ctx) == nil { // else the server says what is wrong when it is asked to stream
		read = s.catchUp
	} else if err := s.start(ctx); err != nil {
		return err
	}
	go func() {
		defer close(s.done)
		s.fail(read())
	}()
	return nil
}

// start lets the server stream from the position on.
func (s *stream) start(ctx context.Context) error {
	err := pglogrepl.StartReplication(ctx, s.conn, s.config.Slot, s.at.End, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", fmt.Sprintf("publication_names '%s'", strings.Join(s.config.Publications, ","))},
	})
	if err != nil {
		return explain("start the change stream", err)
	}
	return nil
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

// read owns the connection until it fails or is closed.
func (s *stream) read() error {
	for {
		if err := s.tell(false); err != nil {
			return err
		}
		if err := s.awaitSpace(func() error { return s.tell(false) }); err != nil {
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
			for err = s.handle(m.Data); errors.Is(err, errBeyond); err = s.handle(m.Data) {
				if err := s.awaitBound(); err != nil {
					return err
				}
			}
		case *pgproto3.ErrorResponse:
			err = explain("read the change stream", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.CopyDone:
			err = &loops.Fault{Step: "read the change stream", Err: errors.New("the server ended it"), Kind: loops.Transient}
		}
		if err != nil {
			return err
		}
	}
}

// awaitBound waits until a bounded stream may go on, and goes on answering the server meanwhile.
func (s *stream) awaitBound() error {
	ring(s.ready)
	select {
	case <-s.space:
	case <-time.After(time.Second):
	}
	return s.tell(false)
}

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
		s.walEnds(k.ServerWALEnd)
		if k.ReplyRequested {
			return s.tell(true)
		}
		return nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return explain("read the change stream", err)
		}
		return s.take(x.WALData)
	default:
		return fmt.Errorf("read the change stream: unknown message %q", data[0])
	}
}
