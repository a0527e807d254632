package mail

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/tiergate/tiergate/internal/loops"
)

// smtpProvider sends to an SMTP server, one connection for each message.
type smtpProvider struct {
	client *gomail.Client
	server string // host:port, for messages
}

// newSMTP reads smtp://user:password@host:port (STARTTLS where the server offers it) or smtps:// (TLS
// from the start). A password leaves this machine only encrypted.
func newSMTP(raw string, timeout time.Duration) (*smtpProvider, error) {
	const step = "read SMTP_URL"
	const hint = "write it like smtp://user:password@smtp.acme.com:587, smtps://… or smtp://localhost:1025, with the password percent-encoded"
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		// The parser's own words hold the password; so does a path, where the password has a slash.
		return nil, fault(step, errors.New("it is not a URL of only scheme, user, password, host and port"), hint)
	}
	options := []gomail.Option{gomail.WithTimeout(timeout)}
	port := gomail.DefaultPortTLS
	switch u.Scheme {
	case "smtp":
		options = append(options, gomail.WithTLSPolicy(gomail.TLSOpportunistic))
	case "smtps":
		options = append(options, gomail.WithSSL())
		port = gomail.DefaultPortSSL
	default:
		return nil, fault(step, fmt.Errorf("its scheme is %q", u.Scheme), hint)
	}
	if u.Port() != "" {
		if port, err = strconv.Atoi(u.Port()); err != nil {
			return nil, fault(step, fmt.Errorf("its port is %q", u.Port()), hint)
		}
	}
	options = append(options, gomail.WithPort(port))
	if password, ok := u.User.Password(); ok {
		options = append(options, gomail.WithUsername(u.User.Username()), gomail.WithPassword(password))
		if isLocal(u.Hostname()) {
			options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthPlain))
		} else {
			options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover), gomail.WithTLSPolicy(gomail.TLSMandatory))
		}
	}
	client, err := gomail.NewClient(u.Hostname(), options...)
	if err != nil {
		return nil, fault(step, err, hint)
	}
	return &smtpProvider{client, net.JoinHostPort(u.Hostname(), strconv.Itoa(port))}, nil
}

// send returns the message id as the id: SMTP knows no other.
func (p *smtpProvider) send(ctx context.Context, m loops.Message) (string, error) {
	step := "send an email through " + p.server
	msg, id, err := compose(m)
	if err != nil {
		return "", fault(step, err, "mend EMAIL_FROM or the recipient's address")
	}
	if err := p.client.DialAndSendWithContext(ctx, msg); err != nil && !msg.IsDelivered() {
		f := transient(step, err, "nothing to do if it passes: it is tried again; otherwise see whether SMTP_URL names the right host and port, and whether the server offers STARTTLS")
		if code := smtpCode(err); code >= 500 {
			f.Kind, f.Hint = loops.Permanent, "the server refused it for good: mend the recipient's address, EMAIL_FROM or the password in SMTP_URL, whichever it names"
		}
		return "", f
	}
	return id, nil // delivered, even where the goodbye failed
}

// compose builds the message: text first, HTML as its alternative.
func compose(m loops.Message) (msg *gomail.Msg, id string, err error) {
	from, err := mail.ParseAddress(m.From)
	if err != nil {
		return nil, "", fmt.Errorf("sender %q: %w", m.From, err)
	}
	id = messageID(m.Key, from.Address)
	msg = gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(from)
	if err := msg.To(m.To); err != nil {
		return nil, "", err
	}
	msg.Subject(m.Subject)
	msg.SetMessageIDWithValue(id)
	msg.SetDate()
	for name, value := range m.Headers {
		msg.SetGenHeader(gomail.Header(name), value)
	}
	msg.SetBodyString(gomail.TypeTextPlain, m.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, m.HTML)
	return msg, id, nil
}

// messageID derives the id from the key, so that a server or a reader's program can tell a repetition.
func messageID(key, from string) string {
	return fmt.Sprintf("%x%s", sha256.Sum256([]byte(key)), from[strings.LastIndexByte(from, '@'):])
}

// smtpCode returns the server's answer, or 0 where it gave none.
func smtpCode(err error) int {
	var delivery *gomail.SendError
	if errors.As(err, &delivery) {
		return delivery.ErrorCode()
	}
	var reply *textproto.Error // while greeting and signing in
	if errors.As(err, &reply) {
		return reply.Code
	}
	return 0
}

// isLocal reports whether the library sends a password to this host unencrypted.
func isLocal(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }
