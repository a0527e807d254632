// Package demo plays the whole product through on one machine: a private PostgreSQL, a small
// application with real traffic, stand-ins for Stripe and Resend, and the sidecar as a process of its
// own. saas, stripe and inbox are the world, traffic its users, plot what they do.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiergate/tiergate/internal/dbserver"
	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// patience bounds the story, which takes some seconds: a machine may be slow or busy.
const patience = 2 * time.Minute

// Options say how to play.
type Options struct {
	Executable string    // the sidecar's binary
	Out        io.Writer // where the story goes
	Colour     bool
	Keep       bool // stay up after the story, until ctx ends
}

// demo is everything that runs.
type demo struct {
	*story
	options  Options
	database string // DATABASE_URL
	app      *saas
	resend   *inbox
	mailbox  string // address of resend
	sidecar  *sidecar
	kept     bool // the story is over
	closers  []func()
}

// Run plays the story, and ends everything that it started before it returns. It fails where something
// went otherwise than promised, having shown the end of the sidecar's log.
func Run(ctx context.Context, o Options) error {
	d := &demo{options: o, story: &story{out: o.Out, colour: o.Colour, began: time.Now()}}
	defer d.close()
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	err := d.run(running, fail)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && d.kept {
		return nil
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: whatever it had started is gone")
	}
	if cause := context.Cause(running); cause != nil {
		err = cause // the sidecar ended: all else follows from that
	}
	if d.sidecar != nil {
		d.text("\nThe end of the sidecar's log:\n" + d.sidecar.tail() + "\n")
	}
	return err
}

func (d *demo) run(ctx context.Context, fail context.CancelCauseFunc) error {
	d.say("setup", plain, "starting a private PostgreSQL")
	pool, err := d.startDatabase(ctx)
	if err != nil {
		return err
	}
	if err := d.startWorld(pool); err != nil {
		return err
	}
	bounded, stop := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the story did not end within %s", patience))
	defer stop()
	if err := d.startSidecar(bounded, fail); err != nil {
		return err
	}
	p := newPlot(d, newMeter(bounded, pool))
	d.app.used, d.app.subscribed = p.meter.used, p.meter.subscribed
	if err := p.play(bounded); err != nil {
		return err
	}
	if err := p.summarise(bounded); err != nil {
		return err
	}
	if d.options.Keep {
		return d.keep(ctx)
	}
	return nil
}

// startDatabase starts a server and creates the application's tables.
func (d *demo) startDatabase(ctx context.Context) (*pgxpool.Pool, error) {
	progress := slog.New(slog.NewTextHandler(d.options.Out, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	server, err := dbserver.StartPostgres(ctx, dbserver.Options{Log: progress})
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, server.Stop)
	if err := server.CreateDatabase(ctx, "saas"); err != nil {
		return nil, err
	}
	d.database = server.URL("saas")
	pool, err := pgxpool.New(ctx, d.database)
	if err != nil {
		return nil, err
	}
	d.closers = append(d.closers, pool.Close)
	var version string
	if _, err := pool.Exec(ctx, tables); err != nil {
		return nil, fmt.Errorf("create the application's tables: %w", err)
	}
	if err := pool.QueryRow(ctx, `SELECT split_part(current_setting('server_version'), ' ', 1)`).Scan(&version); err != nil {
		return nil, err
	}
	d.say("setup", plain, "PostgreSQL %s is up, with an application's tables: users, usage, subscriptions", version)
	return pool, nil
}

// withoutTime keeps of a log line what a reader of the story wants.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

// startWorld opens the application and the stand-ins for Stripe and Resend.
func (d *demo) startWorld(pool *pgxpool.Pool) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 30 * time.Second}
	d.closers = append(d.closers, client.CloseIdleConnections)
	secret := "whsec_" + rand.Text()
	d.app = &saas{pool: pool, secret: secret, client: client, used: func(string) {}, subscribed: func(string, bool) {}}
	d.resend = &inbox{Server: resendtest.New("re_demo", 5)}
	bank := &stripe{secret: secret, client: client}
	var err error
	if d.app.url, err = d.serve(d.app.handler()); err != nil {
		return err
	}
	if bank.url, err = d.serve(bank.handler()); err != nil {
		return err
	}
	d.app.stripe, bank.webhook = bank.url, d.app.url+"/webhooks/stripe"
	d.mailbox, err = d.serve(d.resend)
	return err
}

// serve opens a listener on a free port, which close closes.
func (d *demo) serve(h http.Handler) (url string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with close
	}()
	d.closers = append(d.closers, func() { _ = server.Close(); <-done }) // nobody is left to answer
	return "http://" + listener.Addr().String(), nil
}

// startSidecar starts the real thing, with the variables that a user sets.
func (d *demo) startSidecar(ctx context.Context, died func(error)) error {
	s, err := newSidecar(d.options.Executable, d.app.client, died,
		"DATABASE_URL="+d.database, "RESEND_API_KEY=re_demo", "RESEND_BASE_URL="+d.mailbox,
		"EMAIL_FROM=Acme <hello@acme.example>", "UPGRADE_URL="+d.app.url+"/upgrade")
	if err != nil {
		return err
	}
	d.sidecar = s
	d.closers = append(d.closers, s.close)
	if err := s.start(); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	d.say("setup", plain, "sidecar run follows it, with skene.config.ts: free %d in 30 days, paid unlimited", wall)
	return nil
}

// keep stays up until ctx ends.
func (d *demo) keep(ctx context.Context) error {
	d.text(fmt.Sprintf(`
Everything is still up. Look around:
  export DATABASE_URL='%s'
  the database   psql "$DATABASE_URL" -c 'TABLE feature_access'
  the sidecar    curl http://%s/   (also /readyz, /metrics)
                 %s status -C %s
  the SaaS       curl -i -X POST -H 'Authorization: Bearer eve' %[5]s/api/features/report
  its checkout   %[5]s/upgrade?user=dan   (in a browser)
  the inbox      %s
Ctrl-C ends it and removes everything.
`, d.database, d.sidecar.admin, d.options.Executable, d.sidecar.dir, d.app.url, d.mailbox))
	d.kept = true
	<-ctx.Done()
	return context.Cause(ctx)
}

// close ends everything, the newest first.
func (d *demo) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
}
