package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tiergate/tiergate/internal/cdc"
	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail"
	"github.com/tiergate/tiergate/internal/sql"
	"github.com/tiergate/tiergate/internal/web"
)

func runCommand() *cobra.Command {
	var once bool
	var poll time.Duration
	c := &cobra.Command{
		Use: "run", Short: "Install what is missing, then follow the database until stopped", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if once && poll > 0 {
				return usageError{errors.New("--once and --poll exclude each other")}
			}
			if poll != 0 && poll < time.Second {
				return usageError{fmt.Errorf("--poll %s: at least 1s", poll)}
			}
			dir, err := c.Flags().GetString("dir")
			if err != nil {
				return err
			}
			s := &sidecar{dir: dir, once: once, poll: poll, log: logger(), metrics: web.NewMetrics()}
			return s.run(c.Context())
		},
	}
	c.Flags().BoolVar(&once, "once", false, "count, apply, deliver what is due, and exit; needs no replication rights")
	c.Flags().DurationVar(&poll, "poll", 0, "count again every so often instead of following the change stream, e.g. 30s")
	return c
}

// sidecar is the running process: it wires the parts and begins again when the database changed.
type sidecar struct {
	dir     string
	once    bool
	poll    time.Duration
	log     *slog.Logger
	metrics *web.Metrics

	ready    atomic.Pointer[string] // why it is not ready; nil: it is
	begun    bool                   // a session got as far as an installed database
	followed atomic.Bool            // and another one, or the same, to flags that follow it

	config  atomic.Pointer[configuration]
	current atomic.Pointer[prepared] // what the session works on
	stop    func()                   // ends the admin address, which outlives sessions; nil: it is not open
}

// run keeps a session going: each reads the catalog anew. Once one has followed, nothing that a migration does
// to the database ends the process: it waits until there is something to follow again.
func (s *sidecar) run(ctx context.Context) error {
	s.notReady("starting")
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	configured, err := readConfiguration(s.dir)
	if err != nil {
		return err
	}
	s.config.Store(configured)
	if s.once {
		return s.session(ctx)
	}
	defer func() {
		if s.stop != nil {
			s.stop()
		}
	}()
	for pause := firstPause; ; pause = min(2*pause, time.Minute) {
		begun := time.Now()
		err := s.untilReload(ctx, hangup)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errReload) {
			s.log.Info("the configuration is read again")
			pause = firstPause / 2
			continue
		}
		if err == nil || !s.begun || (loops.KindOf(err) == loops.Permanent && !s.followed.Load()) {
			return err
		}
		s.notReady(err.Error())
		if time.Since(begun) > time.Minute {
			pause = firstPause
		}
		s.log.Warn("beginning again", "in", pause.String(), "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			s.reload(ctx)
		case <-time.After(pause):
		}
	}
}

// firstPause is how long flags stand after a migration, before the tables are looked at again.
const firstPause = 250 * time.Millisecond

// session builds every part in order, under a lease, and runs them until one fails.
func (s *sidecar) session(ctx context.Context) error {
	configured := s.config.Load()
	mails := configured.mails
	p, err := lookUp(ctx, configured.settings, configured.plan)
	if err != nil {
		return err
	}
	for _, note := range p.notes {
		s.log.Info("tables", "note", note)
	}
	if err := s.install(ctx, p); err != nil {
		return err
	}
	s.begun = true
	s.current.Store(p)
	if !s.once && s.stop == nil {
		if s.stop, err = s.serve(ctx, p.settings); err != nil {
			return err
		}
	}
	lease, err := sql.Acquire(ctx, p.url(), holder(), !s.once, s.log)
	if err != nil {
		return err
	}
	defer lease.Release()
	if s.once || s.poll > 0 {
		if err := dropStream(ctx, p); err != nil {
			return err
		}
	}
	store, outbox, flow := s.parts(p, mails, lease.Term)
	defer store.Close()
	defer outbox.Close()
	if s.once {
		return flow.Once(ctx)
	}
	// The first part that fails ends the others.
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return lease.Hold(ctx, s.watch(p)) })
	parts.Go(func() error { return loops.Keep(ctx, s.log, "follow", s.follow(flow)) })
	parts.Go(func() error { return loops.Keep(ctx, s.log, "deliver", flow.Deliver) })
	return parts.Wait()
}

// parts joins store, outbox, stream and mailer to a flow.
func (s *sidecar) parts(p *prepared, mails *mail.Mailer, term int64) (*sql.Store, *sql.Outbox, *loops.Flow) {
	store := sql.NewStore(sql.Options{URL: p.url(), Schema: p.schema, Plan: p.plan, Watches: p.watches, Term: term,
		TestClock: p.settings.TestClock, Log: s.log, Gauges: readiness{s.metrics, s}})
	outbox := sql.NewOutbox(sql.OutboxOptions{URL: p.url(), Schema: p.schema, Plan: p.plan, Term: term, Log: s.log,
		Hold: hold(p.plan, mails), Route: mails.Route})
	source := cdc.NewPostgres(cdc.Config{URL: p.url(), Name: string(sql.ForStream), Slot: p.slot,
		Publications: []string{sql.UsagePublication, sql.StatePublication}, Watches: p.watches, Since: p.since,
		Facts: facts(p.url()), Log: s.log})
	return store, outbox, loops.NewFlow(source, store, outbox, mails, loops.NewDecider(p.plan, p.watches), s.log)
}

// hold says why emails wait; where no loop mails anybody, nothing does.
func hold(plan *loops.Plan, mails *mail.Mailer) func() error {
	if len(templates(plan)) == 0 {
		return func() error { return nil }
	}
	return mails.Ready
}

func (s *sidecar) install(ctx context.Context, p *prepared) error {
	conn, err := sql.Connect(ctx, p.url(), sql.ForCommand)
	if err != nil {
		return err
	}
	defer conn.End()
	changed, err := sql.Install(ctx, conn, p.install())
	if changed {
		s.log.Info("installed", "schema", "tiergate", "flags", p.schema+".feature_access")
	}
	return err
}

// dropStream gives up the slot of an earlier stream: whoever polls reads none, and it would keep WAL.
func dropStream(ctx context.Context, p *prepared) error {
	conn, err := sql.Connect(ctx, p.url(), sql.ForCommand)
	if err != nil {
		return err
	}
	defer conn.End()
	return sql.GiveUpSlot(ctx, conn)
}

func (s *sidecar) follow(flow *loops.Flow) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		defer func() {
			if err != nil {
				s.notReady(err.Error())
			}
		}()
		if s.poll > 0 {
			return flow.Poll(ctx, s.poll)
		}
		return flow.Follow(ctx)
	}
}

// facts asks the server what the change stream wants to know before it is opened.
func facts(url string) func(context.Context) (cdc.Facts, error) {
	return func(ctx context.Context) (cdc.Facts, error) {
		conn, err := sql.Connect(ctx, url, sql.ForCommand)
		if err != nil {
			return cdc.Facts{}, err
		}
		defer conn.End()
		st, err := sql.Replication(ctx, conn)
		return cdc.Facts{Exists: st.Exists, Plugin: st.Plugin, Database: st.Database, ThisDatabase: st.ThisDatabase, Lost: st.Lost,
			ConfirmedFlush: st.ConfirmedFlush, Publications: st.Publications}, err
	}
}

// watch looks at the publications, at retained WAL and at the outbox. A table that is dropped leaves its
// publication without a word in the stream: only a look tells. A slot that keeps more than
// max_retained_wal is given up: filling the application's disk is worse than counting again.
func (s *sidecar) watch(p *prepared) func(context.Context, *sql.Session) error {
	var first string
	return func(ctx context.Context, conn *sql.Session) error {
		publications, err := sql.PublicationState(ctx, conn)
		if err != nil {
			return err
		}
		if first == "" {
			first = publications
		}
		if publications != first {
			return &loops.Fault{Step: "watch the publications", Err: errors.New("a table or a publication was dropped, renamed or altered, or a partition attached"), Kind: loops.Changed,
				Hint: "they are set right, and usage is counted again"}
		}
		if err := sql.Intact(ctx, conn, p.schema); err != nil {
			return err
		}
		retained, emails, err := sql.Backlog(ctx, conn)
		if err != nil {
			return err
		}
		s.metrics.Observed(retained, emails)
		most := p.settings.MaxRetainedWAL
		ended, err := sql.GiveUpBeside(ctx, conn, most)
		if err != nil {
			return err
		}
		if ended {
			s.log.Error("the count of a new loop kept too much WAL: it begins again", "max_retained_wal", most)
		}
		switch {
		case retained > most:
			s.log.Error("the server keeps too much WAL for the sidecar: the slot is given up, and usage counted again", "bytes", retained, "max_retained_wal", most)
			return sql.GiveUpSlot(ctx, conn)
		case retained > most/2:
			s.log.Warn("the server keeps much WAL for the sidecar", "bytes", retained, "max_retained_wal", most)
		}
		return nil
	}
}

// serve opens the admin address.
func (s *sidecar) serve(ctx context.Context, settings config.Settings) (stop func(), err error) {
	admin := &web.Admin{Metrics: s.metrics, Token: string(settings.AdminToken), Ready: s.readyNow,
		Status: func(ctx context.Context) (any, error) { return readStatus(ctx, s.current.Load()) }}
	listener, err := admin.Listen(settings.AdminListen)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the session
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := admin.Serve(ctx, listener); err != nil {
			s.log.Error("the admin address is closed", "error", err)
		}
	}()
	return func() { cancel(); <-done }, nil
}

func (s *sidecar) notReady(why string) { s.ready.Store(&why) }

func (s *sidecar) readyNow() error {
	if why := s.ready.Load(); why != nil {
		return errors.New(*why)
	}
	return nil
}

// readiness is told of every commit: the first one means that the sidecar follows.
type readiness struct {
	*web.Metrics
	sidecar *sidecar
}

// Following marks the sidecar as ready, and says so once.
func (r readiness) Following() {
	r.sidecar.followed.Store(true)
	if r.sidecar.ready.Swap(nil) != nil && !r.sidecar.once {
		r.sidecar.log.Info("ready: flags follow the database")
	}
}

// holder names this process to others.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}
