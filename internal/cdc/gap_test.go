package cdc

import (
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

func TestGaps(t *testing.T) {
	edit := func(f func(*position)) func(*app, loops.Position) loops.Position {
		return func(a *app, at loops.Position) loops.Position {
			p, err := decodePosition(at)
			if err != nil {
				a.t.Fatal(err)
			}
			f(&p)
			return p.encode()
		}
	}
	does := func(sql string) func(*app, loops.Position) loops.Position {
		return func(a *app, at loops.Position) loops.Position {
			for statement := range strings.SplitSeq(strings.ReplaceAll(sql, "$slot", "'"+a.slot+"'"), ";") {
				a.exec(statement)
			}
			return at
		}
	}
	for name, c := range map[string]struct {
		happens func(*app, loops.Position) loops.Position
		want    string
	}{
		"slot dropped":    {does(`SELECT pg_drop_replication_slot($slot)`), "is gone"},
		"slot recreated":  {does(`SELECT pg_drop_replication_slot($slot); INSERT INTO other VALUES (1); SELECT pg_create_logical_replication_slot($slot, 'pgoutput')`), "behind our back"},
		"slot advanced":   {does(`INSERT INTO usage (user_id) VALUES ('ann'); SELECT pg_replication_slot_advance($slot, pg_current_wal_lsn())`), "behind our back"},
		"another server":  {edit(func(p *position) { p.System = "1" }), "another server"},
		"a promoted one":  {edit(func(p *position) { p.Timeline++ }), "timeline"},
		"another slot":    {edit(func(p *position) { p.Slot = "old" }), "publications were changed"},
		"fewer tables":    {does(`ALTER PUBLICATION p_state DROP TABLE users`), "publications were changed"},
		"a new table":     {does(`DROP TABLE other; CREATE TABLE other (id int PRIMARY KEY); ALTER PUBLICATION p_state ADD TABLE other`), "publications were changed"},
		"not a position":  {func(*app, loops.Position) loops.Position { return "{" }, "cannot be read"},
		"no place in it":  {func(*app, loops.Position) loops.Position { return "{}" }, "LSN"},
		"an empty string": {func(*app, loops.Position) loops.Position { return "" }, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			at := c.happens(a, a.begin())
			stream, err := a.source().Resume(t.Context(), at)
			if err == nil {
				stream.Close()
				t.Fatal("the stream was resumed")
			}
			if loops.KindOf(err) != loops.Gap || !strings.Contains(err.Error(), c.want) {
				t.Errorf("kind %d: %v, want a gap and %q", loops.KindOf(err), err, c.want)
			}
			if name == "a new table" || name == "slot dropped" { // a snapshot mends what was lost
				stream := a.open(a.begin())
				defer stream.Close()
				a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
				got, _ := read(t, stream, 1)
				expect(t, got, "I ann 1")
			}
		})
	}
}

func TestGapsInTheStream(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		edit func(*position)
		want string
	}{
		"a half-applied transaction that does not come again": {`INSERT INTO usage (user_id) VALUES ('ann')`,
			func(p *position) { p.Final, p.Xid, p.Rows = p.End+1, 1, 1 }, "does not come again"},
		"a truncated table": {`TRUNCATE users`, func(*position) {}, "truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			p, err := decodePosition(a.begin())
			if err != nil {
				t.Fatal(err)
			}
			c.edit(&p)
			a.exec(c.sql)
			stream := a.open(p.encode())
			defer stream.Close()
			_, err = stream.Next(t.Context(), time.Now().Add(time.Minute))
			if loops.KindOf(err) != loops.Gap || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("kind %d: %v", loops.KindOf(err), err)
			}
		})
	}
}

func TestSlotOfSomebodyElse(t *testing.T) {
	a := newApp(t)
	a.exec(`SELECT pg_create_logical_replication_slot('` + a.slot + `', 'test_decoding')`)
	_, err := a.source().Snapshot(t.Context())
	if err == nil || loops.KindOf(err) != loops.Permanent || !strings.Contains(err.Error(), "pg_drop_replication_slot") {
		t.Errorf("kind %d: %v", loops.KindOf(err), err)
	}
	if a.text(`SELECT plugin FROM pg_replication_slots WHERE slot_name = '`+a.slot+`'`) != "test_decoding" {
		t.Error("somebody else's slot was dropped")
	}
	a.exec(`SELECT pg_drop_replication_slot('` + a.slot + `')`)
}
