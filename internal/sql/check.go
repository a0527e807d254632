package sql

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// Server is what check looks at before anything is installed.
type Server struct {
	Version          int // 150018
	VersionText      string
	WALLevel         string
	InRecovery       bool
	User             string
	Database         string
	MayReplicate     bool
	MayCreate        bool // schemas and publications in this database
	SlotsMax         int
	SlotsUsed        int // by others
	SendersMax       int
	SendersUsed      int
	ConnectionsMax   int
	ConnectionsFree  int
	RetainedWALLimit int64         // max_slot_wal_keep_size in bytes; negative: none
	SlotIdleLimit    time.Duration // idle_replication_slot_timeout; zero: none, as before PostgreSQL 18
	Host             string        // what kind of hosted server this looks like; empty: none known
}

// Inspect looks at the server.
func Inspect(ctx context.Context, conn *Session) (Server, error) {
	var s Server
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('wal_level'),
			pg_is_in_recovery(), current_user::text, current_database()::text,
			r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_replication', 'rds_superuser') AND pg_has_role(current_user, m.oid, 'member')),
			has_database_privilege(current_database(), 'CREATE'),
			current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1),
			current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication),
			current_setting('max_connections')::int,
			current_setting('max_connections')::int - (SELECT coalesce(sum(numbackends), 0) FROM pg_stat_database)
				- CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int END,
			(SELECT CASE WHEN setting::bigint < 0 THEN -1 ELSE setting::bigint << 20 END FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
			(extract(epoch FROM coalesce(current_setting('idle_replication_slot_timeout', true), '0')::interval) * 1e9)::bigint,
			CASE WHEN to_regproc('aurora_version') IS NOT NULL THEN 'Aurora' ELSE coalesce((SELECT min(k.host)
				FROM (VALUES ('rds_superuser', 'RDS'), ('supabase_admin', 'Supabase'), ('neon_superuser', 'Neon'), ('cloudsqlsuperuser', 'Cloud SQL'),
					('azure_pg_admin', 'Azure'), ('flypgadmin', 'Fly')) k (role, host) JOIN pg_roles ON rolname = k.role), '') END
		FROM pg_roles r WHERE r.rolname = current_user`, SlotName(conn.Database)).
		Scan(&s.Version, &s.VersionText, &s.WALLevel, &s.InRecovery, &s.User, &s.Database, &s.MayReplicate, &s.MayCreate,
			&s.SlotsMax, &s.SlotsUsed, &s.SendersMax, &s.SendersUsed, &s.ConnectionsMax, &s.ConnectionsFree, &s.RetainedWALLimit, &s.SlotIdleLimit, &s.Host)
	return s, explain("look at the server", err)
}

// Rights is what the session's role may do with a watched table, and what counting it will cost.
type Rights struct {
	Owner     string
	Owned     bool  // by the role, or by one it belongs to: it may publish the table
	MayUse    bool  // the table's schema
	MayRead   bool  // every watched column
	Filtered  bool  // row-level security hides rows from the role
	TimeIndex bool  // an index begins with the time column; true where there is no such column
	Estimate  int64 // rows, as the planner thinks; negative: unknown
}

// filtered is the condition that row-level security hides rows of table c from the session's role: it is
// subject to it, and no policy shows it everything.
const filtered = `(row_security_active(c.oid) AND (NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('r', '*')
		AND pg_get_expr(p.polqual, p.polrelid) = 'true'
		AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(array_remove(p.polroles, 0::oid)) m WHERE pg_has_role(current_user, m, 'USAGE'))))
	OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd IN ('r', '*'))))`

// RightsOn looks at one watched table.
func RightsOn(ctx context.Context, conn *Session, w *loops.Watch) (Rights, error) {
	names := append([]string{}, w.Key...)
	for _, c := range w.Columns {
		names = append(names, c.Name)
	}
	var r Rights
	err := conn.QueryRow(ctx, `SELECT pg_get_userbyid(c.relowner)::text, pg_has_role(current_user, c.relowner, 'USAGE'),
			has_schema_privilege(n.oid, 'USAGE'),
			(SELECT bool_and(has_column_privilege(c.oid, name, 'SELECT')) FROM unnest($3::text[]) name),
			`+filtered+`,
			$4 = '' OR EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
				WHERE i.indrelid = c.oid AND i.indisvalid AND a.attname = $4),
			c.reltuples::bigint
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`,
		w.Schema, w.Table, names, w.Columns[loops.FieldAt].Name).
		Scan(&r.Owner, &r.Owned, &r.MayUse, &r.MayRead, &r.Filtered, &r.TimeIndex, &r.Estimate)
	return r, explain("look at table "+w.Table, err)
}

// SchemaRights reports what the session's role may do in the application's schema.
func SchemaRights(ctx context.Context, conn *Session, schema string) (exists, use, create bool, err error) {
	err = conn.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false)
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1`, schema).Scan(&exists, &use, &create)
	return exists, use, create, explain("look at schema "+schema, err)
}

// mostDistinct is how many different values check shows to a person.
const mostDistinct = 50

// Distinct lists what different values some columns of a watched table hold together, up to fifty of
// them; "" stands for NULL.
func Distinct(ctx context.Context, conn *Session, w *loops.Watch, fields ...loops.Field) ([][]string, error) {
	kinds, err := conn.kindsOf(ctx, conn, []loops.Watch{*w})
	if err != nil {
		return nil, explain("read table "+w.Table, err)
	}
	table := source{Watch: w, dialect: conn.dialect, kinds: kinds}
	columns, order := make([]string, len(fields)), make([]string, len(fields))
	for i, f := range fields {
		columns[i], order[i] = "coalesce("+table.textOf(f)+", '')", strconv.Itoa(i+1)
	}
	rows, err := conn.Query(ctx, "SELECT DISTINCT "+strings.Join(columns, ", ")+" FROM "+table.name()+" ORDER BY "+strings.Join(order, ", ")+" LIMIT $1", mostDistinct)
	if err != nil {
		return nil, explain("read table "+w.Table, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]string, error) {
		values := make([]string, len(fields))
		into := make([]any, len(fields))
		for i := range values {
			into[i] = &values[i]
		}
		return values, row.Scan(into...)
	})
	return found, explain("read table "+w.Table, err)
}

// Installation is what stands in the database, compared with this version.
type Installation struct {
	Version int  // 0: not installed
	Access  bool // feature_access is there
	Missing int  // statements that install would run
}

// LookAtInstallation tells what install would do.
func LookAtInstallation(ctx context.Context, conn *Session, o InstallOptions) (Installation, error) {
	if isMySQLSession(conn) {
		return lookAtMySQL(ctx, conn, o)
	}
	have, err := installed(ctx, conn, o)
	if err != nil {
		return Installation{}, err
	}
	script, err := Script(ctx, conn, o)
	return Installation{Version: have.version, Access: have.access, Missing: len(script)}, err
}

// Altered lists the statements that set right a publication which is there and is not as it should be.
func Altered(ctx context.Context, conn *Session, o InstallOptions) ([]string, error) {
	steps, err := publicationStatements(ctx, conn, o)
	return slices.DeleteFunc(steps, func(s string) bool { return !strings.HasPrefix(s, "ALTER ") }), err
}

// Exposure is what a role of Supabase's Data API, whose callers are anybody, may do with what is ours.
type Exposure struct {
	Role   string
	Reads  bool // feature_access, with no row-level security to choose the rows
	Writes bool // feature_access, likewise
	Calls  bool // functions of schema tiergate
	Inside bool // tables of schema tiergate
}

// Exposed looks at the API's roles, where there are any. Grants to PUBLIC are theirs too.
func Exposed(ctx context.Context, conn *Session, schema string) ([]Exposure, error) {
	rows, err := conn.Query(ctx, `SELECT r.rolname::text,
			coalesce(has_any_column_privilege(r.oid, a.oid, 'SELECT') AND NOT a.relrowsecurity, false),
			coalesce((has_table_privilege(r.oid, a.oid, 'DELETE, TRUNCATE') OR has_any_column_privilege(r.oid, a.oid, 'INSERT, UPDATE')) AND NOT a.relrowsecurity, false),
			inside AND EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND has_function_privilege(r.oid, p.oid, 'EXECUTE')),
			inside AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
				AND (has_table_privilege(r.oid, c.oid, 'DELETE, TRUNCATE') OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE')))
		FROM pg_roles r LEFT JOIN pg_class a ON a.oid = to_regclass($1) LEFT JOIN pg_namespace n ON n.nspname = 'tiergate'
			CROSS JOIN LATERAL (SELECT coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false) inside) reach
		WHERE r.rolname IN ('anon', 'authenticated') ORDER BY 1`, ident(schema, "feature_access"))
	if err != nil {
		return nil, explain("look at the API's roles", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Exposure])
	return found, explain("look at the API's roles", err)
}

// Consumers lists who may call consume_feature, besides superusers: its owner first.
func Consumers(ctx context.Context, conn *Session) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT role FROM (
			SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS role, a.grantee = p.proowner AS owns
			FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
			WHERE p.oid = to_regprocedure('tiergate.consume_feature(text, text, bigint)') AND a.privilege_type = 'EXECUTE') may
		ORDER BY owns DESC, role`)
	if err != nil {
		return nil, explain("find who may consume", err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return roles, explain("find who may consume", err)
}

// Hidden reports whether row-level security hides rows of feature_access from the session's role.
func Hidden(ctx context.Context, conn *Session, schema string) (hidden bool, err error) {
	err = conn.QueryRow(ctx, `SELECT coalesce((SELECT `+filtered+` FROM pg_class c WHERE c.oid = to_regclass($1)), false)`,
		ident(schema, "feature_access")).Scan(&hidden)
	return hidden, explain("look at feature_access", err)
}

// Quote quotes a name for a statement that a person is told to run.
func Quote(parts ...string) string { return ident(parts...) }
