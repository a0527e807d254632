package cdc

import (
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
)

// TestBinlogDDL alters a watched table between rows, while the stream follows, and before it is resumed.
func TestBinlogDDL(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		start := a.begin()
		live := a.open(start)
		defer live.Close()
		follow := func(want string) loops.Position {
			got, at := read(t, live, 1)
			expect(t, got, want)
			return at
		}
		a.insertMany("ann", 1)
		follow("I ann 1")
		a.exec("ALTER TABLE `usage` ADD COLUMN first varchar(10) DEFAULT 'x' FIRST")
		a.insertMany("bob", 1)
		follow("I bob 1")
		a.exec("CREATE INDEX by_user ON `usage` (user_id)")
		a.insertMany("ben", 1)
		follow("I ben 1")
		a.exec("ALTER TABLE `usage` MODIFY endpoint varchar(190) CHARACTER SET latin1 AFTER first")
		a.exec("INSERT INTO `usage` (user_id, endpoint) VALUES ('käthe', 'é')")
		at := follow("I käthe é")
		a.insertMany("eve", 1)
		follow("I eve 1")
		got, _ := a.reads(at, 1)
		expect(t, got, "I eve 1")

		stream, err := a.source().Resume(t.Context(), start)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if a.names() {
			got, _ := read(t, stream, 5)
			expect(t, got, "I ann 1", "I bob 1", "I ben 1", "I käthe é", "I eve 1")
			return
		}
		b, err := stream.Next(t.Context(), inAMinute())
		if loops.KindOf(err) != loops.Gap || err == nil || !strings.Contains(err.Error(), "binlog_row_metadata") {
			t.Errorf("kind %d: %v after %d changes", loops.KindOf(err), err, len(b.Changes))
		}
	})
}

// names reports whether the app's binlog names columns.
func (a *bapp) names() bool { return a.text(`SELECT @@global.binlog_row_metadata`) == "FULL" }

// TestBinlogLostColumn renames a column that is needed: the tables must be looked up again, or counted.
func TestBinlogLostColumn(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		stream := a.open(a.begin())
		defer stream.Close()
		a.insertMany("ann", 1)
		_, at := read(t, stream, 1)
		a.exec("ALTER TABLE `usage` CHANGE user_id who varchar(64)")
		a.exec("INSERT INTO `usage` (who, endpoint) VALUES ('bob', '/1')")
		var err error
		for err == nil { // the place after the change comes alone: from there on the new names are known
			var b loops.Batch
			if b, err = stream.Next(t.Context(), inAMinute()); err == nil {
				at = b.Position
			}
		}
		if loops.KindOf(err) != loops.Changed || !strings.Contains(err.Error(), `no longer has column "user_id"`) {
			t.Fatalf("kind %d: %v", loops.KindOf(err), err)
		}
		watches := a.watches()
		watches[0].Columns[loops.FieldSubject] = loops.Column{Name: "who"}
		config := a.config(watches)
		if config.Since, err = config.Facts(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, err := NewMySQL(config).Resume(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		got, _ := read(t, again, 1)
		expect(t, got, "I bob /1")
	})
}

// TestBinlogShape sees that a table has other columns than when it was looked up.
func TestBinlogShape(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		watches := a.watches()
		watches[1].Shape = "id,email,name,"
		stream, err := NewMySQL(a.config(watches)).Resume(t.Context(), a.begin())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		a.exec(`INSERT INTO users VALUES (1, 'a@b.c', 'Ann')`)
		got, _ := read(t, stream, 1)
		expect(t, got, "I 1 subject=1 email=a@b.c name=Ann")
		a.exec(`ALTER TABLE users ADD COLUMN customer varchar(20)`)
		a.exec(`INSERT INTO users VALUES (2, 'b@b.c', 'Bob', 'cus_1')`)
		for err == nil {
			_, err = stream.Next(t.Context(), inAMinute())
		}
		if loops.KindOf(err) != loops.Changed || !strings.Contains(err.Error(), "has other columns than before") {
			t.Errorf("kind %d: %v", loops.KindOf(err), err)
		}
	})
}

// TestBinlogStatements runs what no row event tells.
func TestBinlogStatements(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	a.exec(`CREATE TABLE other LIKE users`)
	for _, c := range []struct{ sql, want, undo string }{
		{`TRUNCATE users`, "users was truncated", ""},
		{"TRUNCATE TABLE `usage`", "", ""},
		{`TRUNCATE other`, "", ""},
		{`RENAME TABLE users TO gone, other TO users, gone TO other`, "users was dropped, renamed or swapped", ""},
		{`ALTER TABLE seats RENAME TO seats_`, "seats was dropped, renamed or swapped", `RENAME TABLE seats_ TO seats`},
		{`ALTER TABLE seats RENAME COLUMN plan TO plan_`, "", `ALTER TABLE seats RENAME COLUMN plan_ TO plan`},
		{`DROP TABLE seats`, "seats was dropped, renamed or swapped", `CREATE TABLE seats (org varchar(20), seat int, plan varchar(20), PRIMARY KEY (org, seat))`},
		{`CREATE TEMPORARY TABLE seats (i int); DROP TEMPORARY TABLE seats`, "", ""},
		{`CREATE VIEW v AS SELECT * FROM users; DROP VIEW v`, "", ""},
		{`SET SESSION binlog_format = STATEMENT; INSERT INTO users (id) VALUES (5); SET SESSION binlog_format = ROW`, "writes table users in statement format", ""},
		{`SET SESSION binlog_format = STATEMENT; UPDATE users SET name = 'x'; SET SESSION binlog_format = ROW`, "writes table users in statement format", ""},
		{`SET SESSION binlog_format = STATEMENT; INSERT INTO other SELECT id + 100, email, name FROM users; SET SESSION binlog_format = ROW`, "", ""},
		{`SET SESSION binlog_row_image = MINIMAL; UPDATE users SET name = 'y'; SET SESSION binlog_row_image = FULL`, "", ""},
		{`SET SESSION binlog_row_image = MINIMAL; DELETE FROM users WHERE id = 5; SET SESSION binlog_row_image = FULL`, "", ""},
		{"SET SESSION binlog_row_image = MINIMAL; INSERT INTO `usage` (endpoint) VALUES ('/x'); SET SESSION binlog_row_image = FULL", "binlog_row_image", ""},
	} {
		start := a.begin()
		a.exec(c.sql)
		a.insertMany("end", 1)
		err := a.failure(start)
		if c.undo != "" {
			a.exec(c.undo)
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.sql, err)
		case c.want != "" && (loops.KindOf(err) != loops.Gap || err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: kind %d: %v, want a gap and %q", c.sql, loops.KindOf(err), err, c.want)
		}
	}
}

// TestBinlogXA holds what a distributed transaction did until it is committed.
func TestBinlogXA(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		start := a.begin()
		stream := a.open(start)
		defer stream.Close()
		xa := func(name, who, end string) {
			a.exec(`XA START '` + name + `'`)
			a.insertMany(who, 2)
			a.exec(`XA END '` + name + `'`)
			if end != "" {
				a.exec(`XA PREPARE '` + name + `'`)
				a.execOn(a.connect(), "INSERT INTO `usage` (user_id, endpoint) VALUES ('between', '1')")
				a.exec(end + ` '` + name + `'`)
			} else {
				a.exec(`XA COMMIT '` + name + `' ONE PHASE`)
			}
		}
		xa("one", "ann", "XA COMMIT")
		xa("two", "bob", "XA ROLLBACK")
		xa("three", "eve", "")
		a.insertMany("end", 1)
		want := []string{"I between 1", "I ann 1", "I ann 2", "I between 1", "I eve 1", "I eve 2", "I end 1"}
		got, _ := read(t, stream, len(want))
		expect(t, got, want...)

		a.exec(`XA START 'four'`)
		a.insertMany("zoe", 1)
		a.exec(`XA END 'four'`)
		a.exec(`XA PREPARE 'four'`)
		between := "INSERT INTO `usage` (user_id, endpoint) VALUES ('between', '1')"
		a.execOn(a.connect(), between)
		_, at := read(t, stream, 1)
		a.exec(`XA COMMIT 'four'`)
		a.insertMany("end", 1)
		got, _ = read(t, stream, 2)
		expect(t, got, "I zoe 1", "I end 1")
		a.expectGap(at, "not held any more")
	})
}

// TestBinlogXABefore commits a distributed transaction that was prepared before the stream began.
func TestBinlogXABefore(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	a.exec(`XA START 'before'`)
	a.exec(`INSERT INTO stranger VALUES (1, 'x')`)
	a.exec(`XA END 'before'`)
	a.exec(`XA PREPARE 'before'`)
	b := &bapp{t: t, server: a.server, name: a.name, conn: a.connect()}
	start := b.begin()
	a.exec(`XA COMMIT 'before'`)
	a.insertMany("end", 1)
	a.expectGap(start, "prepared before the stream began")
}

// TestBinlogCompressed reads a compressed binlog, and resumes inside a compressed transaction.
func TestBinlogCompressed(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	if a.server.Flavor == dbserver.MariaDB {
		a.exec(`SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10`)
		t.Cleanup(func() { a.server.db.Exec(`SET GLOBAL log_bin_compress = OFF`) })
	} else {
		a.exec(`SET SESSION binlog_transaction_compression = ON`)
	}
	start := a.begin()
	a.exec("INSERT INTO `usage` (user_id, endpoint) SELECT 'ann', i FROM (" + numbers(maxPending+1000) + ") n ORDER BY i")
	a.insertMany("bob", 1)
	stream := a.open(start)
	b, err := stream.Next(t.Context(), inAMinute())
	stream.Close()
	if err != nil || !b.Open {
		t.Fatalf("open: %v, %v", b.Open, err)
	}
	got := appendTexts(nil, b.Changes)
	rest, _ := a.reads(b.Position, maxPending+1001-len(got))
	got = append(got, rest...)
	seen := map[string]bool{}
	for _, text := range got {
		if seen[text] {
			t.Fatalf("%s came twice", text)
		}
		seen[text] = true
	}
	expect(t, got[len(got)-1:], "I bob 1")
}

// TestBinlogTagged reads GTIDs that MySQL has given a tag.
func TestBinlogTagged(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	tag := `SET GTID_NEXT = 'AUTOMATIC:billing'`
	if a.server.Flavor == dbserver.MariaDB {
		tag = `SET SESSION gtid_domain_id = 7`
	}
	start := a.begin()
	a.insertMany("ann", 1)
	other := a.connect()
	a.execOn(other, tag)
	a.execOn(other, "INSERT INTO `usage` (user_id, endpoint) VALUES ('bob', '1')")
	_, at := a.reads(start, 2)
	a.execOn(other, "INSERT INTO `usage` (user_id, endpoint) VALUES ('eve', '1')")
	a.insertMany("zoe", 1)
	got, _ := a.reads(at, 2)
	expect(t, got, "I eve 1", "I zoe 1")
	a.execOn(other, `SET SESSION autocommit = 1`)
}

// TestBinlogPartialJSON updates JSON in a way that tells only what has changed of it.
func TestBinlogPartialJSON(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	if a.server.Flavor == dbserver.MariaDB {
		return // has no such thing
	}
	a.exec(`CREATE TABLE j (id int PRIMARY KEY, doc json, name varchar(20))`)
	a.exec(`INSERT INTO j VALUES (1, '{"a": "a long text that is worth leaving out", "b": 2}', 'x')`)
	for column, want := range map[string]string{"doc": "binlog_row_value_options", "name": ""} {
		source := NewMySQL(a.config([]loops.Watch{{Role: loops.Users, Schema: a.name, Table: "j", Key: []string{"id"},
			Columns: map[loops.Field]loops.Column{loops.FieldName: {Name: column}}}}))
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
		a.exec(`SET SESSION binlog_row_value_options = PARTIAL_JSON; UPDATE j SET doc = JSON_SET(doc, '$.b', RAND()); SET SESSION binlog_row_value_options = ''`)
		b, err := stream.Next(t.Context(), inAMinute())
		switch {
		case want == "" && (err != nil || len(b.Changes) != 1):
			t.Errorf("%s: %d changes, %v", column, len(b.Changes), err)
		case want != "" && (loops.KindOf(err) != loops.Gap || err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: kind %d: %v", column, loops.KindOf(err), err)
		}
	}
}

// TestBinlogRights streams as a user who may not.
func TestBinlogRights(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	a.exec(`CREATE USER IF NOT EXISTS poor@'%' IDENTIFIED BY 'secret'`)
	for user, secret := range map[string]string{"poor": "secret", "nobody": "x"} {
		config := a.config(a.watches())
		config.User, config.Password = user, secret
		err := NewMySQL(config).Probe(t.Context())
		if err == nil || loops.KindOf(err) != loops.Permanent || !strings.Contains(err.Error(), "GRANT REPLICATION SLAVE") {
			t.Errorf("%s: kind %d: %v", user, loops.KindOf(err), err)
		}
	}
	if err := a.source().Probe(t.Context()); err != nil {
		t.Error(err)
	}
}
