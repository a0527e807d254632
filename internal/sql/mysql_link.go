package sql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// mysqlLink is a connection to MySQL or MariaDB in the shape of pgx.
type mysqlLink struct {
	db       *sql.DB // nil: the connection is somebody else's
	conn     *sql.Conn
	text     *mysqlText
	borrowed func(name string) (*sql.Conn, bool) // the session that sees a snapshot of the change stream
}

// word returns a statement in the server's words.
func (l *mysqlLink) word(ctx context.Context, query string, args []any) (string, []any, error) {
	if l.text.clock == "" && l.text.asksClock(query) {
		var movable bool
		err := l.conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM information_schema.tables t
			WHERE t.table_schema = DATABASE() AND t.table_name = 'tiergate_clock')`).Scan(&movable)
		if err != nil {
			return "", nil, err
		}
		l.text.clock = `UTC_TIMESTAMP(6)`
		if movable {
			l.text.clock = `(SELECT UTC_TIMESTAMP(6) + INTERVAL c.shift MICROSECOND FROM tiergate_clock c)`
		}
	}
	text, given := l.text.of(query, args)
	return text, given, nil
}

func (l *mysqlLink) Exec(ctx context.Context, query string, args ...any) (tag pgconn.CommandTag, err error) {
	query, args, err = l.word(ctx, query, args)
	if err != nil {
		return tag, err
	}
	result, err := l.conn.ExecContext(ctx, query, args...)
	if err != nil {
		return tag, err
	}
	n, err := result.RowsAffected()
	return pgconn.NewCommandTag(fmt.Sprint("ROWS ", n)), err
}

func (l *mysqlLink) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	rows := l.query(ctx, query, args)
	return rows, rows.err
}

func (l *mysqlLink) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	return valueRow{l.query(ctx, query, args)}
}

func (l *mysqlLink) query(ctx context.Context, query string, args []any) *valueRows {
	query, args, err := l.word(ctx, query, args)
	if err != nil {
		return &valueRows{err: err}
	}
	rows, err := l.conn.QueryContext(ctx, query, args...)
	if err == nil {
		err = rows.Err()
	}
	if err != nil {
		return &valueRows{err: err}
	}
	columns, err := rows.Columns()
	return &valueRows{source: &driverRows{rows: rows, width: len(columns)}, err: err}
}

func (l *mysqlLink) Ping(ctx context.Context) error { return l.conn.PingContext(ctx) }

// IsClosed reports whether the driver has given the connection up.
func (l *mysqlLink) IsClosed() bool {
	closed := true
	_ = l.conn.Raw(func(c any) error {
		v, ok := c.(driver.Validator)
		closed = ok && !v.IsValid()
		return nil
	})
	return closed
}

func (l *mysqlLink) Close(context.Context) error {
	return errors.Join(l.conn.Close(), l.db.Close())
}

func (l *mysqlLink) Begin(ctx context.Context) (pgx.Tx, error) {
	_, err := l.conn.ExecContext(ctx, `START TRANSACTION`)
	return &mysqlTx{link: l}, err
}

func (l *mysqlLink) view(ctx context.Context, of loops.Snapshot) (pgx.Tx, error) {
	if of.Name != "" {
		conn, ok := l.borrowed(of.Name)
		if !ok {
			return nil, fmt.Errorf("the view %s is closed", of.Name)
		}
		lender := &mysqlLink{conn: conn, text: l.text}
		return &mysqlTx{link: lender, done: true}, lender.set(ctx, ForCount) // its owner ends it
	}
	for _, statement := range []string{`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`, `START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY`} {
		if _, err := l.conn.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	return &mysqlTx{link: l}, nil
}

// SendBatch runs the statements one by one: the protocol has no better way that every server allows.
func (l *mysqlLink) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	tx, err := l.Begin(ctx)
	if err != nil {
		return mysqlResults{err: err}
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	err = tx.SendBatch(ctx, b).Close()
	if err == nil {
		err = tx.Commit(ctx)
	}
	return mysqlResults{err: err}
}

// mysqlTx is a transaction of a link.
type mysqlTx struct {
	pgx.Tx // nil: what is not here is not asked for
	link   *mysqlLink
	done   bool
}

func (t *mysqlTx) Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	return t.link.Exec(ctx, query, args...)
}

func (t *mysqlTx) Query(ctx context.Context, query string, args ...any) (pgx.Rows, error) {
	return t.link.Query(ctx, query, args...)
}

func (t *mysqlTx) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	return t.link.QueryRow(ctx, query, args...)
}

func (t *mysqlTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		var err error
		if q.Fn == nil {
			_, err = t.link.Exec(ctx, q.SQL, q.Arguments...)
		} else {
			err = q.Fn(mysqlResults{ctx: ctx, link: t.link, query: q})
		}
		if err != nil {
			return mysqlResults{err: err}
		}
	}
	return mysqlResults{}
}

func (t *mysqlTx) Commit(ctx context.Context) error { return t.end(ctx, `COMMIT`) }

func (t *mysqlTx) Rollback(ctx context.Context) error { return t.end(ctx, `ROLLBACK`) }

func (t *mysqlTx) end(ctx context.Context, how string) error {
	if t.done {
		return nil
	}
	t.done = true
	_, err := t.link.conn.ExecContext(ctx, how)
	return err
}

// mysqlResults is the result of one statement of a batch, or how the whole of it ended.
type mysqlResults struct {
	pgx.BatchResults // nil: what is not here is not asked for
	ctx              context.Context
	link             *mysqlLink
	query            *pgx.QueuedQuery
	err              error
}

func (r mysqlResults) Exec() (pgconn.CommandTag, error) {
	return r.link.Exec(r.ctx, r.query.SQL, r.query.Arguments...)
}

func (r mysqlResults) Query() (pgx.Rows, error) {
	return r.link.Query(r.ctx, r.query.SQL, r.query.Arguments...)
}

func (r mysqlResults) QueryRow() pgx.Row {
	return r.link.QueryRow(r.ctx, r.query.SQL, r.query.Arguments...)
}

func (r mysqlResults) Close() error { return r.err }
