package sql

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// installMySQL installs into a session's database. What DDL has done is done: a run that was cut short is gone on with by the next.
func installMySQL(ctx context.Context, s *Session, l *mysqlLink, o InstallOptions) (changed bool, err error) {
	l.text.clock = "" // it may be another one afterwards
	options := MySQLInstall{AppRoles: o.AppRoles, TestClock: o.TestClock}
	if !o.TestClock {
		if _, err := s.Exec(ctx, `DROP TABLE IF EXISTS tiergate_clock`); err != nil {
			return false, explain("install", err)
		}
	}
	var tables, routines bool
	// Schema and routines are in MySQL's own words.
	if _, err := l.conn.ExecContext(ctx, `SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'`); err != nil {
		return false, explain("install", err)
	}
	if tables, err = InstallMySQL(ctx, l.conn, options); err == nil {
		routines, err = InstallMySQLRoutines(ctx, l.conn, options)
	}
	if err := errors.Join(err, explain("install", l.set(context.WithoutCancel(ctx), ForCommand))); err != nil {
		return tables || routines, err
	}
	home, err := homeOf(ctx, s)
	if err != nil {
		return false, err
	}
	_, err = s.Exec(ctx, `INSERT INTO tiergate.meta ("key", value) SELECT 'home', $1 FROM tiergate.checkpoint
		WHERE NOT EXISTS (SELECT 1 FROM tiergate.meta m WHERE m."key" = 'home')`, home)
	return tables || routines, explain("install", err)
}

func isMySQLSession(s *Session) bool {
	_, ok := s.life.(*mysqlLink)
	return ok
}

func unprintable() error {
	return &loops.Fault{Step: "print what install would do", Err: errors.New("that is not supported on MySQL in this version"), Kind: loops.Permanent,
		Hint: "`sidecar install` runs it"}
}

// lookAtMySQL tells what is installed. Whether routines are of another version only install finds out.
func lookAtMySQL(ctx context.Context, s *Session, o InstallOptions) (have Installation, err error) {
	const step = "look at what is installed"
	if err := s.QueryRow(ctx, s.query("intact"), o.Schema).Scan(&have.Access); err != nil {
		return have, explain(step, err)
	}
	var there bool
	if err := s.QueryRow(ctx, s.query("installed")).Scan(&there); err != nil {
		return have, explain(step, err)
	}
	if there {
		err = s.QueryRow(ctx, `SELECT COALESCE(MAX(value), '0') FROM tiergate.meta m WHERE m."key" = 'version'`).Scan(&have.Version)
	}
	if !there || !have.Access {
		have.Missing = 1
	}
	return have, explain(step, err)
}

// uninstallMySQL drops what install made: routines first, since they need tables.
func uninstallMySQL(ctx context.Context, s *Session) error {
	const step = "uninstall"
	rows, err := s.Query(ctx, `SELECT CONCAT('DROP ', r.routine_type, ' IF EXISTS ', r.routine_name) FROM information_schema.routines r
		WHERE r.routine_schema = DATABASE() AND r.routine_comment LIKE 'Tiergate:%'
		UNION ALL SELECT CONCAT('DROP TABLE IF EXISTS ', t.table_name) FROM information_schema.tables t
		WHERE t.table_schema = DATABASE() AND (t.table_name LIKE 'tiergate!_%' ESCAPE '!' OR t.table_name = 'feature_access' AND t.table_comment LIKE 'Tiergate:%')`)
	if err != nil {
		return explain(step, err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return explain(step, err)
	}
	for _, statement := range statements {
		if _, err := s.Exec(ctx, statement); err != nil {
			return explain(statement, err)
		}
	}
	return nil
}
