package mail

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail/resendtest"
)

// throughResend returns a mailer whose Resend is a stand-in.
func throughResend(t *testing.T, perSecond float64) (*Mailer, *resendtest.Server) {
	t.Helper()
	stand := resendtest.New("re_test", perSecond)
	server := httptest.NewServer(stand)
	t.Cleanup(server.Close)
	c := ready()
	c.ResendURL = server.URL
	return newMailer(t, c), stand
}

func message(t *testing.T, m *Mailer, key string) loops.Message {
	t.Helper()
	msg, err := m.Render("upgrade_prompt", samples()[0])
	if err != nil {
		t.Fatal(err)
	}
	msg.Key = key
	return msg
}

func TestResendDelivers(t *testing.T) {
	m, stand := throughResend(t, 0)
	msg := message(t, m, "blocked/ann/features/1")
	msg.Tags = map[string]string{"feature": "pdf exports & más", "template": "upgrade_prompt", "empty": ""}
	id, err := m.Send(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	inbox := stand.Inbox()
	if len(inbox) != 1 {
		t.Fatalf("%d mails, want 1", len(inbox))
	}
	got := inbox[0]
	if got.ID != id || got.Key != msg.Key || got.From != msg.From || got.To[0] != msg.To || got.Subject != msg.Subject || got.HTML != msg.HTML || got.Text != msg.Text {
		t.Errorf("got %+v, want %+v with id %s", got, msg, id)
	}
	if got.Headers["Auto-Submitted"] != "auto-generated" {
		t.Errorf("headers %v", got.Headers)
	}
	if len(got.Tags) != 2 || got.Tags[0].Value != "pdf_exports___m_s" || got.Tags[1].Name != "template" {
		t.Errorf("tags %v", got.Tags)
	}
}

func TestResendDeliversAKeyOnce(t *testing.T) {
	m, stand := throughResend(t, 0)
	msg := message(t, m, "k")
	first, err := m.Send(t.Context(), msg)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.Send(t.Context(), msg)
	if err != nil || again != first {
		t.Errorf("the repetition got id %q, %v; want %q", again, err, first)
	}
	msg.Subject += "!"
	_, err = m.Send(t.Context(), msg)
	wantFault(t, err, loops.Permanent, "409", "invalid_idempotent_request", "do not send")
	if n := len(stand.Inbox()); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

func TestResendDeliversOnceWhereTheAnswerIsLost(t *testing.T) {
	m, stand := throughResend(t, 0)
	msg := message(t, m, "k")
	stand.Lose(1)
	_, err := m.Send(t.Context(), msg)
	wantFault(t, err, loops.Transient)
	if _, err := m.Send(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	if n := len(stand.Inbox()); n != 1 || stand.Requests() != 2 {
		t.Errorf("%d mails of %d requests, want 1 of 2", n, stand.Requests())
	}
}

func TestResendPolicy(t *testing.T) {
	for _, c := range []struct {
		answer resendtest.Refusal
		kind   loops.Kind
		wait   time.Duration
		words  []string
	}{
		{resendtest.Refusal{Status: 400, Name: "validation_error", Message: "API key is invalid"}, loops.Permanent, 0, []string{"RESEND_API_KEY"}},
		{resendtest.Refusal{Status: 400, Name: "invalid_idempotency_key", Message: "The key must be between 1-256 chars."}, loops.Permanent, 0, []string{"1-256"}},
		{resendtest.Refusal{Status: 401, Name: "missing_api_key", Message: "Missing API key"}, loops.Permanent, 0, []string{"RESEND_API_KEY", "401"}},
		{resendtest.Refusal{Status: 403, Name: "invalid_api_key", Message: "API key is invalid."}, loops.Permanent, 0, []string{"RESEND_API_KEY"}},
		{resendtest.Refusal{Status: 403, Name: "validation_error", Message: "The acme.com domain is not verified."}, loops.Permanent, 0, []string{"EMAIL_FROM", "not verified"}},
		{resendtest.Refusal{Status: 404, Name: "not_found", Message: "The requested endpoint does not exist."}, loops.Permanent, 0, []string{"RESEND_BASE_URL"}},
		{resendtest.Refusal{Status: 301, Message: "Moved"}, loops.Permanent, 0, []string{"RESEND_BASE_URL"}},
		{resendtest.Refusal{Status: 408, Message: "Slow"}, loops.Transient, 0, []string{"408"}},
		{resendtest.Refusal{Status: 409, Name: "concurrent_idempotent_requests", Message: "In progress"}, loops.Transient, 0, []string{"409"}},
		{resendtest.Refusal{Status: 422, Name: "validation_error", Message: "Invalid `to` field."}, loops.Permanent, 0, []string{"Invalid `to` field."}},
		{resendtest.Refusal{Status: 422, Name: "invalid_from_address", Message: "Invalid `from` field."}, loops.Permanent, 0, []string{"EMAIL_FROM"}},
		{resendtest.Refusal{Status: 429, Name: "rate_limit_exceeded", Message: "Too many requests.", RetryAfter: 7}, loops.Transient, 7 * time.Second, []string{"email.rate"}},
		{resendtest.Refusal{Status: 429, Name: "daily_quota_exceeded", Message: "Quota"}, loops.Transient, time.Hour, []string{"quota"}},
		{resendtest.Refusal{Status: 429, Name: "monthly_quota_exceeded", Message: "Quota", RetryAfter: 7200}, loops.Transient, 2 * time.Hour, []string{"quota"}},
		{resendtest.Refusal{Status: 451, Name: "security_error", Message: "We found a security issue"}, loops.Permanent, 0, []string{"security"}},
		{resendtest.Refusal{Status: 500, Name: "application_error", Message: "Oops"}, loops.Transient, 0, []string{"500", "Oops"}},
		{resendtest.Refusal{Status: 503}, loops.Transient, 0, []string{"503", "Service Unavailable"}},
	} {
		t.Run(strconv.Itoa(c.answer.Status)+" "+c.answer.Name, func(t *testing.T) {
			m, stand := throughResend(t, 0)
			stand.Refuse(c.answer, 1)
			msg := message(t, m, "k")
			_, err := m.Send(t.Context(), msg)
			if f := wantFault(t, err, c.kind, c.words...); f.RetryAfter != c.wait {
				t.Errorf("retry after %v, want %v", f.RetryAfter, c.wait)
			}
			if _, err := m.Send(t.Context(), msg); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestResendObeysTheServersRate(t *testing.T) {
	m, stand := throughResend(t, 1)
	if _, err := m.Send(t.Context(), message(t, m, "1")); err != nil {
		t.Fatal(err)
	}
	_, err := m.Send(t.Context(), message(t, m, "2"))
	if f := wantFault(t, err, loops.Transient, "429"); f.RetryAfter != time.Second {
		t.Errorf("retry after %v, want 1s", f.RetryAfter)
	}
	if n := len(stand.Inbox()); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

func TestResendThatDoesNotAnswer(t *testing.T) {
	stand := resendtest.New("", 0)
	server := httptest.NewServer(stand)
	defer server.Close()
	c := ready()
	c.ResendURL, c.Timeout = server.URL, 50*time.Millisecond
	m := newMailer(t, c)
	stand.Hang(1)
	_, err := m.Send(t.Context(), message(t, m, "k"))
	wantFault(t, err, loops.Transient, "deadline exceeded")
}

func TestResendThatIsNotThere(t *testing.T) {
	server := httptest.NewServer(nil)
	c := ready()
	c.ResendURL = server.URL
	server.Close()
	m := newMailer(t, c)
	_, err := m.Send(t.Context(), message(t, m, "k"))
	wantFault(t, err, loops.Transient, "refused")
	if strings.Contains(err.Error(), "re_test") {
		t.Errorf("the message shows the key: %v", err)
	}
}

func TestResendThatIsSomethingElse(t *testing.T) {
	for page, kind := range map[string]loops.Kind{"<html>hello</html>": loops.Transient, "{}": loops.Transient} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(page)) }))
		c := ready()
		c.ResendURL = server.URL
		m := newMailer(t, c)
		_, err := m.Send(t.Context(), message(t, m, "k"))
		wantFault(t, err, kind)
		server.Close()
	}
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        time.Duration
	}{
		{"Retry-After", "30", 30 * time.Second},
		{"Ratelimit-Reset", "2", 2 * time.Second},
		{"Retry-After", "-5", 0},
		{"Retry-After", "999999999", 24 * time.Hour},
		{"Retry-After", "99999999999999999999", 0},
		{"Retry-After", "NaN", 0},
		{"Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT", 0},
		{"Retry-After", "Wed, 21 Oct 2195 07:28:00 GMT", 24 * time.Hour},
		{"Retry-After", "", 0},
	} {
		if got := retryAfter(http.Header{c.name: {c.value}}); got != c.want {
			t.Errorf("%s: %s is %v, want %v", c.name, c.value, got, c.want)
		}
	}
}
