package cdc

import (
	"encoding/json"
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/tiergate/tiergate/internal/loops"
)

// position is a place in one slot's stream. It is comparable only within the same system, timeline,
// slot and publications.
type position struct {
	System       string        `json:"system"`
	Timeline     int32         `json:"timeline"`
	Slot         string        `json:"slot"`
	Publications string        `json:"publications"`
	End          pglogrepl.LSN `json:"-"` // where the last whole transaction ends
	EndText      string        `json:"end"`

	// Inside a transaction, of which the first Rows row messages are done. Final tells it from others:
	// the LSN of its commit, as its BEGIN says.
	Final pglogrepl.LSN `json:"final,omitempty"`
	Xid   uint32        `json:"xid,omitempty"`
	Rows  int64         `json:"rows,omitempty"`
}

func (p position) encode() loops.Position {
	p.EndText = p.End.String()
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("a position is plain text and numbers: %v", err))
	}
	return loops.Position(text)
}

func decodePosition(at loops.Position) (p position, err error) {
	if err := json.Unmarshal([]byte(at), &p); err != nil {
		return p, fmt.Errorf("the stored position %q cannot be read: %w", at, err)
	}
	p.End, err = pglogrepl.ParseLSN(p.EndText)
	return p, err
}
