package sql

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

// mysqlReader is a connection, a pool or a transaction that can be asked.
type mysqlReader interface {
	QueryContext(ctx context.Context, query string, args ...any) (*stdsql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *stdsql.Row
}

// MySQLBinlog is what a server says of its binlog now, field for field what a change stream asks.
type MySQLBinlog struct {
	Flavor string            // "mysql" or "mariadb"
	Server string            // which server it is: its server_uuid; MariaDB's server_id
	File   string            // where it writes now
	Offset uint64            // the binlog's end in File, flushed if not yet committed
	ByGTID bool              // every transaction has a GTID
	GTIDs  string            // executed until now
	Purged string            // GTIDs whose transactions are gone from the binlog; MySQL's alone
	Files  map[string]uint64 // bytes of each file
}

// MySQLColumn is a column of a watched table as information_schema describes it.
type MySQLColumn struct {
	Schema, Table, Name string
	Type                string // COLUMN_TYPE: "bigint unsigned", "enum('a','b')", "uuid"
	Charset             string // empty where it holds no text
	RowEnd              bool   // of a system-versioned table: when the row ended
	Hidden              bool   // only the server knows it
}

// ReadMySQLBinlog asks a server about its binlog. It needs REPLICATION CLIENT, which MariaDB calls BINLOG MONITOR.
func ReadMySQLBinlog(ctx context.Context, db mysqlReader) (MySQLBinlog, error) {
	b := MySQLBinlog{Files: map[string]uint64{}}
	flavor, err := mysqlFlavor(ctx, db)
	if err != nil {
		return b, err
	}
	b.Flavor = flavor
	logs, err := mysqlRows(ctx, db, `SHOW BINARY LOGS`)
	if err != nil {
		return b, explainBinlog("list the binlog's files", err)
	}
	for _, row := range logs {
		if b.Files[row["log_name"]], err = strconv.ParseUint(row["file_size"], 10, 64); err != nil {
			return b, explainBinlog("list the binlog's files", err)
		}
	}
	place, err := mysqlPlace(ctx, db, flavor)
	if err != nil {
		return b, err
	}
	b.File, b.Offset, b.GTIDs = place.file, place.offset, place.gtids
	if flavor == "mariadb" {
		b.ByGTID = true
		err = db.QueryRowContext(ctx, `SELECT @@server_id, @@gtid_binlog_pos`).Scan(&b.Server, &b.GTIDs)
	} else {
		var mode string
		err = db.QueryRowContext(ctx, `SELECT @@server_uuid, @@gtid_mode, @@gtid_purged`).Scan(&b.Server, &mode, &b.Purged)
		if b.ByGTID = mode == "ON"; !b.ByGTID {
			b.GTIDs, b.Purged = "", ""
		}
	}
	return b, explainBinlog("ask which server this is", err)
}

// binlogPlace is where a server writes.
type binlogPlace struct {
	file   string
	offset uint64
	gtids  string // MySQL's
}

func mysqlPlace(ctx context.Context, db mysqlReader, flavor string) (binlogPlace, error) {
	query := `SHOW BINARY LOG STATUS` // since MySQL 8.2; before, and on MariaDB, by the old name
	if flavor == "mariadb" {
		query = `SHOW MASTER STATUS`
	}
	rows, err := mysqlRows(ctx, db, query)
	if mysqlCode(err) == 1064 {
		rows, err = mysqlRows(ctx, db, `SHOW MASTER STATUS`)
	}
	if err != nil {
		return binlogPlace{}, explainBinlog("ask where the binlog ends", err)
	}
	if len(rows) == 0 {
		return binlogPlace{}, &loops.Fault{Step: "ask where the binlog ends", Err: errors.New("the binlog is off (log_bin)"), Hint: mysqlTurnOn("")}
	}
	offset, err := strconv.ParseUint(rows[0]["position"], 10, 64)
	return binlogPlace{rows[0]["file"], offset, rows[0]["executed_gtid_set"]}, explainBinlog("ask where the binlog ends", err)
}

func mysqlFlavor(ctx context.Context, db mysqlReader) (string, error) {
	var version string
	if err := db.QueryRowContext(ctx, `SELECT VERSION()`).Scan(&version); err != nil {
		return "", explainBinlog("ask the server's version", err)
	}
	if strings.Contains(version, "MariaDB") {
		return "mariadb", nil
	}
	return "mysql", nil
}

// mysqlRows returns the rows of a SHOW statement, whose columns differ between versions, by column in lower case.
func mysqlRows(ctx context.Context, db mysqlReader, query string) (all []map[string]string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values, into := make([]stdsql.NullString, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := map[string]string{}
		for i, c := range columns {
			row[strings.ToLower(c)] = values[i].String
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// MySQLColumns describes the watched tables' columns, each table's in the order of its rows. A change of them that is in
// the binlog already is in what it returns: MySQL logs it first, and lets nobody open the table until it is done.
func MySQLColumns(ctx context.Context, db mysqlReader, watches []loops.Watch) (all []MySQLColumn, err error) {
	var tables []string
	var args []any
	for _, w := range watches {
		var one int
		err := db.QueryRowContext(ctx, `SELECT 1 FROM `+mysqlIdent(w.Schema, w.Table)+` LIMIT 0`).Scan(&one)
		if err != nil && !errors.Is(err, stdsql.ErrNoRows) && mysqlCode(err) != 1146 {
			return nil, explainBinlog("open table "+w.Table, err)
		}
		tables, args = append(tables, "(?, ?)"), append(args, w.Schema, w.Table)
	}
	if len(tables) == 0 {
		return nil, nil
	}
	rows, err := db.QueryContext(ctx, `SELECT c.TABLE_SCHEMA, c.TABLE_NAME, c.COLUMN_NAME, c.COLUMN_TYPE, COALESCE(c.CHARACTER_SET_NAME, ''),
			COALESCE(c.GENERATION_EXPRESSION, '') = 'ROW END', t.TABLE_TYPE = 'SYSTEM VERSIONED'
		FROM information_schema.COLUMNS c JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME
		WHERE (c.TABLE_SCHEMA, c.TABLE_NAME) IN (`+strings.Join(tables, ", ")+`)
		ORDER BY c.TABLE_SCHEMA, c.TABLE_NAME, c.ORDINAL_POSITION`, args...)
	if err != nil {
		return nil, explainBinlog("read the tables' columns", err)
	}
	defer func() { err = explainBinlog("read the tables' columns", errors.Join(err, rows.Close())) }()
	var implicit bool // MariaDB keeps the times of a row's versions behind columns that nobody declared
	for rows.Next() {
		var c MySQLColumn
		var versioned bool
		if err := rows.Scan(&c.Schema, &c.Table, &c.Name, &c.Type, &c.Charset, &c.RowEnd, &versioned); err != nil {
			return nil, err
		}
		if last := len(all) - 1; last < 0 || all[last].Schema != c.Schema || all[last].Table != c.Table {
			all, implicit = withRowTimes(all, implicit), versioned
		}
		implicit = implicit && !c.RowEnd
		all = append(all, c)
	}
	return withRowTimes(all, implicit), rows.Err()
}

// withRowTimes adds the hidden columns of the last table.
func withRowTimes(all []MySQLColumn, implicit bool) []MySQLColumn {
	if !implicit {
		return all
	}
	start := all[len(all)-1]
	start.Name, start.Type, start.Charset, start.Hidden = "row_start", "timestamp(6)", "", true
	end := start
	end.Name, end.RowEnd = "row_end", true
	return append(all, start, end)
}

// MySQLCharsets tells which character set each collation is of, by the id that the binlog has of it.
func MySQLCharsets(ctx context.Context, db mysqlReader) (charsets map[uint64]string, err error) {
	flavor, err := mysqlFlavor(ctx, db)
	if err != nil {
		return nil, err
	}
	query := `SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL AND CHARACTER_SET_NAME IS NOT NULL`
	if flavor == "mariadb" { // one collation is of several character sets since 10.10
		query = `SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY`
	}
	rows, err := db.QueryContext(ctx, query)
	if mysqlCode(err) == 1054 { // and has no ID there before
		rows, err = db.QueryContext(ctx, `SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS`)
	}
	if err != nil {
		return nil, explainBinlog("read the collations", err)
	}
	defer func() { err = explainBinlog("read the collations", errors.Join(err, rows.Close())) }()
	charsets = map[uint64]string{}
	for rows.Next() {
		var id uint64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return nil, err
		}
		charsets[id] = name
	}
	return charsets, rows.Err()
}

// mysqlCode returns the server's number of an error; 0 where it is none of the server's.
func mysqlCode(err error) uint16 {
	var refused *mysql.MySQLError
	if errors.As(err, &refused) {
		return refused.Number
	}
	return 0
}

// explainBinlog turns an error of a question about the binlog into a fault with a way out.
func explainBinlog(step string, err error) error {
	var fault *loops.Fault
	if err == nil || errors.As(err, &fault) {
		return err
	}
	f := &loops.Fault{Step: step, Err: err, Kind: loops.Transient}
	switch mysqlCode(err) {
	case 1227:
		f.Kind, f.Hint = loops.Permanent, "the sidecar's user needs: "+mysqlGrants("")
	case 1142, 1044:
		f.Kind, f.Hint = loops.Permanent, "the sidecar's user needs: GRANT SELECT ON the application's database TO the user"
	case 1045:
		f.Kind, f.Hint = loops.Permanent, "check user and password in DATABASE_URL"
	case 1381: // ER_NO_BINARY_LOGGING
		f.Kind, f.Hint = loops.Permanent, mysqlTurnOn("")
	}
	return f
}

// mysqlGrants is the statement that gives the sidecar's user the rights of a replica. MariaDB understands these
// names too, and prints BINLOG MONITOR for the second.
func mysqlGrants(user string) string {
	if user == "" {
		user = "the user"
	}
	return fmt.Sprintf("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO %s", user)
}
