package cdc

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

// The two families of servers that write a binlog, as go-mysql calls them.
const (
	flavorMySQL   = mysql.MySQLFlavor
	flavorMariaDB = mysql.MariaDBFlavor
)

// binlogPosition is a place in one server's binlog. It is comparable only within the same server.
type binlogPosition struct {
	Flavor string `json:"flavor"`
	Server string `json:"server"` // server_uuid; of MariaDB, which has none, server_id

	// Where the last whole transaction ends. Born is when the server began the file, in seconds after 1970: a
	// file of the same name in a history that was reset or restored has another birthday. 0: not read yet.
	File   string `json:"file"`
	Offset uint64 `json:"offset"`
	Born   uint32 `json:"born,omitempty"`

	// ByGTID says that GTIDs tell the way, and GTIDs is what had been executed there.
	ByGTID   bool   `json:"by_gtid,omitempty"`
	GTIDText string `json:"gtids,omitempty"`

	// Names identifies the columns of the watched tables as they were there; empty where the binlog brings them.
	Names string `json:"names,omitempty"`

	// XA holds the transactions that were prepared before and end later, and whether watched rows are in them.
	XA map[string]bool `json:"xa,omitempty"`

	// Inside a transaction, of which the first Rows row events are done. Tx tells it from others: its GTID, or
	// file and offset of its start.
	Tx   string `json:"tx,omitempty"`
	Rows int64  `json:"rows,omitempty"`

	gtids mysql.GTIDSet // of ByGTID
}

func (p *binlogPosition) encode() loops.Position {
	if p.ByGTID {
		p.GTIDText = p.gtids.String()
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("a position is plain text and numbers: %v", err))
	}
	return loops.Position(text)
}

func decodeBinlogPosition(at loops.Position) (p binlogPosition, err error) {
	if err := json.Unmarshal([]byte(at), &p); err != nil {
		return p, fmt.Errorf("the stored position %q cannot be read: %w", at, err)
	}
	if p.File == "" || p.Server == "" || (p.Flavor != flavorMySQL && p.Flavor != flavorMariaDB) {
		return p, fmt.Errorf("the stored position %q is none of a binlog", at)
	}
	if p.ByGTID {
		p.gtids, err = parseGTIDs(p.Flavor, p.GTIDText)
	}
	return p, err
}

// clone returns a position that shares nothing with p.
func (p *binlogPosition) clone() binlogPosition {
	c := *p
	c.XA = maps.Clone(p.XA)
	if p.gtids != nil {
		c.gtids = p.gtids.Clone()
	}
	return c
}

// covers reports whether everything up to q's last whole transaction lies before p's.
func (p *binlogPosition) covers(q *binlogPosition) bool {
	if p.ByGTID && q.ByGTID {
		return p.gtids.Contain(q.gtids)
	}
	return !before(p.File, p.Offset, q.File, q.Offset)
}

// parseGTIDs reads a set as the server prints it, with line breaks.
func parseGTIDs(flavor, text string) (mysql.GTIDSet, error) {
	set, err := mysql.ParseGTIDSet(flavor, strings.NewReplacer("\n", "", " ", "").Replace(text))
	if err != nil {
		return nil, fmt.Errorf("GTIDs %q: %w", text, err)
	}
	return set, nil
}

// before compares two places of one server's binlog.
func before(file string, offset uint64, than string, thanOffset uint64) bool {
	if file != than {
		return fileNumber(file) < fileNumber(than)
	}
	return offset < thanOffset
}

// fileNumber returns the number that a binlog file's name ends with: it rises by one with each file.
func fileNumber(file string) uint64 {
	n, err := strconv.ParseUint(file[strings.LastIndexByte(file, '.')+1:], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

var errNoGTID = errors.New("a transaction without GTID in a binlog that had them: gtid_mode was changed")
