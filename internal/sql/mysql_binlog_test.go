package sql

import (
	stdsql "database/sql"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// whats are the first words of advice.
func whats(all []MySQLAdvice) (texts []string) {
	for _, a := range all {
		text, _, _ := strings.Cut(a.What, ":")
		if !a.Problem {
			text = "warning: " + text
		}
		texts = append(texts, text)
	}
	return texts
}

func openMySQL(t *testing.T, dsn string) *stdsql.DB {
	t.Helper()
	db, err := stdsql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// TestMySQLBinlogSettings looks at a server on which everything is wrong, as a user who may do nothing, and again
// after that was mended as advised.
func TestMySQLBinlogSettings(t *testing.T) {
	server, err := dbserver.StartMySQL(t.Context(), dbserver.MySQLOptions{Fast: true, Settings: map[string]string{
		"binlog-format": "MIXED", "binlog-row-image": "MINIMAL", "binlog-expire-logs-seconds": "3600", "loose-binlog-row-value-options": "PARTIAL_JSON",
		"binlog-ignore-db": "app",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	if err := server.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	root := openMySQL(t, server.DSN("app"))
	exec := func(query string) {
		t.Helper()
		if _, err := root.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec(`CREATE USER poor@'%' IDENTIFIED BY 'secret'`)
	exec(`GRANT SELECT ON app.* TO poor@'%'`)
	dsn, err := mysql.ParseDSN(server.DSN("app"))
	if err != nil {
		t.Fatal(err)
	}
	dsn.User, dsn.Passwd = "poor", "secret"
	poor := openMySQL(t, dsn.FormatDSN())
	advice := func(db *stdsql.DB) []MySQLAdvice {
		t.Helper()
		s, err := ReadMySQLSettings(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return s.Advice()
	}
	bad := []string{"binlog_format is MIXED", "binlog_row_image is MINIMAL"}
	rights := []string{"the user may not read the binlog (REPLICATION SLAVE)", "the user may not ask where the binlog is (REPLICATION CLIENT; MariaDB"}
	if server.Flavor == dbserver.OracleMySQL {
		bad = append(bad, "binlog_row_value_options is PARTIAL_JSON")
		rights = append(rights, "the user may not lock tables for the moment in which a count begins (LOCK TABLES)")
	}
	short := "warning: the binlog is kept for 1h0m0s"
	want := append(append(append([]string{}, bad...), rights...), short)
	if diff := cmp.Diff(want, whats(advice(poor))); diff != "" {
		t.Error(diff)
	}
	want = append(append(append([]string{}, bad...), "binlog_ignore_db names app"), short)
	if diff := cmp.Diff(want, whats(advice(root))); diff != "" {
		t.Error(diff)
	}
	if _, err := ReadMySQLBinlog(t.Context(), poor); loops.KindOf(err) != loops.Permanent || !strings.Contains(err.Error(), "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.*") {
		t.Errorf("kind %d: %v", loops.KindOf(err), err)
	}

	for _, a := range advice(poor) { // run what can be run
		statement, _, _ := strings.Cut(a.Mend, ";")
		statement, _, _ = strings.Cut(statement, ", and ")
		statement = strings.Replace(statement, "the application's database", "app.*", 1)
		exec(strings.Replace(statement, "SET PERSIST", "SET GLOBAL", 1))
	}
	poor = openMySQL(t, dsn.FormatDSN()) // sessions that are open keep their rights
	if got := whats(advice(poor)); !cmp.Equal(got, []string{"binlog_ignore_db names app"}) {
		t.Errorf("after it was mended: %q", got)
	}
	if b, err := ReadMySQLBinlog(t.Context(), poor); err != nil || !b.ByGTID || b.Files[b.File] == 0 || b.Server == "" {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestMySQLAdviceByHost(t *testing.T) {
	good := MySQLSettings{Flavor: "mysql", LogBin: true, Format: "ROW", RowImage: "FULL", Streams: true, Monitors: true, LocksBase: true, User: "'a'@'%'"}
	if got := good.Advice(); got != nil {
		t.Errorf("nothing is wrong, and the advice %+v", got)
	}
	for host, want := range map[string][]string{
		"":          {"log_bin = binlog", "SET PERSIST binlog_row_image = 'FULL'", "SET PERSIST binlog_expire_logs_seconds"},
		"RDS":       {"automated backups", "parameter group", "mysql.rds_set_configuration"},
		"Aurora":    {"cluster's parameter group", "cluster's parameter group", "mysql.rds_set_configuration"},
		"Cloud SQL": {"--enable-bin-log", "--database-flags=binlog_row_image=FULL", "--database-flags=binlog_expire_logs_seconds=604800"},
	} {
		off, image, short := good, good, good
		off.LogBin, image.RowImage, short.Kept = false, "NOBLOB", time.Hour
		for i, s := range []MySQLSettings{off, image, short} {
			s.Host = host
			got := s.Advice()
			if len(got) != 1 || !strings.Contains(got[0].Mend, want[i]) || got[0].Problem == (i == 2) {
				t.Errorf("%s: %+v, want %q", host, got, want[i])
			}
		}
	}
}
