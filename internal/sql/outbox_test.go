package sql

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail"
	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// post is an installed database with one email in its outbox, and a stand-in for the provider.
type post struct {
	*app
	resend *resendtest.Server
	mailer *mail.Mailer
	hold   error
}

func newPost(t *testing.T) *post {
	t.Helper()
	p := &post{app: newConventional(t), resend: resendtest.New("re_test", 0)}
	web := httptest.NewServer(p.resend)
	t.Cleanup(web.Close)
	var err error
	p.mailer, err = mail.New(mail.Config{From: "app@example.com", UpgradeURL: "https://example.com/upgrade", ResendKey: "re_test", ResendURL: web.URL, Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	p.count(p.store())
	p.exec(`INSERT INTO tiergate.subject (subject_id, tier, email, updated_at) VALUES ('ann', 'free', 'ann@example.com', now())`)
	p.exec(`INSERT INTO feature_access (subject_id, feature, allowed, tier, used, usage_limit, reason, updated_at) VALUES ('ann', 'features', false, 'free', 2, 2, 'limit_reached', now())`)
	key := (&loops.Email{Loop: "freemium.features", Kind: "blocked", Subject: "ann"}).Key()
	p.exec(`INSERT INTO tiergate.email (event_id, subject_id, feature, "loop", kind, episode, template, status, idempotency_key, next_at, created_at)
		VALUES (1, 'ann', 'features', 'freemium.features', 'blocked', 0, 'upgrade_prompt', 'queued', $1, now(), now())`, key)
	return p
}

// outbox begins a term, as a sidecar that was started again does.
func (p *post) outbox() *Outbox {
	p.exec(`UPDATE tiergate.checkpoint SET term = term + 1`)
	o := NewOutbox(OutboxOptions{URL: p.url, Schema: p.schema, Plan: p.plan, Term: p.term(), Log: quiet,
		Hold: func() error { return p.hold }, Route: p.mailer.Route})
	p.t.Cleanup(o.Close)
	return o
}

func (p *post) deliver(o *Outbox) {
	p.t.Helper()
	flow := loops.NewFlow(nil, nil, o, p.mailer, nil, quiet)
	if _, err := flow.DeliverDue(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *post) claim(o *Outbox) (*loops.Email, loops.PromptData) {
	p.t.Helper()
	e, data, _, err := o.Claim(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return e, data
}

func (p *post) expectOne(status string) {
	p.t.Helper()
	p.expect(`SELECT status FROM tiergate.email`, status)
	if n := len(p.resend.Inbox()); n != 1 {
		p.t.Errorf("%d mails arrived", n)
	}
}

// TestKilledWhileDelivering ends a sidecar after each of its steps; the next one sends what is missing,
// and nothing twice.
func TestKilledWhileDelivering(t *testing.T) { onBoth(t, testKilledWhileDelivering) }

func testKilledWhileDelivering(t *testing.T) {
	steps := []string{"claim", "render", "freeze", "send", "settle"}
	for done, last := range steps {
		t.Run("after "+last, func(t *testing.T) {
			p := newPost(t)
			o := p.outbox()
			e, data := p.claim(o)
			if e == nil {
				t.Fatal("nothing is due")
			}
			var id string
			for _, step := range steps[1 : done+1] {
				var err error
				switch step {
				case "render":
					e.Request = &loops.Message{}
					*e.Request, err = p.mailer.Render(e.Template, data)
				case "freeze":
					err = o.Freeze(t.Context(), e, *e.Request)
				case "send":
					id, err = p.mailer.Send(t.Context(), *e.Request)
				case "settle":
					err = o.Settle(t.Context(), e, id, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			o.Close()
			// What the template would say now differs: only the frozen request may go out again.
			p.exec(`UPDATE feature_access SET used = used + 1; UPDATE tiergate.subject SET name = 'Ann'`)
			for range 2 {
				next := p.outbox()
				p.deliver(next)
				next.Close()
				p.expectOne("sent")
			}
			if n := p.resend.Requests(); n > 2 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestDeposedOutboxClaimsNothing(t *testing.T) { onBoth(t, testDeposedOutboxClaimsNothing) }

func testDeposedOutboxClaimsNothing(t *testing.T) {
	p := newPost(t)
	old := p.outbox()
	p.exec(`UPDATE tiergate.checkpoint SET term = term + 1`)
	if e, _ := p.claim(old); e != nil {
		t.Errorf("claimed %+v", e)
	}
	p.expect(`SELECT status FROM tiergate.email`, "queued")
}

func TestOutcomes(t *testing.T) { onBoth(t, testOutcomes) }

func testOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		happens func(*post)
		status  string
		arrived int
		reason  string
	}{
		"sent":                   {func(*post) {}, "sent", 1, ""},
		"429":                    {func(p *post) { p.resend.Fail(429, 1) }, "queued", 0, "429"},
		"500":                    {func(p *post) { p.resend.Fail(500, 1) }, "queued", 0, "500"},
		"the answer is lost":     {func(p *post) { p.resend.Lose(1) }, "queued", 1, ""},
		"422":                    {func(p *post) { p.resend.Fail(422, 1) }, "dead", 0, "422"},
		"403":                    {func(p *post) { p.resend.Fail(403, 1) }, "dead", 0, "403"},
		"no more retries":        {func(p *post) { p.plan.Loops[0].Prompt.Retries = 0; p.resend.Fail(500, 1) }, "dead", 0, "500"},
		"an unknown template":    {func(p *post) { p.exec(`UPDATE tiergate.email SET template = 'nope'`) }, "dead", 0, "nope"},
		"let in meanwhile":       {func(p *post) { p.exec(`UPDATE feature_access SET allowed = true`) }, "skipped", 0, loops.SkipUnblocked},
		"gone meanwhile":         {func(p *post) { p.exec(`DELETE FROM tiergate.subject`) }, "skipped", 0, loops.SkipGone},
		"no address":             {func(p *post) { p.exec(`UPDATE tiergate.subject SET email = NULL`) }, "skipped", 0, loops.SkipAddress},
		"a setting is missing":   {func(p *post) { p.hold = errors.New("EMAIL_FROM is not set") }, "queued", 0, ""},
		"a copy of the database": {func(p *post) { p.exec(`UPDATE tiergate.meta SET value = 'elsewhere' WHERE "key" = 'home'`) }, "queued", 0, ""},
		"not due yet":            {func(p *post) { p.exec(`UPDATE tiergate.email SET next_at = now() + interval '1 hour'`) }, "queued", 0, ""},
		"an unknown outcome, too old": {func(p *post) {
			p.exec(`UPDATE tiergate.email SET status = 'sending', request = '{"key":"k","to":"ann@example.com"}', first_try = now() - interval '1381 minutes'`)
		}, "dead", 0, "idempotency window"},
		"an unknown outcome, young": {func(p *post) {
			p.exec(`UPDATE tiergate.email SET status = 'sending', first_try = now() - interval '22 hours',
				request = '{"key":"k","from":"app@example.com","to":"ann@example.com","subject":"s","html":"h","text":"t"}'`)
		}, "sent", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPost(t)
			c.happens(p)
			p.deliver(p.outbox())
			p.expect(`SELECT status FROM tiergate.email`, c.status)
			if n := len(p.resend.Inbox()); n != c.arrived {
				t.Errorf("%d mails arrived, want %d", n, c.arrived)
			}
			if got := strings.Join(p.lines(`SELECT coalesce(reason, '') FROM tiergate.email`), ""); !strings.Contains(got, c.reason) {
				t.Errorf("reason %q does not say %q", got, c.reason)
			}
			if c.status != "queued" {
				return
			}
			// Whatever held it up is over: it arrives, once.
			p.hold = nil
			if err := Adopt(t.Context(), p.own); err != nil {
				t.Fatal(err)
			}
			p.exec(`UPDATE tiergate.email SET next_at = now()`)
			p.deliver(p.outbox())
			p.expectOne("sent")
		})
	}
}

// TestBackOffIsKept holds that a failed attempt is not due again at once, and that the outbox says when.
func TestBackOffIsKept(t *testing.T) { onBoth(t, testBackOffIsKept) }

func testBackOffIsKept(t *testing.T) {
	p := newPost(t)
	p.resend.Fail(500, 1)
	o := p.outbox()
	p.deliver(o)
	e, _, wake, err := o.Claim(t.Context())
	if err != nil || e != nil {
		t.Errorf("claimed %+v, %v", e, err)
	}
	if pause := time.Until(wake); pause > outboxPause {
		t.Errorf("looks again in %s", pause)
	}
	p.expect(`SELECT attempts::text FROM tiergate.email WHERE next_at > now() - interval '5 seconds'`, "1")
}

func TestRetryOfADeadEmail(t *testing.T) { onBoth(t, testRetryOfADeadEmail) }

func testRetryOfADeadEmail(t *testing.T) {
	p := newPost(t)
	p.resend.Fail(422, 1)
	p.deliver(p.outbox())
	p.expect(`SELECT status FROM tiergate.email`, "dead")
	var id int64
	p.scan(`SELECT id FROM tiergate.email`, &id)
	if _, err := RetryEmails(t.Context(), p.own, id+1); err == nil {
		t.Error("an email that is not there was queued")
	}
	if n, err := RetryEmails(t.Context(), p.own, id); err != nil || n != 1 {
		t.Fatal(err)
	}
	p.deliver(p.outbox())
	p.expectOne("sent")
	if _, err := RetryEmails(t.Context(), p.own, id); err == nil {
		t.Error("a sent email was queued again")
	}
	rows, err := ListEmails(context.Background(), p.own, 5)
	if err != nil || len(rows) != 1 || rows[0].Status != "sent" || rows[0].Subject != "ann" {
		t.Errorf("%+v, %v", rows, err)
	}
}

func TestMessageKeysFit(t *testing.T) {
	long := strings.Repeat("x", 300)
	if key := messageKey("i", "short"); key != "i/short" {
		t.Errorf("key %q", key)
	}
	if key := messageKey("i", long); len(key) > 256 || key == messageKey("i", long+"y") || key == messageKey("j", long) {
		t.Errorf("key %q", key)
	}
}
