// Package mail fills prompts in and hands them to Resend or to an SMTP server.
//
// A message leaves once: its key is Resend's idempotency key, and the message id where it goes by
// SMTP. SMTP cannot promise more than that: where the answer to a message is lost, it is sent again
// under the same id. Every failure is a *loops.Fault that says whether the outbox may try again.
package mail

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	defaultRate    = 2                // requests a second, the lowest limit that Resend has published
	defaultTimeout = 15 * time.Second // for one message
	longestKey     = 256              // characters of an idempotency key that Resend takes
)

// Config is what a Mailer needs to know. Everything may be empty: mails then wait (see Mailer.Ready).
type Config struct {
	From         string        // EMAIL_FROM: "Acme <hello@acme.com>"
	UpgradeURL   string        // UPGRADE_URL: where a prompt's button leads
	ResendKey    string        // RESEND_API_KEY: with it, everything goes through Resend
	ResendURL    string        // RESEND_BASE_URL; empty: Resend's own
	SMTPURL      string        // SMTP_URL: smtp://user:password@host:587, smtps://…; used where there is no ResendKey
	Rate         float64       // email.rate: messages a second; 0: 2
	Mode         string        // email.mode: on, off, redirect:ADDRESS, allow:LIST; empty: on
	TemplatesDir string        // replaces built-in templates file by file; empty: none
	Timeout      time.Duration // for one message; 0: 15 s
}

// Mailer fills templates and sends messages. It is safe for concurrent use. The provider that a loop
// names is only its author's intention: what is configured sends, so that one config serves
// production (Resend) and development (an SMTP catcher).
type Mailer struct {
	from      string
	upgrade   string
	templates *Templates
	provider  provider
	limiter   *rate.Limiter
	mode      mode
	timeout   time.Duration
}

var _ loops.Mailer = (*Mailer)(nil)

// provider hands one message over and returns its id there. Its errors are *loops.Fault.
type provider interface {
	send(ctx context.Context, m loops.Message) (id string, err error)
}

// New builds a Mailer without contacting anybody. It fails with a Permanent Fault on a setting that
// cannot be right; one that is missing is Ready's business.
func New(c Config) (*Mailer, error) {
	templates, err := Load(c.TemplatesDir)
	if err != nil {
		return nil, err
	}
	m := &Mailer{from: c.From, upgrade: c.UpgradeURL, templates: templates, timeout: c.Timeout}
	if m.timeout == 0 {
		m.timeout = defaultTimeout
	}
	if c.From != "" {
		if _, err := mail.ParseAddress(c.From); err != nil {
			return nil, fault("read EMAIL_FROM", err, `write it like EMAIL_FROM="Acme <hello@acme.com>"`)
		}
	}
	if c.UpgradeURL != "" && !isWebURL(c.UpgradeURL) {
		return nil, fault("read UPGRADE_URL", fmt.Errorf("%q is not a web address", c.UpgradeURL), "write it like UPGRADE_URL=https://acme.com/pricing")
	}
	if m.mode, err = parseMode(c.Mode); err != nil {
		return nil, err
	}
	if c.Rate < 0 {
		return nil, fault("read email.rate", fmt.Errorf("%v is not a rate", c.Rate), "write the messages a second, for example 2")
	}
	if c.Rate == 0 {
		c.Rate = defaultRate
	}
	m.limiter = rate.NewLimiter(rate.Limit(c.Rate), 1)
	switch {
	case c.ResendKey != "":
		m.provider, err = newResend(c.ResendKey, c.ResendURL)
	case c.SMTPURL != "":
		m.provider, err = newSMTP(c.SMTPURL, m.timeout)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Ready returns a Permanent Fault that names the settings without which no mail can leave, or nil.
// While it fails, mails wait in the outbox: neither Render nor Send works.
func (m *Mailer) Ready() error {
	var missing []string
	if m.from == "" {
		missing = append(missing, "EMAIL_FROM")
	}
	if m.upgrade == "" {
		missing = append(missing, "UPGRADE_URL")
	}
	if m.provider == nil {
		missing = append(missing, "RESEND_API_KEY (or SMTP_URL)")
	}
	if len(missing) == 0 {
		return nil
	}
	return fault("send emails", errors.New("not set: "+strings.Join(missing, ", ")), "set it in the environment or in .env; until then emails wait in the outbox")
}

// Check reports whether a prompt may name a template: see Templates.Check.
func (m *Mailer) Check(template string) error { return m.templates.Check(template) }

// Render fills a template with a prompt: everything of the message but its key. A prompt without an
// UpgradeURL gets the configured one.
func (m *Mailer) Render(template string, data loops.PromptData) (loops.Message, error) {
	if err := m.Ready(); err != nil {
		return loops.Message{}, err
	}
	step := fmt.Sprintf("fill the email template %q", template)
	to, err := mail.ParseAddress(data.Email)
	if err != nil {
		return loops.Message{}, fault(step, fmt.Errorf("%q is not an email address", data.Email), "mend the email of subject "+oneLine(data.Subject)+" in the users table")
	}
	if data.UpgradeURL == "" {
		data.UpgradeURL = m.upgrade
	}
	data.Email = to.Address
	msg, err := m.templates.fill(template, data)
	if err != nil {
		return loops.Message{}, fault(step, err, "`sidecar check` says what is wrong with it")
	}
	msg.From, msg.To = m.from, to.Address
	// RFC 3834: keeps out-of-office replies away.
	msg.Headers = map[string]string{"Auto-Submitted": "auto-generated", "X-Auto-Response-Suppress": "All"}
	msg.Tags = map[string]string{"template": template, "feature": data.Feature}
	return msg, nil
}

// Send hands one message over, waiting for its turn first, and returns the provider's id. It does not
// look at email.mode: ask Route before, each time, for a mode may change while a message waits.
func (m *Mailer) Send(ctx context.Context, msg loops.Message) (string, error) {
	if err := m.Ready(); err != nil {
		return "", err
	}
	if n := len(msg.Key); n == 0 || n > longestKey {
		return "", fault("send an email", fmt.Errorf("an idempotency key of %d characters", n), fmt.Sprintf("give it 1 to %d", longestKey))
	}
	if err := m.limiter.Wait(ctx); err != nil {
		return "", transient("wait for an email's turn", err, "nothing to do: it is tried again; email.rate sets the pace")
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	return m.provider.send(ctx, msg)
}

// Route applies email.mode to a message's address: it returns where the message goes instead, or a
// reason why it goes nowhere and the outbox skips it.
func (m *Mailer) Route(to string) (address, reason string) { return m.mode.route(to) }

func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

func fault(step string, err error, hint string) *loops.Fault {
	return &loops.Fault{Step: step, Err: err, Hint: hint, Kind: loops.Permanent}
}

func transient(step string, err error, hint string) *loops.Fault {
	return &loops.Fault{Step: step, Err: err, Hint: hint, Kind: loops.Transient}
}
