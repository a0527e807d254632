package sql

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// session is one of an application's sessions; what it is told by notices is kept.
type session struct {
	*app
	role    string
	notices []string
}

// login creates a role, which goes when the test ends, and signs in as it. Roles are the server's: its name is
// the database's and a word.
func (a *app) login(word, options string) *session {
	a.t.Helper()
	u, err := url.Parse(a.url)
	if err != nil {
		a.t.Fatal(err)
	}
	role := strings.TrimPrefix(u.Path, "/") + "_" + word
	a.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'guarded-word' " + options)
	a.t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), a.url)
		if err != nil {
			a.t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), "REASSIGN OWNED BY "+role+" TO CURRENT_USER; DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			a.t.Error(err)
		}
	})
	u.User = url.UserPassword(role, "guarded-word")
	return a.session(u.String(), role)
}

func (a *app) session(url, role string) *session {
	a.t.Helper()
	s := &session{role: role}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		a.t.Fatal(err)
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { s.notices = append(s.notices, n.Message) }
	of := *a
	if of.conn, err = pgx.ConnectConfig(a.t.Context(), config); err != nil {
		a.t.Fatal(err)
	}
	of.own = Postgres(of.conn)
	a.t.Cleanup(func() { of.conn.Close(context.Background()) })
	s.app = &of
	return s
}

// refused runs a statement that has to fail, and looks for texts in the error and its hint.
func (a *app) refused(code, statement string, texts ...string) {
	a.t.Helper()
	_, err := a.conn.Exec(a.t.Context(), statement)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != code {
		a.t.Errorf("%s: %v, want SQLSTATE %s", statement, err, code)
		return
	}
	for _, text := range texts {
		if !strings.Contains(pg.Message+"\n"+pg.Hint, text) {
			a.t.Errorf("%s: no %q in %s\nhint %s", statement, text, pg.Message, pg.Hint)
		}
	}
}

// told looks for a text in the notices since it was last called.
func (s *session) told(text string) {
	s.t.Helper()
	if got := strings.Join(s.notices, "\n"); !strings.Contains(got, text) || text == "" && got != "" {
		s.t.Errorf("no %q in the notices %q", text, got)
	}
	s.notices = nil
}

// security describes all that protect may change.
func (a *app) security() string {
	a.t.Helper()
	return strings.Join(a.lines(`SELECT line FROM (
		SELECT concat_ws(' ', 'table', c.oid::regclass, c.relrowsecurity, c.relforcerowsecurity, c.relacl) AS line FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace >= 2200
		UNION ALL SELECT concat_ws(' ', 'policy', p.polrelid::regclass, p.polname, p.polpermissive, p.polcmd, p.polroles, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_policy p
		UNION ALL SELECT concat_ws(' ', 'comment', description) FROM pg_description WHERE classoid = 'pg_policy'::regclass
		UNION ALL SELECT concat_ws(' ', 'function', f.oid::regprocedure, f.proacl) FROM pg_proc f WHERE f.pronamespace >= 2200
		UNION ALL SELECT concat_ws(' ', 'schema', n.nspname, n.nspacl) FROM pg_namespace n) all_lines ORDER BY 1`), "\n")
}

// same compares what security said before and says now.
func (a *app) same(before string) {
	a.t.Helper()
	now := a.security()
	if now == before {
		return
	}
	for _, pair := range [][2]string{{before, now}, {now, before}} {
		for line := range strings.SplitSeq(pair[0], "\n") {
			if !strings.Contains(pair[1], line) {
				a.t.Errorf("differs: %s", line)
			}
		}
	}
}

// newProtectable returns an installed application whose tables and whose schema tiergate are one role's, which
// is no superuser, and a role that uses it. Ann has used up her two.
func newProtectable(t *testing.T) (super *app, owner, user *session) {
	t.Helper()
	super = newConventional(t)
	super.exec(`INSERT INTO usage (user_id, endpoint, method) SELECT 'ann', '/api/features/1', 'POST' FROM generate_series(1, 2)`)
	super.count(super.store())
	owner, user = super.login("owner", ""), super.login("user", "")
	super.exec(fmt.Sprintf(`GRANT CREATE ON SCHEMA public TO %[1]s; GRANT CREATE ON DATABASE %[2]s TO %[1]s;
		DO $$ DECLARE s text; BEGIN
			FOR s IN SELECT format('ALTER TABLE %%s OWNER TO %[1]s', oid::regclass) FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'tiergate'::regnamespace)
				UNION ALL SELECT format('ALTER FUNCTION %%s OWNER TO %[1]s', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'tiergate'::regnamespace
				UNION ALL SELECT format('ALTER PUBLICATION %%I OWNER TO %[1]s', pubname) FROM pg_publication
				UNION ALL SELECT 'ALTER SCHEMA tiergate OWNER TO %[1]s'
			LOOP EXECUTE s; END LOOP; END $$`, owner.role, strings.TrimSuffix(owner.role, "_owner")))
	owner.exec("GRANT SELECT, INSERT, UPDATE ON usage, users TO " + user.role + "; GRANT USAGE ON SEQUENCE usage_id_seq TO " + user.role)
	return super, owner, user
}

const protectUsage = `SELECT tiergate.protect('usage', 'features', 'user_id')`

func TestProtect(t *testing.T) {
	super, owner, user := newProtectable(t)
	before := super.security()
	owner.exec(protectUsage)
	owner.told("not checked: what is inserted into public.usage by " + owner.role + " (owner)")
	protected := super.security()
	owner.exec(protectUsage)
	owner.told("(owner)")
	super.same(protected)

	const insert = `INSERT INTO usage (user_id, endpoint, method) VALUES ('%s', '/api/features/1', 'POST')`
	user.exec(fmt.Sprintf(insert, "bob"))
	user.refused("42501", fmt.Sprintf(insert, "ann"), `violates row-level security policy "tiergate_features" for table "usage"`)
	user.refused("42501", `INSERT INTO usage (user_id) VALUES ('bob'), ('ann')`, "tiergate_features")
	user.refused("42501", `INSERT INTO usage (id, user_id) VALUES (1, 'ann') ON CONFLICT (id) DO NOTHING`, "tiergate_features")
	user.refused("0A000", `COPY usage (user_id) FROM STDIN`, "COPY FROM not supported with row-level security")
	user.exec(`UPDATE usage SET user_id = 'ann' WHERE user_id = 'bob'`) // not covered, as documented
	user.expect(`SELECT count(*)::text FROM usage WHERE user_id = 'ann'`, "3")
	user.refused("42501", `SELECT tiergate.has_feature('ann', 'features')`, "permission denied for schema tiergate")
	owner.exec(fmt.Sprintf(insert, "ann"))
	owner.exec(`UPDATE feature_access SET allowed = true WHERE subject_id = 'ann'`)
	user.exec(fmt.Sprintf(insert, "ann"))

	super.exec(`UPDATE tiergate.meta SET value = '' WHERE key = 'fingerprint'`)
	again := super.options()
	again.AppRoles = []string{owner.role}
	if changed, err := Install(t.Context(), Postgres(owner.conn), again); err != nil || !changed {
		t.Error("not installed again:", err)
	}
	super.same(protected)
	owner.exec(`UPDATE feature_access SET allowed = false WHERE subject_id = 'ann'`)
	user.refused("42501", fmt.Sprintf(insert, "ann"), "tiergate_features")
	user.exec(fmt.Sprintf(insert, "bob"))

	owner.notices = nil
	owner.exec(`SELECT tiergate.unprotect('usage')`)
	owner.told("")
	super.same(before)
	owner.exec(`SELECT tiergate.unprotect('usage')`)
	owner.told("public.usage is not protected")
	user.exec(fmt.Sprintf(insert, "ann"))
}

func TestProtectForced(t *testing.T) {
	super, owner, user := newProtectable(t)
	owner.exec("REVOKE ALL ON usage FROM " + user.role)
	before := super.security()
	owner.refused("22023", protectUsage, owner.role+" (owner)", "pass force => true")
	super.same(before)
	owner.exec(`SELECT tiergate.protect('usage', 'features', 'user_id', force => true)`)
	owner.told("")
	owner.exec(protectUsage) // leaves it forced
	owner.refused("42501", `INSERT INTO usage (user_id) VALUES ('ann')`, "tiergate_features")
	owner.exec(`INSERT INTO usage (user_id) VALUES ('bob')`)
	owner.expect(`SELECT count(*)::text FROM usage`, "3")
	owner.refused("42501", `SET row_security = off; SELECT * FROM usage`, "would be affected by row-level security") // as pg_dump asks
	owner.exec(`SELECT tiergate.unprotect('usage')`)
	super.same(before)

	owner.exec(`ALTER TABLE usage FORCE ROW LEVEL SECURITY`) // by somebody else: stays
	before = super.security()
	owner.exec(`SELECT tiergate.protect('usage', 'features', 'user_id', force => true); SELECT tiergate.unprotect('usage')`)
	super.same(before)
}

// TestProtectBehindViews: a view's owner is who writes, and what the policy calls is called by who asked for it.
func TestProtectBehindViews(t *testing.T) {
	_, owner, user := newProtectable(t)
	owner.exec(fmt.Sprintf(`REVOKE INSERT ON usage FROM %s; CREATE VIEW seen AS SELECT * FROM usage; GRANT SELECT, INSERT ON seen TO %[1]s`, user.role))
	owner.exec(`SELECT tiergate.protect('usage', 'features', 'user_id', force => true)`)
	user.refused("42501", `INSERT INTO seen (user_id) VALUES ('bob')`, "permission denied for function has_feature")
	owner.exec("GRANT EXECUTE ON FUNCTION tiergate.has_feature(text, text) TO " + user.role)
	user.refused("42501", `INSERT INTO seen (user_id) VALUES ('ann')`, "tiergate_features")
	user.exec(`INSERT INTO seen (user_id) VALUES ('bob')`)
}

// TestProtectSeveral protects tables for several features and writers: each keeps its rights as long as one of
// its tables needs them.
func TestProtectSeveral(t *testing.T) {
	super, owner, user := newProtectable(t)
	super.exec(`INSERT INTO tiergate.plan SELECT 'exports', tier, loop, usage_limit, window_kind, period, zone, 'strict', message FROM tiergate.plan;
		INSERT INTO feature_access VALUES ('*', 'exports', true, 'free', 0, 2, 2, NULL, NULL, NULL, NULL, now()), ('bob', 'exports', false, 'free', 2, 2, 0, NULL, NULL, 'limit_reached', NULL, now())`)
	reader := super.login("reader", "")
	super.exec(fmt.Sprintf(`GRANT USAGE ON SCHEMA tiergate TO %s; GRANT EXECUTE ON FUNCTION tiergate.has_feature(text, text) TO %[1]s`, reader.role))
	owner.exec(fmt.Sprintf(`CREATE TABLE "A table" (id int, "The user" varchar(40)); GRANT INSERT ("The user") ON "A table" TO %s; GRANT INSERT ON "A table" TO %s`, user.role, reader.role))
	before := super.security()
	owner.exec(`SELECT tiergate.protect('usage', 'features', 'user_id'); SELECT tiergate.protect('usage', 'exports', 'user_id')`)
	owner.told("exports is strict: its gate is consume_feature")
	user.refused("42501", `INSERT INTO usage (user_id) VALUES ('ann')`, "tiergate_features")
	user.refused("42501", `INSERT INTO usage (user_id) VALUES ('bob')`, "tiergate_exports")
	user.exec(`INSERT INTO usage (user_id) VALUES ('cid')`)
	one := super.security()
	owner.exec(`SELECT tiergate.protect('"A table"', 'exports', 'The user')`)
	user.refused("42501", `INSERT INTO "A table" ("The user") VALUES ('bob')`, `"tiergate_exports" for table "A table"`)
	reader.exec(`INSERT INTO "A table" ("The user") VALUES ('cid')`)
	owner.exec(`SELECT tiergate.unprotect('"A table"')`)
	super.same(one)
	owner.exec(`SELECT tiergate.unprotect('usage')`)
	super.same(before)
}

// TestProtectSubjects gates subjects of every type that applications use.
func TestProtectSubjects(t *testing.T) {
	super, owner, user := newProtectable(t)
	const id = "6e1f8c52-6f0f-4f57-9a0e-3d1a2b3c4d5e"
	super.exec(`INSERT INTO feature_access SELECT s, 'features', false, 'free', 2, 2, 0, NULL, NULL, 'limit_reached', NULL, now() FROM unnest(ARRAY['7', $1]) s`, id)
	super.exec(`CREATE SCHEMA "Other"; GRANT CREATE, USAGE ON SCHEMA "Other" TO ` + owner.role + "; GRANT USAGE ON SCHEMA \"Other\" TO " + user.role)
	for typ, value := range map[string]string{"text": "7", "varchar(9)": "7", "bigint": "7", "int": "7", "smallint": "7", "numeric": "7", "uuid": id} {
		table := `"Other"."of ` + typ + `"`
		owner.exec(fmt.Sprintf(`CREATE TABLE %s ("user" %s); GRANT INSERT ON %[1]s TO %[3]s`, table, typ, user.role))
		owner.exec(`SELECT tiergate.protect($1::text::regclass, 'features', 'user')`, table)
		user.refused("42501", fmt.Sprintf(`INSERT INTO %s VALUES ('%s')`, table, value), "tiergate_features")
		user.exec(fmt.Sprintf(`INSERT INTO %s VALUES ('%s')`, table, strings.Replace(value, "7", "8", 1)))
		user.exec(fmt.Sprintf(`INSERT INTO %s VALUES (NULL)`, table))
	}
}

func TestProtectPartitions(t *testing.T) {
	_, owner, user := newProtectable(t)
	owner.exec(fmt.Sprintf(`CREATE TABLE part (user_id text, n int) PARTITION BY RANGE (n); CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
		GRANT INSERT ON part TO %s`, user.role))
	owner.refused("22023", `SELECT tiergate.protect('part1', 'features', 'user_id')`, "public.part1 is a partition", "protect the whole: public.part")
	owner.exec(`SELECT tiergate.protect('part', 'features', 'user_id')`)
	owner.told(owner.role + " (owner)")
	user.refused("42501", `INSERT INTO part VALUES ('ann', 1)`, "tiergate_features")
	user.exec(`INSERT INTO part VALUES ('bob', 1)`)
	user.refused("42501", `INSERT INTO part1 VALUES ('ann', 1)`, "permission denied")
	owner.exec("GRANT INSERT ON part1 TO " + user.role)
	owner.exec(`SELECT tiergate.protect('part', 'features', 'user_id')`)
	owner.told("not checked: what is written directly to public.part1 by " + user.role)
	user.exec(`INSERT INTO part1 VALUES ('ann', 1)`)
}

func TestProtectRefuses(t *testing.T) {
	super, owner, user := newProtectable(t)
	sidecar := super.login("sidecar", "")
	owner.exec(`CREATE VIEW seen AS SELECT * FROM usage; CREATE TABLE asleep (user_id text); CREATE POLICY mine ON asleep USING (true);
		CREATE TABLE everybody (user_id text); GRANT INSERT ON everybody TO PUBLIC; CREATE TABLE nobody (user_id text)`)
	super.exec(`CREATE TABLE supers (user_id text)`)
	for _, grant := range workGrants("public", sidecar.role) {
		owner.exec(grant)
	}
	owner.exec("GRANT SELECT ON usage TO " + sidecar.role)
	before := super.security()
	for _, test := range []struct {
		by              *app
		code, statement string
		texts           []string
	}{
		{owner.app, "42P01", `SELECT tiergate.protect('nowhere', 'features', 'user_id')`, []string{`relation "nowhere" does not exist`}},
		{owner.app, "22023", `SELECT tiergate.protect(NULL, 'features', 'user_id')`, []string{"NULL is no table"}},
		{owner.app, "22023", `SELECT tiergate.protect('seen', 'features', 'user_id')`, []string{"public.seen is no table"}},
		{owner.app, "22023", `SELECT tiergate.protect('usage', 'features', 'userid')`, []string{"public.usage has no column userid", "its columns: id, user_id"}},
		{owner.app, "22023", `SELECT tiergate.protect('usage', 'features', NULL)`, []string{"no column NULL"}},
		{owner.app, "22023", `SELECT tiergate.protect('usage', 'featurs', 'user_id')`, []string{"no loop limits a feature 'featurs'", "there are: features"}},
		{owner.app, "22023", `SELECT tiergate.protect('usage', NULL, 'user_id')`, []string{"a feature NULL"}},
		{owner.app, "22023", `SELECT tiergate.protect('asleep', 'features', 'user_id')`, []string{"policies of its own", "ENABLE ROW LEVEL SECURITY first"}},
		{owner.app, "22023", `SELECT tiergate.protect('everybody', 'features', 'user_id')`, []string{"PUBLIC may insert", "REVOKE INSERT ON public.everybody FROM PUBLIC"}},
		{owner.app, "22023", `SELECT tiergate.protect('nobody', 'features', 'user_id')`, []string{"nobody who may insert into public.nobody: " + owner.role + " (owner)", "pass force => true, or let"}},
		{super, "22023", `SELECT tiergate.protect('supers', 'features', 'user_id', true)`, []string{"(superuser)", "let the application connect as another role"}},
		{owner.app, "42501", `SELECT tiergate.protect('supers', 'features', 'user_id')`, []string{owner.role + " may not protect public.supers", "a superuser, or a role that owns"}},
		{sidecar.app, "42501", protectUsage, []string{sidecar.role + " may not protect public.usage", "GRANT " + owner.role + " TO"}},
	} {
		test.by.refused(test.code, test.statement, test.texts...)
	}
	super.same(before)

	owner.exec(`ALTER TABLE usage ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON usage TO ` + user.role + ` USING (true)`)
	before = super.security()
	owner.refused("22023", protectUsage, "hide rows of public.usage from "+sidecar.role, "CREATE POLICY tiergate ON public.usage FOR SELECT TO "+sidecar.role)
	super.same(before)
	owner.exec("CREATE POLICY tiergate ON public.usage FOR SELECT TO " + sidecar.role + " USING (true)")
	owner.exec(protectUsage)
	sidecar.expect(`SELECT count(*)::text FROM usage`, "2")
	user.refused("42501", `INSERT INTO usage (user_id) VALUES ('ann')`, "tiergate_features")
	owner.exec(`SELECT tiergate.unprotect('usage')`)
	owner.exec("REVOKE ALL ON ALL TABLES IN SCHEMA tiergate FROM " + sidecar.role) // the owner is the sidecar again
	owner.exec(protectUsage)
	owner.refused("22023", `SELECT tiergate.protect('usage', 'features', 'user_id', force => true)`, "hide rows of public.usage from "+owner.role)

	owner.exec(`SELECT tiergate.unprotect('usage'); SELECT tiergate.protect('users', 'features', 'id'); CREATE POLICY later ON users FOR SELECT USING (true)`)
	owner.refused("55000", `SELECT tiergate.unprotect('users')`, "other policies now: later", `DROP POLICY "tiergate-all" ON public.users`)
	owner.exec(`DROP POLICY "tiergate-all" ON users; SELECT tiergate.unprotect('users')`)
	owner.expect(`SELECT relrowsecurity::text FROM pg_class WHERE oid = 'users'::regclass`, "true")
}

// TestProtectSupabase: roles of the Data API, of which one bypasses row security, as the owner does; and a
// policy that lets people write rows of their own.
func TestProtectSupabase(t *testing.T) {
	super, owner, anon := newProtectable(t)
	authenticated, service := super.login("authenticated", ""), super.login("service", "BYPASSRLS")
	super.exec("ALTER ROLE " + owner.role + " BYPASSRLS")
	super.exec(fmt.Sprintf(`CREATE SCHEMA auth; CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
		GRANT USAGE ON SCHEMA auth TO PUBLIC; GRANT ALL ON SCHEMA auth TO %s`, owner.role))
	owner.exec(fmt.Sprintf(`CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY, user_id uuid NOT NULL DEFAULT auth.uid(), body text);
		GRANT ALL ON documents TO %s, %s, %s;
		ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON documents TO %[2]s USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid())`, anon.role, authenticated.role, service.role))
	before := super.security()
	owner.exec(`SELECT tiergate.protect('documents', 'features', 'user_id')`)
	owner.told(fmt.Sprintf("%s (BYPASSRLS), %s (BYPASSRLS)", owner.role, service.role))
	const me, you = "6e1f8c52-6f0f-4f57-9a0e-3d1a2b3c4d5e", "00000000-6f0f-4f57-9a0e-3d1a2b3c4d5e"
	authenticated.exec("SELECT set_config('request.jwt.claim.sub', $1, false)", me)
	authenticated.exec(`INSERT INTO documents (body) VALUES ('mine') RETURNING id`)
	super.exec(`INSERT INTO feature_access VALUES ($1, 'features', false, 'free', 2, 2, 0, NULL, NULL, 'limit_reached', NULL, now())`, me)
	authenticated.refused("42501", `INSERT INTO documents (body) VALUES ('mine')`, "tiergate_features")
	authenticated.refused("42501", `INSERT INTO documents (user_id) VALUES ('`+you+`')`, "row-level security")
	anon.refused("42501", `INSERT INTO documents (user_id) VALUES ('`+you+`')`, "row-level security")
	service.exec(`INSERT INTO documents (user_id) VALUES ('` + me + `')`)
	authenticated.expect(`SELECT count(*)::text FROM documents`, "2")
	anon.expect(`SELECT count(*)::text FROM documents`, "0")
	owner.exec(`SELECT tiergate.unprotect('documents')`)
	super.same(before)
}

func TestUninstallUnprotects(t *testing.T) {
	super := newApp(t)
	super.exec(`CREATE TABLE usage (user_id text, endpoint text, created_at timestamptz); CREATE TABLE documents (user_id text)`)
	user := super.login("user", "")
	super.exec("GRANT INSERT ON usage, documents TO " + user.role)
	before := super.security()
	super.watches = []loops.Watch{watch(loops.Usage, "usage", nil, map[loops.Field]loops.Column{loops.FieldSubject: {Name: "user_id", Type: "text"},
		loops.FieldEndpoint: {Name: "endpoint", Type: "text"}, loops.FieldAt: {Name: "created_at", Type: "timestamp with time zone"}})}
	super.plan = planOf(features(2))
	super.install()
	super.count(super.store())
	super.exec(`SELECT tiergate.protect('usage', 'features', 'user_id', true); SELECT tiergate.protect('documents', 'features', 'user_id'); CREATE POLICY mine ON documents USING (true)`)
	err := Uninstall(t.Context(), Postgres(super.conn), "public")
	kindIs(t, err, loops.Permanent)
	if fault := (&loops.Fault{}); !errors.As(err, &fault) || !strings.Contains(fault.Hint, `nothing was removed. to keep it on: DROP POLICY "tiergate-all"`) {
		t.Errorf("%v", err)
	}
	super.exec(`DROP POLICY mine ON documents`)
	if err := Uninstall(t.Context(), Postgres(super.conn), "public"); err != nil {
		t.Fatal(err)
	}
	super.same(before)
}
