package config

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// shape is how a setting is written.
type shape int

const (
	one   shape = iota // a scalar
	list               // a sequence; in the environment separated by commas
	pairs              // a mapping; in the environment key=value,key=value
)

// setting is one line of the settings' table.
type setting struct {
	name   string // as sidecar.yaml spells it: "email.rate", "DATABASE_URL"
	long   string // a second spelling: "tables.usage.table" of "tables.usage"
	shape  shape
	secret bool // only as a ${NAME} reference in sidecar.yaml
	set    func(s *Settings, items []string) error
}

func (s setting) fullName() string {
	if s.long != "" {
		return s.long
	}
	return s.name
}

const envPrefix = "TIERGATE_"

// envName returns the variable of a setting: vendors' names stay bare, ours are prefixed.
func envName(name string) string {
	if name == strings.ToUpper(name) {
		return name
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}

// laterVariables are other vendors' names, which may well be set for the application itself.
func laterVariables() []string {
	return []string{"STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_BASE", "CLERK_SECRET_KEY", "CLERK_WEBHOOK_SIGNING_SECRET",
		"CLERK_WEBHOOK_SECRET", "CLERK_API_URL", "RESEND_WEBHOOK_SECRET", "PUBLIC_URL"}
}

// laterSettings are settings of ours that this version refuses by name.
func laterSettings() []string {
	return []string{"stripe.sweep", "webhooks.listen", "attribution_window"}
}

func isLater(name string) bool {
	return slices.Contains(laterSettings(), name) || slices.Contains(laterVariables(), name) || strings.HasPrefix(name, "admin.") ||
		slices.Contains([]string{"stripe", "clerk", "webhooks"}, name)
}

// settingTable lists every setting of this version.
func settingTable() []setting {
	table := []setting{
		{name: "DATABASE_URL", secret: true, set: ignore}, // read by connect, which needs both
		{name: "DIRECT_URL", secret: true, set: ignore},
		{name: "loops", set: text(func(s *Settings) *string { return &s.Loops })},
		{name: "tiers", shape: pairs, set: setTiers},
		{name: "grace", set: parsed(parseGrace, func(s *Settings) *time.Duration { return &s.Grace })},
		{name: "RESEND_API_KEY", secret: true, set: parsed(asSecret, func(s *Settings) *Secret { return &s.ResendKey })},
		{name: "RESEND_BASE_URL", set: parsed(parseWebURL, func(s *Settings) *string { return &s.ResendURL })},
		{name: "SMTP_URL", secret: true, set: parsed(parseSMTP, func(s *Settings) *Secret { return &s.SMTPURL })},
		{name: "EMAIL_FROM", set: parsed(parseFrom, func(s *Settings) *string { return &s.EmailFrom })},
		{name: "UPGRADE_URL", set: parsed(parseWebURL, func(s *Settings) *string { return &s.UpgradeURL })},
		{name: "email.rate", set: parsed(parseRate, func(s *Settings) *float64 { return &s.EmailRate })},
		{name: "email.mode", set: parsed(parseMode, func(s *Settings) *EmailMode { return &s.EmailMode })},
		{name: "email.templates", set: text(func(s *Settings) *string { return &s.EmailTemplates })},
		{name: "admin.listen", set: parsed(parseListen, func(s *Settings) *string { return &s.AdminListen })},
		{name: "admin.token", secret: true, set: parsed(asSecret, func(s *Settings) *Secret { return &s.AdminToken })},
		{name: "app_role", shape: list, set: func(s *Settings, items []string) error { s.AppRoles = items; return nil }},
		{name: "publication", set: onlyPlain},
		{name: "max_retained_wal", set: parsed(parseSize, func(s *Settings) *int64 { return &s.MaxRetainedWAL })},
		{name: "test_clock", set: parsed(parseSwitch, func(s *Settings) *bool { return &s.TestClock })},
		{name: "tables.usage.timezone", set: parsed(parseZone, func(s *Settings) **time.Location { return &s.Zone })},
	}
	for _, role := range roles() {
		of := func(s *Settings) *TableSetting { return role.setting(s) }
		table = append(table, setting{name: role.name, long: role.name + ".table", set: text(func(s *Settings) *string { return &of(s).Table })})
		for _, c := range role.columns {
			table = append(table, setting{name: role.name + "." + c.field.String(), set: func(s *Settings, items []string) error {
				t := of(s)
				if t.Columns == nil {
					t.Columns = map[loops.Field]string{}
				}
				t.Columns[c.field] = items[0]
				return nil
			}})
		}
	}
	return table
}

func ignore(*Settings, []string) error { return nil }

func text(to func(*Settings) *string) func(*Settings, []string) error {
	return func(s *Settings, items []string) error { *to(s) = items[0]; return nil }
}

func parsed[T any](parse func(string) (T, error), to func(*Settings) *T) func(*Settings, []string) error {
	return func(s *Settings, items []string) error {
		v, err := parse(items[0])
		if err == nil {
			*to(s) = v
		}
		return err
	}
}

func asSecret(text string) (Secret, error) { return Secret(text), nil }

func setTiers(s *Settings, items []string) error {
	for _, item := range items {
		i := strings.LastIndexByte(item, '=')
		if i < 1 || i == len(item)-1 {
			return &loops.Fault{Err: fmt.Errorf("%q maps nothing", item), Hint: "write price_123: pro in sidecar.yaml, price_123=pro in a variable"}
		}
		s.Tiers[strings.TrimSpace(item[:i])] = strings.TrimSpace(item[i+1:])
	}
	return nil
}

func onlyPlain(_ *Settings, items []string) error {
	switch items[0] {
	case "plain":
		return nil
	case "narrow":
		return &loops.Fault{Err: errors.New("narrow is not supported in this version"), Hint: "leave it out, or write plain"}
	default:
		return fmt.Errorf("%q is unknown: plain is the only value in this version", items[0])
	}
}

func parseGrace(text string) (time.Duration, error) {
	var d time.Duration
	var err error
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
		if n > 3650 {
			err = errors.New("too long")
		}
	} else {
		d, err = time.ParseDuration(text)
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a length of time: write it as 7d or 12h", text)
	}
	return d, nil
}

// parseSize reads bytes with PostgreSQL's units, of which each is 1024 times the one before.
func parseSize(text string) (int64, error) {
	bad := fmt.Errorf("%q is not a size: write it as 10GB or 512MB", text)
	digits := strings.TrimRight(text, "kKMGTiB ")
	shift, ok := map[string]uint{"kB": 10, "KB": 10, "KiB": 10, "MB": 20, "MiB": 20, "GB": 30, "GiB": 30, "TB": 40, "TiB": 40}[strings.TrimSpace(text[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n <= 0 || n > 1<<(62-shift) {
		return 0, bad
	}
	return n << shift, nil
}

func parseSwitch(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "on", "true", "yes", "1":
		return true, nil
	case "off", "false", "no", "0":
		return false, nil
	default:
		return false, fmt.Errorf("%q is neither on nor off", text)
	}
}

func parseRate(text string) (float64, error) {
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate > 0 && rate <= 1000) {
		return 0, fmt.Errorf("%q is not a rate: write requests per second, above 0 and up to 1000", text)
	}
	return rate, nil
}

func parseMode(text string) (EmailMode, error) {
	kind, rest, _ := strings.Cut(text, ":")
	rest = strings.TrimSpace(rest)
	switch {
	case text == "on":
		return EmailMode{}, nil
	case text == "off":
		return EmailMode{Off: true}, nil
	case kind == "redirect" && isAddress(rest):
		return EmailMode{Redirect: rest}, nil
	case kind == "allow" && rest != "":
		var m EmailMode
		for entry := range strings.SplitSeq(rest, ",") {
			entry = strings.TrimSpace(entry)
			if domain := strings.HasPrefix(entry, "@") && isAddress("any"+entry); !domain && !isAddress(entry) {
				return m, fmt.Errorf("%q is neither an address nor an @domain", entry)
			}
			m.Allow = append(m.Allow, entry)
		}
		return m, nil
	default:
		return EmailMode{}, fmt.Errorf("%q is unknown: write on, off, redirect:ADDRESS, or allow:ADDRESS,@DOMAIN", text)
	}
}

func isAddress(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text
}

func parseFrom(text string) (string, error) {
	if _, err := mail.ParseAddress(text); err != nil {
		return "", fmt.Errorf("%q is not an address: write it as Name <name@example.com>", text)
	}
	return text, nil
}

func parseWebURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return "", fmt.Errorf("%q is not a web address: it begins with https://", text)
	}
	return text, nil
}

// parseSMTP never quotes the value: it holds a password.
func parseSMTP(text string) (Secret, error) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "smtp" && u.Scheme != "smtps") || u.Hostname() == "" {
		return "", errors.New("cannot be read: write smtp://USER:PASSWORD@HOST:587 (or smtps://), special characters percent-encoded")
	}
	return Secret(text), nil
}

func parseListen(text string) (string, error) {
	if _, _, err := net.SplitHostPort(text); err != nil {
		return "", fmt.Errorf("%q is not an address to listen on: write 127.0.0.1:8377", text)
	}
	return text, nil
}

func parseZone(text string) (*time.Location, error) {
	zone, err := time.LoadLocation(text)
	if err != nil || text == "Local" {
		return nil, fmt.Errorf("%q is not a time zone: write UTC or a name as Europe/Berlin", text)
	}
	return zone, nil
}
