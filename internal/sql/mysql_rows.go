package sql

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// rowSource gives rows of a driver's values, and io.EOF behind them.
type rowSource interface {
	next() ([]any, error)
	close() error
}

// valueRows are rows in the shape of pgx: of its methods, those that its collecting functions and we use.
type valueRows struct {
	pgx.Rows // nil: what is not here is not asked for
	source   rowSource
	row      []any
	err      error
	closed   bool
}

func (r *valueRows) Close() {
	if !r.closed && r.source != nil {
		r.closed = true
		if err := r.source.close(); r.err == nil {
			r.err = err
		}
	}
}

func (r *valueRows) Err() error                    { return r.err }
func (r *valueRows) CommandTag() pgconn.CommandTag { return pgconn.CommandTag{} }
func (r *valueRows) RawValues() [][]byte           { return nil }

func (r *valueRows) Next() bool {
	if r.closed || r.err != nil {
		return false
	}
	if r.row, r.err = r.source.next(); r.err == nil {
		return true
	}
	if errors.Is(r.err, io.EOF) {
		r.err = nil
	}
	r.Close()
	return false
}

func (r *valueRows) Values() ([]any, error) { return r.row, nil }

func (r *valueRows) Scan(dest ...any) error {
	if len(dest) == 1 {
		if whole, ok := dest[0].(pgx.RowScanner); ok {
			return whole.ScanRow(r)
		}
	}
	if len(dest) != len(r.row) {
		return fmt.Errorf("%d columns for %d places", len(r.row), len(dest))
	}
	for i, d := range dest {
		if err := assign(d, r.row[i]); err != nil {
			r.err = fmt.Errorf("column %d: %w", i+1, err)
			r.Close()
			return r.err
		}
	}
	return nil
}

// valueRow is the first row of rows.
type valueRow struct{ rows *valueRows }

func (r valueRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if r.rows.err != nil {
			return r.rows.err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.err
}

// assign stores a driver's value where dest points to. Times are UTC.
func assign(dest, value any) error {
	to := reflect.ValueOf(dest).Elem()
	if value == nil {
		if k := to.Kind(); k != reflect.Pointer && k != reflect.Slice && k != reflect.Interface {
			return fmt.Errorf("NULL for a %s", to.Type())
		}
		to.SetZero()
		return nil
	}
	if to.Kind() == reflect.Pointer {
		p := reflect.New(to.Type().Elem())
		if err := assign(p.Interface(), value); err != nil {
			return err
		}
		to.Set(p)
		return nil
	}
	if at, ok := value.(time.Time); ok {
		if to.Type() != reflect.TypeFor[time.Time]() {
			return fmt.Errorf("a time for a %s", to.Type())
		}
		to.Set(reflect.ValueOf(at.UTC()))
		return nil
	}
	return assignText(to, fmt.Sprint(value))
}

func assignText(to reflect.Value, text string) error {
	switch to.Kind() {
	case reflect.String:
		to.SetString(text)
	case reflect.Bool:
		to.SetBool(text != "0")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, to.Type().Bits())
		to.SetInt(n)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, to.Type().Bits())
		to.SetUint(n)
		return err
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		to.SetFloat(f)
		return err
	case reflect.Slice:
		if to.Type().Elem().Kind() != reflect.Uint8 {
			return json.Unmarshal([]byte(text), to.Addr().Interface())
		}
		to.SetBytes([]byte(text))
	default:
		return fmt.Errorf("no way from %q to a %s", text, to.Type())
	}
	return nil
}

// driverRows reads rows off the connection as they come.
type driverRows struct {
	rows  *sql.Rows
	width int
}

func (d *driverRows) next() ([]any, error) {
	if !d.rows.Next() {
		if err := d.rows.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	row, into := make([]any, d.width), make([]any, d.width)
	for i := range row {
		into[i] = &row[i]
	}
	err := d.rows.Scan(into...)
	for i := range row {
		if text, ok := row[i].([]byte); ok {
			row[i] = string(text)
		}
	}
	return row, err
}

func (d *driverRows) close() error { return d.rows.Close() }
