package sql

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/sql/functions"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// The publications: one that carries only inserts, so that the application may do with the usage
// table what it likes; and one for the tables whose updates and deletes matter.
const (
	UsagePublication = "tiergate_usage"
	StatePublication = "tiergate_state"
)

// InstallOptions says what to install for.
type InstallOptions struct {
	Schema    string // the application's
	Watches   []loops.Watch
	AppRoles  []string // who reads the flags and consumes; empty: whoever may read the usage table, and insert into it
	TestClock bool
}

// Script returns the statements that bring a database up to this version: none where it is there.
// They run in one transaction, under a lock, and repeat without harm.
func Script(ctx context.Context, conn *Session, o InstallOptions) ([]string, error) {
	if isMySQLSession(conn) {
		return nil, unprintable()
	}
	return postgresScript(ctx, conn, o)
}

func postgresScript(ctx context.Context, conn *Session, o InstallOptions) ([]string, error) {
	have, err := installed(ctx, conn, o)
	if err != nil {
		return nil, err
	}
	if have.foreign {
		return nil, &loops.Fault{Step: "install", Kind: loops.Permanent,
			Err:  fmt.Errorf("there is a table %s.feature_access already, and it is not the sidecar's", o.Schema),
			Hint: "rename it: ALTER TABLE " + ident(o.Schema, "feature_access") + " RENAME TO feature_access_old"}
	}
	steps, files, err := migrations(have.version)
	if err != nil {
		return nil, err
	}
	app := ident(o.Schema)
	access, err := readAs(schemaFiles, "schema/feature_access.sql", app)
	if err != nil {
		return nil, err
	}
	helpers, err := helperFunctions(app, o.TestClock)
	if err != nil {
		return nil, err
	}
	readers, users := o.AppRoles, o.AppRoles
	if len(o.AppRoles) == 0 {
		readers, users = have.readers, have.users
	}
	grants := grantStatements(o.Schema, readers, users, have.role)
	fingerprint, granted := digest(files, access, helpers), digest(grants)
	stale := have.fingerprint != fingerprint || !have.access || have.emptied || len(steps) > 0
	if stale {
		if have.emptied {
			steps = append(steps, "DELETE FROM "+ident(o.Schema, "feature_access")) // what was made since knows no earlier use
		}
		if !have.access || have.emptied {
			steps = append(steps, "DELETE FROM tiergate.meta WHERE key IN ('counted', 'plan')", "DELETE FROM tiergate.bucket")
			if have.version > 0 {
				steps = append(steps, newEpisodes)
			}
		}
		steps = append(append(steps, access), helpers...)
		if !have.access {
			steps = append(steps, revokeDefaults(o.Schema))
		}
		steps = append(steps, setMetaSQL("version", strconv.Itoa(len(files))), setMetaSQL("fingerprint", fingerprint))
	}
	if stale || (have.owned && have.granted != granted) {
		steps = append(append(steps, grants...), setMetaSQL("grants", granted))
	}
	if have.version == 0 {
		home, err := homeOf(ctx, conn)
		if err != nil {
			return nil, err
		}
		id := make([]byte, 6)
		rand.Read(id)
		steps = append(steps, setMetaSQL("installation", hex.EncodeToString(id)), setMetaSQL("home", home))
	}
	publications, err := publicationStatements(ctx, conn, o)
	return append(steps, publications...), err
}

// newEpisodes lets rows that are made again begin behind every episode that was ever answered: a prompt
// is sent once for each, and theirs are others.
const newEpisodes = `INSERT INTO tiergate.meta (key, value) VALUES ('first_episode', extract(epoch FROM now())::bigint::text)
	ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value`

func setMetaSQL(key, value string) string {
	return fmt.Sprintf("INSERT INTO tiergate.meta (\"key\", value) VALUES (%s, %s) ON CONFLICT (\"key\") DO UPDATE SET value = EXCLUDED.value",
		literal(key), literal(value))
}

// Install runs the script, whole or not at all. It reports whether anything had to be done. A sidecar
// that is installed already needs no ownership for it.
func Install(ctx context.Context, conn *Session, o InstallOptions) (changed bool, err error) {
	if l, ok := conn.life.(*mysqlLink); ok {
		return installMySQL(ctx, conn, l, o)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return false, explain("install", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(1413955924, 2)`); err != nil {
		return false, explain("install", err)
	}
	script, err := Script(ctx, conn, o)
	if err != nil || len(script) == 0 {
		return false, err
	}
	for _, statement := range script {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return false, installFault(statement, err)
		}
	}
	return true, explain("install", tx.Commit(ctx))
}

func installFault(statement string, err error) error {
	first, _, _ := strings.Cut(stripComments(statement), "\n")
	fault := &loops.Fault{}
	if errors.As(explain("install", err), &fault) {
		fault.Step = "install: " + strings.TrimRight(first, "; ")
		fault.Kind = loops.Permanent
		if strings.Contains(fault.Err.Error(), "42501") {
			fault.Hint = "let an owner of these tables run it: `sidecar install --print` prints the SQL. Then `run` needs no ownership"
		}
		return fault
	}
	return err
}

func stripComments(statement string) string {
	lines := strings.Split(statement, "\n")
	return strings.TrimSpace(strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "--") }), "\n"))
}

// ours is the condition that the table t is a feature_access that some sidecar made.
const ours = `coalesce(obj_description(t, 'pg_class') LIKE 'Tiergate:%', false)`

// state is what is installed already.
type state struct {
	version     int
	fingerprint string
	granted     string   // digest of the grants
	owner       string   // of schema tiergate
	owned       bool     // by the sidecar's role, or by one it belongs to
	access      bool     // feature_access is there
	emptied     bool     // and has lost its rows
	foreign     bool     // and is the application's own
	role        string   // the sidecar's own
	readers     []string // other roles that may read the usage table
	users       []string // other roles that may insert into it
}

func installed(ctx context.Context, conn *Session, o InstallOptions) (state, error) {
	var st state
	var meta, readable bool
	err := conn.QueryRow(ctx, `SELECT m.oid IS NOT NULL, t IS NOT NULL, t IS NOT NULL AND NOT `+ours+`, current_user::text,
			coalesce(pg_get_userbyid(n.nspowner)::text, ''), coalesce(pg_has_role(current_user, n.nspowner, 'USAGE'), false),
			coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(m.oid, 'SELECT'), false)
		FROM (SELECT to_regclass($1) t) access LEFT JOIN pg_namespace n ON n.nspname = 'tiergate'
			LEFT JOIN pg_class m ON m.relnamespace = n.oid AND m.relname = 'meta'`,
		ident(o.Schema, "feature_access")).Scan(&meta, &st.access, &st.foreign, &st.role, &st.owner, &st.owned, &readable)
	if err != nil {
		return st, explain("look at what is installed", err)
	}
	if meta && !readable {
		return st, &loops.Fault{Step: "look at what is installed", Kind: loops.Permanent,
			Err:  fmt.Errorf("%s installed it, and %s may not use it", st.owner, st.role),
			Hint: strings.Join(workGrants(o.Schema, st.role), "; ") + ";"}
	}
	if meta {
		var version string
		err := conn.QueryRow(ctx, `SELECT coalesce(max(value) FILTER (WHERE key = 'version'), '0'), coalesce(max(value) FILTER (WHERE key = 'fingerprint'), ''),
			coalesce(max(value) FILTER (WHERE key = 'grants'), '') FROM tiergate.meta`).Scan(&version, &st.fingerprint, &st.granted)
		if err != nil {
			return st, explain("look at what is installed", err)
		}
		if st.version, err = strconv.Atoi(version); err != nil {
			return st, fmt.Errorf("tiergate.meta holds version %q: %w", version, err)
		}
		if st.access && !st.foreign {
			if st.emptied, err = emptied(ctx, conn, ident(o.Schema, "feature_access")); err != nil {
				return st, err
			}
		}
	}
	for i := range o.Watches {
		if w := &o.Watches[i]; w.Role == loops.Usage {
			err := conn.QueryRow(ctx, `SELECT coalesce(array_agg(DISTINCT r.rolname::text) FILTER (WHERE a.privilege_type = 'SELECT'), '{}'),
					coalesce(array_agg(DISTINCT r.rolname::text) FILTER (WHERE a.privilege_type = 'INSERT'), '{}')
				FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a JOIN pg_roles r ON r.oid = a.grantee
				WHERE c.oid = to_regclass($1) AND r.rolname NOT IN ('anon', 'authenticated', current_user)`,
				ident(w.Schema, w.Table)).Scan(&st.readers, &st.users)
			if err != nil {
				return st, explain("find the application's roles", err)
			}
		}
	}
	return st, nil
}

// emptied reports whether feature_access has lost its rows: the one of '*' was there for every feature.
func emptied(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, access string,
) (is bool, err error) {
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tiergate.meta WHERE "key" = 'plan')
			AND EXISTS (SELECT 1 FROM tiergate.plan p WHERE NOT EXISTS (SELECT 1 FROM `+access+` fa
				WHERE fa.subject_id = '*' AND fa.feature = p.feature))`).Scan(&is)
	return is, explain("look at "+access, err)
}

// lostRows asks for another session, which makes the flags again.
func lostRows(access string) *loops.Fault {
	return &loops.Fault{Step: "watch " + access, Err: errors.New("it was emptied"), Kind: loops.Changed, Hint: "it is made again, and usage is counted again; " +
		"tell the migration tool to leave it alone"}
}

// Intact fails with Changed where somebody dropped or emptied feature_access, as migration tools do.
func Intact(ctx context.Context, conn *Session, schema string) error {
	access := ident(schema, "feature_access")
	lost := lostRows(access)
	var there bool
	err := conn.QueryRow(ctx, conn.query("intact"), schema).Scan(&there)
	if err != nil {
		return explain(lost.Step, err)
	}
	if !there {
		lost.Err = errors.New("it was dropped")
		return lost
	}
	if empty, err := emptied(ctx, conn, access); err != nil || !empty {
		return err
	}
	return lost
}

// migrations returns the numbered schema files, and of those the ones after a version.
func migrations(version int) (todo, files []string, err error) {
	names, err := fs.Glob(schemaFiles, "schema/[0-9]*.sql")
	if err != nil {
		return nil, nil, err
	}
	if version > len(names) {
		return nil, nil, &loops.Fault{Step: "install", Kind: loops.Permanent,
			Err:  fmt.Errorf("the database holds version %d, this sidecar knows %d", version, len(names)),
			Hint: "run the newer sidecar"}
	}
	for i, name := range names {
		text, err := readAs(schemaFiles, name, "")
		if err != nil {
			return nil, nil, err
		}
		files = append(files, text)
		if i >= version {
			todo = append(todo, text)
		}
	}
	return todo, files, nil
}

func readAs(files fs.FS, name, app string) (string, error) {
	text, err := fs.ReadFile(files, name)
	return strings.ReplaceAll(string(text), "@app@", app), err
}

// helperFunctions returns the functions, those first that others call in SQL, where it is looked up at once.
func helperFunctions(app string, testClock bool) (texts []string, err error) {
	names, err := fs.Glob(functions.Postgres, "postgres/*.sql")
	if err != nil {
		return nil, err
	}
	order := []string{"now", "dawn", "rolling_state", "current_window", "has_feature", "freshness"}
	slices.SortStableFunc(names, func(a, b string) int { return rank(order, a) - rank(order, b) })
	for _, name := range names {
		text, err := readAs(functions.Postgres, name, app)
		if err != nil {
			return nil, err
		}
		if path.Base(name) == "now.sql" && testClock {
			if text, err = readAs(schemaFiles, "schema/test_clock.sql", app); err != nil {
				return nil, err
			}
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func rank(order []string, file string) int {
	if i := slices.Index(order, strings.TrimSuffix(path.Base(file), ".sql")); i >= 0 {
		return i
	}
	return len(order)
}

// revokeDefaults takes a new feature_access from everybody whom default privileges gave it to: on
// Supabase anon and authenticated, elsewhere roles that write all other tables.
func revokeDefaults(schema string) string {
	access := ident(schema, "feature_access")
	return fmt.Sprintf(`DO $do$ DECLARE role text; BEGIN
    FOR role IN SELECT DISTINCT quote_ident(r.rolname)
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = %s::regclass AND a.grantee <> c.relowner
    LOOP EXECUTE %s || role; END LOOP;
END $do$`, literal(access), literal("REVOKE ALL ON "+access+" FROM "))
}

// grantStatements let readers read the flags and ask, and users consume; and give the sidecar's role what it needs
// where another one owns the tables. What gives, protects or is internal, nobody else is granted.
func grantStatements(schema string, readers, users []string, role string) []string {
	access := ident(schema, "feature_access")
	steps := []string{"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tiergate FROM PUBLIC"}
	for _, reader := range readers {
		steps = append(steps, "GRANT SELECT ON "+access+" TO "+ident(reader), "GRANT USAGE ON SCHEMA tiergate TO "+ident(reader),
			grantCalls(reader, "has_feature", "feature_status", "require_feature", "explain_access", "freshness", "now"))
	}
	for _, user := range users {
		steps = append(steps, "GRANT USAGE ON SCHEMA tiergate TO "+ident(user), grantCalls(user, "consume_feature"))
	}
	return append(steps, workGrants(schema, role)...)
}

// grantCalls lets a role call functions, for every type of subject.
func grantCalls(role string, functions ...string) string {
	return fmt.Sprintf(`DO $do$ DECLARE function regprocedure; BEGIN
    FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = 'tiergate'::regnamespace AND proname IN ('%s')
    LOOP EXECUTE format('GRANT EXECUTE ON FUNCTION %%s TO %%s', function, %s); END LOOP;
END $do$`, strings.Join(functions, "', '"), literal(ident(role)))
}

// workGrants give a role what the sidecar does once it is installed.
func workGrants(schema, role string) []string {
	return []string{
		"GRANT SELECT, INSERT, UPDATE, DELETE ON " + ident(schema, "feature_access") + " TO " + ident(role),
		"GRANT USAGE ON SCHEMA tiergate TO " + ident(role),
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tiergate TO " + ident(role),
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tiergate TO " + ident(role),
	}
}
