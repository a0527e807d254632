package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/dbserver"
)

// shape is a host as its customers' roles see it: none of them is a superuser.
type shape struct {
	name   string // as check says it
	marked bool   // the catalog tells; elsewhere the address does
	roles  string // what the host made: role owner is the customer's, who made the tables
	more   string // in the customer's database
}

// What a host gives no customer is left out. Where it lets a role replicate by a membership, the attribute
// stands in for that, as a server that nobody patched knows no other way.
func shapes() []shape {
	return []shape{
		{"RDS", true, `CREATE ROLE rds_replication; CREATE ROLE rds_superuser IN ROLE pg_monitor, pg_signal_backend, rds_replication;
			CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION IN ROLE rds_superuser; GRANT rds_replication TO owner WITH ADMIN OPTION`, ""},
		{"Aurora", true, `CREATE ROLE rds_replication; CREATE ROLE rds_superuser IN ROLE pg_monitor, pg_signal_backend, rds_replication;
			CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION IN ROLE rds_superuser; GRANT rds_replication TO owner WITH ADMIN OPTION`,
			`CREATE FUNCTION pg_catalog.aurora_version() RETURNS text LANGUAGE sql AS $$ SELECT '16.4' $$;
			CREATE OR REPLACE FUNCTION pg_catalog.pg_control_system(OUT pg_control_version int, OUT catalog_version_no int, OUT system_identifier bigint,
				OUT pg_control_last_modified timestamptz) VOLATILE LANGUAGE plpgsql AS $$ BEGIN RAISE 'not on Aurora'; END $$`},
		{"Cloud SQL", true, `CREATE ROLE cloudsqlsuperuser CREATEDB CREATEROLE IN ROLE pg_monitor, pg_signal_backend;
			CREATE ROLE owner LOGIN CREATEDB CREATEROLE IN ROLE cloudsqlsuperuser`, "ALTER DATABASE app OWNER TO cloudsqlsuperuser"},
		{"Azure", true, `CREATE ROLE azure_pg_admin IN ROLE pg_monitor, pg_signal_backend; CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION IN ROLE azure_pg_admin`,
			"ALTER DATABASE app OWNER TO azure_pg_admin"},
		{"Neon", true, `CREATE ROLE neon_superuser CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data;
			CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE neon_superuser`, ""},
		{"Supabase", true, `CREATE ROLE supabase_admin SUPERUSER; CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS;
			CREATE ROLE authenticator LOGIN NOINHERIT IN ROLE anon, authenticated, service_role;
			CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE pg_monitor, pg_read_all_data, pg_signal_backend, anon, authenticated, service_role`,
			`GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role;
			GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated, service_role;
			ALTER DEFAULT PRIVILEGES FOR ROLE owner, supabase_admin IN SCHEMA public GRANT ALL ON TABLES TO owner, anon, authenticated, service_role;
			ALTER DEFAULT PRIVILEGES FOR ROLE owner, supabase_admin IN SCHEMA public GRANT ALL ON FUNCTIONS TO owner, anon, authenticated, service_role;
			ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE usage ENABLE ROW LEVEL SECURITY; ALTER TABLE subscriptions ENABLE ROW LEVEL SECURITY`},
		{"PlanetScale Postgres", false, `CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS IN ROLE pg_read_all_data, pg_write_all_data, pg_monitor, pg_signal_backend`, ""},
		{"Crunchy Bridge", false, `CREATE ROLE owner LOGIN`, "ALTER DATABASE app OWNER TO postgres; GRANT ALL ON DATABASE app TO owner; GRANT ALL ON SCHEMA public TO owner"},
		{"Fly", true, `CREATE ROLE flypgadmin SUPERUSER; CREATE ROLE owner LOGIN`, ""},
	}
}

// newHosted returns an application on such a host, whose tables are role owner's. The host's roles go when
// the test ends.
func newHosted(t *testing.T, on *dbserver.Postgres, h shape) *app {
	t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, on.URL(""))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "DROP DATABASE app WITH (FORCE)")
		if err == nil {
			_, err = conn.Exec(ctx, `DO $$ DECLARE name text; BEGIN FOR name IN SELECT rolname FROM pg_roles WHERE oid >= 16384 LOOP EXECUTE format('DROP ROLE %I', name); END LOOP; END $$`)
		}
		if err != nil {
			t.Error(err)
		}
	})
	a := newAppNamed(t, on, "app")
	a.exec(h.roles)
	a.exec(`ALTER ROLE owner PASSWORD 'guarded-word'; ALTER DATABASE app OWNER TO owner;
		ALTER TABLE usage OWNER TO owner; ALTER TABLE users OWNER TO owner; ALTER TABLE subscriptions OWNER TO owner`)
	if h.more != "" {
		a.exec(h.more)
	}
	a.set("RESEND_API_KEY", "re_1")
	a.set("DATABASE_URL", as(a.url, "owner"))
	return a
}

// mend does what check says, as the tables' owner. Only the attribute that lets a role replicate is the
// host's to give.
func (a *app) mend(owner *pgx.Conn) {
	a.t.Helper()
	for _, f := range a.findings().Findings {
		if f.Level != problem || strings.Contains(f.Fix, "install --print") {
			continue
		}
		by := owner
		if strings.HasPrefix(f.Fix, "ALTER ROLE") {
			by = a.db
		}
		if _, err := by.Exec(a.t.Context(), f.Fix); err != nil {
			a.t.Fatalf("%s — %s\n%s\n%v", f.About, f.Found, f.Fix, err)
		}
		if role, ok := strings.CutPrefix(f.Fix, "GRANT rds_replication TO "); ok {
			a.exec("ALTER ROLE " + strings.TrimSuffix(role, ";") + " REPLICATION")
		}
	}
}

// life is what a sidecar does from its first count to its last.
func (a *app) life() {
	a.t.Helper()
	a.must("check")
	a.use(1)
	a.must("run", "--once")
	a.awaitUsed("1")
	p := a.start("run")
	a.use(1)
	a.awaitUsed("2")
	a.must("verify")
	a.must("status")
	a.must("explain", ann, "features")
	a.must("check")
	p.stop()
}

// strangers makes sure that roles which were given nothing reach nothing of ours.
func (a *app) strangers() {
	a.t.Helper()
	roles := []string{"stranger"}
	if a.text("SELECT count(*)::text FROM pg_roles WHERE rolname = 'anon'") == "1" {
		roles = append(roles, "anon", "authenticated")
	}
	queries := []string{"SELECT 1 FROM feature_access", "INSERT INTO feature_access (subject_id) VALUES ('')", "UPDATE feature_access SET allowed = true",
		"DELETE FROM feature_access", "SELECT tiergate.has_feature('ann', 'features')", "SELECT tiergate.freshness()"}
	for table := range strings.SplitSeq(a.text("SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'tiergate'::regnamespace AND relkind = 'r'"), " ") {
		queries = append(queries, "SELECT 1 FROM tiergate."+table, "DELETE FROM tiergate."+table)
	}
	a.exec("CREATE ROLE stranger")
	defer a.exec("DROP ROLE stranger")
	for _, role := range roles {
		conn := a.connect(a.url)
		if _, err := conn.Exec(a.t.Context(), "SET ROLE "+role); err != nil {
			a.t.Fatal(err)
		}
		for _, query := range queries {
			_, err := conn.Exec(a.t.Context(), query)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "42501" {
				a.t.Errorf("%s: %s: %v", role, query, err)
			}
		}
	}
}

// exposed lets a later GRANT undo what install had set, as Supabase's guides for migration tools do, and
// mends it by what check says.
func (a *app) exposed(owner *pgx.Conn) {
	a.t.Helper()
	a.exec(`GRANT ALL ON feature_access TO anon; GRANT SELECT ON feature_access TO PUBLIC;
		GRANT USAGE ON SCHEMA tiergate TO authenticated; GRANT SELECT ON tiergate.email TO authenticated`)
	a.want(problem, "exposure", "role anon, as which the Data API serves its callers, may read feature_access, write feature_access", "REVOKE ALL ON")
	a.want(problem, "exposure", "authenticated, as which the Data API serves its callers, may reach tiergate's tables, read feature_access", "REVOKE ALL ON")
	a.mend(owner)
	a.must("check")
	a.strangers()
	a.exec("ALTER TABLE feature_access ENABLE ROW LEVEL SECURITY; GRANT SELECT ON feature_access TO anon")
	a.must("check")
	a.exec("ALTER TABLE feature_access DISABLE ROW LEVEL SECURITY; REVOKE ALL ON feature_access FROM anon")

	a.set("TIERGATE_APP_ROLE", "authenticated") // reading is meant then, and no more
	a.must("install")
	a.must("check")
	a.exec("GRANT ALL ON feature_access TO authenticated")
	a.want(problem, "exposure", "callers, may write feature_access", "REVOKE INSERT, UPDATE")
	a.mend(owner)
	a.must("check")
}

// TestHosts goes through a whole life with no more rights than each host gives: as the role that owns the
// tables, and as one that owns nothing.
func TestHosts(t *testing.T) {
	on, err := dbserver.StartPostgres(t.Context(), dbserver.Options{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(on.Stop)
	for _, h := range shapes() {
		t.Run(h.name+", owner", func(t *testing.T) {
			a := newHosted(t, on, h)
			owner := a.connect(as(a.url, "owner"))
			a.mend(owner)
			if out := a.must("check"); h.marked && !strings.Contains(out, hosted(host{name: h.name})) {
				t.Errorf("check does not see %s in\n%s", h.name, out)
			}
			before := a.catalog()
			a.must("install")
			a.life()
			a.strangers()
			if h.name == "Supabase" {
				a.exposed(owner)
			}
			a.must("uninstall", "--yes")
			if after := a.catalog(); after != before {
				t.Error("uninstall leaves something:", difference(before, after))
			}
		})
		t.Run(h.name+", sidecar", func(t *testing.T) {
			a := newHosted(t, on, h)
			owner := a.connect(as(a.url, "owner"))
			a.exec("CREATE ROLE sidecar LOGIN PASSWORD 'guarded-word'")
			a.set("DATABASE_URL", as(a.url, "sidecar"))
			a.mend(owner)
			before := a.catalog()
			script := a.must("install", "--print")
			if _, err := owner.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
				t.Fatalf("%v in\n%s", err, script)
			}
			a.life()
			a.strangers()
			if o := a.sidecar("uninstall", "--yes"); o.code != 1 || !strings.Contains(o.err, "nothing was removed") {
				t.Error("a role that owns nothing uninstalls:", o)
			}
			await(t, "the last command's session to end", func() bool { return a.text("SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory'") == "0" })
			a.set("DATABASE_URL", as(a.url, "owner"))
			if o := a.sidecar("uninstall", "--yes"); o.code != 0 { // an owner who may not replicate
				if !strings.Contains(o.err, "pg_drop_replication_slot") {
					t.Error(o)
				}
				a.dropSlot(t.Context())
			}
			if after := a.catalog(); after != before {
				t.Error("uninstall leaves something:", difference(before, after))
			}
		})
	}
}
