package sql

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// Protection is what became of a table that tiergate.protect was called for.
type Protection struct {
	Table      string   // quoted, with its schema
	Gates      []string // what a new row needs, as SQL
	Off        bool     // somebody turned row security off
	Opened     bool     // protect turned it on: a policy allows all that the gates do not refuse
	Others     []string // permissive policies that somebody made beside that one, and that choose nothing therefore
	Exempt     []string // who inserts unchecked, and why
	Shut       []string // who may insert, but may not run what the policy calls: refused always
	Partitions []string // who writes which partition directly, unchecked
}

// protected are the tables with policies of ours.
const protected = `SELECT DISTINCT p.polrelid AS t FROM pg_policy p WHERE obj_description(p.oid, 'pg_policy') LIKE 'Tiergate:%'`

// Protections lists the protected tables, by name.
func Protections(ctx context.Context, conn *Session) ([]Protection, error) {
	const step = "look at the protected tables"
	var any bool
	// Where there are none, the functions may be those of an earlier version.
	if err := conn.QueryRow(ctx, `SELECT EXISTS (`+protected+`)`).Scan(&any); err != nil || !any {
		return nil, explain(step, err)
	}
	rows, err := conn.Query(ctx, `SELECT t::regclass::text,
			ARRAY(SELECT pg_get_expr(p.polwithcheck, t) FROM pg_policy p WHERE p.polrelid = t AND NOT p.polpermissive
				AND obj_description(p.oid, 'pg_policy') LIKE 'Tiergate:%' ORDER BY p.polname),
			NOT c.relrowsecurity,
			EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t AND p.polname = 'tiergate-all'),
			ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = t AND p.polpermissive AND p.polname <> 'tiergate-all' ORDER BY 1),
			ARRAY(SELECT format('%I (%s)', w.role, w.exempt) FROM tiergate.writers(t) w WHERE w.exempt IS NOT NULL),
			ARRAY(SELECT w.role::text FROM tiergate.writers(t) w WHERE w.exempt IS NULL AND NOT has_function_privilege(w.role, 'tiergate.has_feature(text, text)', 'EXECUTE')),
			ARRAY(SELECT format('%s by %I', p.relid, w.role) FROM pg_partition_tree(t) p CROSS JOIN LATERAL tiergate.writers(p.relid) w
				WHERE p.level > 0 AND w.exempt IS NULL ORDER BY 1)
		FROM (`+protected+`) o JOIN pg_class c ON c.oid = t ORDER BY 1`)
	if err != nil {
		return nil, explain(step, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Protection])
	return found, explain(step, err)
}

// unprotect takes the policies off all tables: they call what is about to go.
func unprotect(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT t::regclass::text FROM (`+protected+`) o WHERE to_regprocedure('tiergate.unprotect(regclass)') IS NOT NULL`)
	if err != nil {
		return explain("look at the protected tables", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return explain("look at the protected tables", err)
	}
	for _, table := range tables {
		_, err := tx.Exec(ctx, "SELECT tiergate.unprotect("+literal(table)+")")
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Hint != "" {
			return &loops.Fault{Step: "unprotect " + table, Err: errors.New(pg.Message), Kind: loops.Permanent, Hint: "nothing was removed. " + pg.Hint}
		}
		if err != nil {
			return uninstallFault("unprotect "+table, err)
		}
	}
	return nil
}
