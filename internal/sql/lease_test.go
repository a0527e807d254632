package sql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

var quiet = slog.New(slog.DiscardHandler)

func TestInstallRepeats(t *testing.T) {
	a := newConventional(t)
	if a.install() {
		t.Error("a second install changed something")
	}
	if script, err := Script(t.Context(), a.own, a.options()); err != nil || len(script) > 0 {
		t.Errorf("the script of an installed database: %q, %v", script, err)
	}
	id := a.lines(`SELECT value FROM tiergate.meta WHERE key = 'installation'`)
	a.count(a.store())
	a.exec(`DROP TABLE feature_access`) // as a migration tool would
	a.exec(`ALTER PUBLICATION tiergate_state DROP TABLE users`)
	a.exec(`ALTER PUBLICATION tiergate_usage SET (publish = 'insert, update')`)
	if !a.install() || a.install() {
		t.Error("what was dropped is not mended by exactly one install")
	}
	a.expect(`SELECT tablename::text FROM pg_publication_tables WHERE pubname = 'tiergate_state' ORDER BY 1`, "access_grant", "subscriptions", "users")
	a.expect(`SELECT pubupdate::text FROM pg_publication WHERE pubname = 'tiergate_usage'`, "false")
	a.expect(`SELECT value FROM tiergate.meta WHERE key = 'counted'`)
	if again := a.lines(`SELECT value FROM tiergate.meta WHERE key = 'installation'`); again[0] != id[0] {
		t.Error("the installation got another name")
	}
	var wg sync.WaitGroup
	a.exec(`DROP TABLE feature_access`)
	changes := make(chan bool, 4)
	for range cap(changes) {
		wg.Go(func() {
			conn, err := Connect(t.Context(), a.url, ForCommand)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			changed, err := Install(t.Context(), conn, a.options())
			if err != nil {
				t.Error(err)
			}
			changes <- changed
		})
	}
	wg.Wait()
	close(changes)
	n := 0
	for changed := range changes {
		if changed {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d of four at once installed", n)
	}
	if err := Uninstall(t.Context(), a.own, "public"); err != nil {
		t.Fatal(err)
	}
	a.expect(`SELECT relname::text FROM pg_class WHERE relname IN ('feature_access', 'checkpoint') UNION SELECT pubname::text FROM pg_publication`)
	if !a.install() {
		t.Error("nothing to install after an uninstall")
	}
}

func TestLeaseIsHandedOver(t *testing.T) { onBoth(t, testLeaseIsHandedOver) }

func testLeaseIsHandedOver(t *testing.T) {
	a := newConventional(t)
	first, err := Acquire(t.Context(), a.url, "first", true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(t.Context(), a.url, "impatient", false, quiet)
	kindIs(t, err, loops.Permanent)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Acquire(cancelled, a.url, "leaving", true, quiet); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended wait: %v", err)
	}
	apply := a.storeAt(first.Term)
	if _, _, err := apply.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}

	held := make(chan error, 1)
	go func() {
		held <- first.Hold(t.Context(), func(ctx context.Context, conn *Session) error { return conn.Ping(ctx) })
	}()
	next := make(chan *Lease, 1)
	go func() {
		second, err := Acquire(t.Context(), a.url, "second", true, quiet)
		if err != nil {
			t.Error(err)
		}
		next <- second
	}()
	select {
	case <-next:
		t.Fatal("two hold the lease")
	case <-time.After(1500 * time.Millisecond): // longer than it looks again
	}
	a.kill(first.conn)
	second := <-next
	defer second.Release()
	if second.Term != first.Term+1 {
		t.Errorf("terms %d and %d", first.Term, second.Term)
	}
	a.expect(`SELECT holder FROM tiergate.lease`, "second")
	if _, err := apply.Apply(t.Context(), loops.Batch{Position: "later"}, a.decider()); err == nil {
		t.Error("the old leader's session outlived its lease")
	}
	_, _, err = apply.Resume(t.Context())
	kindIs(t, err, loops.Deposed)
	kindIs(t, <-held, loops.Deposed)
	a.expect(`SELECT position FROM tiergate.checkpoint`, "")
}

func TestDeposedStoreWritesNothing(t *testing.T) { onBoth(t, testDeposedStoreWritesNothing) }

func testDeposedStoreWritesNothing(t *testing.T) {
	a := newConventional(t)
	a.exec(`INSERT INTO users VALUES ('ann', 'ann@example.com', 'Ann')`)
	a.count(a.store())
	use := loops.Batch{Position: "p2", Changes: []loops.Change{{Role: loops.Usage, Op: loops.Insert, Committed: time.Now(),
		Use: loops.Use{Subject: "ann", Endpoint: "/api/features/1", Method: "POST", Quantity: 5, At: time.Now()}}}}
	const state = `SELECT concat_ws(' ', position, seq) FROM tiergate.checkpoint UNION ALL SELECT concat_ws(' ', subject_id, used) FROM feature_access
		UNION ALL SELECT kind FROM tiergate.access_event ORDER BY 1`

	old := a.storeAt(a.term())
	if _, _, err := old.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.exec(`UPDATE tiergate.checkpoint SET term = term + 1`)
	before := a.lines(state)
	_, err := old.Apply(t.Context(), use, a.decider())
	kindIs(t, err, loops.Deposed)
	a.exec(`INSERT INTO usage (user_id, endpoint, method) VALUES ('ann', '/api/features/1', 'POST')`)
	kindIs(t, old.Count(t.Context(), loops.Snapshot{}, a.decider()), loops.Deposed)
	a.expect(state, before...)

	// Two of one term, which must never be: only one of them moves on.
	one, two := a.storeAt(a.term()), a.storeAt(a.term())
	for _, s := range []*Store{one, two} {
		if _, _, err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	errs := make(chan error, 2)
	for _, s := range []*Store{one, two} {
		go func() {
			_, err := s.Apply(t.Context(), use, a.decider())
			errs <- err
		}()
	}
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) {
		t.Errorf("two stores ended with %v and %v", first, second)
	}
	kindIs(t, errors.Join(first, second), loops.Deposed)
	a.expect(`SELECT used::text FROM feature_access WHERE subject_id = 'ann'`, "5")
	a.expect(`SELECT kind FROM tiergate.access_event`, "blocked")
}

// TestIdleDatabaseStaysIdle holds that a batch without consequence writes nothing.
func TestIdleDatabaseStaysIdle(t *testing.T) {
	a := newConventional(t)
	s := a.store()
	a.count(s)
	if _, _, err := s.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), loops.Batch{Position: "p1"}, a.decider()); err != nil {
		t.Fatal(err)
	}
	before := a.lines(`SELECT xmin::text FROM tiergate.checkpoint`)
	for range 3 {
		applied, err := s.Apply(t.Context(), loops.Batch{Position: "p1"}, a.decider())
		if err != nil || time.Until(applied.Wake) < time.Second {
			t.Errorf("%+v, %v", applied, err)
		}
	}
	a.expect(`SELECT xmin::text FROM tiergate.checkpoint`, before...)
}

// TestServerVanishesUnderAWaiting holds that who waits for the lease notices a server that says nothing
// any more, as after a failover, and does not wait for it until TCP gives up.
func TestServerVanishesUnderAWaiting(t *testing.T) {
	a := newConventional(t)
	lease, err := Acquire(t.Context(), a.url, "first", true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	url, freeze := a.proxy()
	ended := make(chan error, 1)
	go func() {
		_, err := Acquire(t.Context(), url, "waiting", true, slog.New(slog.NewTextHandler(freeze, nil)))
		ended <- err
	}()
	select {
	case err := <-ended:
		kindIs(t, err, loops.Transient)
	case <-time.After(3 * leasePing):
		t.Error("it still waits")
	}
}

// proxy returns the database's address through a relay, which stands still after the first write to freeze.
func (a *app) proxy() (url string, freeze io.Writer) {
	a.t.Helper()
	config := a.conn.Config()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	frozen := &freezer{ended: make(chan struct{})}
	a.t.Cleanup(func() { listener.Close(); close(frozen.ended) })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			network, address := pgconn.NetworkAddress(config.Host, config.Port)
			server, err := net.Dial(network, address)
			if err != nil {
				client.Close()
				return
			}
			go frozen.relay(client, server)
			go frozen.relay(server, client)
		}
	}()
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", config.User, config.Password, listener.Addr(), config.Database), frozen
}

// freezer stops its relays, without a word to either side.
type freezer struct {
	still atomic.Bool
	ended chan struct{}
}

func (f *freezer) Write(p []byte) (int, error) {
	f.still.Store(true)
	return len(p), nil
}

func (f *freezer) relay(from, to net.Conn) {
	defer from.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if f.still.Load() {
			<-f.ended
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
