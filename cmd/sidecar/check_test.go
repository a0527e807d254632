package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/sql"
)

// findings runs check and returns what it found.
func (a *app) findings() checkResult {
	a.t.Helper()
	var r checkResult
	o := a.sidecar("check", "--json")
	if err := json.Unmarshal([]byte(o.out), &r); err != nil {
		a.t.Fatal(err, o)
	}
	if (o.code == 0) != r.OK || (r.Problems == 0) != r.OK {
		a.t.Error("exit code and result differ:", o)
	}
	return r
}

// want runs check and looks for one finding.
func (a *app) want(l level, about, found, fix string) {
	a.t.Helper()
	r := a.findings()
	if !slices.ContainsFunc(r.Findings, func(f finding) bool {
		return f.Level == l && f.About == about && strings.Contains(f.Found, found) && strings.Contains(f.Fix, fix) && (fix == "") == (f.Fix == "")
	}) {
		a.t.Errorf("no %s about %q with %q and fix %q in:", l, about, found, fix)
		for _, f := range r.Findings {
			a.t.Logf("%s %s — %s → %s", f.Level, f.About, f.Found, f.Fix)
		}
	}
}

func TestCheckClean(t *testing.T) {
	a := newApp(t)
	a.set("RESEND_API_KEY", "re_guarded-word")
	a.exec(`INSERT INTO subscriptions (user_id, status, plan) VALUES (gen_random_uuid(), 'Active ', 'pro')`)
	before := a.catalog()
	out := a.must("check")
	for _, want := range []string{"Loops\n", "  ✓ features — POST /api/features/* · free 2, paid unlimited per 30d (anchored) · async · prompt upgrade_prompt · “two are enough",
		"  ✓ skene-env.d.ts — written", "  ✓ connection — a replication connection opens", "  ✓ usage — public.usage: subject = user_id, endpoint = endpoint",
		"  ✓ plan pro — is read as tier paid", "  ✓ provider — Resend", "Ready, with 1 warning: `sidecar run`.", "→ ALTER SYSTEM SET max_slot_wal_keep_size"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "✗") || strings.Contains(out, "guarded-word") {
		t.Error(out)
	}
	if _, err := os.Stat(filepath.Join(a.dir, "skene-env.d.ts")); err != nil {
		t.Error(err)
	}
	if after := a.catalog(); after != before {
		t.Error("check changed the database:", difference(before, after))
	}
	a.must("run", "--once")
	if out := a.must("check"); !strings.Contains(out, "this version is installed") || strings.Contains(out, "written") {
		t.Error(out)
	}
}

func TestCheckFinds(t *testing.T) {
	for _, test := range []struct {
		name              string
		prepare           func(*app)
		level             level
		about, found, fix string
	}{
		{"what is of a later version", func(a *app) { a.set("STRIPE_SECRET_KEY", "sk_1") }, warning, "STRIPE_SECRET_KEY", "not supported in this version: ignored", ""},
		{"client parameters", func(a *app) { a.set("DATABASE_URL", a.url+"&connection_limit=5") }, fine, "database", "connection_limit", ""},
		{"a pooler", func(a *app) { a.set("DATABASE_URL", a.url+"&pgbouncer=true") }, warning, "database", "pooler", "DIRECT_URL"},
		{"an open admin address", func(a *app) { a.set("TIERGATE_ADMIN_LISTEN", "0.0.0.0:0") }, warning, "admin.listen", "open to others", "TIERGATE_ADMIN_TOKEN"},
		{"an admin address with its token", func(a *app) {
			a.set("TIERGATE_ADMIN_LISTEN", "0.0.0.0:0")
			a.set("TIERGATE_ADMIN_TOKEN", "guarded-word")
		}, problem, "RESEND_API_KEY", "", "SMTP_URL"},
		{"no upgrade link", func(a *app) { a.set("UPGRADE_URL", "") }, problem, "UPGRADE_URL", "not set", "https://"},
		{"no sender", func(a *app) { a.set("EMAIL_FROM", "") }, problem, "EMAIL_FROM", "not set", "EMAIL_FROM="},
		{"no provider", func(*app) {}, problem, "RESEND_API_KEY", "not set", "RESEND_API_KEY="},
		{"emails off", func(a *app) { a.set("TIERGATE_EMAIL_MODE", "off") }, fine, "email.mode", "nobody", ""},
		{"no prompt", func(a *app) {
			a.change(", upgradePrompt: { type: 'email', provider: 'resend', template: 'upgrade_prompt' }", "")
		}, fine, "prompts", "no loop sends", ""},
		{"an unknown variable", func(a *app) {
			if err := os.Mkdir(filepath.Join(a.dir, "emails"), 0o700); err != nil {
				a.t.Fatal(err)
			}
			a.write("emails/upgrade_prompt.txt", `{{define "subject"}}Hi{{end}}{{.Nme}}`)
		}, problem, `check the email template "upgrade_prompt"`, "Nme", "Name"},
		{"an unknown status", func(a *app) { a.exec("INSERT INTO subscriptions (status) VALUES ('on_hold')") }, warning, "status", `"on_hold"`, "active"},
		{"a price of its own tier", func(a *app) {
			a.exec("INSERT INTO subscriptions (status, price_id) VALUES ('active', 'price_1')")
			a.set("TIERGATE_TIERS", "price_1=team")
		}, fine, "plan none (price price_1)", "tier team", ""},
		{"a tier without limit", func(a *app) {
			a.exec("INSERT INTO subscriptions (status, plan) VALUES ('active', 'pro')")
			a.change("paid: Infinity", "team: 9")
		}, warning, "plan pro", "the free one holds", "paid: N"},
		{"users who may be two", func(a *app) {
			a.exec("ALTER TABLE users DROP CONSTRAINT users_pkey; ALTER TABLE users REPLICA IDENTITY FULL; ALTER TABLE users ADD PRIMARY KEY (id, name)")
		},
			problem, "watch public.users", "nothing keeps id unique", `CREATE UNIQUE INDEX CONCURRENTLY ON "public"."users" ("id")`},
		{"an altered publication", func(a *app) {
			a.must("install")
			a.exec("ALTER PUBLICATION tiergate_state SET (publish = 'insert'); ALTER PUBLICATION tiergate_usage SET TABLE tiergate.access_event, usage WHERE (id > 7)")
		}, warning, "publications", "changes are missing", `ALTER PUBLICATION tiergate_usage SET TABLE "public"."usage", "tiergate"."access_event"; ALTER PUBLICATION tiergate_state SET (publish`},
		{"hidden flags", func(a *app) {
			a.must("install")
			name, url := a.role("REPLICATION")
			a.exec("GRANT SELECT ON usage, users, subscriptions TO " + name + "; GRANT ALL ON feature_access TO " + name + `; GRANT USAGE ON SCHEMA tiergate TO ` + name +
				"; GRANT ALL ON ALL TABLES IN SCHEMA tiergate TO " + name + "; ALTER TABLE feature_access ENABLE ROW LEVEL SECURITY")
			a.set("DATABASE_URL", url)
		}, problem, "feature_access", "row-level security hides rows", "CREATE POLICY"},
		{"no users table", func(a *app) { a.exec("DROP TABLE users") }, warning, "tables", "nobody can be mailed", ""},
		{"rows nobody matches", func(a *app) { a.exec("ALTER TABLE usage DROP endpoint") }, warning, "tables", "every row counts", ""},
		{"hidden rows", func(a *app) {
			a.owner("REPLICATION")
			a.exec("ALTER TABLE usage ENABLE ROW LEVEL SECURITY; ALTER TABLE usage FORCE ROW LEVEL SECURITY")
		}, problem, "public.usage", "row-level security", "CREATE POLICY"},
		{"no right to read a column", func(a *app) {
			name := a.owner("REPLICATION")
			a.exec("REVOKE SELECT ON users FROM " + name + "; GRANT SELECT (id, email) ON users TO " + name)
		}, problem, "public.users", "may not read it", `GRANT SELECT ON "public"."users" TO`},
		{"no right to install", func(a *app) {
			_, url := a.role("REPLICATION")
			a.set("DATABASE_URL", url)
		}, problem, "publications", "postgres owns public.usage, public.subscriptions, public.users", "sidecar install --print"},
		{"a long scan", func(a *app) {
			a.exec("DROP INDEX usage_created_at_idx; UPDATE pg_class SET reltuples = 2e6 WHERE oid = 'usage'::regclass")
		}, warning, "public.usage", "about 2000000 rows", `CREATE INDEX CONCURRENTLY ON "public"."usage" ("created_at")`},
		{"a short scan", func(a *app) {
			a.exec("UPDATE pg_class SET reltuples = 2e6 WHERE oid = 'usage'::regclass")
		}, fine, "public.usage", "may read it", ""},
		{"somebody else's slot", func(a *app) {
			a.exec("SELECT pg_create_logical_replication_slot('tiergate_' || current_database(), 'test_decoding')")
		}, problem, "slot", "test_decoding", "pg_drop_replication_slot"},
		{"a dropped feature_access", func(a *app) {
			a.must("install")
			a.exec("DROP TABLE feature_access")
		}, warning, "installation", "was dropped", "counts again"},
		{"a table to take in", func(a *app) {
			a.must("install")
			a.exec("ALTER TABLE usage RENAME TO usages")
			a.exec("DROP PUBLICATION tiergate_usage")
		}, fine, "installation", "up to date with 1 statement", ""},
		{"a copied database", func(a *app) {
			a.must("install")
			a.exec("UPDATE tiergate.meta SET value = 'elsewhere' WHERE key = 'home'")
		}, warning, "send emails", "copy", "sidecar emails adopt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newApp(t)
			test.prepare(a)
			a.want(test.level, test.about, test.found, test.fix)
		})
	}
}

// TestCheckGoesOn looks for problems of every kind at once.
func TestCheckGoesOn(t *testing.T) {
	a := newApp(t)
	a.change("free: 2", "free: '2'")
	a.write("sidecar.yaml", "grace: soon\n")
	a.exec("DROP TABLE usage")
	_, url := a.role("")
	a.set("DATABASE_URL", url)
	out := a.sidecar("check").out
	for _, want := range []string{"grace", "skene.config.ts:7:", "right to replicate", "find the usage table", "public.users", "problems to mend"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestCheckServer shows servers that no test can start.
func TestCheckServer(t *testing.T) {
	good := sql.Server{Version: 170002, VersionText: "17.2", WALLevel: "logical", User: "app", ConnectionsFree: 50, RetainedWALLimit: 20 << 30}
	settings := config.Settings{MaxRetainedWAL: 10 << 30}
	for _, test := range []struct {
		name   string
		change func(*sql.Server)
		level  level
		about  string
	}{
		{"a good one", func(*sql.Server) {}, fine, "version"},
		{"13", func(v *sql.Server) { v.Version = 130021 }, problem, "version"},
		{"14", func(v *sql.Server) { v.Version = 140018 }, warning, "version"},
		{"a standby", func(v *sql.Server) { v.InRecovery = true }, problem, "server"},
		{"minimal", func(v *sql.Server) { v.WALLevel = "minimal" }, problem, "wal_level"},
		{"a full one", func(v *sql.Server) { v.ConnectionsFree = 5 }, problem, "connections"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, k := good, &checkup{}
			test.change(&v)
			k.server(v, settings)
			i := slices.IndexFunc(k.findings, func(f finding) bool { return f.About == test.about })
			if i < 0 || k.findings[i].Level != test.level || (test.level == fine) != (k.findings[i].Fix == "") {
				t.Errorf("%+v", k.findings)
			}
			if bad := k.count(problem) + k.count(warning); test.level == fine && bad > 0 || test.level != fine && bad != 1 {
				t.Errorf("%d complaints: %+v", bad, k.findings)
			}
		})
	}
}

// TestCheckHosts: every host has its own way to say the same.
func TestCheckHosts(t *testing.T) {
	for _, test := range []struct {
		name string
		want []string // in the fixes
	}{
		{"", []string{"ALTER SYSTEM SET wal_level = 'logical'; then restart", `ALTER ROLE "app" REPLICATION;`, "max_slot_wal_keep_size = '10240MB'; SELECT pg_reload_conf();"}},
		{"RDS", []string{"rds.logical_replication = 1 in the instance's parameter group", `GRANT rds_replication TO "app";`, "set max_connections = 120 in the instance's parameter group"}},
		{"Aurora", []string{"rds.logical_replication = 1 in the cluster's parameter group", `GRANT rds_replication TO "app";`}},
		{"Cloud SQL", []string{"cloudsql.logical_decoding=on", `ALTER ROLE "app" REPLICATION;`}},
		{"Azure", []string{"--name wal_level --value logical; then restart the server", "--name max_slot_wal_keep_size --value 10240MB"}},
		{"Supabase", []string{"DIRECT_URL", "postgres-config update --config max_slot_wal_keep_size=10240MB"}},
		{"Neon", []string{"cannot be undone", "--poll 10m"}},
		{"PlanetScale Postgres", []string{"set wal_level to logical under Clusters, Parameters", "--poll 10m"}},
		{"Fly", []string{"fly postgres config update --wal-level logical"}},
		{"Fly Managed Postgres", []string{"ask Fly's support for wal_level = logical"}},
		{"Crunchy Bridge", []string{"set wal_level to logical in the cluster's", "-- as postgres"}},
	} {
		k := &checkup{}
		v := sql.Server{Version: 170002, WALLevel: "replica", User: "app", Host: test.name, SlotsMax: 1, SendersMax: 1, ConnectionsMax: 100, RetainedWALLimit: -1}
		s := config.Settings{MaxRetainedWAL: 10 << 30}
		k.server(v, s)
		k.replication(t.Context(), v, sql.SlotState{}, s)
		var fixes []string
		for _, f := range k.findings {
			fixes = append(fixes, f.Fix)
		}
		said := strings.Join(fixes, "\n")
		for _, want := range test.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: no %q in\n%s", test.name, want, said)
			}
		}
		if test.name != "" && test.name != "Fly" && strings.Contains(said, "ALTER SYSTEM") {
			t.Errorf("%s: nobody may do that there:\n%s", test.name, said)
		}
	}
}

func TestCheckRetention(t *testing.T) {
	for _, test := range []struct {
		name  string
		limit int64
		idle  time.Duration
		level level
		about string
	}{
		{"none", -1, 0, warning, "max_slot_wal_keep_size"},
		{"little", 64 << 20, 0, warning, "max_slot_wal_keep_size"},
		{"less than max_retained_wal", 4 << 30, 0, fine, "max_slot_wal_keep_size"},
		{"enough", 20 << 30, 7 * 24 * time.Hour, fine, "max_slot_wal_keep_size"},
		{"an hour's patience", 20 << 30, time.Hour, warning, "idle_replication_slot_timeout"},
	} {
		k := &checkup{}
		s := config.Settings{MaxRetainedWAL: 10 << 30}
		v := sql.Server{RetainedWALLimit: test.limit, SlotIdleLimit: test.idle}
		k.retention(v, hostOf(v, s), s)
		last := k.findings[len(k.findings)-1]
		if last.Level != test.level || last.About != test.about || (last.Level == fine) != (last.Fix == "") {
			t.Errorf("%s: %+v", test.name, k.findings)
		}
	}
}

func TestCheckSlot(t *testing.T) {
	settings := config.Settings{MaxRetainedWAL: 10 << 30}
	good := sql.SlotState{Exists: true, Plugin: "pgoutput", Database: "app", ThisDatabase: "app", RetainedBytes: 3 << 20}
	for _, test := range []struct {
		name   string
		change func(*sql.SlotState)
		level  level
		found  string
	}{
		{"a good one", func(*sql.SlotState) {}, fine, "3 MB"},
		{"none", func(s *sql.SlotState) { s.Exists = false }, fine, "first run"},
		{"lost", func(s *sql.SlotState) { s.Lost = true }, warning, "is lost"},
		{"far behind", func(s *sql.SlotState) { s.RetainedBytes = 6 << 30 }, warning, "keeps 6144 MB"},
		{"another database's", func(s *sql.SlotState) { s.Database = "other" }, problem, "belongs to database other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, k := good, &checkup{}
			test.change(&s)
			k.slot(s, settings)
			if f := k.findings[0]; len(k.findings) != 1 || f.Level != test.level || !strings.Contains(f.Found, test.found) || (test.level == fine) != (f.Fix == "") {
				t.Errorf("%+v", k.findings)
			}
		})
	}
}
