package sql

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// spooled is an answer in a temporary file: no cursor of MySQL outlives the view that it is of, and memory is bounded.
type spooled struct {
	file *os.File
	rows *gob.Decoder
}

// spool reads rows to their end.
func spool(rows pgx.Rows) (_ answer, err error) {
	defer rows.Close()
	file, err := os.CreateTemp("", "tiergate-count-*")
	if err != nil {
		return nil, &loops.Fault{Step: "keep what was counted", Err: err, Kind: loops.Permanent, Hint: "set TMPDIR to a folder that the sidecar may write to"}
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	os.Remove(file.Name()) // it goes with its last reader
	buffer := bufio.NewWriter(file)
	encoder := gob.NewEncoder(buffer)
	for rows.Next() {
		row, err := rows.Values()
		if err != nil {
			return nil, err
		}
		if err := encoder.Encode(spoolRow(row)); err != nil {
			return nil, err
		}
	}
	_, seek := file.Seek(0, io.SeekStart)
	if err := errors.Join(rows.Err(), buffer.Flush(), seek); err != nil {
		return nil, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return &spooled{file, gob.NewDecoder(bufio.NewReader(file))}, err
}

// spoolValue is one value of a row, of one of the types that the driver has.
type spoolValue struct {
	Kind  byte // 0: NULL
	Text  string
	Time  time.Time
	Int   int64
	Uint  uint64
	Float float64
}

func spoolRow(row []any) []spoolValue {
	values := make([]spoolValue, len(row))
	for i, v := range row {
		switch v := v.(type) {
		case string:
			values[i] = spoolValue{Kind: 't', Text: v}
		case time.Time:
			values[i] = spoolValue{Kind: 'd', Time: v}
		case int64:
			values[i] = spoolValue{Kind: 'i', Int: v}
		case uint64:
			values[i] = spoolValue{Kind: 'u', Uint: v}
		case float64:
			values[i] = spoolValue{Kind: 'f', Float: v}
		case float32:
			values[i] = spoolValue{Kind: 'f', Float: float64(v)}
		}
	}
	return values
}

func (v *spoolValue) value() any {
	switch v.Kind {
	case 't':
		return v.Text
	case 'd':
		return v.Time
	case 'i':
		return v.Int
	case 'u':
		return v.Uint
	case 'f':
		return v.Float
	}
	return nil
}

func (s *spooled) fetch(_ context.Context, n int) (pgx.Rows, error) {
	return &valueRows{source: &spoolPiece{s, n}}, nil
}

// spoolPiece is the next rows of an answer, at most left.
type spoolPiece struct {
	*spooled
	left int
}

func (p *spoolPiece) next() ([]any, error) {
	if p.left == 0 {
		return nil, io.EOF
	}
	p.left--
	var values []spoolValue
	if err := p.rows.Decode(&values); err != nil {
		if errors.Is(err, io.EOF) {
			p.file.Close()
		}
		return nil, err
	}
	row := make([]any, len(values))
	for i := range values {
		row[i] = values[i].value()
	}
	return row, nil
}

func (p *spoolPiece) close() error { return nil }
