package mail

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// ready is a configuration with which mails leave.
func ready() Config {
	return Config{From: "Acme <hello@acme.com>", UpgradeURL: "https://acme.com/pricing", ResendKey: "re_test", Rate: 1000}
}

func newMailer(t *testing.T, c Config) *Mailer {
	t.Helper()
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantFault asks for a Fault of a kind whose line holds every one of the words.
func wantFault(t *testing.T, err error, kind loops.Kind, words ...string) *loops.Fault {
	t.Helper()
	var f *loops.Fault
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a Fault", err)
	}
	if f.Kind != kind {
		t.Errorf("kind %v of %q, want %v", f.Kind, f, kind)
	}
	if f.Hint == "" {
		t.Errorf("%q does not say what to do", f)
	}
	for _, word := range words {
		if !strings.Contains(f.Error(), word) {
			t.Errorf("%q does not hold %q", f, word)
		}
	}
	return f
}

func TestNewRefusesWhatCannotBeRight(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		words  []string
	}{
		{"sender", func(c *Config) { c.From = "Acme" }, []string{"EMAIL_FROM"}},
		{"upgrade address", func(c *Config) { c.UpgradeURL = "javascript:alert(1)" }, []string{"UPGRADE_URL", "javascript:alert(1)"}},
		{"upgrade path", func(c *Config) { c.UpgradeURL = "/pricing" }, []string{"UPGRADE_URL"}},
		{"rate", func(c *Config) { c.Rate = -1 }, []string{"email.rate", "-1"}},
		{"base", func(c *Config) { c.ResendURL = "localhost:80" }, []string{"RESEND_BASE_URL"}},
		{"folder", func(c *Config) { c.TemplatesDir = "/does/not/exist" }, []string{"/does/not/exist"}},
		{"mode", func(c *Config) { c.Mode = "maybe" }, []string{"email.mode", "maybe"}},
		{"redirect", func(c *Config) { c.Mode = "redirect:nobody" }, []string{"email.mode", "redirect"}},
		{"allow nobody", func(c *Config) { c.Mode = "allow:" }, []string{"email.mode"}},
		{"allow", func(c *Config) { c.Mode = "allow:ann@acme.com, acme.com" }, []string{"email.mode", `"acme.com"`}},
		{"smtp scheme", func(c *Config) { c.ResendKey, c.SMTPURL = "", "http://localhost" }, []string{"SMTP_URL", "http"}},
		{"smtp host", func(c *Config) { c.ResendKey, c.SMTPURL = "", "smtp:localhost" }, []string{"SMTP_URL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := ready()
			c.change(&config)
			_, err := New(config)
			wantFault(t, err, loops.Permanent, c.words...)
		})
	}
}

func TestNewKeepsThePasswordToItself(t *testing.T) {
	for _, address := range []string{"smtp://ann:s3cr%t@host:25", "smtp://ann:s3cr@t/x@host:25", "smtp://ann:s3cr@host:port"} {
		_, err := New(Config{SMTPURL: address})
		if f := wantFault(t, err, loops.Permanent, "SMTP_URL"); strings.Contains(f.Error(), "s3cr") {
			t.Errorf("the message shows the password: %v", f)
		}
	}
}

func TestReadyNamesWhatIsMissing(t *testing.T) {
	m := newMailer(t, Config{})
	wantFault(t, m.Ready(), loops.Permanent, "EMAIL_FROM", "UPGRADE_URL", "RESEND_API_KEY", "SMTP_URL")
	if _, err := m.Send(context.Background(), loops.Message{Key: "k"}); err == nil {
		t.Error("sent without a provider")
	}
	c := ready()
	c.UpgradeURL = ""
	f := wantFault(t, newMailer(t, c).Ready(), loops.Permanent, "UPGRADE_URL")
	if strings.Contains(f.Error(), "EMAIL_FROM") {
		t.Errorf("%v names a setting that is there", f)
	}
	if err := newMailer(t, ready()).Ready(); err != nil {
		t.Error(err)
	}
}

func TestRoute(t *testing.T) {
	for _, c := range []struct{ mode, to, address, reason string }{
		{"", "ann@x.com", "ann@x.com", ""},
		{"on", "ann@x.com", "ann@x.com", ""},
		{"off", "ann@x.com", "", "email.mode is off"},
		{"redirect:dev@acme.com", "ann@x.com", "dev@acme.com", ""},
		{"redirect: Dev <dev@acme.com>", "dev@acme.com", "dev@acme.com", ""},
		{"allow:@acme.com, Ann@x.com", "ANN@x.com", "ANN@x.com", ""},
		{"allow:@acme.com,ann@x.com", "bob@Acme.com", "bob@Acme.com", ""},
		{"allow:@acme.com", "bob@notacme.com", "", "email.mode allows only @acme.com"},
		{"allow:@acme.com", "bob@acme.com.evil.org", "", "email.mode allows only @acme.com"},
		{"allow:@acme.com", "no address", "", "email.mode allows only @acme.com"},
	} {
		config := ready()
		config.Mode = c.mode
		if address, reason := newMailer(t, config).Route(c.to); address != c.address || reason != c.reason {
			t.Errorf("mode %q, to %q: got %q, %q; want %q, %q", c.mode, c.to, address, reason, c.address, c.reason)
		}
	}
}

func TestRenderFillsTheMessage(t *testing.T) {
	data := samples()[0]
	data.Email, data.UpgradeURL, data.Feature = "Ann <ann@example.com>", "", "pdf exports"
	got, err := newMailer(t, ready()).Render("upgrade_prompt", data)
	if err != nil {
		t.Fatal(err)
	}
	if got.From != "Acme <hello@acme.com>" || got.To != "ann@example.com" || got.Key != "" {
		t.Errorf("from %q, to %q, key %q", got.From, got.To, got.Key)
	}
	if got.Headers["Auto-Submitted"] != "auto-generated" || got.Tags["template"] != "upgrade_prompt" || got.Tags["feature"] != "pdf exports" {
		t.Errorf("headers %v, tags %v", got.Headers, got.Tags)
	}
	for _, body := range []string{got.HTML, got.Text} {
		if !strings.Contains(body, "https://acme.com/pricing") {
			t.Errorf("no link to the configured address in %s", body)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	m := newMailer(t, ready())
	data := samples()[0]
	_, err := m.Render("upgrade_promt", data)
	wantFault(t, err, loops.Permanent, "upgrade_promt")
	for _, address := range []string{"", "ann", "ann@example.com\r\nBcc: all@example.com"} {
		data.Email = address
		_, err := m.Render("upgrade_prompt", data)
		wantFault(t, err, loops.Permanent, "user_1")
	}
}

// recorder is a provider that remembers when it was asked.
type recorder struct{ at []time.Time }

func (r *recorder) send(context.Context, loops.Message) (string, error) {
	r.at = append(r.at, time.Now())
	return "id", nil
}

func TestSendKeepsToTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ready()
		c.Rate = 0 // the default, 2 a second
		m := newMailer(t, c)
		r := &recorder{}
		m.provider = r
		for range 5 {
			if _, err := m.Send(t.Context(), loops.Message{Key: "k"}); err != nil {
				t.Fatal(err)
			}
		}
		if took := r.at[4].Sub(r.at[0]); took != 2*time.Second {
			t.Errorf("five messages in %v, want 2s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := m.Send(ctx, loops.Message{Key: "k"})
		wantFault(t, err, loops.Transient, "email.rate")
	})
}

func TestSendNeedsAKey(t *testing.T) {
	m := newMailer(t, ready())
	for _, key := range []string{"", strings.Repeat("k", 257)} {
		_, err := m.Send(t.Context(), loops.Message{Key: key})
		wantFault(t, err, loops.Permanent, "key")
	}
}
