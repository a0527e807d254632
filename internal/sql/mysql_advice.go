package sql

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MySQLSettings is what a binlog's use depends on. Settings that a server does not have are empty.
type MySQLSettings struct {
	Flavor    string // "mysql" or "mariadb"
	Host      string // "RDS", "Aurora", "Cloud SQL"; empty: none known
	User      string // as GRANT takes it: 'app'@'%'
	LogBin    bool
	Format    string        // binlog_format
	RowImage  string        // binlog_row_image
	Partial   string        // binlog_row_value_options
	Metadata  string        // binlog_row_metadata
	Kept      time.Duration // how long files are kept; 0: until somebody purges them, negative: not known
	Streams   bool          // REPLICATION SLAVE
	Monitors  bool          // REPLICATION CLIENT
	LocksBase bool          // LOCK TABLES on the application's database; MariaDB needs none
	Left      string        // of binlog_do_db and binlog_ignore_db: why the database's changes are not logged; or ""
}

// MySQLAdvice is one thing that stands in the way of the change stream, or will.
type MySQLAdvice struct {
	Problem bool   // the stream cannot work; else a warning
	What    string // is wrong
	Mend    string // what to run, on this host
}

// ReadMySQLSettings asks a server for them, on a connection to the application's database.
func ReadMySQLSettings(ctx context.Context, db mysqlReader) (MySQLSettings, error) {
	var s MySQLSettings
	var err error
	if s.Flavor, err = mysqlFlavor(ctx, db); err != nil {
		return s, err
	}
	shown, err := mysqlRows(ctx, db, `SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_value_options',
		'binlog_row_metadata', 'binlog_expire_logs_seconds', 'expire_logs_days', 'basedir', 'version', 'aurora_version')`)
	if err != nil {
		return s, explainBinlog("read the binlog's settings", err)
	}
	v := map[string]string{}
	for _, row := range shown {
		v[strings.ToLower(row["variable_name"])] = row["value"]
	}
	s.LogBin, s.Format, s.RowImage, s.Partial, s.Metadata = v["log_bin"] == "ON", v["binlog_format"], v["binlog_row_image"], v["binlog_row_value_options"], v["binlog_row_metadata"]
	switch {
	case v["aurora_version"] != "":
		s.Host = "Aurora"
	case strings.HasPrefix(v["basedir"], "/rdsdbbin"):
		s.Host = "RDS"
	case strings.Contains(v["version"], "-google"):
		s.Host = "Cloud SQL"
	}
	s.Kept = mysqlKept(ctx, db, s.Host, v)
	if err := s.readGrants(ctx, db); err != nil {
		return s, err
	}
	return s, s.readFilters(ctx, db)
}

// mysqlKept is how long files are kept. RDS has a setting of its own, which is NULL until somebody sets it: then a
// file goes as soon as no replica of RDS's needs it.
func mysqlKept(ctx context.Context, db mysqlReader, host string, v map[string]string) time.Duration {
	if host == "RDS" || host == "Aurora" {
		var hours *int
		if err := db.QueryRowContext(ctx, `SELECT value FROM mysql.rds_configuration WHERE name = 'binlog retention hours'`).Scan(&hours); err != nil {
			return -1
		}
		if hours == nil {
			return time.Nanosecond
		}
		return time.Duration(*hours) * time.Hour
	}
	var n float64
	unit := time.Second
	if _, err := fmt.Sscan(v["binlog_expire_logs_seconds"], &n); err != nil || n == 0 {
		unit = 24 * time.Hour
		if _, err := fmt.Sscan(v["expire_logs_days"], &n); err != nil {
			n = 0
		}
	}
	return time.Duration(n * float64(unit))
}

// readGrants reads the user's own grants, and those of its roles that are active.
func (s *MySQLSettings) readGrants(ctx context.Context, db mysqlReader) error {
	var user, database string
	if err := db.QueryRowContext(ctx, `SELECT CURRENT_USER(), COALESCE(DATABASE(), '')`).Scan(&user, &database); err != nil {
		return explainBinlog("ask for the user's rights", err)
	}
	name, host, _ := strings.Cut(user, "@")
	s.User = fmt.Sprintf("'%s'@'%s'", name, host)
	query := `SHOW GRANTS`
	if s.Flavor == "mysql" {
		var roles string
		if db.QueryRowContext(ctx, `SELECT CURRENT_ROLE()`).Scan(&roles) == nil && roles != "NONE" { // since 8.0
			query = `SHOW GRANTS FOR CURRENT_USER() USING ` + roles
		}
	}
	rows, err := mysqlRows(ctx, db, query)
	if err != nil {
		return explainBinlog("ask for the user's rights", err)
	}
	for _, row := range rows {
		for _, grant := range row {
			rights, scope, _ := strings.Cut(strings.TrimPrefix(grant, "GRANT "), " ON ")
			scope, _, _ = strings.Cut(scope, " TO ")
			has := func(names ...string) bool {
				return slices.ContainsFunc(strings.Split(rights, ", "), func(right string) bool {
					return right == "ALL PRIVILEGES" || slices.Contains(names, right)
				})
			}
			if scope == "*.*" {
				s.Streams = s.Streams || has("REPLICATION SLAVE")
				s.Monitors = s.Monitors || has("REPLICATION CLIENT", "BINLOG MONITOR", "SUPER")
			}
			if scope == "*.*" || strings.ReplaceAll(scope, `\_`, "_") == "`"+database+"`.*" {
				s.LocksBase = s.LocksBase || has("LOCK TABLES")
			}
		}
	}
	s.LocksBase = s.LocksBase || s.Flavor == "mariadb"
	return nil
}

// readFilters looks whether the server leaves the database out of its binlog.
func (s *MySQLSettings) readFilters(ctx context.Context, db mysqlReader) error {
	if !s.Monitors || !s.LogBin {
		return nil
	}
	query := `SHOW BINARY LOG STATUS`
	if s.Flavor == "mariadb" {
		query = `SHOW MASTER STATUS`
	}
	rows, err := mysqlRows(ctx, db, query)
	if mysqlCode(err) == 1064 {
		rows, err = mysqlRows(ctx, db, `SHOW MASTER STATUS`)
	}
	var database string
	if err == nil {
		err = db.QueryRowContext(ctx, `SELECT COALESCE(DATABASE(), '')`).Scan(&database)
	}
	if err != nil || len(rows) == 0 {
		return explainBinlog("ask what the binlog leaves out", err)
	}
	only, never := rows[0]["binlog_do_db"], rows[0]["binlog_ignore_db"]
	if only != "" && !slices.Contains(strings.Split(only, ","), database) {
		s.Left = "binlog_do_db is " + only
	}
	if slices.Contains(strings.Split(never, ","), database) {
		s.Left = "binlog_ignore_db names " + database
	}
	return nil
}

// Advice lists what is wrong with a server's settings, problems first.
func (s MySQLSettings) Advice() (all []MySQLAdvice) {
	problem := func(bad bool, what, mend string) {
		if bad {
			all = append(all, MySQLAdvice{Problem: true, What: what, Mend: mend})
		}
	}
	problem(!s.LogBin, "the server keeps no binlog (log_bin is OFF)", mysqlTurnOn(s.Host))
	problem(s.LogBin && !strings.EqualFold(s.Format, "ROW"), "binlog_format is "+s.Format+": the binlog tells statements and not rows", s.set("binlog_format", "ROW"))
	problem(s.RowImage != "" && !strings.EqualFold(s.RowImage, "FULL"), "binlog_row_image is "+s.RowImage+": the binlog tells rows in part", s.set("binlog_row_image", "FULL"))
	problem(s.Partial != "", "binlog_row_value_options is "+s.Partial+": the binlog tells JSON in part", s.set("binlog_row_value_options", ""))
	problem(s.Left != "", s.Left+": changes of the application's database are not logged", "take the database out of the filter in my.cnf, and restart the server")
	problem(!s.Streams, "the user may not read the binlog (REPLICATION SLAVE)", mysqlGrants(s.User))
	problem(!s.Monitors, "the user may not ask where the binlog is (REPLICATION CLIENT; MariaDB: BINLOG MONITOR)", mysqlGrants(s.User))
	problem(!s.LocksBase, "the user may not lock tables for the moment in which a count begins (LOCK TABLES)", "GRANT LOCK TABLES ON the application's database TO "+s.User)
	if s.LogBin && s.Kept != 0 && s.Kept < 24*time.Hour {
		what := "the binlog is kept for " + s.Kept.Round(time.Minute).String()
		if s.Kept < time.Minute {
			what = "the binlog is kept for no time at all"
		}
		if s.Kept < 0 {
			what = "how long the binlog is kept cannot be read"
		}
		all = append(all, MySQLAdvice{What: what + ": when the sidecar is down for longer, usage is counted again", Mend: s.keep()})
	}
	return all
}

// set is how a setting of the binlog is changed, for good.
func (s MySQLSettings) set(name, value string) string {
	switch s.Host {
	case "RDS":
		return fmt.Sprintf("set %s to %q in the instance's parameter group", name, value)
	case "Aurora":
		return fmt.Sprintf("set %s to %q in the cluster's parameter group, and reboot the writer", name, value)
	case "Cloud SQL":
		return fmt.Sprintf("gcloud sql instances patch INSTANCE --database-flags=%s=%s", name, value)
	}
	literal := "'" + value + "'"
	if _, err := strconv.Atoi(value); err == nil {
		literal = value
	}
	if s.Flavor == "mariadb" {
		return fmt.Sprintf("SET GLOBAL %s = %s, and %s = %s under [mariadb] in my.cnf; sessions that are open keep the old one", name, literal, name, value)
	}
	return fmt.Sprintf("SET PERSIST %s = %s; sessions that are open keep the old one", name, literal)
}

func (s MySQLSettings) keep() string {
	switch {
	case s.Host == "RDS" || s.Host == "Aurora":
		return "CALL mysql.rds_set_configuration('binlog retention hours', 168)"
	case s.Host == "" && s.Flavor == "mariadb":
		return "SET GLOBAL expire_logs_days = 7, and expire_logs_days = 7 under [mariadb] in my.cnf"
	}
	return s.set("binlog_expire_logs_seconds", "604800")
}

// mysqlTurnOn is how the binlog is turned on.
func mysqlTurnOn(host string) string {
	switch host {
	case "RDS":
		return "turn automated backups on (a retention of at least a day), and set binlog_format to ROW in the instance's parameter group"
	case "Aurora":
		return "set binlog_format to ROW in the cluster's parameter group, and reboot the writer"
	case "Cloud SQL":
		return "gcloud sql instances patch INSTANCE --enable-bin-log"
	}
	return "log_bin = binlog, server_id = 1 and binlog_format = ROW under [mysqld] in my.cnf, and restart the server"
}
