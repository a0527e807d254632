package main

import (
	"strings"
	"testing"

	"github.com/tiergate/tiergate/internal/dbserver"
)

// change replaces a part of the config.
func (a *app) change(old, now string) {
	a.t.Helper()
	text := strings.Replace(appConfig, old, now, 1)
	if text == appConfig {
		a.t.Fatalf("the config does not hold %q", old)
	}
	a.write("skene.config.ts", text)
}

// owner makes a role that may install and follow, as a careful operator would, and lets the sidecar be it.
func (a *app) owner(options string) (name string) {
	a.t.Helper()
	name, url := a.role(options)
	a.exec(`GRANT CREATE ON DATABASE "` + a.name + `" TO ` + name + `; GRANT CREATE ON SCHEMA public TO ` + name + `;
		ALTER TABLE usage OWNER TO ` + name + `; ALTER TABLE users OWNER TO ` + name + `; ALTER TABLE subscriptions OWNER TO ` + name)
	a.set("DATABASE_URL", url)
	return name
}

// TestBadInput asks every command that needs the thing that is wrong: one message with a way out.
func TestBadInput(t *testing.T) {
	everything := []string{"check", "run", "run --once", "install", "status", "verify", "explain ann features", "resync", "grant list", "emails list"}
	following := []string{"check", "run"}
	host := func(a *app, to string) {
		before, rest, _ := strings.Cut(a.url, "@")
		_, path, _ := strings.Cut(rest, "/")
		a.set("DATABASE_URL", before+"@"+to+"/"+path)
	}
	for _, test := range []struct {
		name     string
		prepare  func(*app)
		commands []string
		want     []string // each in what is printed
	}{
		{"no address", func(a *app) { a.set("DATABASE_URL", "") }, everything, []string{"DATABASE_URL", "is not set", "postgres://USER:PASSWORD@HOST"}},
		{"another database", func(a *app) { a.set("DATABASE_URL", "mysql://u:guarded-word@h/d") }, everything, []string{"mysql:// is not supported in this version"}},
		{"wrong host", func(a *app) { host(a, "nowhere.invalid:5432") }, everything, []string{"connect to the database", "nowhere.invalid", "right host and port"}},
		{"wrong port", func(a *app) { host(a, "127.0.0.1:1") }, everything, []string{"connect to the database", "connection refused", "right host and port"}},
		{"wrong password", func(a *app) { a.set("DATABASE_URL", as(a.url, "postgres")) }, everything, []string{"password authentication failed", "the password in DATABASE_URL is wrong"}},
		{"wrong database", func(a *app) { a.set("DATABASE_URL", strings.Replace(a.url, a.name, "no_such", 1)) }, everything, []string{`"no_such" does not exist`, "DATABASE_URL"}},
		{"no TLS", func(a *app) { a.set("DATABASE_URL", strings.Replace(a.url, "disable", "require", 1)) }, everything, []string{"TLS"}},
		{"no usage table", func(a *app) { a.exec("DROP TABLE usage") }, everything, []string{"no table called usage", "there is subscriptions, users", "tables.usage: NAME"}},
		{"no such column", func(a *app) { a.write("sidecar.yaml", "tables:\n  usage:\n    subject: account_id\n") }, everything, []string{"tables.usage.subject", "no column account_id", "it has id, user_id, endpoint"}},
		{"no such setting", func(a *app) { a.write("sidecar.yaml", "grade: 7d\n") }, everything, []string{"sidecar.yaml:1:1", "grade", "unknown setting", "grace"}},
		{"no config", func(a *app) { a.set("TIERGATE_LOOPS", "nowhere.ts") }, everything, []string{"nowhere.ts", "create skene.config.ts"}},
		{"wrong type", func(a *app) { a.change("free: 2", "free: '2'") }, everything, []string{"skene.config.ts:7:", "'2'"}},
		{"apostrophe", func(a *app) { a.change(`"That's it"`, `'That's it'`) }, everything, []string{"skene.config.ts:8:", "apostrophe"}},
		{"ten megabytes", func(a *app) { a.write("skene.config.ts", appConfig+"//"+strings.Repeat("x", 10<<20)) }, everything, []string{"larger than"}},
		{"two steps on one feature", func(a *app) {
			a.write("loops.yaml", "type: freemium\nsteps:\n"+strings.Repeat("  - trigger: {type: api, endpoint: /api/features/*}\n    condition: {type: usage, limit: {free: 2}}\n    action: {type: block}\n", 2))
			a.set("TIERGATE_LOOPS", "loops.yaml")
		}, everything, []string{"loops.yaml:6:", "features"}},
		{"own feature_access", func(a *app) { a.exec("CREATE TABLE feature_access (id int)") }, []string{"check", "run", "install"}, []string{"feature_access already", "RENAME TO"}},
		{"no template", func(a *app) { a.change("upgrade_prompt", "upgrade_promt") }, following, []string{"upgrade_promt", `did you mean "upgrade_prompt"`}},
		{"no right to replicate", func(a *app) { a.owner("") }, following, []string{"ALTER ROLE", "REPLICATION"}},
		{"no right to create", func(a *app) {
			name := a.owner("REPLICATION")
			a.exec(`REVOKE CREATE ON DATABASE "` + a.name + `" FROM ` + name)
		}, following, []string{"sidecar install --print"}},
		{"no right to read", func(a *app) {
			name := a.owner("REPLICATION")
			a.exec("REVOKE SELECT ON users FROM " + name)
		}, following, []string{"users"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApp(t)
			test.prepare(a)
			for _, command := range test.commands {
				o := a.sidecar(strings.Fields(command)...)
				if o.code != 1 {
					t.Errorf("sidecar %s: exit %d, want 1", command, o.code)
				}
				said := o.err
				if command == "check" {
					said = o.out
				}
				for _, want := range test.want {
					if !strings.Contains(said, want) {
						t.Errorf("sidecar %s does not say %q: %s", command, want, o)
					}
				}
				for _, never := range []string{"guarded-word", "goroutine ", "%!"} {
					if strings.Contains(o.out+o.err, never) {
						t.Errorf("sidecar %s prints %q: %s", command, never, o)
					}
				}
				if n := strings.Count(o.err, "sidecar: "); command != "check" && n != 1 {
					t.Errorf("sidecar %s has %d messages: %s", command, n, o)
				}
			}
		})
	}
}

func TestNoChangeStream(t *testing.T) {
	replica, err := dbserver.StartPostgres(t.Context(), dbserver.Options{Fast: true, Settings: map[string]string{
		"wal_level": "replica", "max_replication_slots": "1", "max_slot_wal_keep_size": "64MB", "max_connections": "12"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Stop)
	a := newAppOn(t, replica)
	a.exec("SELECT pg_create_physical_replication_slot('taken')")
	for range 6 {
		a.connect(a.url)
	}
	a.want(problem, "wal_level", "replica", "ALTER SYSTEM SET wal_level = 'logical'")
	a.want(problem, "slots", "all 1 are taken", "max_replication_slots = '6'")
	a.want(problem, "connections", "opens up to 6", "max_connections = '32'")
	a.want(warning, "max_slot_wal_keep_size", "64 MB is little", "ALTER SYSTEM SET")

	for role, fix := range map[string]string{"rds_superuser": "rds.logical_replication = 1", "cloudsqlsuperuser": "cloudsql.logical_decoding=on",
		"neon_superuser": "cannot be undone", "azure_pg_admin": "az postgres"} {
		a.exec("CREATE ROLE " + role)
		a.want(problem, "wal_level", "replica", fix)
		a.exec("DROP ROLE " + role)
	}
	a.exec("SELECT pg_drop_replication_slot('taken')")
	if o := a.sidecar("run"); o.code != 1 || !strings.Contains(o.err, "ALTER SYSTEM SET wal_level = 'logical'") {
		t.Error("run:", o)
	}
	a.exec("INSERT INTO usage (user_id, endpoint, method) SELECT gen_random_uuid(), '/api/features/1', 'POST'")
	a.must("run", "--once") // needs no change stream
	if used := a.text("SELECT used::text FROM feature_access WHERE subject_id <> '*'"); used != "1" {
		t.Error("used", used)
	}
}

func TestWrongUse(t *testing.T) {
	a := newApp(t)
	for _, test := range []struct{ line, want string }{
		{"rum", `unknown command "rum"`},
		{"run now", `unknown command "now"`},
		{"--folder x", "unknown flag: --folder"},
		{"run --fast", "unknown flag: --fast"},
		{"run --poll soon", "invalid argument"},
		{"run --poll 10ms", "at least 1s"},
		{"run --once --poll 10s", "exclude each other"},
		{"check -C nowhere", "there is no such folder"},
		{"explain ann", "accepts 2 arg(s), received 1"},
		{"explain ann exports", `no loop has feature "exports"; there is: features`},
		{"emails retry first", `"first" is no email's id`},
		{"emails send", `unknown command "send"`},
		{"uninstall", "pass --yes"},
	} {
		if strings.HasPrefix(test.line, "e") {
			a.must("install")
		}
		o := a.sidecar(strings.Fields(test.line)...)
		if o.code != 2 || !strings.Contains(o.err, test.want) || o.out != "" && test.line != "uninstall" {
			t.Errorf("sidecar %s: want exit 2 and %q: %s", test.line, test.want, o)
		}
	}
	for _, line := range []string{"", "help", "--help", "run --help", "version"} {
		a.must(strings.Fields(line)...)
	}
}
