package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// catalog describes everything in the database that somebody could have left there.
func (a *app) catalog() string {
	a.t.Helper()
	return a.text(`SELECT string_agg(line, E'\n' ORDER BY line) FROM (
		SELECT format('%s %s.%s %s %s', c.relkind, n.nspname, c.relname, c.relacl, c.relreplident) AS line
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
		UNION ALL SELECT format('column %s %s %s %s', attrelid::regclass, attname, atttypid::regtype, attacl) FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
			WHERE relnamespace = 'public'::regnamespace AND attnum > 0
		UNION ALL SELECT format('schema %s %s', nspname, nspacl) FROM pg_namespace
		UNION ALL SELECT format('function %s %s', oid::regprocedure, proacl) FROM pg_proc WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
		UNION ALL SELECT format('type %s', oid::regtype) FROM pg_type WHERE typnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pg_toast'::regnamespace)
		UNION ALL SELECT format('trigger %s on %s', tgname, tgrelid::regclass) FROM pg_trigger
		UNION ALL SELECT format('constraint %s on %s', conname, conrelid::regclass) FROM pg_constraint WHERE conrelid <> 0
		UNION ALL SELECT format('publication %s', pubname) FROM pg_publication
		UNION ALL SELECT format('slot %s', slot_name) FROM pg_replication_slots
		UNION ALL SELECT format('extension %s', extname) FROM pg_extension
		UNION ALL SELECT format('comment %s', description) FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid >= 16384
		UNION ALL SELECT format('default of %s: %s', defaclrole::regrole, defaclacl) FROM pg_default_acl
		UNION ALL SELECT format('database %s', datacl) FROM pg_database WHERE datname = current_database()) lines`)
}

// difference lists the lines that only one of two texts holds.
func difference(before, after string) string {
	var out []string
	for line := range strings.SplitSeq(after, "\n") {
		if !strings.Contains("\n"+before+"\n", "\n"+line+"\n") {
			out = append(out, "+ "+line)
		}
	}
	for line := range strings.SplitSeq(before, "\n") {
		if !strings.Contains("\n"+after+"\n", "\n"+line+"\n") {
			out = append(out, "- "+line)
		}
	}
	return "\n" + strings.Join(out, "\n")
}

func TestInstallAndUninstall(t *testing.T) {
	a := newApp(t)
	a.exec(`CREATE ROLE "app user"; GRANT SELECT ON usage TO "app user"`)
	before := a.catalog()
	if out := a.must("install"); !strings.Contains(out, "Installed: schema tiergate, public.feature_access") {
		t.Error(out)
	}
	installed := a.catalog()
	if out := a.must("install"); !strings.Contains(out, "Nothing to do") {
		t.Error(out)
	}
	if out := a.must("install", "--print"); !strings.Contains(out, "-- Nothing to do") {
		t.Error(out)
	}
	if again := a.catalog(); again != installed {
		t.Error("the second install changed something:", difference(installed, again))
	}
	p := a.start("run")
	a.use(1)
	a.awaitUsed("1")
	if o := a.sidecar("uninstall", "--yes"); o.code != 1 || !strings.Contains(o.err, "a sidecar is running") {
		t.Error("uninstall under a running sidecar:", o)
	}
	p.stop()
	if out := a.must("uninstall", "--yes"); !strings.Contains(out, "Nothing of Tiergate is left") {
		t.Error(out)
	}
	if after := a.catalog(); after != before {
		t.Error("uninstall leaves something:", difference(before, after))
	}
	a.must("uninstall", "--yes")
}

func TestUninstallKeepsWhatIsNotOurs(t *testing.T) {
	a := newApp(t)
	a.exec("CREATE TABLE feature_access (id int)")
	before := a.catalog()
	a.must("uninstall", "--yes")
	if after := a.catalog(); after != before {
		t.Error(difference(before, after))
	}
}

// TestInstallByAnOwner: who may not install gets the SQL for somebody who may, and needs no more
// afterwards than what that grants.
func TestInstallByAnOwner(t *testing.T) {
	a := newApp(t)
	name, url := a.role("REPLICATION")
	a.exec("GRANT SELECT ON usage, users, subscriptions TO " + name)
	a.set("DATABASE_URL", url)
	before := a.catalog()
	if o := a.sidecar("install"); o.code != 1 || !strings.Contains(o.err, "sidecar install --print") {
		t.Error(o)
	}
	if after := a.catalog(); after != before {
		t.Error("a failed install left something:", difference(before, after))
	}
	script := a.must("install", "--print")
	if _, err := a.db.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatalf("%v in\n%s", err, script)
	}
	if out := a.must("install"); !strings.Contains(out, "Nothing to do") {
		t.Error(out)
	}
	a.exec("CREATE ROLE analyst; GRANT SELECT ON usage TO analyst")
	if out := a.must("install"); !strings.Contains(out, "Nothing to do") {
		t.Error("another reader of the usage table asks for an owner:", out)
	}
	a.set("RESEND_API_KEY", "re_1")
	a.must("check")
	p := a.start("run")
	a.use(2)
	a.awaitUsed("2")
	if o := a.sidecar("verify"); o.code != 0 {
		t.Error(o)
	}
	p.stop()
}

// TestRunByAnother: what one role installed, another one runs, once check has told it what it lacks.
func TestRunByAnother(t *testing.T) {
	a := newApp(t)
	a.set("RESEND_API_KEY", "re_1")
	a.must("install")
	name, url := a.role("REPLICATION")
	a.exec("GRANT SELECT ON usage, users, subscriptions TO " + name)
	a.set("DATABASE_URL", url)
	for command, want := range map[string]string{"run": "GRANT USAGE ON SCHEMA tiergate TO", "install": "GRANT USAGE ON SCHEMA tiergate TO",
		"status": "`sidecar check`", "verify": "`sidecar check`"} {
		if o := a.sidecar(command); o.code != 1 || !strings.Contains(o.err, want) {
			t.Errorf("sidecar %s: %s", command, o)
		}
	}
	fixed := false
	for _, f := range a.findings().Findings {
		if f.Level == problem {
			a.exec(f.Fix)
			fixed = true
		}
	}
	if !fixed {
		t.Error("check found nothing")
	}
	a.must("check")
	a.use(1)
	a.must("run", "--once")
	a.awaitUsed("1")
}

// TestRights signs in as others than the sidecar, in a database whose default privileges give them
// everything.
func TestRights(t *testing.T) {
	a := newApp(t)
	name, url := a.role("")
	a.exec(`DO $$ BEGIN CREATE ROLE anon; CREATE ROLE authenticated; END $$;
		ALTER ROLE anon LOGIN PASSWORD 'guarded-word'; ALTER ROLE authenticated LOGIN PASSWORD 'guarded-word';
		ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, ` + name + `;
		GRANT SELECT, INSERT ON usage, users, subscriptions TO ` + name + `;
		GRANT SELECT ON usage TO anon, authenticated`)
	a.must("run", "--once")
	users := map[string]string{"application": url, "anon": as(a.url, "anon"), "authenticated": as(a.url, "authenticated")}
	for _, test := range []struct {
		query   string
		allowed bool // to the application; to strangers nothing is
	}{
		{"SELECT * FROM feature_access", true},
		{"SELECT tiergate.has_feature('ann', 'features')", true},
		{"SELECT tiergate.has_feature(gen_random_uuid(), 'features')", true},
		{"SELECT tiergate.has_feature(7::bigint, 'features')", true},
		{"SELECT * FROM tiergate.feature_status('ann')", true},
		{"SELECT tiergate.require_feature('ann', 'features')", true},
		{"SELECT tiergate.explain_access('ann', 'features')", true},
		{"SELECT tiergate.freshness()", true},
		{"INSERT INTO feature_access (subject_id, feature, allowed, tier, updated_at) VALUES ('ann', 'features', true, 'paid', now())", false},
		{"UPDATE feature_access SET allowed = true", false},
		{"DELETE FROM feature_access", false},
		{"TRUNCATE feature_access", false},
		{"SELECT * FROM tiergate.email", false},
		{"SELECT * FROM tiergate.subject", false},
		{"SELECT * FROM tiergate.meta", false},
		{"SELECT * FROM tiergate.access_event", false},
		{"UPDATE tiergate.checkpoint SET position = ''", false},
		{"DROP TABLE feature_access", false},
	} {
		for user, url := range users {
			_, err := a.connect(url).Exec(t.Context(), test.query)
			var pg *pgconn.PgError
			if want := test.allowed && user == "application"; want && err != nil || !want && (!errors.As(err, &pg) || pg.Code != "42501") {
				t.Errorf("%s: %s: %v", user, test.query, err)
			}
		}
	}
}

// TestRightsOfNamedRoles: app_role names who reads the flags.
func TestRightsOfNamedRoles(t *testing.T) {
	a := newApp(t)
	name, url := a.role("")
	a.set("TIERGATE_APP_ROLE", name)
	a.must("install")
	conn := a.connect(url)
	if _, err := conn.Exec(t.Context(), "SELECT allowed FROM feature_access; SELECT tiergate.has_feature('ann', 'features')"); err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT * FROM usage"); err == nil {
		t.Error("the role was given more than the flags")
	}
}
