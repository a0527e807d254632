package sql

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

func (postgres) kindsOf(context.Context, querier, []loops.Watch) (map[string]string, error) {
	return nil, nil
}

func (postgres) tables(ctx context.Context, q querier) ([]Table, error) {
	rows, err := q.Query(ctx, `
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
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
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
}

// schema asks for the role's: our sessions have no search path of their own.
func (postgres) schema(ctx context.Context, q querier) (schema string, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce((SELECT n.nspname FROM pg_namespace n WHERE n.nspname = current_user), 'public')`).Scan(&schema)
	return schema, err
}

func (postgres) progress(ctx context.Context, s *Session, position string, st *Status) error {
	slot, err := Replication(ctx, s)
	if err != nil {
		return err
	}
	st.RetainedBytes, st.Mode = slot.RetainedBytes, "polling"
	switch {
	case position != "":
		st.Mode = "streaming"
	case slot.Exists:
		st.Mode = "counting"
	}
	var at struct {
		End  string `json:"end"`
		Xid  uint32 `json:"xid"`
		Rows int64  `json:"rows"`
	}
	if position != "" {
		if err := json.Unmarshal([]byte(position), &at); err != nil {
			return err
		}
	}
	if at.Xid != 0 {
		st.Transaction = &Piece{Xid: at.Xid, Rows: at.Rows}
	}
	var lag time.Duration
	err = s.QueryRow(ctx, `SELECT (tiergate.freshness()).lag, coalesce(greatest(0, pg_wal_lsn_diff(
			CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_flush_lsn() END, nullif($1, '')::pg_lsn)), 0)::bigint`, at.End).
		Scan(&lag, &st.LagBytes)
	st.LagSeconds = lag.Seconds()
	return err
}

func (postgres) retained(ctx context.Context, s *Session) (int64, error) {
	slot, err := Replication(ctx, s)
	return slot.RetainedBytes, err
}

func (postgres) ownWatches(string) []loops.Watch {
	return ownWatches(ownSchema, "", map[string]string{"id": "bigint", "subject_id": "text", "ended_at": "timestamp with time zone"})
}
