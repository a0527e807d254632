package demo

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// plot is what the six customers do. All of them click at the same time; only what follows from
// something else waits for it.
type plot struct {
	*demo
	meter *meter

	ann, bob, cyd, dan, eve, fay *customer

	annIsIn, recovered, danIsOut, over chan struct{}
}

func newPlot(d *demo, m *meter) *plot {
	someone := func(id string, pace time.Duration) *customer {
		return &customer{id: id, pace: time.NewTicker(pace), saas: d.app.url, client: d.app.client}
	}
	return &plot{demo: d, meter: m,
		ann: someone("ann", 3*time.Millisecond), bob: someone("bob", 4*time.Millisecond), cyd: someone("cyd", 15*time.Millisecond),
		dan: someone("dan", 20*time.Millisecond), eve: someone("eve", 400*time.Millisecond), fay: someone("fay", 30*time.Millisecond),
		annIsIn: make(chan struct{}), recovered: make(chan struct{}), danIsOut: make(chan struct{}), over: make(chan struct{}),
	}
}

func (p *plot) customers() []*customer {
	return []*customer{p.ann, p.bob, p.cyd, p.dan, p.eve, p.fay}
}

// play lets everybody act, until all are done or one meets what must not be.
func (p *plot) play(ctx context.Context) error {
	defer func() {
		for _, c := range p.customers() {
			c.pace.Stop()
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	for _, act := range []func(context.Context) error{p.upgrades, p.cancels, p.meetsTheCrash, p.staysOut, p.isLight, p.stopsInTime} {
		group.Go(func() error { return act(ctx) })
	}
	return group.Wait()
}

// upgrades is ann's: the wall, the mail, the payment, in again.
func (p *plot) upgrades(ctx context.Context) error {
	c := p.ann
	no, err := p.runIntoTheWall(ctx, c)
	if err != nil {
		return err
	}
	p.say(c.id, faint, "is told: “%s” (resets on %s)", no.Message, no.ResetsAt.Format("2 January"))
	prompt, err := p.prompt(ctx, c)
	if err != nil {
		return err
	}
	p.say(c.id, plain, "follows the link in it, pays")
	flips := p.meter.expect(c.id)
	if err := c.pay(ctx, prompt.HTML); err != nil {
		return err
	}
	refused := c.refused
	if err := c.untilServed(ctx); err != nil {
		return err
	}
	in := time.Now()
	open, err := p.flipped(ctx, flips, in)
	if err != nil {
		return err
	}
	p.say(c.id, good, "call %d served, %s after paying (flag: %s); %s refused in between",
		c.calls(), ms(in.Sub(open.committed)), ms(open.took), calls(c.refused-refused))
	if err := p.converted(ctx, c); err != nil {
		return err
	}
	close(p.annIsIn)
	return c.use(ctx, 60)
}

// converted shows what is known of a conversion: at which wall, and that a prompt preceded it.
func (p *plot) converted(ctx context.Context, c *customer) error {
	var feature, prompt string
	var used, limit int64
	err := await(ctx, "the conversion of "+c.id, func() (bool, error) {
		var found bool
		err := p.app.pool.QueryRow(ctx, `SELECT count(*) > 0, coalesce(max(e.feature), ''), coalesce(max(e.used), 0),
				coalesce(max(e.usage_limit), 0), coalesce(max(m.status), '')
			FROM tiergate.access_event e LEFT JOIN tiergate.email m USING (subject_id, feature, episode)
			WHERE e.kind = 'converted' AND e.subject_id = $1`, c.id).Scan(&found, &feature, &used, &limit, &prompt)
		return found && prompt == "sent", err
	})
	if err == nil {
		p.say(c.id, good, "conversion: free → paid at the wall of %s, %d of %d used, prompt %s", feature, used, limit, prompt)
	}
	return err
}

// cancels is bob's: he pays, uses a lot, and leaves.
func (p *plot) cancels(ctx context.Context) error {
	c := p.bob
	for c.served < 2*wall || !done(p.danIsOut) {
		if err := c.use(ctx, 1); err != nil {
			return err
		}
	}
	flips := p.meter.expect(c.id)
	before := c.served
	if _, err := c.open(ctx, http.MethodPost, c.saas+"/api/subscription/cancel"); err != nil {
		return err
	}
	p.say(c.id, plain, "has paid for %s, cancels", calls(before))
	if _, err := c.untilRefused(ctx); err != nil {
		return err
	}
	answer, err := p.shut(ctx, c, flips, before)
	if err != nil {
		return err
	}
	p.say(c.id, bad, "is free again: call %d → 402, %s after cancelling%s", c.calls(), ms(answer), about(c))
	if _, err := p.prompt(ctx, c); err != nil {
		return err
	}
	close(p.over)
	return nil
}

// meetsTheCrash is cyd's: the sidecar is killed when Resend has taken the mail and before it heard so.
func (p *plot) meetsTheCrash(ctx context.Context) error {
	c := p.cyd
	if err := c.use(ctx, wall-15); err != nil {
		return err
	}
	if err := wait(ctx, p.annIsIn); err != nil {
		return err
	}
	var at time.Time
	var before int64
	killed := p.resend.onNext(func() {
		at, before = time.Now(), p.meter.total.Load()
		p.sidecar.end(syscall.SIGKILL)
	})
	if _, err := p.runIntoTheWall(ctx, c); err != nil {
		return err
	}
	if err := wait(ctx, killed); err != nil {
		return err
	}
	p.say("sidecar", crash, "kill -9: Resend has just taken cyd's mail, the sidecar does not know it yet")
	missed, err := p.restart(ctx)
	if err != nil {
		return err
	}
	p.say("sidecar", crash, "started again, %s after the kill: %s came meanwhile, all counted", ms(time.Since(at)), calls(int(missed-before)))
	if _, err := p.prompt(ctx, c); err != nil {
		return err
	}
	err = await(ctx, "cyd's mail to be sent again", func() (bool, error) { return p.resend.Requests() > len(p.resend.Inbox()), nil })
	if err != nil {
		return err
	}
	p.say("mail", mailed, "the restarted sidecar sent it again under the same key: %d requests, %d mails", p.resend.Requests(), len(p.resend.Inbox()))
	close(p.recovered)
	return c.stayOut(ctx, 3)
}

// restart starts the sidecar again. It returns how many calls there were until it followed the stream,
// and not before all of them are in the flags.
func (p *plot) restart(ctx context.Context) (total int64, err error) {
	if err := p.sidecar.start(); err != nil {
		return 0, err
	}
	if err := p.sidecar.ready(ctx); err != nil {
		return 0, err
	}
	total = p.meter.total.Load()
	return total, await(ctx, "the flags to hold what was used while the sidecar was down", func() (bool, error) {
		var used int64
		err := p.app.pool.QueryRow(ctx, `SELECT sum(used) FROM feature_access WHERE subject_id <> '*'`).Scan(&used)
		return used >= total, err
	})
}

// staysOut is dan's: the wall, the mail, a few more tries.
func (p *plot) staysOut(ctx context.Context) error {
	c := p.dan
	if err := c.use(ctx, wall-15); err != nil {
		return err
	}
	if err := wait(ctx, p.recovered); err != nil {
		return err
	}
	if _, err := p.runIntoTheWall(ctx, c); err != nil {
		return err
	}
	if _, err := p.prompt(ctx, c); err != nil {
		return err
	}
	if err := c.stayOut(ctx, 3); err != nil {
		return err
	}
	close(p.danIsOut)
	return nil
}

// isLight is eve's: a call now and then, until the others are done.
func (p *plot) isLight(ctx context.Context) error {
	for !done(p.over) {
		if err := p.eve.use(ctx, 1); err != nil {
			return err
		}
	}
	p.say(p.eve.id, good, "%s, never bothered", calls(p.eve.served))
	return nil
}

// stopsInTime is fay's: many calls, but fewer than the limit.
func (p *plot) stopsInTime(ctx context.Context) error {
	if err := p.fay.use(ctx, wall-1); err != nil {
		return err
	}
	p.say(p.fay.id, good, "%s of %d, never bothered", calls(p.fay.served), wall)
	return nil
}

// runIntoTheWall calls until the 402, and tells how long flag and answer took from the commit that
// reached the limit.
func (p *plot) runIntoTheWall(ctx context.Context, c *customer) (*refusal, error) {
	flips := p.meter.expect(c.id)
	no, err := c.untilRefused(ctx)
	if err != nil {
		return nil, err
	}
	if c.served < wall || no.Limit == nil || *no.Limit != wall || no.ResetsAt == nil || no.Message == "" {
		return nil, fmt.Errorf("%s was refused after %d of %d calls, and told %+v", c.id, c.served, wall, *no)
	}
	answer, err := p.shut(ctx, c, flips, wall)
	if err != nil {
		return nil, err
	}
	p.say(c.id, bad, "call %d → 402, %s after the commit of call %d%s", c.calls(), ms(answer), wall, about(c))
	return no, nil
}

// shut notes for a customer who was just refused how long the flag took, and how many calls it was
// late; due were to be served. It returns the time from the commit to the 402.
func (p *plot) shut(ctx context.Context, c *customer, flips <-chan flip, due int) (time.Duration, error) {
	refused := time.Now()
	f, err := p.flipped(ctx, flips, refused)
	c.closed, c.slipped = f.took, c.served-due
	return refused.Sub(f.committed), err
}

// about says how late a flag was.
func about(c *customer) string {
	text := fmt.Sprintf(" (flag: %s)", ms(c.closed))
	if c.slipped > 0 {
		text += fmt.Sprintf("; %s slipped through", calls(c.slipped))
	}
	return text
}

// prompt waits for the customer's mail.
func (p *plot) prompt(ctx context.Context, c *customer) (m resendtest.Mail, err error) {
	address := c.id + "@example.com"
	err = await(ctx, "a mail to "+address, func() (found bool, _ error) {
		m, found = p.resend.to(address)
		return found, nil
	})
	if err == nil {
		p.say("mail", mailed, "→ %s “%s”", address, m.Subject)
	}
	return m, err
}

// flipped waits for a measured flag. An answer of the application may have shown it first.
func (p *plot) flipped(ctx context.Context, flips <-chan flip, seen time.Time) (flip, error) {
	select {
	case <-ctx.Done():
		return flip{}, fmt.Errorf("waiting for a flag to turn: %w", context.Cause(ctx))
	case f := <-flips:
		f.took = min(f.took, seen.Sub(f.committed))
		return f, f.err
	}
}
