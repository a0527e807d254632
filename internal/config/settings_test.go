package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tiergate/tiergate/internal/loops"
)

const testURL = "postgres://app:geheim@db.example.com:5432/shop"

// folder writes files into a new working directory.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadDefaults(t *testing.T) {
	withoutPG(t)
	s, err := Load(t.TempDir(), []string{"DATABASE_URL=" + testURL})
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{
		Database: Database{Dialect: "postgres", URL: testURL, Host: "db.example.com", Port: 5432, User: "app", Name: "shop"},
		Zone:     time.UTC, Tiers: map[string]string{}, Grace: 7 * 24 * time.Hour, EmailRate: 2,
		AdminListen: "127.0.0.1:8377", MaxRetainedWAL: 10 << 30,
	}
	if diff := cmp.Diff(want, s, cmp.Comparer(sameZone)); diff != "" {
		t.Error(diff)
	}
	if s.Database.URL != testURL {
		t.Errorf("URL is %s", s.Database.URL)
	}
}

func sameZone(a, b *time.Location) bool { return a.String() == b.String() }

func TestLoadEverything(t *testing.T) {
	withoutPG(t)
	dir := folder(t, map[string]string{
		"mine/blocked.html": "",
		".env":              "DATABASE_URL=postgres://u:p@h/db?schema=shop\nRESEND_API_KEY='re_123'\nDB_PASSWORD=x$y\n",
		"sidecar.yaml": `
# wiring
loops: loops/*.ts
DIRECT_URL: "postgres://u:${PW}@direct.example.com/db"
tables:
  usage:
    table: '"Usage"'
    subject: account_id
    count: calls
    timezone: Europe/Berlin
  subscriptions: billing.subs
  users: {table: people, email: mail}
tiers:
  price_1A: pro
  "Pro, yearly": pro
  team=x: team
grace: 12h
EMAIL_FROM: Shop <hello@example.com>
UPGRADE_URL: https://example.com/upgrade?plan=${PLAN}
email:
  rate: 0.5
  mode: allow:ann@example.com, @example.org
  templates: mine
admin: {listen: ":9000", token: "${TOKEN}"}
app_role: [web, worker]
publication: plain
max_retained_wal: 512MB
test_clock: on
SMTP_URL: ${MAILER}
`})
	s, err := Load(dir, []string{"PW=p4", "PLAN=pro", "TOKEN=t0", "MAILER=smtp://u:pw@localhost:25"})
	if err != nil {
		t.Fatal(err)
	}
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{
		Database: Database{Dialect: "postgres", URL: "postgres://u:p4@direct.example.com/db", Host: "direct.example.com", Port: 5432, User: "u", Name: "db", Schema: "shop"},
		Loops:    "loops/*.ts",
		Usage:    TableSetting{Table: `"Usage"`, Columns: map[loops.Field]string{loops.FieldSubject: "account_id", loops.FieldCount: "calls"}},
		Subscriptions: TableSetting{
			Table: "billing.subs",
		},
		Users: TableSetting{Table: "people", Columns: map[loops.Field]string{loops.FieldEmail: "mail"}},
		Zone:  zone,
		Tiers: map[string]string{"price_1A": "pro", "Pro, yearly": "pro", "team=x": "team"},
		Grace: 12 * time.Hour, ResendKey: "re_123", SMTPURL: "smtp://u:pw@localhost:25",
		EmailFrom: "Shop <hello@example.com>", UpgradeURL: "https://example.com/upgrade?plan=pro", EmailRate: 0.5,
		EmailMode: EmailMode{Allow: []string{"ann@example.com", "@example.org"}}, EmailTemplates: filepath.Join(dir, "mine"),
		AdminListen: ":9000", AdminToken: "t0", AppRoles: []string{"web", "worker"}, MaxRetainedWAL: 512 << 20, TestClock: true,
	}
	if diff := cmp.Diff(want, s, cmp.Comparer(sameZone)); diff != "" {
		t.Error(diff)
	}
}

func TestLoadOrder(t *testing.T) {
	files := map[string]string{
		".env":         "\ufeffDATABASE_URL=postgres://env/db\nTIERGATE_GRACE=1d\nEMAIL_FROM=env@example.com\nRESEND_API_KEY=re_1\n",
		".env.local":   "TIERGATE_GRACE=2d\nEMAIL_FROM=local@example.com\nRESEND_API_KEY=\n",
		"sidecar.yaml": "grace: 4d\ntables: {usage: {table: file, subject: s}}\napp_role: a, b\n",
	}
	s, err := Load(folder(t, files), []string{"EMAIL_FROM=process@example.com", "TIERGATE_TABLES_USAGE_TABLE=process",
		"TIERGATE_TABLES_USAGE_AT=moment", "TIERGATE_TIERS=price_1=pro, price_2=team"})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{s.Database.Host, s.Grace, s.EmailFrom, s.ResendKey == "", s.Usage, s.Tiers, s.AppRoles}
	want := []any{"env", 48 * time.Hour, "process@example.com", true,
		TableSetting{"process", map[loops.Field]string{loops.FieldSubject: "s", loops.FieldAt: "moment"}},
		map[string]string{"price_1": "pro", "price_2": "team"}, []string{"a", "b"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, set := os.LookupEnv("TIERGATE_GRACE"); set {
		t.Error("the process's environment was changed")
	}
}

func TestLoadTemplatesByDefault(t *testing.T) {
	dir := folder(t, map[string]string{"emails/upgrade_prompt.html": ""})
	s, err := Load(dir, []string{"DATABASE_URL=" + testURL})
	if err != nil || s.EmailTemplates != filepath.Join(dir, "emails") {
		t.Errorf("templates %q, %v", s.EmailTemplates, err)
	}
}

func TestLoadUnsupported(t *testing.T) {
	s, err := Load(t.TempDir(), []string{"DATABASE_URL=" + testURL, "STRIPE_SECRET_KEY=sk_1", "PUBLIC_URL=https://x", "CLERK_API_URL=",
		"TIERGATE_PORT=tcp://10.0.0.1:8377", "TIERGATE_SERVICE_HOST=10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PUBLIC_URL", "STRIPE_SECRET_KEY", "TIERGATE_PORT", "TIERGATE_SERVICE_HOST"}, s.Unsupported); diff != "" {
		t.Error(diff)
	}
}

func TestLoadPrismaAccelerate(t *testing.T) {
	s, err := Load(t.TempDir(), []string{"DATABASE_URL=prisma://accelerate.prisma-data.net/?api_key=x", "DIRECT_URL=postgres://u@h/db"})
	if err != nil || s.Database.Host != "h" {
		t.Errorf("host %q, %v", s.Database.Host, err)
	}
}

func TestLoadProblems(t *testing.T) {
	tests := []struct {
		name, file string
		env        []string
		want       []string // parts of the message
	}{
		{"no database", "", []string{"DATABASE_URL="}, []string{"DATABASE_URL: is not set", "postgres://USER:PASSWORD@HOST:5432/DATABASE"}},
		{"wrong database", "", []string{"DATABASE_URL=mysql://u:p@h/db"}, []string{"DATABASE_URL in the environment: mysql:// is not supported in this version"}},
		{"unknown key", "grcae: 7d\n", nil, []string{"sidecar.yaml:1:1: grcae: unknown setting", "did you mean grace?"}},
		{"unknown nested key", "email:\n  rat: 2\n", nil, []string{"sidecar.yaml:2:3: email.rat: unknown setting", "did you mean email.rate?"}},
		{"unknown column", "tables:\n  users:\n    mail: x\n", nil, []string{"sidecar.yaml:3:5: tables.users.mail: unknown setting"}},
		{"key in the middle of nowhere", "zzzzzzzzz: 1\n", nil, []string{"sidecar.yaml:1:1: zzzzzzzzz: unknown setting"}},
		{"twice", "grace: 7d\ngrace: 8d\n", nil, []string{"sidecar.yaml:2:1: ", "grace"}},
		{"syntax", "email:\n  - [", nil, []string{"sidecar.yaml:2:"}},
		{"two documents", "grace: 7d\n---\ngrace: 8d\n", nil, []string{"sidecar.yaml:3:", "a second document"}},
		{"alias", "app_role: &x web\ngrace: *x\n", nil, []string{"grace: has no value that can be read"}},
		{"scalar for a group", "email: on\n", nil, []string{"sidecar.yaml:1:8: email: expects a mapping"}},
		{"scalar document", "hello\n", nil, []string{"sidecar.yaml:1:1: expects a mapping"}},
		{"mapping for a scalar", "grace: {days: 7}\n", nil, []string{"grace: is one value, not a mapping"}},
		{"empty mapping for a scalar", "grace: {}\n", nil, []string{"grace: is one value, not a mapping"}},
		{"list for a scalar", "grace: [7d]\n", nil, []string{"sidecar.yaml:1:8: grace: is not a list"}},
		{"nothing", "grace:\n", nil, []string{"grace: has no value"}},
		{"grace", "grace: 7 days\n", nil, []string{`sidecar.yaml:1:8: grace: "7 days" is not a length of time`, "7d or 12h"}},
		{"grace below zero", "grace: -1d\n", nil, []string{"is not a length of time"}},
		{"size", "max_retained_wal: 10\n", nil, []string{`"10" is not a size`}},
		{"huge size", "max_retained_wal: 9999999999TB\n", nil, []string{"is not a size"}},
		{"rate", "", []string{"TIERGATE_EMAIL_RATE=fast"}, []string{`TIERGATE_EMAIL_RATE in the environment: "fast" is not a rate`}},
		{"no rate", "", []string{"TIERGATE_EMAIL_RATE=NaN"}, []string{"is not a rate"}},
		{"mode", "email: {mode: maybe}\n", nil, []string{`email.mode: "maybe" is unknown`, "redirect:ADDRESS"}},
		{"allow", "email: {mode: 'allow:example.com'}\n", nil, []string{`"example.com" is neither an address nor an @domain`}},
		{"redirect", "email: {mode: 'redirect:'}\n", nil, []string{"is unknown"}},
		{"from", "EMAIL_FROM: me\n", nil, []string{`EMAIL_FROM: "me" is not an address`}},
		{"upgrade", "UPGRADE_URL: example.com\n", nil, []string{`UPGRADE_URL: "example.com" is not a web address`}},
		{"listen", "admin: {listen: '8377'}\n", nil, []string{`admin.listen: "8377" is not an address to listen on`}},
		{"publication", "publication: wide\n", nil, []string{`publication: "wide" is unknown`}},
		{"clock", "test_clock: perhaps\n", nil, []string{"neither on nor off"}},
		{"zone", "tables: {usage: {timezone: Berlin}}\n", nil, []string{`tables.usage.timezone: "Berlin" is not a time zone`}},
		{"templates", "email: {templates: nowhere}\n", nil, []string{`email.templates: there is no folder "nowhere"`}},
		{"narrow", "publication: narrow\n", nil, []string{"publication: narrow is not supported in this version"}},
		{"stripe", "STRIPE_SECRET_KEY: x\nstripe: {sweep: 1m}\n", nil, []string{"sidecar.yaml:1:1: STRIPE_SECRET_KEY: not supported", "sidecar.yaml:2:1: stripe: not supported"}},
		{"admin", "admin: {path: /x}\n", nil, []string{"admin.path: not supported in this version"}},
		{"window", "attribution_window: 30d\n", nil, []string{"attribution_window: not supported in this version"}},
		{"misspelt variable", "", []string{"TIERGATE_GRCE=7d"}, []string{"TIERGATE_GRCE in the environment: unknown setting", "did you mean TIERGATE_GRACE?"}},
		{"prefixed variable", "", []string{"TIERGATE_DATABASE_URL=x"}, []string{"TIERGATE_DATABASE_URL in the environment: unknown", "did you mean DATABASE_URL?"}},
		{"tiers", "", []string{"TIERGATE_TIERS=pro"}, []string{`"pro" maps nothing`, "price_123=pro"}},
		{"literal secret", "RESEND_API_KEY: re_geheim\n", nil, []string{"RESEND_API_KEY: a secret does not belong in this file", "${RESEND_API_KEY}"}},
		{"literal token", "admin: {token: geheim}\n", nil, []string{"admin.token: a secret does not belong in this file", "${TIERGATE_ADMIN_TOKEN}"}},
		{"missing reference", "EMAIL_FROM: ${WHO}\n", nil, []string{"EMAIL_FROM: ${WHO} is not set", "set WHO in the environment"}},
		{"shell reference", "EMAIL_FROM: ${WHO:-me}\n", nil, []string{"a reference is written ${NAME}"}},
		{"smtp", "", []string{"SMTP_URL=http://u:geheim@h"}, []string{"SMTP_URL in the environment: cannot be read", "smtp://USER:PASSWORD@HOST:587"}},
		{"all at once", "grace: x\nfoo_bar: 1\n", []string{"DATABASE_URL=", "EMAIL_FROM=x"}, []string{"grace:", "foo_bar:", "DATABASE_URL:", "EMAIL_FROM in the environment:"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t, map[string]string{"sidecar.yaml": test.file})
			_, err := Load(dir, append([]string{"DATABASE_URL=" + testURL}, test.env...))
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in:\n%v", part, err)
				}
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the secret is in:\n%v", err)
			}
			if loops.KindOf(err) != loops.Permanent {
				t.Error("would be tried again")
			}
		})
	}
}

func TestLoadDotenvProblem(t *testing.T) {
	dir := folder(t, map[string]string{".env": "A=1\nB='two\nlines'\nthis is no variable geheim\nRESEND_API_KEY=geheim\n"})
	_, err := Load(dir, []string{"DATABASE_URL=" + testURL})
	if err == nil || !strings.Contains(err.Error(), "read .env: line 4 cannot be read") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("got %v", err)
	}
}

func TestSettingsNeverShowSecrets(t *testing.T) {
	s, err := Load(t.TempDir(), []string{"DATABASE_URL=" + testURL, "RESEND_API_KEY=geheim", "SMTP_URL=smtp://u:geheim@h", "TIERGATE_ADMIN_TOKEN=geheim"})
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&printed, verb+"\n", s)
		fmt.Fprintf(&printed, verb+"\n", &s)
		fmt.Fprintf(&printed, verb+verb+"\n", s.ResendKey, s.Database)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&printed, nil), slog.NewJSONHandler(&printed, nil)} {
		slog.New(handler).Info("settings", "all", s, "pointer", &s, "key", s.ResendKey, "database", s.Database)
	}
	if err := json.NewEncoder(&printed).Encode(s); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"geheim", fmt.Sprintf("%x", "geheim")} {
		if strings.Contains(printed.String(), secret) {
			t.Errorf("%s is in:\n%s", secret, printed.String())
		}
	}
	for _, part := range []string{"postgres://app:***@db.example.com:5432/shop", "***"} {
		if !strings.Contains(printed.String(), part) {
			t.Errorf("%s is not in:\n%s", part, printed.String())
		}
	}
}
