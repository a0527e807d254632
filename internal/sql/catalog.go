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
	tables, err := conn.tables(ctx, conn)
	return tables, explain("read the catalog", err)
}

// WALEnd returns where the server writes now; on a standby, which is followed by nobody, 0/0.
func WALEnd(ctx context.Context, conn *Session) (lsn string, err error) {
	err = conn.QueryRow(ctx, `SELECT CASE WHEN pg_is_in_recovery() THEN '0/0' ELSE pg_current_wal_insert_lsn()::text END`).Scan(&lsn)
	return lsn, explain("ask where the WAL ends", err)
}

// CurrentSchema returns the schema in which the URL's user would find an unqualified table.
func CurrentSchema(ctx context.Context, conn *Session) (schema string, err error) {
	schema, err = conn.schema(ctx, conn)
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
