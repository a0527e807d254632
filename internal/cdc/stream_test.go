package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"go.uber.org/goleak"

	"github.com/tiergate/tiergate/internal/loops"
)

func TestCommitOrder(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	stream := a.open(at)
	defer stream.Close()
	other := a.connect()
	defer other.Close(t.Context())

	a.exec(`BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
	execOn(t, other, `BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('bob', '2')`)
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '3')`)
	execOn(t, other, `INSERT INTO users VALUES (7, 'b@b.c', 'Bob'); COMMIT`)
	a.exec(`COMMIT`)
	a.exec(`BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('cid', '4'); SAVEPOINT s; INSERT INTO usage (user_id, endpoint) VALUES ('cid', '5');
		ROLLBACK TO s; INSERT INTO usage (user_id, endpoint) VALUES ('cid', '6'); SAVEPOINT s; INSERT INTO usage (user_id, endpoint) VALUES ('cid', '7'); COMMIT`)
	a.exec(`BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('dee', '8'); ROLLBACK`)
	a.exec(`INSERT INTO stranger VALUES (1); INSERT INTO other VALUES (1); UPDATE users SET name = 'Rob'; DELETE FROM users`)
	want := []string{"I bob 2", "I 7 subject=7 email=b@b.c name=Bob", "I ann 1", "I ann 3", "I cid 4", "I cid 6", "I cid 7",
		"U 7 subject=7 email=b@b.c name=Rob", "D 7"}
	got, end := read(t, stream, len(want))
	expect(t, got, want...)
	stream.Close()

	again := a.open(at) // the same once more from the same place
	got, _ = read(t, again, len(want))
	expect(t, got, want...)
	again.Close()

	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('eve', '9')`)
	last := a.open(end) // and only what is new from the end
	defer last.Close()
	got, _ = read(t, last, 1)
	expect(t, got, "I eve 9")
}

func TestWidenedPublication(t *testing.T) {
	a := newApp(t)
	a.exec(`ALTER TABLE usage ADD PRIMARY KEY (id); ALTER PUBLICATION p_usage SET (publish = 'insert, update, delete')`)
	stream := a.open(a.begin())
	defer stream.Close()
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1'); UPDATE usage SET endpoint = '2'; DELETE FROM usage;
		INSERT INTO usage (user_id, endpoint) VALUES ('ann', '3')`)
	got, _ := read(t, stream, 2)
	expect(t, got, "I ann 1", "I ann 3") // changing or deleting usage is no usage
}

// TestResumeBetweenRowsOfTwoRoles holds that a position counts rows, where each of them is two changes.
func TestResumeBetweenRowsOfTwoRoles(t *testing.T) {
	a := newApp(t)
	a.exec(`ALTER TABLE users ADD calls int DEFAULT 0`)
	first := a.begin()
	a.exec(`BEGIN; INSERT INTO users VALUES (1, 'a@b.c', 'Ann'); UPDATE users SET calls = 5; DELETE FROM users; COMMIT`)
	final, xid := a.transaction(1)
	rows := []string{"I 1 subject=1 email=a@b.c name=Ann", "I 1 subject=1 count=0",
		"U 1 subject=1 email=a@b.c name=Ann", "U 1 subject=1 count=5", "D 1", "D 1"}
	for done := range 3 {
		p, err := decodePosition(first)
		if err != nil {
			t.Fatal(err)
		}
		p.End, p.Final, p.Xid, p.Rows = final, final, xid, int64(done)
		source := a.source()
		source.config.Watches = slices.Insert(source.config.Watches, 0, callsOf("calls"))
		var stream loops.Stream
		await(t, "the slot to be free", func() bool {
			stream, err = source.Resume(t.Context(), p.encode())
			return err == nil
		})
		got, at := read(t, stream, len(rows)-2*done)
		expect(t, got, rows[2*done:]...)
		if end, err := decodePosition(at); err != nil || end.Rows != 0 {
			t.Errorf("after %d rows the position is %s, %v", done, at, err)
		}
		stream.Close()
	}
}

// TestResumeAtEveryRow stops inside a transaction after each of its rows, watched or not, and reads on.
func TestResumeAtEveryRow(t *testing.T) {
	a := newApp(t)
	first := a.begin()
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('before', '0')`)
	a.exec(`BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1'), ('ann', '2'); INSERT INTO other VALUES (1); INSERT INTO stranger VALUES (1);
		INSERT INTO users VALUES (1, 'a@b.c', 'Ann'); UPDATE users SET name = 'Anna'; INSERT INTO usage (user_id, endpoint) VALUES ('ann', '3'); COMMIT`)
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('after', '4')`)
	final, xid := a.transaction(2)

	rows := []string{"I ann 1", "I ann 2", "", "I 1 subject=1 email=a@b.c name=Ann", "U 1 subject=1 email=a@b.c name=Anna", "I ann 3"}
	for done := range len(rows) + 1 {
		p, err := decodePosition(first)
		if err != nil {
			t.Fatal(err)
		}
		p.End, p.Final, p.Xid, p.Rows = final, final, xid, int64(done) // nothing else ends before it does
		stream := a.open(p.encode())
		want := []string{}
		for _, row := range append(rows[done:len(rows):len(rows)], "I after 4") {
			if row != "" {
				want = append(want, row)
			}
		}
		got, _ := read(t, stream, len(want))
		expect(t, got, want...)
		stream.Close()
	}
}

// transaction returns what the begin message of the slot's n-th transaction says.
func (a *app) transaction(n int) (final pglogrepl.LSN, xid uint32) {
	a.t.Helper()
	await(a.t, "the slot to be free", func() bool {
		return a.text(`SELECT active FROM pg_replication_slots WHERE slot_name = '`+a.slot+`'`) == "false"
	})
	rows, err := a.conn.Query(a.t.Context(), `SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'p_usage,p_state')`, a.slot)
	if err != nil {
		a.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			a.t.Fatal(err)
		}
		message, err := newDecoder(nil, 0).decode(data)
		if m, ok := message.(beginMessage); ok {
			if n--; n == 0 {
				final, xid = m.final, m.xid
			}
		} else if data[0] == 'B' {
			a.t.Fatal(err)
		}
	}
	if xid == 0 || rows.Err() != nil {
		a.t.Fatalf("no such transaction: %v", rows.Err())
	}
	return final, xid
}

// TestTransactionBiggerThanTheBuffer reads one in pieces, with a new connection for each.
func TestTransactionBiggerThanTheBuffer(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	total := maxPending*2 + 3
	a.exec(fmt.Sprintf(`INSERT INTO usage (user_id, endpoint) SELECT 'ann', i::text FROM generate_series(1, %d) i; INSERT INTO usage (user_id) VALUES ('end')`, total))
	next, pieces := 1, 0
	for next <= total {
		stream := a.open(at)
		b, err := stream.Next(t.Context(), time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			if want := fmt.Sprint(next); c.Use.Endpoint != want && (next <= total || c.Use.Subject != "end") {
				t.Fatalf("row %q after row %d", c.Use.Endpoint, next-1)
			}
			next++
		}
		if len(b.Changes) > maxPending {
			t.Errorf("a batch of %d changes", len(b.Changes))
		}
		stream.Ack(b.Position)
		stream.Close()
		at = b.Position
		pieces++
	}
	if pieces < 3 {
		t.Errorf("%d pieces", pieces)
	}
}

func TestIdlePosition(t *testing.T) {
	const start = pglogrepl.LSN(1 << 30)
	for name, c := range map[string]struct {
		moved pglogrepl.LSN
		quiet time.Duration
		want  bool
	}{
		"nothing":                {0, time.Hour, false},
		"our own little":         {idleLittle, time.Hour, false},
		"a little, too soon":     {idleLittle + 1, idleEvery / 2, false},
		"a little, for a minute": {idleLittle + 1, idleEvery + time.Second, true},
		"much":                   {idleBytes + 1, 0, true},
	} {
		s := &gatherer{space: make(chan struct{}, 1), whole: true, at: position{End: start}, idle: start + c.moved, idleSeen: time.Now().Add(-c.quiet)}
		b, ok, err := s.takePending(true)
		if err != nil || !ok {
			t.Fatal(err)
		}
		p, err := decodePosition(b.Position)
		if err != nil || (p.End > start) != c.want {
			t.Errorf("%s: the position went from %s to %s, %v", name, start, p.End, err)
		}
		s = &gatherer{space: s.space, whole: false, at: position{End: start, Final: start + 9}, idle: start + 1<<40}
		if b, _, _ := s.takePending(true); b.Position != s.at.encode() || s.at.End != start {
			t.Errorf("%s: moved while a transaction was open", name)
		}
		s = &gatherer{space: s.space, whole: true, at: position{End: start}, idle: start - 1<<20}
		if b, _, _ := s.takePending(true); b.Position != s.at.encode() || s.at.End != start {
			t.Errorf("%s: moved back", name)
		}
	}
}

// TestOthersWriting holds that the server need not keep what others write.
func TestOthersWriting(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	stream := a.open(at)
	defer stream.Close()
	a.exec(`INSERT INTO stranger SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 80000) i`)
	written := a.text(`SELECT pg_current_wal_lsn()`)
	await(t, "the server to keep little", func() bool {
		b, err := stream.Next(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Changes) > 0 {
			t.Fatalf("changes %v", b.Changes)
		}
		stream.Ack(b.Position)
		at = b.Position
		return a.text(`SELECT '`+written+`'::pg_lsn - confirmed_flush_lsn < `+fmt.Sprint(idleBytes)+` FROM pg_replication_slots WHERE slot_name = '`+a.slot+`'`) == "true"
	})
	stream.Close()
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('ann', '1')`)
	stream = a.open(at)
	got, _ := read(t, stream, 1)
	expect(t, got, "I ann 1")
}

// TestStalledConsumer holds that the server hears from us while nobody takes what is pending: its own
// wal_sender_timeout is 2 s.
func TestStalledConsumer(t *testing.T) {
	a := newApp(t)
	stream := a.open(a.begin())
	defer stream.Close()
	total := maxPending*3 + 1
	a.exec(fmt.Sprintf(`INSERT INTO usage (user_id, endpoint) SELECT 'ann', i::text FROM generate_series(1, %d) i`, total))
	begun := a.text(`SELECT clock_timestamp()`)
	await(t, "replies that are later than the server's patience", func() bool {
		return a.text(`SELECT reply_time > '`+begun+`'::timestamptz + '4 s' FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
			WHERE slot_name = '`+a.slot+`'`) == "true"
	})
	got, _ := read(t, stream, total)
	if len(got) != total || got[total-1] != fmt.Sprintf("I ann %d", total) {
		t.Errorf("%d changes, the last %q", len(got), got[len(got)-1])
	}
}

func TestUnreadableUsage(t *testing.T) {
	a := newApp(t)
	a.exec(`ALTER TABLE usage ALTER created_at TYPE text`)
	stream := a.open(a.begin())
	defer stream.Close()
	a.exec(`INSERT INTO usage (user_id, endpoint, created_at) VALUES ('ann', '1', 'soon'), ('bob', '2', '2026-03-01 10:00:30')`)
	got, _ := read(t, stream, 2)
	expect(t, got, "I  ", "I bob 2") // reported, and in nobody's way
}

// TestRenamed holds that what lost its name is looked up again, and not ignored.
func TestRenamed(t *testing.T) {
	for name, sql := range map[string]string{
		"a column": `ALTER TABLE users RENAME name TO full_name; INSERT INTO users VALUES (2, 'b@b.c', 'Bob')`,
		"a table":  `ALTER TABLE users RENAME TO people; INSERT INTO people VALUES (2, 'b@b.c', 'Bob')`,
		"a schema": `CREATE SCHEMA old; ALTER TABLE users SET SCHEMA old; INSERT INTO old.users VALUES (2, 'b@b.c', 'Bob')`,
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t)
			stream := a.open(a.begin())
			defer stream.Close()
			a.exec(`INSERT INTO users VALUES (1, 'a@b.c', 'Ann')`)
			a.exec(sql)
			got, _ := read(t, stream, 1)
			expect(t, got, "I 1 subject=1 email=a@b.c name=Ann")
			_, err := stream.Next(t.Context(), time.Now().Add(time.Minute))
			if loops.KindOf(err) != loops.Changed || err == nil {
				t.Errorf("kind %d: %v", loops.KindOf(err), err)
			}
		})
	}
}

// TestCloseNeverHangs closes streams in every state: just begun, idle, full, and cut by the server.
func TestCloseNeverHangs(t *testing.T) {
	a := newApp(t)
	at := a.begin()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	closes := func(stream loops.Stream) {
		t.Helper()
		begun := time.Now()
		stream.Close()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %s", took)
		}
	}
	for range 20 {
		closes(a.open(at))
	}
	idle := a.open(at)
	if _, err := idle.Next(t.Context(), time.Now().Add(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := idle.Next(ctx, time.Now().Add(time.Minute)); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with an ended context: %v", err)
	}
	closes(idle)

	a.exec(fmt.Sprintf(`INSERT INTO usage (user_id, endpoint) SELECT 'ann', i::text FROM generate_series(1, %d) i`, maxPending*2))
	full := a.open(at)
	gathering := full.(*stream)
	await(t, "a full buffer", func() bool {
		s := gathering
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.pending) >= maxPending
	})
	closes(full)

	cut := a.open(at)
	a.cut()
	await(t, "the error", func() bool {
		_, err := cut.Next(t.Context(), time.Now())
		return err != nil && loops.KindOf(err) == loops.Transient
	})
	closes(cut)
}

// TestTimeWaitsForTheBacklog resumes behind what was committed meanwhile: time must not pass before those
// changes did, or a trial ends that was paid for long ago.
func TestTimeWaitsForTheBacklog(t *testing.T) {
	a := newApp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, c := range []struct {
		name, sql string
		want      int
	}{
		{"nothing", `SELECT 1`, 0},
		{"rows", `INSERT INTO usage (user_id) SELECT 'ann' FROM generate_series(1, 3)`, 3},
		{"rows of others", `INSERT INTO stranger SELECT i FROM generate_series(1, 1000) i`, 0},
		{"rows, then rows of others", `INSERT INTO usage (user_id) VALUES ('bob'); INSERT INTO stranger SELECT -i FROM generate_series(1, 1000) i`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := a.begin()
			a.exec(c.sql)
			stream := a.open(at)
			defer stream.Close()
			for got := 0; ; {
				b, err := stream.Next(ctx, time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				if got += len(b.Changes); len(b.Changes) > 0 {
					continue
				}
				if got != c.want {
					t.Errorf("time passes after %d changes of %d", got, c.want)
				}
				return
			}
		})
	}
}
