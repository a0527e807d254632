package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/dbserver"
)

// TestCheckProtected: check says which tables are protected, and what gets past it.
func TestCheckProtected(t *testing.T) {
	a := newApp(t)
	a.set("RESEND_API_KEY", "re_1")
	name, url := a.role("")
	a.exec(`GRANT SELECT, INSERT ON usage TO ` + name)
	a.must("run", "--once")
	if out := a.must("check"); strings.Contains(out, "✓ protected") {
		t.Error(out)
	}
	a.exec(`SELECT tiergate.protect('usage', 'features', 'user_id')`)
	const about = "protected public.usage"
	a.want(fine, about, "a new row needs tiergate.has_feature((user_id)::text, 'features'::text)", "")
	a.want(warning, about, "not checked is what is inserted by postgres (superuser)", "another role")

	a.exec(`CREATE POLICY own ON usage USING (true); REVOKE ALL ON FUNCTION tiergate.has_feature(text, text) FROM ` + name)
	a.want(warning, about, "policy tiergate-all allows everything, and own chooses nothing", "SELECT tiergate.unprotect('public.usage');")
	a.want(warning, about, name+" may insert, but may not run what the policy calls", "GRANT EXECUTE ON FUNCTION tiergate.has_feature(text, text) TO")
	if _, err := a.connect(url).Exec(t.Context(), "INSERT INTO usage (user_id) VALUES (gen_random_uuid())"); err == nil {
		t.Error("an insert passed a policy that could not be evaluated")
	}
	if o := a.sidecar("uninstall", "--yes"); o.code != 1 || !strings.Contains(o.err, "unprotect public.usage") || !strings.Contains(o.err, `DROP POLICY "tiergate-all"`) {
		t.Error(o)
	}
	a.exec(`DROP POLICY own ON usage; ALTER TABLE usage DISABLE ROW LEVEL SECURITY`)
	a.want(warning, about, "somebody turned row security off", "ALTER TABLE public.usage ENABLE ROW LEVEL SECURITY;")
	a.exec(`DROP POLICY tiergate_features ON usage`)
	a.want(warning, about, "somebody dropped the policies", "SELECT tiergate.unprotect('public.usage');")
	a.must("uninstall", "--yes")
	if left := a.text(`SELECT count(*)::text FROM pg_policy`); left != "0" {
		t.Error(left, "policies are left")
	}
}

// TestProtectRecipe follows docs/protect.md to the letter, on a server with Supabase's roles.
func TestProtectRecipe(t *testing.T) {
	on, err := dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(on.Stop)
	page, err := os.ReadFile("../../docs/protect.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(page), "```sql\n")
	recipe, _, _ = strings.Cut(recipe, "```")
	tables, protect, found := strings.Cut(recipe, "-- once the sidecar has run")
	if !found {
		t.Fatal("the page has another recipe now")
	}
	_, protect, _ = strings.Cut(protect, "\n")

	hosts := shapes()
	a := newHosted(t, on, hosts[slices.IndexFunc(hosts, func(h shape) bool { return h.name == "Supabase" })])
	a.exec(`CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY); INSERT INTO auth.users VALUES ('` + ann + `');
		CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT current_setting('request.jwt.claim.sub', true)::uuid $$;
		GRANT USAGE ON SCHEMA auth TO owner, anon, authenticated; GRANT REFERENCES, SELECT ON auth.users TO owner`)
	owner := a.connect(as(a.url, "owner"))
	run := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v in %s", err, sql)
		}
	}
	run(tables)
	a.set("TIERGATE_TABLES_USAGE", "documents")
	a.write("skene.config.ts", strings.NewReplacer("type: 'api', endpoint: '/api/features/*', method: 'POST'", "type: 'feature', feature: 'documents'", "'30d'", "'month'").Replace(appConfig))
	a.must("run", "--once")
	run(protect)

	user := a.connect(a.url)
	if _, err := user.Exec(t.Context(), `SET ROLE authenticated; SELECT set_config('request.jwt.claim.sub', '`+ann+`', false)`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := user.Exec(t.Context(), "INSERT INTO documents (body) VALUES ('a')"); err != nil {
			t.Fatal(err)
		}
	}
	a.must("run", "--once")
	var pg *pgconn.PgError
	if _, err := user.Exec(t.Context(), "INSERT INTO documents (body) VALUES ('a')"); !errors.As(err, &pg) || pg.Code != "42501" ||
		pg.Message != `new row violates row-level security policy "tiergate_documents" for table "documents"` {
		t.Error(err)
	}
	a.want(fine, "protected public.documents", "a new row needs tiergate.has_feature((user_id)::text, 'documents'::text)", "")
	a.must("check")
	a.strangers()
	a.must("verify")
	a.must("uninstall", "--yes")
	if _, err := user.Exec(t.Context(), "INSERT INTO documents (body) VALUES ('a')"); err != nil {
		t.Error("after uninstall:", err)
	}
}
