package sql

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tiergate/tiergate/internal/loops"
)

// counted says under which tables and triggers the state was counted. The zero value is a state that
// was not.
type counted struct {
	Tables string            `json:"tables,omitempty"`
	Loops  map[string]string `json:"loops,omitempty"` // by feature
	Down   bool              `json:"down,omitempty"`  // what was purged is to be forgotten
}

// countedNow is what holds today.
func (s *Store) countedNow() counted {
	var tables []string
	for i := range s.watches {
		w := &s.watches[i]
		tables = append(tables, fmt.Sprint(w.Role, w.Schema, w.Table, w.Columns, w.Key, w.Zone))
	}
	now := counted{Tables: digest(tables), Loops: map[string]string{}}
	for i := range s.plan.Loops {
		l := &s.plan.Loops[i]
		now.Loops[l.Feature] = countedAs(l)
	}
	return now
}

// countedAs changes where a loop's rows must be counted again.
func countedAs(l *loops.Loop) string {
	if l.Window.Kind == loops.Rolling {
		return digest(l.Trigger, l.Window.Kind, l.Window.Period) // the buckets are others
	}
	return digest(l.Trigger, l.Window.Kind)
}

// has reports whether a loop is in the counted state.
func (c counted) has(l *loops.Loop) bool { return c.Loops[l.Feature] == countedAs(l) }

// afresh reports whether what is stored of a loop is no count of it: it was cut short, or made under
// another trigger.
func (c counted) afresh(l *loops.Loop) bool { return c.Down || (c.Tables != "" && !c.has(l)) }

func (s *Store) counted(ctx context.Context, conn querier) (c counted, err error) {
	return readCounted(ctx, conn)
}

func readCounted(ctx context.Context, conn querier) (c counted, err error) {
	var text string
	if err := conn.QueryRow(ctx, `SELECT coalesce((SELECT value FROM tiergate.meta WHERE "key" = 'counted'), '{}')`).Scan(&text); err != nil {
		return c, explain("read what was counted", err)
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return counted{}, nil // by an earlier version: count again
	}
	return c, nil
}

// setCounted stores what holds today, without the loops that are still to be counted.
func (s *Store) setCounted(ctx context.Context) error {
	now := s.countedNow()
	for i, missing := range s.elsewhere {
		if missing {
			delete(now.Loops, s.plan.Loops[i].Feature)
		}
	}
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return s.setMeta(ctx, "counted", string(text))
}

func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(errors.Join(errors.New("a plan that JSON cannot hold"), err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
