package cdc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// TestMySQLLargeTransaction delivers a large transaction in pieces, resumes inside it at each piece, and after the
// connection is cut in its middle.
func TestMySQLLargeTransaction(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		const n = 2*maxPending + 500
		start := a.begin()
		a.exec("INSERT INTO `usage` (user_id, endpoint) SELECT 'ann', i FROM (" + numbers(n) + ") n ORDER BY i")
		a.insertMany("bob", 1)
		var got []string
		pieces := 0
		for at := start; len(got) < n+1; pieces++ {
			stream := a.open(at)
			b, err := stream.Next(t.Context(), inAMinute())
			if err != nil {
				t.Fatal(err)
			}
			if pieces == 1 {
				a.cut()
				for err == nil { // the stream ends, after what it has read already
					at = b.Position
					got = appendTexts(got, b.Changes)
					b, err = stream.Next(t.Context(), inAMinute())
				}
				if loops.KindOf(err) != loops.Transient {
					t.Fatalf("kind %d: %v", loops.KindOf(err), err)
				}
				stream.Close()
				continue
			}
			stream.Close()
			got, at = appendTexts(got, b.Changes), b.Position
			if b.Open != (len(got) < n) {
				t.Errorf("after %d changes, open is %v", len(got), b.Open)
			}
		}
		if pieces < 2 {
			t.Errorf("%d pieces", pieces)
		}
		for i, text := range got[:n] {
			if want := fmt.Sprintf("I ann %d", i); text != want {
				t.Fatalf("change %d is %s, want %s", i, text, want)
			}
		}
		expect(t, got[n:], "I bob 1")
	})
}

func appendTexts(to []string, changes []loops.Change) []string {
	for _, c := range changes {
		to = append(to, changeText(c))
	}
	return to
}

// TestMySQLQuiet holds that an idle stream returns at once where nothing was missed, and does not move its position
// for what others write, unless that is much.
func TestMySQLQuiet(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		start := a.begin()
		a.exec(`INSERT INTO stranger VALUES (1, 'x')`)
		stream := a.open(start)
		defer stream.Close()
		quiet := func() loops.Position {
			b, err := stream.Next(t.Context(), time.Now())
			if err != nil || len(b.Changes) > 0 || b.Open {
				t.Fatalf("%d changes, %v", len(b.Changes), err)
			}
			return b.Position
		}
		if quiet() != start {
			t.Error("one row of others moved the position")
		}
		a.exec(`INSERT INTO stranger SELECT i + 2, repeat('x', 6000) FROM (` + numbers(3000) + `) n`)
		var at loops.Position
		await(t, "the position to move", func() bool { at = quiet(); return at != start })
		a.insertMany("ann", 1)
		got, _ := a.reads(at, 1)
		expect(t, got, "I ann 1")
	})
}

// TestMySQLBeside replays, from a view beside the stream, what came between the view and the stream's place.
func TestMySQLBeside(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		source := a.source()
		stream, err := source.Resume(t.Context(), a.begin())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		a.insertMany("before", 1)
		_, early := read(t, stream, 1)
		a.exec(`INSERT INTO stranger VALUES (1, 'x')`)
		view, err := source.Beside(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		if replay, err := view.Replay(t.Context(), early); err != nil || replay != nil {
			t.Fatalf("a stream that has not come to the view: %v, %v", replay, err)
		}
		await(t, "the stream to come to the view", func() bool {
			b, err := stream.Next(t.Context(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			replay, err := view.Replay(t.Context(), b.Position)
			return err == nil && replay != nil
		})
		a.insertMany("since", 2)
		a.insertMany("since", 1)
		_, at := read(t, stream, 3)
		a.insertMany("later", 1)
		replay, err := view.Replay(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			b, err := replay.Next(t.Context(), inAMinute())
			if err != nil {
				break
			}
			got = appendTexts(got, b.Changes)
		}
		expect(t, got, "I since 1", "I since 2", "I since 1")
		_, at = read(t, stream, 1)
		if replay, err = view.Replay(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		b, err := replay.Next(t.Context(), inAMinute())
		if err != nil {
			t.Fatal(err)
		}
		if got := appendTexts(nil, b.Changes); !slices.Equal(got, []string{"I later 1"}) {
			t.Errorf("after the bound moved: %q", got)
		}
	})
}
