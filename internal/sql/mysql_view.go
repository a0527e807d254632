package sql

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// MySQLView is a view of the data as of a place in the binlog.
type MySQLView struct {
	Name    string // of the session that sees it, see MySQLViews.Session
	File    string
	Offset  uint64
	GTIDs   string // executed there; empty without GTIDs, and where nothing was
	Release func() // lets the view go: the server need not keep old rows any more
	Close   func() // ends the session
}

// MySQLViews opens views, each in a session of its own, which whoever counts borrows by its name.
//
// MariaDB tells the exact place of a consistent snapshot, without any lock. MySQL tells it nowhere: what the
// binlog holds is not yet to be seen, and what can be seen is not yet in gtid_executed, so two equal readings of
// either around a snapshot prove nothing, and under load there is always a commit on its way. What can be
// done with no more than LOCK TABLES on the application's database: a READ lock on the watched tables is given when
// no transaction that has written them is open, and whoever was given back its lock has been committed, in the
// tables and in the binlog. So under the lock a snapshot and the end of the binlog agree on those tables.
// FLUSH TABLES WITH READ LOCK asks for more rights, which hosts do not give, and stops all tables. Writers wait as
// long as the lock is asked for and held: milliseconds, and never more than a second, after which it is given up
// and asked for again later.
type MySQLViews struct {
	db      *stdsql.DB
	watches []loops.Watch

	mu       sync.Mutex
	sessions map[string]*stdsql.Conn
	last     int
}

// NewMySQLViews returns views of the watched tables. db connects to the application's database.
func NewMySQLViews(db *stdsql.DB, watches []loops.Watch) *MySQLViews {
	return &MySQLViews{db: db, watches: watches, sessions: map[string]*stdsql.Conn{}}
}

// Session returns the session that sees a view, inside its transaction; false where that was closed.
func (v *MySQLViews) Session(name string) (*stdsql.Conn, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	conn, ok := v.sessions[name]
	return conn, ok
}

// Open opens a view. It fails with a transient fault where the application's transactions leave no moment for it.
func (v *MySQLViews) Open(ctx context.Context) (view MySQLView, err error) {
	flavor, err := mysqlFlavor(ctx, v.db)
	if err != nil {
		return view, err
	}
	conn, err := v.db.Conn(ctx)
	if err != nil {
		return view, explainBinlog("open a view", err)
	}
	if flavor == "mariadb" {
		err = view.beginMariaDB(ctx, conn)
	} else {
		err = v.beginMySQL(ctx, conn, &view)
	}
	if err != nil {
		dropSession(conn)
		return view, explainBinlog("open a view", err)
	}
	v.mu.Lock()
	v.last++
	view.Name = strconv.Itoa(v.last)
	v.sessions[view.Name] = conn
	v.mu.Unlock()
	view.Release = func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`) } // a dead session has let it go
	view.Close = func() {
		v.mu.Lock()
		delete(v.sessions, view.Name)
		v.mu.Unlock()
		dropSession(conn)
	}
	return view, nil
}

// dropSession ends a session: what was set in it must not come back from the pool.
func dropSession(conn *stdsql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}

// beginView makes what a session reads from now on the data of this moment.
func beginView(ctx context.Context, conn *stdsql.Conn) error {
	for _, statement := range []string{
		`SET SESSION time_zone = '+00:00'`,
		`SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ`,
		`START TRANSACTION WITH CONSISTENT SNAPSHOT`,
	} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (w *MySQLView) beginMariaDB(ctx context.Context, conn *stdsql.Conn) error {
	if err := beginView(ctx, conn); err != nil {
		return err
	}
	rows, err := mysqlRows(ctx, conn, `SHOW STATUS LIKE 'binlog_snapshot_%'`)
	if err != nil {
		return err
	}
	for _, row := range rows {
		switch strings.ToLower(row["variable_name"]) {
		case "binlog_snapshot_file":
			w.File = row["value"]
		case "binlog_snapshot_position":
			if w.Offset, err = strconv.ParseUint(row["value"], 10, 64); err != nil {
				return err
			}
		}
	}
	if w.File == "" {
		return &loops.Fault{Step: "open a view", Err: errors.New("the binlog is off (log_bin)"), Hint: mysqlTurnOn("")}
	}
	return conn.QueryRowContext(ctx, `SELECT COALESCE(BINLOG_GTID_POS(?, ?), '')`, w.File, w.Offset).Scan(&w.GTIDs)
}

// lockPauses are how long the application has its tables for itself between attempts to lock them.
func lockPauses() []time.Duration {
	return []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 0}
}

// beginMySQL opens the view while nobody writes the watched tables.
func (v *MySQLViews) beginMySQL(ctx context.Context, conn *stdsql.Conn, view *MySQLView) error {
	lock, err := v.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer dropSession(lock) // and with it the locks
	for _, pause := range lockPauses() {
		err := v.lockTables(ctx, lock)
		if err == nil {
			err = beginView(ctx, conn)
			var place binlogPlace
			if err == nil {
				place, err = mysqlPlace(ctx, lock, "mysql")
			}
			view.File, view.Offset, view.GTIDs = place.file, place.offset, place.gtids
			return err
		}
		if mysqlCode(err) != 1205 { // lock wait timeout
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return &loops.Fault{Step: "open a view", Kind: loops.Transient,
		Err:  errors.New("transactions that write the watched tables stay open for longer than a second"),
		Hint: "the count begins when they end; SELECT * FROM information_schema.innodb_trx shows them"}
}

func (v *MySQLViews) lockTables(ctx context.Context, conn *stdsql.Conn) error {
	if _, err := conn.ExecContext(ctx, `SET SESSION lock_wait_timeout = 1`); err != nil {
		return err
	}
	seen := map[string]bool{}
	var tables []string
	for _, w := range v.watches {
		if name := mysqlIdent(w.Schema, w.Table); !seen[name] {
			seen[name] = true
			tables = append(tables, name+" READ")
		}
	}
	_, err := conn.ExecContext(ctx, `LOCK TABLES `+strings.Join(tables, ", "))
	switch mysqlCode(err) {
	case 1146:
		return &loops.Fault{Step: "open a view", Err: err, Kind: loops.Changed, Hint: "the tables are looked up again"}
	case 1044, 1142:
		return &loops.Fault{Step: "open a view", Err: err,
			Hint: fmt.Sprintf("the sidecar's user needs: GRANT SELECT, LOCK TABLES ON %s.* TO the user", mysqlIdent(v.watches[0].Schema))}
	}
	return err
}

// mysqlIdent quotes a name for MySQL.
func mysqlIdent(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, part := range parts {
		quoted[i] = "`" + strings.ReplaceAll(part, "`", "``") + "`"
	}
	return strings.Join(quoted, ".")
}
