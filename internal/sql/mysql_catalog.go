package sql

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

func (mysqlWords) kindsOf(ctx context.Context, q querier, watches []loops.Watch) (map[string]string, error) {
	kinds := map[string]string{}
	for _, w := range watches {
		rows, err := q.Query(ctx, `SELECT c.column_name, c.column_type FROM information_schema.columns c WHERE c.table_schema = $1 AND c.table_name = $2`, w.Schema, w.Table)
		if err != nil {
			return nil, err
		}
		var name, kind string
		_, err = pgx.ForEachRow(rows, []any{&name, &kind}, func() error {
			kinds[nameOf(w.Schema, w.Table, name)] = kind
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return kinds, nil
}

// tables leaves out columns that are computed when they are read: the binlog does not tell them.
func (mysqlWords) tables(ctx context.Context, q querier) (all []Table, err error) {
	places := map[string]int{}
	each := func(query string, take func(t *Table, name, kind string, unique bool)) error {
		rows, err := q.Query(ctx, query)
		if err != nil {
			return err
		}
		var schema, table, name, kind string
		var unique bool
		_, err = pgx.ForEachRow(rows, []any{&schema, &table, &name, &kind, &unique}, func() error {
			i, ok := places[table]
			if !ok {
				if name != "" { // of a table that is no longer there, or is ours
					return nil
				}
				i = len(all)
				places[table] = i
				all = append(all, Table{Schema: schema, Name: table})
			}
			take(&all[i], name, kind, unique)
			return nil
		})
		return err
	}
	err = each(`SELECT t.table_schema, t.table_name, '', CASE WHEN t.table_type LIKE '%VIEW' THEN 'v' ELSE 'r' END, FALSE FROM information_schema.tables t
		WHERE t.table_schema = DATABASE() AND t.table_name <> 'feature_access' AND t.table_name NOT LIKE 'tiergate!_%' ESCAPE '!' AND t.table_type <> 'SEQUENCE'`, func(t *Table, _, kind string, _ bool) { t.Kind = kind })
	if err != nil {
		return nil, err
	}
	err = each(`SELECT c.table_schema, c.table_name, c.column_name, c.column_type, FALSE FROM information_schema.columns c
		WHERE c.table_schema = DATABASE() AND c.extra NOT LIKE '%VIRTUAL GENERATED%' ORDER BY c.table_name, c.ordinal_position`,
		func(t *Table, name, kind string, _ bool) {
			t.Columns = append(t.Columns, Column{name, kind})
			t.Shape += name + ":" + kind + ","
		})
	if err != nil {
		return nil, err
	}
	// The columns of each unique index, the primary key's first.
	first, columns := map[string]string{}, map[string][]string{}
	err = each(`SELECT s.table_schema, s.table_name, COALESCE(s.column_name, '?'), s.index_name, COALESCE(s.nullable, '') <> 'YES' AND s.sub_part IS NULL FROM information_schema.statistics s
		WHERE s.table_schema = DATABASE() AND s.non_unique = 0 ORDER BY s.table_name, s.index_name <> 'PRIMARY', s.index_name, s.seq_in_index`,
		func(t *Table, name, index string, identifies bool) {
			key := nameOf(t.Schema, t.Name, index)
			columns[key] = append(columns[key], name)
			if index == "PRIMARY" || (identifies && len(columns[key]) == 1 && first[t.Name] == "") {
				first[t.Name] = key
			}
			if !identifies && index != "PRIMARY" && first[t.Name] == key {
				first[t.Name] = ""
			}
		})
	for i := range all {
		t := &all[i]
		t.Key = columns[first[t.Name]]
		for key, of := range columns {
			if strings.HasPrefix(key, nameOf(t.Schema, t.Name, "")) && len(of) == 1 {
				t.Unique = append(t.Unique, of[0])
			}
		}
	}
	slices.SortFunc(all, func(a, b Table) int { return strings.Compare(a.Name, b.Name) }) // servers sort in their own ways
	return all, err
}

func (mysqlWords) schema(ctx context.Context, q querier) (schema string, err error) {
	err = q.QueryRow(ctx, `SELECT COALESCE(DATABASE(), '')`).Scan(&schema)
	return schema, err
}

// progress tells bytes only within the file that the server writes now: nobody else knows how long others are.
func (mysqlWords) progress(ctx context.Context, s *Session, position string, st *Status) error {
	st.Mode = "polling"
	if position == "" {
		return nil
	}
	st.Mode = "streaming"
	var at struct {
		File   string
		Offset int64
		Rows   int64
	}
	if err := json.Unmarshal([]byte(position), &at); err != nil {
		return err
	}
	if at.Rows > 0 {
		st.Transaction = &Piece{Rows: at.Rows}
	}
	file, offset, err := binlogEnd(ctx, s)
	if err != nil {
		return err
	}
	if file == at.File {
		st.LagBytes = max(0, int64(offset)-at.Offset)
	}
	if file == at.File && st.LagBytes == 0 {
		return nil
	}
	return s.QueryRow(ctx, `SELECT COALESCE(GREATEST(0, TIMESTAMPDIFF(MICROSECOND, GREATEST(COALESCE(source_time, applied_at), COALESCE(applied_at, source_time)), UTC_TIMESTAMP(6)) / 1e6), 0)
		FROM tiergate.checkpoint`).Scan(&st.LagSeconds)
}

// retained is nothing: the server keeps its binlog for its own time, for us or not.
func (mysqlWords) retained(context.Context, *Session) (int64, error) { return 0, nil }

func (mysqlWords) ownWatches(database string) []loops.Watch {
	return ownWatches(database, ownSchema+"_", map[string]string{"id": "bigint", "subject_id": "varchar(191)", "ended_at": "datetime(6)"})
}
