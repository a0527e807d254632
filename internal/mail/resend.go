package mail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/resend/resend-go/v2"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	resendURL     = "https://api.resend.com/"
	quotaWait     = time.Hour      // a spent quota comes back with the next day or month
	longestWait   = 24 * time.Hour // what we believe of a server's retry-after: no key lives longer
	longestAnswer = 64 << 10       // bytes of an error that are read
)

// APIError is an answer of Resend that is not a success.
type APIError struct {
	Status     int           `json:"-"`       // of HTTP
	Name       string        `json:"name"`    // "rate_limit_exceeded"; empty where something else answered
	Message    string        `json:"message"` // Resend's own words
	RetryAfter time.Duration `json:"-"`       // zero: it did not say
}

// Error prints the status, the name and Resend's words.
func (e *APIError) Error() string {
	return strings.Join(strings.Fields(fmt.Sprintf("%d %s: %s", e.Status, e.Name, e.Message)), " ")
}

// resendProvider sends through Resend's API.
type resendProvider struct {
	client *resend.Client
}

func newResend(key, base string) (*resendProvider, error) {
	if base == "" {
		base = resendURL
	}
	if !isWebURL(base) {
		return nil, fault("read RESEND_BASE_URL", fmt.Errorf("%q is not a web address", base), "leave it out, or write it like "+resendURL)
	}
	at, err := url.Parse(strings.TrimRight(base, "/") + "/") // the library resolves "emails" against it
	if err != nil {
		return nil, fault("read RESEND_BASE_URL", err, "leave it out, or write it like "+resendURL)
	}
	client := resend.NewCustomClient(&http.Client{Transport: typedErrors{http.DefaultTransport}}, strings.TrimSpace(key))
	client.BaseURL = at
	return &resendProvider{client}, nil
}

func (p *resendProvider) send(ctx context.Context, m loops.Message) (string, error) {
	const step = "send an email through Resend"
	sent, err := p.client.Emails.SendWithOptions(ctx, &resend.SendEmailRequest{
		From: m.From, To: []string{m.To}, Subject: m.Subject, Html: m.HTML, Text: m.Text, Headers: m.Headers, Tags: tags(m.Tags),
	}, &resend.SendEmailOptions{IdempotencyKey: m.Key})
	var refused *APIError
	switch {
	case errors.As(err, &refused):
		f := refused.fault()
		f.Step, f.Err = step, refused
		return "", f
	case err != nil:
		return "", transient(step, err, "nothing to do if it passes: it is tried again; otherwise let the sidecar reach "+p.client.BaseURL.Host)
	case sent.Id == "":
		return "", transient(step, errors.New("the answer holds no id"), "see whether RESEND_BASE_URL leads to Resend: "+p.client.BaseURL.Host)
	}
	return sent.Id, nil
}

// fault says what may be done about an answer, and who has to do it.
func (e *APIError) fault() *loops.Fault {
	again := func(hint string) *loops.Fault {
		return &loops.Fault{Kind: loops.Transient, RetryAfter: e.RetryAfter, Hint: hint}
	}
	never := func(hint string) *loops.Fault { return &loops.Fault{Kind: loops.Permanent, Hint: hint} }
	switch {
	case e.Status == http.StatusTooManyRequests && strings.HasSuffix(e.Name, "quota_exceeded"):
		f := again("Resend's quota is spent: raise the plan there, or wait until it starts over")
		f.RetryAfter = max(f.RetryAfter, quotaWait)
		return f
	case e.Status == http.StatusTooManyRequests:
		return again("nothing to do: it is tried again; lower email.rate if others send with the same account")
	case e.Status >= 500 || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooEarly:
		return again("nothing to do: it is tried again; Resend's status page says whether it is down")
	case e.Status == http.StatusConflict && e.Name == "concurrent_idempotent_requests":
		return again("nothing to do: another attempt at this mail is under way")
	case e.Status == http.StatusConflict:
		return never("a different mail left under this key within the last day: do not send this one again")
	case e.Status == http.StatusUnauthorized || strings.Contains(e.Name, "api_key") || strings.Contains(strings.ToLower(e.Message), "api key"):
		return never("set RESEND_API_KEY to a key of this Resend account that may send")
	case e.Status == http.StatusForbidden:
		return never("EMAIL_FROM must be an address of a domain that is verified in this Resend account")
	case e.Status < 400 || e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed:
		return never("RESEND_BASE_URL does not lead to Resend's API: leave it out, or correct it")
	case strings.Contains(e.Name, "from") || strings.Contains(e.Message, "`from`"):
		return never(`write EMAIL_FROM like "Acme <hello@acme.com>"`)
	default:
		return never("mend what Resend names: the recipient's address or the template")
	}
}

// typedErrors turns every answer that is not a success into an *APIError. The library keeps the
// status of none but 429, and it passes its transport's errors on as they are: so it is done here,
// although a transport otherwise leaves judging an answer to others.
type typedErrors struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t typedErrors) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.next.RoundTrip(r)
	if err != nil || answer.StatusCode/100 == 2 {
		return answer, err
	}
	defer answer.Body.Close()
	e := &APIError{Status: answer.StatusCode, RetryAfter: retryAfter(answer.Header)}
	body, err := io.ReadAll(io.LimitReader(answer.Body, longestAnswer))
	if err != nil || json.Unmarshal(body, e) != nil || e.Message == "" {
		e.Message = http.StatusText(answer.StatusCode) // a proxy's page, or half an answer: the status is enough
	}
	return nil, e
}

// retryAfter reads how long to wait: retry-after (seconds or a date), else ratelimit-reset (seconds).
func retryAfter(h http.Header) time.Duration {
	for _, value := range []string{h.Get("Retry-After"), h.Get("Ratelimit-Reset")} {
		if seconds, err := strconv.Atoi(value); err == nil {
			return time.Duration(min(max(seconds, 0), int(longestWait.Seconds()))) * time.Second
		}
		if at, err := http.ParseTime(value); err == nil {
			return min(max(time.Until(at), 0), longestWait)
		}
	}
	return 0
}

// tags spells tags as Resend takes them, in a fixed order: the same message is the same request.
func tags(m map[string]string) []resend.Tag {
	var list []resend.Tag
	for name, value := range m {
		if name, value = tagText(name), tagText(value); name != "" && value != "" {
			list = append(list, resend.Tag{Name: name, Value: value})
		}
	}
	slices.SortFunc(list, func(a, b resend.Tag) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// tagText replaces everything but ASCII letters, digits, _ and -, and cuts at 256 characters.
func tagText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), 256)]
}
