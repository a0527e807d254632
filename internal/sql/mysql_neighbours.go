package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// claim makes rows without a tier, which nobody else sees and consume_feature waits for. Those that somebody is making, or has
// made, it leaves. The probe waits for nobody; who comes after it is waited for at most a second.
func (m mysqlWords) claim(ctx context.Context, tx pgx.Tx, access string, missing []rowKey) (free []rowKey, err error) {
	if free, err = m.each(ctx, missing, func(ctx context.Context, rows []rowKey) error {
		var args []any
		found, err := tx.Query(ctx, "SELECT 1 FROM "+m.inline(&args, "u", keysOf(rows)...)+" STRAIGHT_JOIN "+access+
			" fa ON fa.subject_id = u.subject_id AND fa.feature = u.feature FOR UPDATE NOWAIT", args...)
		if err == nil {
			_, err = pgx.CollectRows(found, pgx.RowTo[int])
		}
		return err
	}); err != nil || len(free) == 0 {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `SET SESSION innodb_lock_wait_timeout = 1`); err != nil {
		return nil, err
	}
	free, err = m.each(ctx, free, func(ctx context.Context, rows []rowKey) error {
		var args []any
		_, err := tx.Exec(ctx, "INSERT INTO "+access+" (subject_id, feature, allowed, tier, updated_at) SELECT u.subject_id, u.feature, TRUE, '', UTC_TIMESTAMP(6) FROM "+
			m.inline(&args, "u", keysOf(rows)...)+" ON DUPLICATE KEY UPDATE subject_id = "+access+".subject_id", args...)
		return err
	})
	_, back := tx.Exec(ctx, `SET SESSION innodb_lock_wait_timeout = 5`)
	return free, errors.Join(err, back)
}

// each does work for all rows at once or, where somebody holds one of them, for each alone, and returns those that nobody holds.
func (mysqlWords) each(ctx context.Context, rows []rowKey, work func(context.Context, []rowKey) error) (free []rowKey, err error) {
	for part := range slices.Chunk(rows, mysqlRowsAtOnce) {
		err := work(ctx, part)
		if err == nil {
			free = append(free, part...)
			continue
		}
		if !isHeld(err) {
			return nil, err
		}
		for i := range part {
			switch err := work(ctx, part[i:i+1]); {
			case err == nil:
				free = append(free, part[i])
			case !isHeld(err):
				return nil, err
			}
		}
	}
	return free, nil
}

// isHeld reports whether somebody else has what a statement wanted to lock. A deadlock has ended the transaction, and is none of it.
func isHeld(err error) bool { return mysqlCode(err) == 1205 || mysqlCode(err) == 3572 }

func keysOf(rows []rowKey) []field {
	return []field{each("subject_id", "text", rows, func(r rowKey) string { return r.subject }), each("feature", "text", rows, func(r rowKey) string { return r.feature })}
}

// drop reads before it deletes: a DELETE locks what its subqueries read, and waits for it.
func (m mysqlWords) drop(b *pgx.Batch, access string, ids, kept []string, pause time.Duration) {
	b.Queue("").Fn = func(r pgx.BatchResults) error {
		results := r.(mysqlResults)
		ctx, tx := results.ctx, &mysqlTx{link: results.link}
		type key struct {
			Subject, Feature string
			Start            time.Time
		}
		read := func(query string) (keys []key, err error) {
			rows, err := tx.Query(ctx, query, ids, kept)
			if err != nil {
				return nil, err
			}
			return pgx.CollectRows(rows, pgx.RowToStructByPos[key])
		}
		write := &pgx.Batch{}
		remove := func(table string, keys []key, columns int) {
			if len(keys) > 0 {
				m.remove(write, table, []field{
					each("subject_id", "text", keys, func(k key) string { return k.Subject }),
					each("feature", "text", keys, func(k key) string { return k.Feature }),
					each("start", "timestamptz", keys, func(k key) time.Time { return k.Start }),
				}[:columns]...)
			}
		}
		free, err := read(`SELECT subject_id, feature, updated_at FROM ` + access + ` WHERE subject_id = ANY($1) AND feature <> ALL($2) FOR UPDATE SKIP LOCKED`)
		if err != nil {
			return err
		}
		remove(access, free, 2)
		if err := tx.SendBatch(ctx, write).Close(); err != nil {
			return err
		}
		write = &pgx.Batch{}
		write.Queue(`INSERT INTO tiergate.due (subject_id, at) SELECT DISTINCT subject_id, TIMESTAMPADD(MICROSECOND, $3, tiergate.now()) FROM `+access+`
			WHERE subject_id = ANY($1) AND feature <> ALL($2) ON CONFLICT (subject_id) DO UPDATE SET at = EXCLUDED.at`, ids, kept, pause.Microseconds())
		buckets, err := read(`SELECT subject_id, feature, start FROM tiergate.bucket x WHERE subject_id = ANY($1) AND feature <> ALL($2)
			AND NOT EXISTS (SELECT 1 FROM ` + access + ` fa WHERE fa.subject_id = x.subject_id AND fa.feature = x.feature)`)
		if err != nil {
			return err
		}
		remove("tiergate.bucket", buckets, 3)
		return tx.SendBatch(ctx, write).Close()
	}
}

// How long what the binlog shows may be invisible where the server does not tell which transactions are open; and how old its answer
// may be where it does.
const (
	mysqlBlind = 2 * time.Second
	mysqlStale = 200 * time.Millisecond
)

// seen asks for other transactions first: what is not seen after they are over was deleted.
func (m mysqlWords) seen(ctx context.Context, tx pgx.Tx, n needs, waited time.Duration) (all, over bool, err error) {
	if waited > mysqlStale {
		err := tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id <> CONNECTION_ID()
			AND t.trx_started <= COALESCE((SELECT o.trx_started FROM information_schema.innodb_trx o WHERE o.trx_mysql_thread_id = CONNECTION_ID()), t.trx_started))`).Scan(&over)
		if isRefused(err) {
			over = waited > mysqlBlind
		} else if err != nil {
			return false, false, err
		}
	}
	var events, grants, open int
	err = tx.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM tiergate.access_event WHERE id = ANY($1)), (SELECT COUNT(*) FROM tiergate.access_grant WHERE id = ANY($2)),
		(SELECT COUNT(*) FROM tiergate.access_grant WHERE id = ANY($3) AND ended_at IS NULL)`, n.events, n.grants, n.ended).Scan(&events, &grants, &open)
	return events == distinct(n.events) && grants == distinct(n.grants) && open == 0, over, err
}

func distinct[T int64 | string](all []T) int {
	seen := map[T]bool{}
	for _, one := range all {
		seen[one] = true
	}
	return len(seen)
}

// isRefused reports whether the server does not let us see other transactions.
func isRefused(err error) bool {
	return slices.Contains([]uint16{1044, 1109, 1142, 1227}, mysqlCode(err))
}

const mysqlOpen = `SELECT CONCAT(t.trx_mysql_thread_id, ' ', t.trx_started) FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id <> CONNECTION_ID()`

// mark is empty where nothing is open, and names nothing that ends where the server does not tell.
func (mysqlWords) mark(ctx context.Context, q querier) (mark string, err error) {
	err = q.QueryRow(ctx, `SELECT COALESCE(GROUP_CONCAT(o.name SEPARATOR ','), '') FROM (`+strings.Replace(mysqlOpen, "FROM", "AS name FROM", 1)+`) o`).Scan(&mark)
	if isRefused(err) {
		return "?", nil
	}
	return mark, err
}

func (mysqlWords) outlasted(ctx context.Context, q querier, mark string) (over bool, err error) {
	if mark == "" || mark == "?" {
		return mark == "", nil
	}
	rows, err := q.Query(ctx, mysqlOpen)
	if err != nil {
		return false, err
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return !slices.ContainsFunc(open, func(name string) bool { return slices.Contains(strings.Split(mark, ","), name) }), err
}

// endOthers finds sessions by the locks that they are named by.
func (mysqlWords) endOthers(ctx context.Context, s *Session, purposes ...Purpose) error {
	for _, purpose := range purposes {
		var id *int64
		if err := s.QueryRow(ctx, "SELECT NULLIF(IS_USED_LOCK("+sessionLock(purpose)+"), CONNECTION_ID())").Scan(&id); err != nil {
			return err
		}
		if id == nil {
			continue
		}
		// One that is gone already, or not ours to end, the checkpoint's term stops.
		if _, err := s.Exec(ctx, fmt.Sprint("KILL ", *id)); err != nil && mysqlCode(err) == 0 {
			return err
		}
	}
	return nil
}

// point is a place in the binlog.
func (mysqlWords) point(ctx context.Context, s *Session) (passed func(context.Context) (bool, error), err error) {
	file, offset, err := binlogEnd(ctx, s)
	return func(ctx context.Context) (bool, error) {
		var text string
		var at struct {
			File   string
			Offset uint64
		}
		if err := s.QueryRow(ctx, `SELECT position FROM tiergate.checkpoint`).Scan(&text); err != nil || text == "" {
			return false, err
		}
		err := json.Unmarshal([]byte(text), &at)
		// Numbers grow in width at a million files.
		behind := len(at.File) < len(file) || len(at.File) == len(file) && (at.File < file || at.File == file && at.Offset < offset)
		return !behind, err
	}, err
}

// binlogEnd is where the server writes now.
func binlogEnd(ctx context.Context, s *Session) (file string, offset uint64, err error) {
	conn := s.life.(*mysqlLink).conn
	flavor, err := mysqlFlavor(ctx, conn)
	if err != nil {
		return "", 0, err
	}
	place, err := mysqlPlace(ctx, conn, flavor)
	return place.file, place.offset, err
}
