package dbserver

import (
	"testing"
)

func TestLifeOfAMySQL(t *testing.T) {
	m, err := StartMySQL(t.Context(), MySQLOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	t.Log(m.Flavor, m.Version(), m.bin)
	db, _ := m.open("")
	defer db.Close()
	var v, f string
	if err := db.QueryRow("select version(), @@binlog_row_metadata").Scan(&v, &f); err != nil {
		t.Fatal(err)
	}
	t.Log(v, f)
}
