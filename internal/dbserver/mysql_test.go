package dbserver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestLifeOfAMySQL(t *testing.T) {
	ctx := t.Context()
	m := startMySQL(t, MySQLOptions{Fast: true, Settings: map[string]string{"max_connections": "77", "binlog_row_image": "MINIMAL"}})
	for variable, want := range map[string]string{
		"log_bin":                                 "1",
		"binlog_format":                           "ROW",
		"binlog_row_metadata":                     "FULL",
		"binlog_row_image":                        "MINIMAL",
		"max_connections":                         "77",
		"bind_address":                            "127.0.0.1",
		"time_zone":                               "+00:00",
		"character_set_server":                    "utf8mb4",
		"sync_binlog":                             "0",
		"innodb_flush_log_at_trx_commit":          "2",
		of(m, "gtid_strict_mode", "gtid_mode"):    of(m, "1", "ON"),
		of(m, "gtid_binlog_pos", "gtid_executed"): "", // the first GTID is the caller's
	} {
		if got := ask(t, m, "", "SELECT @@global."+variable); got != want {
			t.Errorf("%s = %q, want %q", variable, got, want)
		}
	}
	if got := ask(t, m, "", "SELECT VERSION()"); !strings.HasPrefix(got, m.Version()) {
		t.Errorf("Version() = %s, the server says %s", m.Version(), got)
	}

	if err := m.CreateDatabase(ctx, "my `shop`"); err != nil {
		t.Fatal(err)
	}
	do(t, m, "my `shop`", "CREATE TABLE `usage` (id INT PRIMARY KEY AUTO_INCREMENT)", "INSERT INTO `usage` VALUES ()")
	before := m.URL("x") + m.DSN("x")
	if err := m.Restart(ctx); err != nil {
		t.Fatal("restart:", err)
	}
	if after := m.URL("x") + m.DSN("x"); after != before {
		t.Errorf("the address changed from %s to %s", before, after)
	}
	for range 3 {
		do(t, m, "my `shop`", "INSERT INTO `usage` VALUES ()")
		m.Kill()
		if err := m.Restart(ctx); err != nil {
			t.Fatal("restart after kill:", err)
		}
	}
	if got := ask(t, m, "my `shop`", "SELECT COUNT(*) FROM `usage`"); got != "4" {
		t.Errorf("%s rows after the crashes, want 4", got)
	}
	m.Stop()
	assertGone(t, &m.instance)
	m.Stop()
}

func TestShippedMySQL(t *testing.T) {
	var uuids []string
	for range 2 {
		m := startMySQL(t, MySQLOptions{Shipped: true, NoGTID: true})
		for variable, want := range map[string]string{
			"log_bin":                              "1",
			"binlog_format":                        "ROW",
			"binlog_row_image":                     "FULL",
			"binlog_row_metadata":                  of(m, "NO_LOG", "MINIMAL"),
			"innodb_flush_log_at_trx_commit":       "1",
			"sync_binlog":                          of(m, "0", "1"),
			of(m, "gtid_strict_mode", "gtid_mode"): of(m, "0", "OFF"),
		} {
			if got := ask(t, m, "", "SELECT @@global."+variable); got != want {
				t.Errorf("%s = %q, want %q", variable, got, want)
			}
		}
		uuids = append(uuids, ask(t, m, "", of(m, "SELECT UUID()", "SELECT @@server_uuid")))
	}
	if uuids[0] == uuids[1] {
		t.Error("two servers have the same UUID: their GTIDs would be mistaken for each other's")
	}
}

func TestMySQLEndsSessionsAtWork(t *testing.T) {
	m := startMySQL(t, MySQLOptions{Fast: true})
	for name, end := range map[string]func() error{
		"restart": func() error { return m.Restart(t.Context()) },
		"kill": func() error {
			m.Kill()
			return m.Restart(t.Context())
		},
	} {
		db, err := m.open("")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := db.ExecContext(context.Background(), "DO SLEEP(3600)")
			ended <- err
		}()
		await(t, "the session to be at work", func() bool {
			return ask(t, m, "", "SELECT COUNT(*) FROM information_schema.processlist WHERE info = 'DO SLEEP(3600)'") == "1"
		})
		if err := end(); err != nil {
			t.Fatal(name, err)
		}
		if <-ended == nil && name == "kill" {
			t.Error("the session outlived the server")
		}
		db.Close()
	}
}

func TestMySQLWaitsForItsPort(t *testing.T) {
	assertWaitsForItsPort(t, &startMySQL(t, MySQLOptions{Fast: true}).instance)
}

func TestMySQLEndsWithItsParent(t *testing.T) {
	assertEndsWithItsParent(t, func() (*instance, error) {
		m, err := StartMySQL(t.Context(), MySQLOptions{Fast: true})
		if err != nil {
			return nil, err
		}
		return &m.instance, nil
	})
}

func TestUnstartableMySQLSaysWhy(t *testing.T) {
	_, err := StartMySQL(t.Context(), MySQLOptions{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("error = %v, want one that names the setting", err)
	}
}

func TestMissingMySQLSaysWhatToInstall(t *testing.T) {
	for _, flavor := range []string{MariaDB, OracleMySQL} {
		for name, env := range map[string]map[string]string{
			"not fetched":  {"TIERGATE_FETCH": "off"},
			"other source": {"TIERGATE_FETCH": "npm"},
			"no apt":       {"TIERGATE_FETCH": "apt"},
		} {
			t.Run(flavor+" "+name, func(t *testing.T) {
				t.Setenv("TIERGATE_MYSQL", "")
				t.Setenv("TIERGATE_CACHE", t.TempDir())
				t.Setenv("PATH", t.TempDir())
				for key, value := range env {
					t.Setenv(key, value)
				}
				p, err := mysqlProduct(flavor)
				if err != nil {
					t.Fatal(err)
				}
				p.installed = nil
				_, err = newFinder(p, nil, nil).find(t.Context())
				if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "find "+p.kind) || !strings.Contains(err.Error(), "→ ") {
					t.Errorf("error = %v, want ErrMissing, %s and the way out", err, p.kind)
				}
			})
		}
	}
	t.Setenv("TIERGATE_MYSQL_SERVER", "oracle")
	if _, err := StartMySQL(t.Context(), MySQLOptions{}); err == nil || !strings.Contains(err.Error(), `"oracle" is neither mariadb nor mysql`) {
		t.Errorf("error = %v for an unknown flavor", err)
	}
	t.Setenv("TIERGATE_MYSQL", t.TempDir())
	if _, err := StartMySQL(t.Context(), MySQLOptions{Flavor: MariaDB}); err == nil || !strings.Contains(err.Error(), "holds mariadbd") {
		t.Errorf("error = %v for an empty folder", err)
	}
}

func TestMySQLVersions(t *testing.T) {
	for answer, want := range map[string][]string{ // version, and whether MariaDB and MySQL take it
		"mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on x86_64 (Debian 12)": {"10.11.14-MariaDB-0+deb12u2", ""},
		"/usr/sbin/mysqld  Ver 10.4.34-MariaDB for Linux on x86_64":                           {"", ""},
		"/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))":                        {"", "9.7.4-2"},
		"mysqld  Ver 8.0.46 for Linux on x86_64 (MySQL Community Server - GPL)":               {"", "8.0.46"},
		"mysqld  Ver 5.7.44 for Linux on x86_64":                                              {"", ""},
		"mysqld: not found":                                                                   {"", ""},
	} {
		maria, _ := atLeast(10, 5, true)(answer)
		mysql, _ := atLeast(8, 0, false)(answer)
		if got := []string{maria, mysql}; !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, want %q", answer, got, want)
		}
	}
}

func startMySQL(t *testing.T, o MySQLOptions) *MySQL {
	t.Helper()
	m, err := StartMySQL(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	t.Logf("%s %s from %s", m.kind, m.Version(), m.bin)
	return m
}

// of chooses by flavor.
func of(m *MySQL, maria, mysql string) string {
	if m.Flavor == MariaDB {
		return maria
	}
	return mysql
}

func do(t *testing.T, m *MySQL, database string, statements ...string) {
	t.Helper()
	db, err := m.open(database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func ask(t *testing.T, m *MySQL, database, query string) string {
	t.Helper()
	db, err := m.open(database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var answer string
	if err := db.QueryRowContext(t.Context(), query).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return answer
}
