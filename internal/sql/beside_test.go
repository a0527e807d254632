package sql

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestBesideKeepsTooMuch ends a session whose slot beside the stream's keeps more WAL than it may.
func TestBesideKeepsTooMuch(t *testing.T) {
	a := newConventional(t)
	config, err := pgconn.ParseConfig(a.url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	beside, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Close(context.Background())
	if _, err := beside.Exec(t.Context(), `CREATE_REPLICATION_SLOT tiergate_beside_1 TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	a.exec(`CREATE TABLE filler AS SELECT repeat(md5(i::text), 8) AS text FROM generate_series(1, 40000) i`)
	for most, want := range map[int64]bool{1 << 40: false, 1 << 20: true} {
		if ended, err := GiveUpBeside(t.Context(), a.own, most); err != nil || ended != want {
			t.Errorf("with a bound of %d bytes it is ended: %t, %v", most, ended, err)
		}
	}
}
