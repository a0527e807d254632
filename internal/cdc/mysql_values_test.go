package cdc

import (
	"fmt"
	"testing"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// TestBinlogValues reads each type as the rest of the code takes it.
func TestBinlogValues(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		maria := a.server.Flavor == dbserver.MariaDB
		values := []struct{ column, value, want string }{
			{`tinyint unsigned`, `255`, `255`},
			{`tinyint`, `-1`, `-1`},
			{`tinyint(1)`, `true`, `1`},
			{`smallint unsigned`, `65535`, `65535`},
			{`mediumint unsigned`, `16777215`, `16777215`},
			{`mediumint`, `-8388608`, `-8388608`},
			{`int unsigned`, `4294967295`, `4294967295`},
			{`bigint unsigned`, `18446744073709551615`, `18446744073709551615`},
			{`bigint`, `-9223372036854775808`, `-9223372036854775808`},
			{`decimal(30,10)`, `-12345678901234567890.0123456789`, `-12345678901234567890.0123456789`},
			{`decimal(5,0)`, `7`, `7`},
			{`float`, `1.5`, `1.5`},
			{`double`, `1000000`, `1000000`},
			{`bit(1)`, `b'1'`, `1`},
			{`bit(64)`, `b'1111111111111111111111111111111111111111111111111111111111111111'`, `18446744073709551615`},
			{`year`, `2024`, `2024`},
			{`date`, `'2024-02-29'`, `2024-02-29`},
			{`date`, `'0000-00-00'`, `NULL`},
			{`time(3)`, `'-01:02:03.456'`, `-01:02:03.456`},
			{`datetime`, `'2024-02-29 23:59:59'`, `2024-02-29 23:59:59`},
			{`datetime(6)`, `'2024-02-29 23:59:59.123456'`, `2024-02-29 23:59:59.123456`},
			{`datetime`, `'2024-00-00 00:00:00'`, `NULL`},
			{`datetime(3)`, `'0000-00-00'`, `NULL`},
			{`timestamp(6) NULL`, `'2024-02-29 23:59:59.123456'`, `2024-02-29 22:59:59.123456+00`},
			{`timestamp NULL`, `'0000-00-00 00:00:00'`, `NULL`},
			{`char(10)`, `'ab  '`, `ab`},
			{`varchar(20)`, `'Grüße 🎉'`, `Grüße 🎉`},
			{`varchar(20) CHARACTER SET latin1`, `'café €'`, `café €`},
			{`text CHARACTER SET cp1251`, `'Привет'`, `Привет`},
			{`varchar(20) CHARACTER SET utf16`, `'zażółć'`, `zażółć`},
			{`char(20) CHARACTER SET sjis`, `'日本'`, `日本`},
			{`varchar(20) CHARACTER SET gbk`, `'中文'`, `中文`},
			{`text`, `repeat('x', 3)`, `xxx`},
			{`mediumtext`, `concat('ä', '')`, `ä`},
			{`varchar(20)`, `''`, ``},
			{`binary(16)`, `x'00112233445566778899aabbccddee00'`, `00112233445566778899aabbccddee00`},
			{`binary(4)`, `x'00000000'`, `00000000`},
			{`varbinary(20)`, `x'00ff00'`, `00ff00`},
			{`blob`, `x'00ff'`, `00ff`},
			{`enum('free','it''s','ü')`, `'ü'`, `ü`},
			{`enum('free','it''s','ü')`, `'it''s'`, `it's`},
			{`enum('a','ä') CHARACTER SET latin1`, `'ä'`, `ä`},
			{`set('a','b','c')`, `'a,c'`, `a,c`},
			{`set('a','b','c')`, `''`, ``},
			{`json`, `'{"a":["x",null,12345678901234567890],"b":1.0}'`, `{"a":["x",null,12345678901234567890],"b":1.0}`},
			{`int`, `NULL`, `NULL`},
		}
		if maria {
			values = append(values, []struct{ column, value, want string }{
				{`uuid`, `'123e4567-e89b-12d3-a456-426655440000'`, `123e4567-e89b-12d3-a456-426655440000`},
				{`uuid`, `'018f4567-e89b-7abc-8000-000000000000'`, `018f4567-e89b-7abc-8000-000000000000`},
				{`inet6`, `'2001:db8::'`, `2001:db8::`},
				{`inet4`, `'10.0.0.0'`, `10.0.0.0`},
			}...)
		} else {
			values = append(values, []struct{ column, value, want string }{
				{`json`, `CAST('{"long key": 2, "a": -0.5}' AS JSON)`, `{"a":-0.5,"long key":2}`},
			}...)
		}
		create, insert := "CREATE TABLE v (id int PRIMARY KEY", "INSERT INTO v VALUES (1"
		for i, v := range values {
			create += fmt.Sprintf(", c%d %s", i, v.column)
			insert += ", " + v.value
		}
		a.exec(`SET NAMES utf8mb4; SET SESSION sql_mode = '', time_zone = '+01:00'`)
		a.exec(create + `) CHARACTER SET utf8mb4`)
		start := map[int]loops.Position{}
		config := func(i int) MySQLConfig {
			return a.config([]loops.Watch{{Role: loops.Users, Schema: a.name, Table: "v", Key: []string{"id"},
				Columns: map[loops.Field]loops.Column{loops.FieldName: {Name: fmt.Sprintf("c%d", i)}}}})
		}
		view, err := NewMySQL(config(0)).Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		view.Close()
		start[0] = view.At
		a.exec(insert + ")")
		for i, v := range values {
			stream, err := NewMySQL(config(i)).Resume(t.Context(), start[0])
			if err != nil {
				t.Fatal(err)
			}
			b, err := stream.Next(t.Context(), inAMinute())
			if err != nil {
				t.Fatalf("%s: %v", v.column, err)
			}
			stream.Close()
			got := b.Changes[0].Row[loops.FieldName]
			text := got.Text
			if got.Kind == loops.Null {
				text = "NULL"
			}
			if text != v.want {
				t.Errorf("%s %s is %q, want %q", v.column, v.value, text, v.want)
			}
		}
	})
}

// TestBinlogKeys deletes by keys that are bytes, and by generated and invisible neighbours.
func TestBinlogKeys(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		a.exec(`CREATE TABLE k (v int GENERATED ALWAYS AS (n + 1) VIRTUAL, id binary(3) PRIMARY KEY, h int INVISIBLE DEFAULT 5, n int, s int GENERATED ALWAYS AS (n * 2) STORED, name varchar(20), KEY (v))`)
		if a.server.Flavor == dbserver.OracleMySQL {
			a.exec(`CREATE INDEX f ON k ((n + 7))`)
		} else {
			a.exec(`ALTER TABLE k ADD COLUMN long_text text, ADD UNIQUE (long_text)`)
		}
		watches := []loops.Watch{{Role: loops.Users, Schema: a.name, Table: "k", Key: []string{"id"},
			Columns: map[loops.Field]loops.Column{loops.FieldName: {Name: "name"}, loops.FieldPlan: {Name: "s"}}}}
		source := NewMySQL(a.config(watches))
		view, err := source.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		view.Close()
		stream, err := source.Resume(t.Context(), view.At)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		a.exec(`INSERT INTO k (id, n, name) VALUES (x'610000', 3, 'ann')`)
		a.exec(`UPDATE k SET id = x'620000'`)
		a.exec(`DELETE FROM k`)
		got, _ := read(t, stream, 3)
		expect(t, got, "I 610000 plan=6 name=ann", "U 620000 was 610000 plan=6 name=ann", "D 620000")
	})
}

// TestBinlogVersioned reads a system-versioned table of MariaDB, whose history is none of ours.
func TestBinlogVersioned(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		if a.server.Flavor == dbserver.MariaDB {
			a.exec(`ALTER TABLE users ADD SYSTEM VERSIONING`)
			a.exec(`DROP TABLE seats`)
			a.exec(`CREATE TABLE seats (org varchar(20), since timestamp(6) GENERATED ALWAYS AS ROW START, seat int, til timestamp(6) GENERATED ALWAYS AS ROW END,
				plan varchar(20), PRIMARY KEY (org, seat, til), PERIOD FOR SYSTEM_TIME (since, til)) WITH SYSTEM VERSIONING`)
		}
		stream := a.open(a.begin())
		defer stream.Close()
		a.exec(`INSERT INTO users VALUES (1, 'a@b.c', 'Ann')`)
		a.exec(`UPDATE users SET name = 'Anne'`)
		a.exec(`DELETE FROM users`)
		a.exec(`INSERT INTO seats (org, seat, plan) VALUES ('acme', 1, 'pro')`)
		a.exec(`UPDATE seats SET plan = 'free'`)
		a.exec(`DELETE FROM seats`)
		a.insertMany("end", 1)
		got, _ := read(t, stream, 7)
		expect(t, got, "I 1 subject=1 email=a@b.c name=Ann", "U 1 subject=1 email=a@b.c name=Anne", "D 1",
			"I acme+1 subject=acme plan=pro", "U acme+1 subject=acme plan=free", "D acme+1", "I end 1")
	})
}
