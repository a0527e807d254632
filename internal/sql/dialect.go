package sql

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// dialect is what differs between databases. Statements are written for PostgreSQL: MySQL's sessions take them in a subset of it
// that mysql_text.go describes. What cannot be said in that is in internal/sql/queries or, where it is no statement, here.
type dialect struct {
	queries map[string]string
	expressions
	rowWriter
	columnReader
	catalog
	neighbours
	planner
	streamer
	values
}

// expressions are parts of statements.
type expressions interface {
	// differs is the condition that two values are not the same, where NULL is one.
	differs(a, b string) string
	// full selects from tables u and m, joined where on holds, together with what only one of them has, as far as where
	// holds. missing is the condition that u has none.
	full(list, u, m, on, missing, where string) string
	// latest is the latest of times, without those that are NULL.
	latest(times ...string) string
}

// rowWriter queues statements that write many rows at once.
type rowWriter interface {
	// insert writes rows into a table. Those whose key is there already take the place of what is; without a key none may be.
	insert(b *pgx.Batch, table, key string, rows ...field)
	// remove deletes the rows of a table that agree with one of these.
	remove(b *pgx.Batch, table string, rows ...field)
	// inline is a table of rows by a name, in the place of a table's name. Its values join args.
	inline(args *[]any, name string, rows ...field) string
}

// columnReader reads the application's columns as the change stream tells them.
type columnReader interface {
	// text is a column as text.
	text(column, kind string) string
	// moment is a column as a time.
	moment(column, kind string, zone *time.Location) string
	// since is the condition that a column is not before a time, which an index serves. It may let a little more through.
	since(column, kind string, zone *time.Location, at string) string
}

// neighbours are about what other sessions are doing.
type neighbours interface {
	// claim makes sure that nobody else makes these strict rows before the transaction ends, without waiting for those who
	// are just making them. It returns the ones that it could claim.
	claim(ctx context.Context, tx pgx.Tx, access string, missing []rowKey) (free []rowKey, err error)
	// seen reports whether the session sees what a batch names, and whether there is no hope that it will.
	seen(ctx context.Context, tx pgx.Tx, n needs, waited time.Duration) (all, over bool, err error)
	open
}

// catalog is what the server knows of the application's tables.
type catalog interface {
	// literal quotes a text constant.
	literal(text string) string
	tabler
	// keep keeps the answer to a query beyond the view it is asked in.
	keep(ctx context.Context, view pgx.Tx, conn *Session, name, query string, args ...any) (answer, error)
}

// tabler describes tables.
type tabler interface {
	// kindsOf returns the types of the columns of watched tables by nameOf, where the watches do not say all that is needed.
	kindsOf(ctx context.Context, q querier, watches []loops.Watch) (map[string]string, error)
	// tables lists those of the application.
	tables(ctx context.Context, q querier) ([]Table, error)
	// schema is where the connection's user would find an unqualified table.
	schema(ctx context.Context, q querier) (string, error)
}

// streamer is what the server says of the change stream.
type streamer interface {
	// progress tells how far the flags are behind.
	progress(ctx context.Context, s *Session, position string, st *Status) error
	// retained is how much the server keeps for the stream, in bytes.
	retained(ctx context.Context, s *Session) (int64, error)
	// ownWatches are the sidecar's own tables that the stream carries.
	ownWatches(database string) []loops.Watch
}

// answer hands the rows of a query out piece by piece, when the view it was asked in may be gone.
type answer interface {
	fetch(ctx context.Context, n int) (pgx.Rows, error)
}

// open is about sessions and transactions that are open.
type open interface {
	outlaster
	others
	// drop queues that the rows of subjects go with their buckets, but for those of features that are kept. Whose rows
	// somebody holds is due after a pause.
	drop(b *pgx.Batch, access string, ids, kept []string, pause time.Duration)
}

// others are the sessions of other sidecars.
type others interface {
	// endOthers ends the sidecar's sessions of these purposes in this database, as far as the server lets us.
	endOthers(ctx context.Context, s *Session, purposes ...Purpose) error
	// point marks where the change stream stands now, and returns what tells whether the flags are past that.
	point(ctx context.Context, s *Session) (passed func(context.Context) (bool, error), err error)
}

// outlaster knows which transactions are open.
type outlaster interface {
	// mark names the transactions that are open now.
	mark(ctx context.Context, q querier) (mark string, err error)
	// outlasted reports whether all those are over.
	outlasted(ctx context.Context, q querier, mark string) (over bool, err error)
}

// planner prepares what functions need of a plan beyond the table of it.
type planner interface {
	planned(ctx context.Context, s *Session, plan *loops.Plan) error
	// longest is how many characters of a subject the tables hold; 0: all that loops.MaxSubject lets through.
	longest() int
}

// values turns values of Go into what tables of the sidecar hold.
type values interface {
	duration(d *time.Duration) any
	list(of []float64) any
	length(w loops.Window) any
}

// rowKey is the key of a row of feature_access.
type rowKey struct{ subject, feature string }

// field is one column of rows that are written: its values, or the one value of all of them.
type field struct {
	name   string
	kind   string // PostgreSQL's name of the type
	values any    // a slice with a value for each row
	all    any    // where values is nil
}

// each is a field whose value differs between rows.
func each[R, V any](name, kind string, rows []R, value func(R) V) field {
	out := make([]V, len(rows))
	for i, r := range rows {
		out[i] = value(r)
	}
	return field{name: name, kind: kind, values: out}
}

// valuesOf returns rows of fields, row by row.
func valuesOf(rows []field) [][]any {
	n := 1
	for _, f := range rows {
		if f.values != nil {
			n = reflect.ValueOf(f.values).Len()
		}
	}
	out := make([][]any, n)
	for i := range out {
		out[i] = make([]any, len(rows))
		for j, f := range rows {
			if out[i][j] = f.all; f.values != nil {
				out[i][j] = reflect.ValueOf(f.values).Index(i).Interface()
			}
		}
	}
	return out
}

// every is a field whose value is the same in all rows.
func every(name, kind string, value any) field { return field{name: name, kind: kind, all: value} }

//go:embed queries
var queryFiles embed.FS

// queriesOf reads the statements of a dialect: sections of its files that begin with "-- name: ".
func queriesOf(name string) map[string]string {
	files, err := fs.Glob(queryFiles, path.Join("queries", name, "*.sql"))
	queries := map[string]string{}
	for _, file := range files {
		var text []byte
		if text, err = queryFiles.ReadFile(file); err != nil {
			break
		}
		for _, section := range strings.Split(string(text), "-- name: ")[1:] {
			title, body, _ := strings.Cut(section, "\n")
			queries[title] = strings.TrimRight(stripComments(body), "; \n")
		}
	}
	if err != nil {
		panic(fmt.Errorf("an embedded file: %w", err))
	}
	return queries
}

// query is a statement that dialects word differently, by its name. It may have places for text, as fmt.Sprintf has.
func (d *dialect) query(name string, texts ...any) string {
	text, ok := d.queries[name]
	if !ok {
		panic("no statement is named " + name)
	}
	if len(texts) > 0 {
		return fmt.Sprintf(text, texts...)
	}
	return text
}
