package sql

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Table is a table of the application as the catalog describes it.
type Table struct {
	Schema, Name string
	Kind         string // r table, p partitioned, v view, m materialized view, f foreign
	Columns      []Column
	Key          []string // the replica identity's columns; empty: none that an UPDATE could be published with
	Shape        string   // all columns and their types, as the change stream tells them
	Unique       []string // columns with a unique index of their own
}

// Column is one column of a Table.
type Column struct {
	Name string
	Type string
}

// Catalog lists the application's tables: everything but the system's schemas and our own. Generated columns
// are left out, as the change stream leaves them out.
func Catalog(ctx context.Context, conn *Session) ([]Table, error) {
	rows, err := conn.Query(ctx, `
		SELECT n.nspname, c.relname, c.relkind::text,
			columns.names, columns.types, columns.shape,
			ARRAY(SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (num, pos)
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
				WHERE i.indrelid = c.oid AND i.indisvalid AND CASE c.relreplident
					WHEN 'i' THEN i.indisreplident WHEN 'n' THEN false ELSE i.indisprimary END
				ORDER BY k.pos),
			ARRAY(SELECT DISTINCT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
				WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL ORDER BY 1)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL (
			SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
				coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum), '{}') AS types,
				coalesce(string_agg(concat(a.attname, ':', a.atttypid, ':', a.atttypmod, ','), '' ORDER BY a.attnum), '') AS shape
			FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		) columns
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relname <> 'feature_access'
			AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tiergate') AND n.nspname !~ '^pg_(toast|temp)'
		ORDER BY n.nspname, c.relname`)
	if err != nil {
		return nil, explain("read the catalog", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
		var t Table
		var names, types []string
		if err := row.Scan(&t.Schema, &t.Name, &t.Kind, &names, &types, &t.Shape, &t.Key, &t.Unique); err != nil {
			return t, err
		}
		for i := range names {
			t.Columns = append(t.Columns, Column{names[i], types[i]})
		}
		return t, nil
	})
	return tables, explain("read the catalog", err)
}

// WALEnd returns where the server writes now; on a standby, which is followed by nobody, 0/0.
func WALEnd(ctx context.Context, conn *Session) (lsn string, err error) {
	err = conn.QueryRow(ctx, `SELECT CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_insert_lsn()::text END`).Scan(&lsn)
	return lsn, explain("ask where the WAL ends", err)
}

// CurrentSchema returns the schema in which the URL's user would find an unqualified table.
func CurrentSchema(ctx context.Context, conn *Session) (schema string, err error) {
	// Our sessions have no search path of their own: ask for the role's.
	err = conn.QueryRow(ctx, `SELECT coalesce((SELECT n.nspname FROM pg_namespace n WHERE n.nspname = current_user), 'public')`).Scan(&schema)
	return schema, explain("find the application's schema", err)
}

// SlotName is the name of a database's replication slot. Slots are the server's, not the database's: two
// databases of one server need two names.
func SlotName(database string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') {
			return r
		}
		return '_'
	}, strings.ToLower(database))
	if name != database || len(name) > maxSlotBase {
		name = name[:min(len(name), maxSlotBase-17)] + "_" + digest(database)
	}
	return "tiergate_" + name
}

// maxSlotBase is what the prefix leaves of the 63 characters that a slot's name may have.
const maxSlotBase = 54

// SlotState is what the server says of a replication slot.
type SlotState struct {
	Name           string
	Exists         bool
	Plugin         string
	Database       string
	ThisDatabase   string
	Lost           bool
	Active         bool
	ConfirmedFlush string
	RetainedBytes  int64 // WAL that the server keeps for it
	Publications   string
}

// Replication asks about the slot and the publications.
func Replication(ctx context.Context, conn *Session) (SlotState, error) {
	st := SlotState{Name: SlotName(conn.Database)}
	err := conn.QueryRow(ctx, `SELECT coalesce(plugin::text, ''), coalesce(database::text, ''), coalesce(wal_status = 'lost' OR restart_lsn IS NULL, false), active,
			coalesce(confirmed_flush_lsn::text, ''),
			coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
		FROM pg_replication_slots WHERE slot_name = $1`, st.Name).
		Scan(&st.Plugin, &st.Database, &st.Lost, &st.Active, &st.ConfirmedFlush, &st.RetainedBytes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return st, explain("look at the replication slot", err)
	default:
		st.Exists = true
	}
	if err := conn.QueryRow(ctx, `SELECT current_database()`).Scan(&st.ThisDatabase); err != nil {
		return st, explain("look at the replication slot", err)
	}
	st.Publications, err = PublicationState(ctx, conn)
	return st, err
}
