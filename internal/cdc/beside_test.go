package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestBeside replays, from a slot beside the stream's, what came between its view and the stream's place: no
// row of a transaction that the view holds, and none that the stream has still to bring.
func TestBeside(t *testing.T) {
	a := newApp(t)
	stream := a.open(a.begin())
	defer stream.Close()
	insert := func(who string) { a.exec(fmt.Sprintf(`INSERT INTO usage (user_id, endpoint) VALUES ('%s', '1')`, who)) }

	insert("before")
	_, early := read(t, stream, 1)
	a.exec(`INSERT INTO stranger VALUES (1)`)
	view, err := a.source().Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if replay, err := view.Replay(t.Context(), early); err != nil || replay != nil {
		t.Fatalf("a stream that has not come to the view: %v, %v", replay, err)
	}
	open := a.connect()
	defer open.Close(t.Context())
	execOn(t, open, `BEGIN; INSERT INTO usage (user_id, endpoint) VALUES ('later', '1')`)
	a.exec(`INSERT INTO usage (user_id, endpoint) VALUES ('since', '1'), ('since', '2')`)
	insert("since")
	_, at := read(t, stream, 3)
	execOn(t, open, `COMMIT`)
	insert("later")
	read(t, stream, 2)

	replay, err := view.Replay(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer replay.Close()
	var got []string
	for {
		b, err := replay.Next(t.Context(), time.Now().Add(time.Minute))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			got = append(got, changeText(c))
		}
	}
	expect(t, got, "I since 1", "I since 2", "I since 1")
	replay.Close()
	view.Close()
	await(t, "the slot to go", func() bool {
		return a.text(`SELECT count(*) FROM pg_replication_slots WHERE temporary AND slot_name LIKE 'tiergate_beside_%' AND database = current_database()`) == "0"
	})
}

// TestBesideNothing replays where nothing has happened, or only what nobody watches.
func TestBesideNothing(t *testing.T) {
	a := newApp(t)
	stream := a.open(a.begin())
	defer stream.Close()
	view, err := a.source().Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	a.exec(`INSERT INTO stranger SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 80000) i`)
	var at loops.Position
	var replay loops.Stream
	await(t, "the stream to come to the view", func() bool {
		b, err := stream.Next(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		at = b.Position
		replay, err = view.Replay(t.Context(), at)
		return err == nil && replay != nil
	})
	defer replay.Close()
	if b, err := replay.Next(t.Context(), time.Now().Add(time.Minute)); !errors.Is(err, io.EOF) {
		t.Errorf("%d changes, %v", len(b.Changes), err)
	}
}

// TestReleasedView holds that a view keeps nothing from vacuum once everything was read.
func TestReleasedView(t *testing.T) {
	a := newApp(t)
	for name, export := range map[string]func(context.Context) (loops.Snapshot, error){"beside": a.source().Beside, "new": a.source().Snapshot} {
		view, err := export(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held := func() string {
			return a.text(`SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND application_name = 'test stream' AND datname = current_database()`)
		}
		if held() != "1" {
			t.Errorf("%s: an exported view holds nothing", name)
		}
		view.Release()
		if held() != "0" {
			t.Errorf("%s: a released view still holds something", name)
		}
		view.Close()
	}
}
