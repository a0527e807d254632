package cdc

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// others writes WAL of a table that nobody watches.
func (a *app) others(bytes int) {
	a.t.Helper()
	a.exec(fmt.Sprintf(`INSERT INTO stranger SELECT i + coalesce((SELECT max(id) FROM stranger), 0), repeat('x', 1000) FROM generate_series(1, %d) i`, bytes/1000+1))
}

// uses writes n usage rows in transactions of size rows each, and returns the changes they are.
func (a *app) uses(name string, n, size int) (want []string) {
	a.t.Helper()
	a.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%[2]d BY %[3]d LOOP
		INSERT INTO usage (user_id, endpoint) SELECT '%[1]s', j::text FROM generate_series(i, least(i + %[3]d - 1, %[2]d)) j; COMMIT; END LOOP; END $$`, name, n, size))
	for i := range n {
		want = append(want, fmt.Sprintf("I %s %d", name, i+1))
	}
	return want
}

// stream opens a slot at a position, from which the WAL goes on to at least backlog, as far as the stream knows.
func (a *app) stream(slot string, at loops.Position, catchUp bool, log *slog.Logger) *stream {
	a.t.Helper()
	c := a.source().config
	c.Slot, c.Log = slot, log
	from, err := decodePosition(at)
	if err != nil {
		a.t.Fatal(err)
	}
	from.Slot = slot
	var s *stream
	await(a.t, "the slot to be free", func() bool {
		conn, system, err := NewPostgres(c).connect(a.t.Context())
		if err != nil {
			a.t.Fatal(err)
		}
		backlog := from.End
		if catchUp {
			backlog = system.XLogPos
		}
		s = newStream(conn, from, backlog, c)
		if s.far() != catchUp {
			a.t.Fatalf("far is %v at %s of %s", s.far(), from.End, system.XLogPos)
		}
		if err = s.open(a.t.Context()); err != nil {
			closeConn(conn)
			if !strings.Contains(err.Error(), "55006") {
				a.t.Fatal(err)
			}
		}
		return err == nil
	})
	return s
}

// TestCatchUpIsStreaming reads one backlog both ways, and goes on streaming from each position that
// catching up gave.
func TestCatchUpIsStreaming(t *testing.T) {
	for name, acks := range map[string]bool{"acknowledged": true, "not acknowledged": false} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			at := a.begin()
			a.text(`SELECT slot_name FROM pg_copy_logical_replication_slot('` + a.slot + `', '` + a.slot + `_copy')`)
			other, late := a.connect(), a.connect()
			defer other.Close(t.Context())
			defer late.Close(t.Context())

			execOn(t, late, `BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('late', '1')`)
			a.exec(`BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
			execOn(t, other, `BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('bob', '2')`)
			a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '3')`)
			execOn(t, other, `INSERT INTO users VALUES (7, 'b@b.c', 'Bob'); COMMIT`)
			a.exec(`COMMIT`)
			a.others(chunkBytes + farBytes)
			a.exec(`BEGIN; SAVEPOINT s; INSERT INTO usage (user_id, endpoint) VALUES ('cid', '4'); ROLLBACK TO s; INSERT INTO other VALUES (1);
				INSERT INTO usage (user_id, endpoint) VALUES ('cid', '5'); COMMIT; BEGIN; INSERT INTO usage (user_id) VALUES ('dee'); ROLLBACK`)
			a.exec(`ALTER TABLE users ADD age int; UPDATE users SET age = 7, id = 8; ALTER TABLE users DROP age; DELETE FROM users`)
			want := []string{"I bob 2", "I 7 subject=7 email=b@b.c name=Bob", "I ann 1", "I ann 3", "I cid 5",
				"U 8 was 7 subject=8 email=b@b.c name=Bob", "D 8"}
			want = append(want, a.uses("eve", maxPending*2+1, maxPending/3+1)...)
			a.others(farBytes)
			want = append(want, a.uses("fox", maxPending/20+1, 1)...)
			execOn(t, late, `INSERT INTO usage (user_id, endpoint) VALUES ('late', '2')`)

			streamed := a.stream(a.slot, at, false, slog.New(slog.DiscardHandler))
			plain, _ := read(t, streamed, len(want))
			streamed.Close()
			if !slices.Equal(plain, want) {
				t.Fatalf("streaming brought %d changes, want %d", len(plain), len(want))
			}

			caught := a.stream(a.slot+"_copy", at, true, slog.New(slog.DiscardHandler))
			defer caught.Close()
			var got []string
			var places []loops.Position
			var done []int
			for len(got) < len(want)+2 {
				b, err := caught.Next(t.Context(), time.Now().Add(time.Minute))
				if err != nil {
					t.Fatalf("after %d changes: %v", len(got), err)
				}
				for _, c := range b.Changes {
					got = append(got, changeText(c))
				}
				if len(places) < 8 {
					places, done = append(places, b.Position), append(done, len(got))
				}
				if acks {
					caught.Ack(b.Position)
				}
				if len(got) == len(want) { // by now it streams, or will soon
					execOn(t, late, `COMMIT`)
				}
			}
			want = append(want, "I late 1", "I late 2")
			if !slices.Equal(got, want) {
				t.Fatalf("catching up brought %d changes that are not the %d wanted", len(got), len(want))
			}
			for i, place := range places { // in order: to begin at a place acknowledges it
				again := a.stream(a.slot, place, false, slog.New(slog.DiscardHandler))
				if rest, _ := read(t, again, len(want)-done[i]); !slices.Equal(rest, want[done[i]:]) {
					t.Errorf("from %s the stream does not go on after change %d", place, done[i])
				}
				again.Close()
			}
		})
	}
}

// TestCatchUpDies ends catching up after every batch, in turn by closing and by the server, sometimes before
// the batch was acknowledged.
func TestCatchUpDies(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	a.others(farBytes)
	want := a.uses("ann", maxPending*4+3, maxPending/2-1)
	a.others(farBytes)
	want = append(want, a.uses("bob", 3, 1)...)
	var got []string
	for round := 0; len(got) < len(want); round++ {
		stream := a.open(at)
		b, err := stream.Next(t.Context(), time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if round%3 != 2 {
			for _, c := range b.Changes {
				got = append(got, changeText(c))
			}
			at = b.Position
			stream.Ack(at)
			if round%4 == 1 { // let it go on a little
				if _, err := stream.Next(t.Context(), time.Now().Add(20*time.Millisecond)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if round%2 == 1 {
			a.cut()
		}
		stream.Close()
		p, err := decodePosition(at)
		if err != nil {
			t.Fatal(err)
		}
		if a.text(`SELECT confirmed_flush_lsn <= '`+p.End.String()+`' FROM pg_replication_slots WHERE slot_name = '`+a.slot+`'`) != "true" {
			t.Fatal("the slot went past what was acknowledged")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d changes, want %d", len(got), len(want))
	}
}

// TestCatchUpOverOthers holds that WAL of other tables comes to an end, and lets the slot go on.
func TestCatchUpOverOthers(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	a.others(chunkBytes*2 + farBytes)
	stream := a.open(at)
	defer stream.Close()
	b, err := stream.Next(t.Context(), time.Now())
	if err != nil || len(b.Changes) > 0 {
		t.Fatal(b, err)
	}
	stream.Ack(b.Position)
	await(t, "the slot to go on", func() bool {
		return a.text(`SELECT pg_current_wal_lsn() - confirmed_flush_lsn < `+fmt.Sprint(farBytes+idleBytes)+` FROM pg_replication_slots WHERE slot_name = '`+a.slot+`'`) == "true"
	})
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
	got, _ := read(t, stream, 1)
	expect(t, got, "I ann 1")
}

// TestLongTransactionStreams holds that no chunk is asked for which could hold more than its bound.
func TestLongTransactionStreams(t *testing.T) {
	a := newApp(t)
	first := a.begin()
	long := a.connect()
	defer long.Close(t.Context())
	execOn(t, long, `BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('long', '1')`)
	reach := func(at loops.Position) bool {
		t.Helper()
		conn, system, err := a.source().connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer closeConn(conn)
		from, err := decodePosition(at)
		if err != nil {
			t.Fatal(err)
		}
		upto, err := newStream(conn, from, system.XLogPos, a.source().config).reach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return upto > 0
	}
	const message = `SELECT count(pg_logical_emit_message(false, '', repeat('x', 10000))) FROM generate_series(1, %d)`
	a.exec(fmt.Sprintf(message, spanBytes/10000+1))
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
	stream := a.stream(a.slot, first, false, slog.New(slog.DiscardHandler))
	got, behind := read(t, stream, 1)
	expect(t, got, "I ann 1")
	stream.Close()
	a.exec(fmt.Sprintf(message, farBytes/10000+2))
	execOn(t, long, `COMMIT`)
	if !reach(first) || reach(behind) {
		t.Errorf("a chunk before the bound: %v, over it: %v", reach(first), reach(behind))
	}
	stream = a.stream(a.slot, behind, true, slog.New(slog.DiscardHandler))
	defer stream.Close()
	got, _ = read(t, stream, 1)
	expect(t, got, "I long 1")
}

// TestChunkRefused holds that a server which has no room for a chunk still streams.
func TestChunkRefused(t *testing.T) {
	a := newApp(t)
	a.exec(`ALTER DATABASE ` + a.slot + ` SET temp_file_limit = 0; ALTER DATABASE ` + a.slot + ` SET work_mem = '64kB'`)
	at := a.begin()
	want := a.uses("ann", 3000, 3000)
	a.others(farBytes)
	var log bytes.Buffer
	stream := a.stream(a.slot, at, true, slog.New(slog.NewTextHandler(&log, nil)))
	got, _ := read(t, stream, len(want))
	expect(t, got, want...)
	stream.Close()
	if !strings.Contains(log.String(), "was refused") || !strings.Contains(log.String(), "53400") {
		t.Error(log.String())
	}
}

// TestBrokenOffInTheMiddle begins to stream after a chunk that was broken off in a transaction which had been
// taken before: the next one must not be passed over with it.
func TestBrokenOffInTheMiddle(t *testing.T) {
	const end = 100
	g := newGatherer(position{End: end}, end, Config{})
	row := rowMessage{op: loops.Insert, table: &table{}}
	for _, m := range []beginMessage{{final: end - 1}, {final: end + 1, xid: 7}} {
		if err := errors.Join(g.begin(m), g.row(row, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if g.at.Xid != 7 || g.at.Rows != 1 || g.whole {
		t.Errorf("at %+v", g.at)
	}
}

// TestCloseWhileDecoding holds that the server gives up a chunk that nobody waits for.
func TestCloseWhileDecoding(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	a.others(chunkBytes + farBytes)
	stream := a.open(at)
	sessions := `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'test stream'`
	await(t, "a chunk", func() bool {
		return chunkBytes < 1<<20 || a.text(sessions+` AND query LIKE 'DECLARE%' AND state = 'active'`) == "1"
	})
	begun := time.Now()
	stream.Close()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %s", took)
	}
	await(t, "the server to end the session", func() bool { return a.text(sessions) == "0" })
}
