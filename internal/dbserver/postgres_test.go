package dbserver

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestLifeOfAServer(t *testing.T) {
	ctx := t.Context()
	p, err := StartPostgres(ctx, Options{Fast: true, Settings: map[string]string{"application_name": `it's a \ test`}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	t.Log(query(t, p, "postgres", "SELECT version()"))

	if err := p.CreateDatabase(ctx, `my "shop"`); err != nil {
		t.Fatal(err)
	}
	query(t, p, `my "shop"`, "CREATE TABLE usage AS SELECT generate_series(1, 1000) AS id; SELECT ''")
	for sql, want := range map[string]string{
		"SHOW wal_level":           "logical",
		"SHOW fsync":               "off",
		"SHOW application_name":    `it's a \ test`,
		"SHOW listen_addresses":    "127.0.0.1",
		"SHOW password_encryption": "scram-sha-256",
	} {
		if got := query(t, p, "", sql); got != want {
			t.Errorf("%s = %q, want %q", sql, got, want)
		}
	}
	query(t, p, "", "SELECT slot_name::text FROM pg_create_logical_replication_slot('a', 'pgoutput')")

	before := p.URL("x")
	if err := p.Restart(ctx); err != nil {
		t.Fatal("restart:", err)
	}
	if p.URL("x") != before {
		t.Errorf("the address changed from %s to %s", before, p.URL("x"))
	}
	for range 3 {
		query(t, p, `my "shop"`, "INSERT INTO usage VALUES (0); SELECT ''")
		p.Kill()
		if err := p.Restart(ctx); err != nil {
			t.Fatal("restart after kill:", err)
		}
	}
	if got := query(t, p, `my "shop"`, "SELECT count(*)::text FROM usage"); got != "1003" {
		t.Errorf("%s rows after the crashes, want 1003", got)
	}
	p.Stop()
	assertGone(t, &p.instance)
	p.Stop()
}

func TestFsyncStaysOn(t *testing.T) {
	p, err := StartPostgres(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if got := query(t, p, "", "SHOW fsync"); got != "on" {
		t.Errorf("fsync = %s without Fast", got)
	}
	p.Kill()
	p.Stop()
	assertGone(t, &p.instance)
}

func TestKillEndsSessionsAtWork(t *testing.T) {
	p, err := StartPostgres(t.Context(), Options{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	conn, err := pgx.Connect(t.Context(), p.URL(""))
	if err != nil {
		t.Fatal(err)
	}
	pid := int(conn.PgConn().PID())
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT pg_sleep(3600)")
		ended <- err
	}()
	await(t, "the session to be at work", func() bool {
		return query(t, p, "", "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND pid = "+strconv.Itoa(pid)) == "1"
	})
	p.Kill()
	if err := <-ended; err == nil {
		t.Error("the session outlived the server")
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresWaitsForItsPort(t *testing.T) {
	p, err := StartPostgres(t.Context(), Options{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	assertWaitsForItsPort(t, &p.instance)
}

func TestPostgresEndsWithItsParent(t *testing.T) {
	assertEndsWithItsParent(t, func() (*instance, error) {
		p, err := StartPostgres(t.Context(), Options{Fast: true})
		if err != nil {
			return nil, err
		}
		return &p.instance, nil
	})
}

func TestUnstartableServerSaysWhy(t *testing.T) {
	_, err := StartPostgres(t.Context(), Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("error = %v, want one that names the setting", err)
	}
}

func TestMissingToolIsNamed(t *testing.T) {
	p := &Postgres{instance: instance{programs: &programs{bin: t.TempDir()}}}
	_, err := p.Command(t.Context(), "pgbench")
	if err == nil || !strings.Contains(err.Error(), "run pgbench: it is not in") {
		t.Errorf("error = %v", err)
	}
}

func query(t *testing.T, p *Postgres, database, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return string(results[len(results)-1].Rows[0][0])
}
