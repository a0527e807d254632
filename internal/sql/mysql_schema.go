package sql

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/sql/functions"
)

//go:embed schema/mysql/*.sql
var mysqlSchemaFiles embed.FS

// MySQLInstall says what to install into the database that a connection is in: a MySQL 8 or newer, or a MariaDB.
type MySQLInstall struct {
	AppRoles  []string // accounts and roles, as GRANT takes them: 'app'@'%'. They read the flags, ask and consume
	TestClock bool
}

// InstallMySQL makes the tables, or brings them up to this version. It reports whether anything had to be done. DDL commits by
// itself on this server: what was interrupted is gone on with by the next call.
func InstallMySQL(ctx context.Context, conn *sql.Conn, o MySQLInstall) (changed bool, err error) {
	i, err := beginMySQLInstall(ctx, conn, o)
	if err != nil {
		return false, err
	}
	defer i.end(&err)
	if i.foreign {
		return false, &loops.Fault{Step: "install", Kind: loops.Permanent,
			Err:  errors.New("there is a table feature_access already, and it is not the sidecar's"),
			Hint: "rename it: RENAME TABLE feature_access TO feature_access_old"}
	}
	files, err := fs.Glob(mysqlSchemaFiles, "schema/mysql/[0-9]*.sql")
	if err != nil {
		return false, err
	}
	if i.version > len(files) {
		return false, &loops.Fault{Step: "install", Kind: loops.Permanent,
			Err:  fmt.Errorf("the database holds version %d, this sidecar knows %d", i.version, len(files)),
			Hint: "run the newer sidecar"}
	}
	first := i.version == 0
	for ; i.version < len(files); i.version++ {
		if err := i.runFile(ctx, files[i.version]); err != nil {
			return false, err
		}
		if err := i.setMeta(ctx, "version", strconv.Itoa(i.version+1)); err != nil {
			return false, err
		}
		changed = true
	}
	if first {
		id := make([]byte, 6)
		rand.Read(id)
		if err := i.setMeta(ctx, "installation", hex.EncodeToString(id)); err != nil {
			return false, err
		}
	}
	again, err := i.makeAccess(ctx, first)
	return changed || again, err
}

// makeAccess makes the tables that may be missing: feature_access where a migration tool dropped it, which is then counted again,
// and the test clock.
func (i *mysqlInstall) makeAccess(ctx context.Context, first bool) (changed bool, err error) {
	emptied := false
	if i.access {
		err := i.conn.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM tiergate_meta m WHERE m.key = 'plan') AND EXISTS (SELECT 1 FROM tiergate_plan p
			WHERE NOT EXISTS (SELECT 1 FROM feature_access fa WHERE fa.subject_id = '*' AND fa.feature = p.feature))`).Scan(&emptied)
		if err != nil {
			return false, mysqlInstallFault("look at feature_access", err)
		}
	}
	if !i.access || emptied {
		steps := []string{"DELETE FROM tiergate_meta WHERE `key` IN ('counted', 'plan')"}
		if emptied {
			steps = append(steps, "DELETE FROM feature_access") // what was made since knows no earlier use
		}
		for _, step := range steps {
			if err := i.exec(ctx, step); err != nil {
				return false, err
			}
		}
		if !first { // rows that are made again begin behind every episode that was ever answered
			if err := i.exec(ctx, "REPLACE INTO tiergate_meta (`key`, value) VALUES ('first_episode', UNIX_TIMESTAMP())"); err != nil {
				return false, err
			}
		}
		if err := i.runFile(ctx, "schema/mysql/feature_access.sql"); err != nil {
			return false, err
		}
	}
	if i.options.TestClock {
		if err := i.runFile(ctx, "schema/mysql/test_clock.sql"); err != nil {
			return false, err
		}
	}
	return !i.access || emptied, nil
}

// readingRoutines and usingRoutines are what the application may call. What gives or is internal, nobody else is granted.
func readingRoutines() []string {
	return []string{"FUNCTION tiergate_has_feature", "FUNCTION tiergate_now", "PROCEDURE tiergate_has", "PROCEDURE tiergate_feature_status",
		"PROCEDURE tiergate_require_feature", "PROCEDURE tiergate_explain_access", "PROCEDURE tiergate_freshness"}
}

func usingRoutines() []string { return []string{"PROCEDURE tiergate_consume_feature"} }

// InstallMySQLRoutines makes the stored routines that are missing or of another version, and lets the application's roles call
// them. Procedures come first: where a server allows no functions, the Fault that it returns leaves all procedures in place, and
// where it allows neither, everything but routines works.
func InstallMySQLRoutines(ctx context.Context, conn *sql.Conn, o MySQLInstall) (changed bool, err error) {
	i, err := beginMySQLInstall(ctx, conn, o)
	if err != nil {
		return false, err
	}
	defer i.end(&err)
	routines, err := i.routines()
	if err != nil {
		return false, err
	}
	have, err := i.installedRoutines(ctx)
	if err != nil {
		return false, err
	}
	if err := i.strictMode(ctx); err != nil {
		return false, err
	}
	defer func() { err = cmp.Or(err, i.restoreMode(ctx)) }()
	var refused error
	for _, r := range routines {
		if have[r.name] == r.comment() {
			continue
		}
		if err := i.make(ctx, r); err != nil {
			refused = cmp.Or(refused, err)
			if r.kind == "FUNCTION" {
				continue
			}
			break
		}
		changed = true
	}
	if refused != nil {
		return changed, refused
	}
	return changed, i.grant(ctx, changed)
}

// grant lets the application's roles read and call. Dropping a routine takes its grants along, so that they are given again.
func (i *mysqlInstall) grant(ctx context.Context, again bool) error {
	var steps []string
	for _, role := range i.options.AppRoles {
		steps = append(steps, "GRANT SELECT ON feature_access TO "+role)
		for _, routine := range slices.Concat(readingRoutines(), usingRoutines()) {
			steps = append(steps, "GRANT EXECUTE ON "+routine+" TO "+role)
		}
	}
	var have string
	err := i.conn.QueryRowContext(ctx, "SELECT COALESCE(MAX(value), '') FROM tiergate_meta m WHERE m.key = 'grants'").Scan(&have)
	if err != nil {
		return mysqlInstallFault("look at the grants", err)
	}
	if have == digest(steps) && !again {
		return nil
	}
	for _, step := range steps {
		if err := i.exec(ctx, step); err != nil {
			return err
		}
	}
	return i.setMeta(ctx, "grants", digest(steps))
}

// mysqlInstall is an installation at work: nobody else installs into the same database meanwhile.
type mysqlInstall struct {
	conn     *sql.Conn
	options  MySQLInstall
	mariadb  bool
	database string
	mode     string // the session's sql_mode, where it was changed
	version  int    // of the tables; 0: there are none
	access   bool   // feature_access is there
	foreign  bool   // and is the application's own
}

func beginMySQLInstall(ctx context.Context, conn *sql.Conn, o MySQLInstall) (*mysqlInstall, error) {
	i := &mysqlInstall{conn: conn, options: o}
	var version string
	var locked, meta, comments sql.NullString
	err := conn.QueryRowContext(ctx, `SELECT VERSION(), COALESCE(DATABASE(), ''), GET_LOCK(CONCAT('tiergate install ', LEFT(SHA2(DATABASE(), 256), 20)), 10),
			(SELECT MAX(t.table_name) FROM information_schema.tables t WHERE t.table_schema = DATABASE() AND t.table_name = 'tiergate_meta'),
			(SELECT MAX(CONCAT(':', t.table_comment)) FROM information_schema.tables t WHERE t.table_schema = DATABASE() AND t.table_name = 'feature_access')`).
		Scan(&version, &i.database, &locked, &meta, &comments)
	if err != nil {
		return nil, mysqlInstallFault("look at what is installed", err)
	}
	if locked.String != "1" {
		return nil, &loops.Fault{Step: "install", Err: errors.New("another session is installing, or none is in a database"), Kind: loops.Transient}
	}
	i.mariadb = strings.Contains(version, "MariaDB")
	i.access, i.foreign = comments.Valid, comments.Valid && !strings.HasPrefix(comments.String, ":Tiergate")
	if meta.Valid {
		err := conn.QueryRowContext(ctx, "SELECT CAST(COALESCE(MAX(value), '0') AS SIGNED) FROM tiergate_meta m WHERE m.key = 'version'").Scan(&i.version)
		if err != nil {
			i.end(&err)
			return nil, mysqlInstallFault("look at what is installed", err)
		}
	}
	return i, nil
}

func (i *mysqlInstall) end(err *error) {
	_, released := i.conn.ExecContext(context.Background(), "DO RELEASE_LOCK(CONCAT('tiergate install ', LEFT(SHA2(DATABASE(), 256), 20)))")
	*err = cmp.Or(*err, mysqlInstallFault("end the installation", released))
}

// strictMode makes routines fail where they could cut a value short, whatever the session's mode is: they keep the mode they are made under.
func (i *mysqlInstall) strictMode(ctx context.Context) error {
	if err := i.conn.QueryRowContext(ctx, "SELECT @@SESSION.sql_mode").Scan(&i.mode); err != nil {
		return mysqlInstallFault("read the sql_mode", err)
	}
	return i.exec(ctx, "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'")
}

func (i *mysqlInstall) restoreMode(ctx context.Context) error {
	_, err := i.conn.ExecContext(context.WithoutCancel(ctx), "SET SESSION sql_mode = ?", i.mode)
	return mysqlInstallFault("set the sql_mode back", err)
}

func (i *mysqlInstall) setMeta(ctx context.Context, key, value string) error {
	_, err := i.conn.ExecContext(ctx, "REPLACE INTO tiergate_meta (`key`, value) VALUES (?, ?)", key, value)
	return mysqlInstallFault("store "+key, err)
}

func (i *mysqlInstall) exec(ctx context.Context, statement string) error {
	_, err := i.conn.ExecContext(ctx, statement)
	return mysqlInstallFault(statement, err)
}

// runFile runs the statements of a schema file.
func (i *mysqlInstall) runFile(ctx context.Context, name string) error {
	text, err := i.read(mysqlSchemaFiles, name)
	if err != nil {
		return err
	}
	for statement := range strings.SplitSeq(stripComments(text), ";\n") {
		if statement = strings.Trim(statement, "; \n"); statement != "" {
			if err := i.exec(ctx, statement); err != nil {
				return err
			}
		}
	}
	return nil
}

// read returns a file for this server. Both collations tell all code points apart, and trailing spaces too, which utf8mb4_bin ignores.
func (i *mysqlInstall) read(files fs.FS, name string) (string, error) {
	text, err := fs.ReadFile(files, name)
	collation, now := "utf8mb4_0900_bin", "UTC_TIMESTAMP(6)"
	if i.mariadb {
		collation = "utf8mb4_nopad_bin"
	}
	if i.options.TestClock {
		now = "(SELECT UTC_TIMESTAMP(6) + INTERVAL c.shift MICROSECOND FROM tiergate_clock c)"
	}
	return strings.NewReplacer("@bin@", "CHARACTER SET utf8mb4 COLLATE "+collation, "@now@", now).Replace(string(text)), err
}

// mysqlRoutine is one stored routine.
type mysqlRoutine struct {
	kind string // PROCEDURE or FUNCTION
	name string
	text string
}

// comment marks a routine as the sidecar's, and tells its version.
func (r mysqlRoutine) comment() string { return "Tiergate: " + digest(r.text) }

// routines returns what this version has, procedures first: functions call them, and need more rights.
func (i *mysqlInstall) routines() (all []mysqlRoutine, err error) {
	names, err := fs.Glob(functions.MySQL, "mysql/*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := i.read(functions.MySQL, name)
		if err != nil {
			return nil, err
		}
		r := mysqlRoutine{kind: "PROCEDURE", name: "tiergate_" + strings.TrimSuffix(path.Base(name), ".sql"), text: stripComments(text)}
		if strings.HasPrefix(r.text, "CREATE FUNCTION ") {
			r.kind = "FUNCTION"
		}
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b mysqlRoutine) int { return -strings.Compare(a.kind, b.kind) })
	return all, nil
}

// installedRoutines returns the comments of the routines that are there.
func (i *mysqlInstall) installedRoutines(ctx context.Context) (comments map[string]string, err error) {
	rows, err := i.conn.QueryContext(ctx, `SELECT r.routine_name, r.routine_comment FROM information_schema.routines r
		WHERE r.routine_schema = DATABASE() AND r.routine_name LIKE 'tiergate\_%'`)
	if err != nil {
		return nil, mysqlInstallFault("look at the routines", err)
	}
	defer func() { _ = rows.Close() }()
	comments = map[string]string{}
	for rows.Next() {
		var name, comment string
		if err := rows.Scan(&name, &comment); err != nil {
			return nil, mysqlInstallFault("look at the routines", err)
		}
		comments[name] = comment
	}
	return comments, mysqlInstallFault("look at the routines", rows.Err())
}

// make makes a routine, or makes it anew. MySQL has no statement that replaces one.
func (i *mysqlInstall) make(ctx context.Context, r mysqlRoutine) error {
	text := strings.Replace(r.text, "SQL SECURITY DEFINER", "SQL SECURITY DEFINER COMMENT '"+r.comment()+"'", 1)
	if i.mariadb {
		return i.exec(ctx, strings.Replace(text, "CREATE ", "CREATE OR REPLACE ", 1))
	}
	if err := i.exec(ctx, "DROP "+r.kind+" IF EXISTS "+r.name); err != nil {
		return err
	}
	return i.exec(ctx, text)
}

// mysqlInstallFault says which statement failed, and what can be done about it.
func mysqlInstallFault(statement string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	first, _, _ := strings.Cut(statement, "\n")
	fault := &loops.Fault{Step: "install: " + first, Err: err, Kind: loops.Transient}
	var server *mysql.MySQLError
	if !errors.As(err, &server) {
		return fault
	}
	const without = "; until then everything else works: the flags, and CALL tiergate_has(subject, feature, @allowed)"
	fault.Kind = loops.Permanent
	switch server.Number {
	case 1419: // binary logging, and no SUPER
		fault.Hint = "the server's administrator runs: SET GLOBAL log_bin_trust_function_creators = 1 (Amazon RDS and Aurora: in the parameter group of the " +
			"instance or cluster; Google Cloud SQL: the flag of that name; Azure: the server parameter)" + without
	case 1044, 1142, 1227, 1370:
		fault.Hint = "the sidecar's user lacks a right: GRANT CREATE, ALTER, INDEX, DROP, SELECT, INSERT, UPDATE, DELETE, CREATE ROUTINE, ALTER ROUTINE, EXECUTE ON " +
			"its database; to let the application's roles in, WITH GRANT OPTION"
	case 1105, 1235, 1289:
		fault.Hint = "this host may not allow stored routines (PlanetScale and Vitess do not): the flags, their query and the emails work without"
	case 1205, 1213:
		fault.Kind = loops.Transient
	}
	return fault
}
