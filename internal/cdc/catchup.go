package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
)

// fetchRows is how many messages the server hands over at a time.
const fetchRows = 10_000

// far says whether the stream begins so far behind that it catches up in chunks. Inside a transaction it
// does not: that one is large, and a chunk would hold all of it.
func (s *stream) far() bool { return s.whole && s.at.End+farBytes <= s.backlog }

// catchUp reads the backlog in chunks, through the SQL functions of logical decoding, and lets the server
// stream what is left. A streamed row costs the server a message of its own, a chunk's rows come in bulk.
// A replication connection speaks SQL as well, so that the slot and the server stay the same.
func (s *stream) catchUp() error {
	begun, from := time.Now(), s.at.End
	s.log.Info("the change stream is far behind: catching up in chunks", "bytes", uint64(s.backlog-from))
	err := s.readChunks(context.Background())
	var refused *pgconn.PgError
	switch {
	case s.alive() != nil:
		return errClosed
	case errors.As(err, &refused): // no disk left for a chunk, say; if it is the slot, starting fails as well
		s.log.Warn("catching up in chunks was refused: streaming instead", "error", err)
	case err != nil:
		return explain("catch up with the change stream", err)
	}
	s.resume = s.at
	if err := s.start(context.Background()); err != nil {
		return err
	}
	s.log.Info("streaming takes over", "bytes", uint64(s.at.End-from), "took", time.Since(begun).Round(time.Millisecond).String())
	return s.read()
}

// readChunks peeks chunk by chunk. What nobody has acknowledged yet is returned again, and passed over:
// it is less than what fits into the buffer twice. Big transactions are better streamed: the server decodes
// the next while this one is applied, and decodes nothing twice.
func (s *stream) readChunks(ctx context.Context) error {
	for {
		upto, err := s.reach(ctx)
		if err != nil || upto == 0 {
			return err
		}
		before := s.commits
		messages, err := s.readChunk(ctx, upto)
		if err != nil {
			return err
		}
		s.passed(upto)
		if err := s.forget(ctx); err != nil {
			return err
		}
		if messages > bigTransaction*(s.commits-before+1) {
			return nil
		}
	}
}

// readChunk lets the server decode a chunk into a cursor that outlives its transaction, and fetches it bit
// by bit: a snapshot that lasted until all was applied would keep every old version of our own rows,
// and make applying slower than streaming. It returns how many messages there were.
func (s *stream) readChunk(ctx context.Context, upto pglogrepl.LSN) (messages int, err error) {
	defer s.exec(ctx, `CLOSE ALL`) //nolint:errcheck // a dead connection has closed it
	err = s.exec(ctx, fmt.Sprintf(`DECLARE chunk BINARY NO SCROLL CURSOR WITH HOLD FOR
		SELECT data FROM pg_logical_slot_peek_binary_changes('%s', '%s', NULL, 'proto_version', '1', 'publication_names', '%s')`,
		s.config.Slot, upto, strings.Join(s.config.Publications, ",")))
	for n := fetchRows; err == nil && n == fetchRows; messages += n {
		n, err = s.fetch(ctx)
	}
	return messages, err
}

// fetch takes in the chunk's next messages, and returns how many there were.
func (s *stream) fetch(ctx context.Context) (n int, err error) {
	results := s.conn.Exec(ctx, fmt.Sprintf(`FETCH %d FROM chunk`, fetchRows))
	for results.NextResult() {
		for rows := results.ResultReader(); err == nil && rows.NextRow(); n++ {
			if err = s.take(rows.Values()[0]); err == nil {
				err = s.awaitSpace(s.alive)
			}
		}
	}
	if end := results.Close(); err == nil {
		err = end
	}
	return n, err
}

func (s *stream) exec(ctx context.Context, sql string) error { return s.conn.Exec(ctx, sql).Close() }

// reach returns where the next chunk ends; 0: what is left is better streamed. A call decodes from
// restart_lsn on, and whatever it returns began after that, so upto − restart_lsn bounds its temporary
// files. restart_lsn is where the oldest transaction began that was open at the server's last note of
// such, which it makes every 15 s: a chunk is at least as long as what is decoded for nothing before it.
func (s *stream) reach(ctx context.Context) (upto pglogrepl.LSN, err error) {
	results, err := s.conn.Exec(ctx, `SELECT restart_lsn, pg_current_wal_flush_lsn() FROM pg_replication_slots
		WHERE restart_lsn IS NOT NULL AND slot_name = '`+s.config.Slot+`'`).ReadAll()
	if err != nil || len(results[0].Rows) == 0 {
		return 0, err
	}
	restart, err := pglogrepl.ParseLSN(string(results[0].Rows[0][0]))
	if err != nil {
		return 0, err
	}
	end, err := pglogrepl.ParseLSN(string(results[0].Rows[0][1]))
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	at := s.at.End
	s.mu.Unlock()
	if upto = min(end, at+max(chunkBytes, at-restart), restart+spanBytes); upto < at+farBytes {
		return 0, nil
	}
	return upto, nil
}

// forget lets the slot go on to what is acknowledged.
func (s *stream) forget(ctx context.Context) error {
	s.mu.Lock()
	acked := s.acked
	s.mu.Unlock()
	if acked == s.told {
		return nil
	}
	s.told = acked
	return s.exec(ctx, fmt.Sprintf(`SELECT pg_replication_slot_advance('%s', '%s')`, s.config.Slot, acked))
}
