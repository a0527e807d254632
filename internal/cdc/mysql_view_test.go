package cdc

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/loops"
	store "github.com/tiergate/tiergate/internal/sql"
)

// TestMySQLViews opens views while many sessions insert: what each view shows, and what the stream brings from its
// place on, are together every row, once.
func TestMySQLViews(t *testing.T) {
	bothWays(t, func(t *testing.T, a *bapp) {
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		defer writers.Wait()
		defer stop()
		for w := range 6 {
			conn := a.connect()
			writers.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					_, err := conn.ExecContext(t.Context(), "INSERT INTO `usage` (user_id, endpoint) VALUES (?, ?), (?, 'twin')", fmt.Sprint(w), fmt.Sprint(n), fmt.Sprint(w))
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		config := a.config(a.watches())
		views := store.NewMySQLViews(a.server.db, a.watches())
		config.View = func(ctx context.Context) (MySQLView, error) {
			view, err := views.Open(ctx)
			return MySQLView(view), err
		}
		source := NewMySQL(config)
		count := func(conn *sql.Conn) int {
			var n int
			if err := conn.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+a.name+".`usage`").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		type seen struct {
			rows int
			at   loops.Position
		}
		var all []seen
		written := func() { // something, since the last time
			before := count(a.conn)
			await(t, "the writers", func() bool { return count(a.conn) > before })
		}
		for range 5 {
			written()
			view, err := source.Snapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			session, ok := views.Session(view.Name)
			if !ok {
				t.Fatal("the view has no session")
			}
			all = append(all, seen{count(session), view.At})
			if again := count(session); again != all[len(all)-1].rows {
				t.Errorf("a view that moves: %d rows, then %d", all[len(all)-1].rows, again)
			}
			view.Release()
			view.Close()
			if _, ok := views.Session(view.Name); ok {
				t.Error("a closed view has a session")
			}
		}
		written()
		stop()
		writers.Wait()
		total := count(a.conn)
		a.insertMany("end", 1)
		for _, v := range all {
			stream := a.open(v.at)
			rows, end := v.rows, false
			for !end {
				b, err := stream.Next(t.Context(), inAMinute())
				if err != nil {
					t.Fatal(err)
				}
				rows += len(b.Changes)
				end = len(b.Changes) > 0 && b.Changes[len(b.Changes)-1].Use.Subject == "end"
			}
			stream.Close()
			if rows != total+1 {
				t.Errorf("a view of %d rows and the stream from there have %d, and the table %d", v.rows, rows, total+1)
			}
		}
	})
}

// TestMySQLViewWaits opens a view beside a transaction that stays open: MySQL waits for it, and lets writers
// through meanwhile.
func TestMySQLViewWaits(t *testing.T) {
	a := newBinlogApp(t, sharedBinlogServer(t, fullBinlog))
	open := a.connect()
	a.execOn(open, `START TRANSACTION`)
	a.execOn(open, "INSERT INTO `usage` (user_id, endpoint) VALUES ('open', '1')")
	found := make(chan error, 1)
	var at loops.Position
	go func() {
		view, err := a.source().Snapshot(t.Context())
		if err == nil {
			view.Close()
			at = view.At
		}
		found <- err
	}()
	if a.server.Flavor == dbserver.OracleMySQL {
		await(t, "the view to ask for its lock", func() bool {
			return len(a.column(`SELECT ID FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table metadata lock%'`)) > 0
		})
		begun := time.Now()
		a.insertMany("other", 1) // waits until the view gives up for now
		if waited := time.Since(begun); waited > 20*time.Second {
			t.Errorf("a writer waited for %s", waited)
		}
	}
	a.execOn(open, `COMMIT`)
	if err := <-found; err != nil {
		t.Fatal(err)
	}
	a.insertMany("end", 1)
	got, _ := a.reads(at, 1)
	if a.server.Flavor == dbserver.MariaDB && strings.Contains(got[0], "open") { // its view did not wait
		return
	}
	expect(t, got, "I end 1")
}
