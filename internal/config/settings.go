package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

// Settings is the wiring: everything about an installation that is not a loop. It can be printed and
// logged: what must stay secret shows as "***".
type Settings struct {
	Database Database // DIRECT_URL, else DATABASE_URL; the application's schema from either
	Loops    string   // file, folder or pattern; empty: skene.config.ts, else loops/*.{ts,yaml}

	Usage, Subscriptions, Users TableSetting
	Zone                        *time.Location // of the usage table's timestamps without zone

	Tiers map[string]string // price id, lookup key, product or plan name → tier
	Grace time.Duration     // how long past_due keeps its tier

	ResendKey      Secret
	ResendURL      string // RESEND_BASE_URL; empty: Resend's own
	SMTPURL        Secret // smtp:// or smtps://, with user and password
	EmailFrom      string
	UpgradeURL     string
	EmailRate      float64 // requests per second
	EmailMode      EmailMode
	EmailTemplates string // folder whose files replace the built-in templates; empty: none

	AdminListen string // host:port
	AdminToken  Secret

	AppRoles       []string // database roles that may read the usage table
	MaxRetainedWAL int64    // bytes
	TestClock      bool

	// Unsupported names variables that are set for a later version: ignored, but check says so.
	Unsupported []string
}

// TableSetting says where a table is. Names are as the operator wrote them, perhaps with a schema or
// in double quotes; what is empty is recognised by its usual name.
type TableSetting struct {
	Table   string // NoTable: not watched even where one is found
	Columns map[loops.Field]string
}

// NoTable as the name of a table switches its recognition off.
const NoTable = "none"

// EmailMode says who may be mailed. The zero value is everybody.
type EmailMode struct {
	Off      bool     // nobody
	Redirect string   // everything goes to this address instead
	Allow    []string // only to these addresses and "@domain"s; empty: to everybody
}

// Load reads the settings that hold in a working directory: the environment wins over .env.local,
// that over .env, and all of them over sidecar.yaml. Every problem is reported at once, each one a
// Fault that names the setting and the place it came from.
func Load(dir string, environ []string) (Settings, error) {
	env, problems := readEnvironment(dir, environ)
	table := settingTable()
	file := sidecarReader{known: map[string]setting{}, env: env, values: map[string]value{}}
	for _, s := range table {
		file.known[s.name], file.known[s.fullName()] = s, s
	}
	file.read(dir)
	problems = append(problems, file.problems...)

	s := Settings{
		Zone: time.UTC, Tiers: map[string]string{}, Grace: 7 * 24 * time.Hour, EmailRate: 2,
		AdminListen: "127.0.0.1:8377", MaxRetainedWAL: 10 << 30,
	}
	for _, st := range table {
		v, ok := st.find(env, file.values)
		if !ok {
			continue
		}
		if err := st.set(&s, v.items); err != nil {
			problems = append(problems, located(v.from, err))
		}
	}
	problems = append(problems, s.connect(env, file.values)...)
	problems = append(problems, s.folder(dir)...)
	unknown, misspelt := leftOver(env, file.known)
	s.Unsupported = unknown
	problems = append(problems, misspelt...)
	return s, errors.Join(problems...)
}

// located puts the place in front of an error, whose hint it keeps.
func located(from string, err error) error {
	var f *loops.Fault
	if errors.As(err, &f) {
		return &loops.Fault{Step: from, Err: f.Err, Hint: f.Hint}
	}
	return &loops.Fault{Step: from, Err: err}
}

// find returns what the strongest source says. A variable set to nothing leaves the default.
func (s setting) find(env environment, file map[string]value) (value, bool) {
	v := file[s.name]
	for _, name := range []string{envName(s.name), envName(s.fullName())} {
		if text, from, ok := env.lookup(name); ok {
			v = value{s.parts(text), name + " in " + from}
		}
	}
	return v, len(v.items) > 0
}

// parts takes apart a list that is written as one text, and drops what is empty.
func (s setting) parts(text string) []string {
	texts := []string{text}
	if s.shape != one {
		texts = strings.Split(text, ",")
	}
	var items []string
	for _, item := range texts {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// connect chooses the database. DATABASE_URL may be one that only the application's client reads
// (Prisma Accelerate) as long as there is a DIRECT_URL.
func (s *Settings) connect(env environment, file map[string]value) []error {
	app, ok := setting{name: "DATABASE_URL"}.find(env, file)
	if !ok {
		return []error{&loops.Fault{Step: "DATABASE_URL", Err: errors.New("is not set"), Hint: "set it in the environment or in .env: DATABASE_URL=" + urlForm}}
	}
	direct, hasDirect := setting{name: "DIRECT_URL"}.find(env, file)
	database, err := ParseDatabase(app.items[0])
	if !hasDirect {
		s.Database = database
		return nilOr(app.from, err)
	}
	schema := database.Schema
	s.Database, err = ParseDatabase(direct.items[0])
	s.Database.Schema = cmp.Or(s.Database.Schema, schema)
	return nilOr(direct.from, err)
}

func nilOr(from string, err error) []error {
	if err == nil {
		return nil
	}
	return []error{located(from, err)}
}

// folder finds the templates: the default one only where it exists.
func (s *Settings) folder(dir string) []error {
	name := cmp.Or(s.EmailTemplates, "emails")
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		s.EmailTemplates = path
		return nil
	case s.EmailTemplates == "":
		return nil
	default:
		return []error{&loops.Fault{Step: "email.templates", Err: fmt.Errorf("there is no folder %q", name), Hint: "make it, or leave the setting out"}}
	}
}

// leftOver sorts the variables that no setting reads: those of later versions are only reported, and
// so is a TIERGATE_ name that resembles none (Kubernetes sets such names by itself); a misspelt one is a problem.
func leftOver(env environment, known map[string]setting) (unsupported []string, problems []error) {
	variables := map[string]string{} // by the part that differs
	for name := range known {
		variables[strings.TrimPrefix(envName(name), envPrefix)] = envName(name)
	}
	for _, name := range env.names() {
		text, from, _ := env.lookup(name)
		short, ours := strings.CutPrefix(name, envPrefix)
		near := spell.Closest(short, slices.Collect(maps.Keys(variables)))
		fault := loops.Fault{Step: name + " in " + from, Err: errors.New("unknown setting"), Hint: meant(variables[near])}
		switch {
		case text == "" || variables[short] == name:
		case slices.Contains(laterVariables(), name), ours && near == "" && !isLaterVariable(name):
			unsupported = append(unsupported, name)
		case isLaterVariable(name):
			fault.Err, fault.Hint = errors.New("not supported in this version"), "remove it"
			problems = append(problems, &fault)
		case ours:
			problems = append(problems, &fault)
		}
	}
	return unsupported, problems
}

func isLaterVariable(name string) bool {
	return slices.ContainsFunc(laterSettings(), func(s string) bool { return envName(s) == name })
}

// String returns the mode as it is written in the setting.
func (m EmailMode) String() string {
	switch {
	case m.Off:
		return "off"
	case m.Redirect != "":
		return "redirect:" + m.Redirect
	case len(m.Allow) > 0:
		return "allow:" + strings.Join(m.Allow, ",")
	default:
		return "on"
	}
}
