// Package cdc reads change streams: bytes in, rows out, in commit order.
//
// Guarantee: every committed change of a watched table is returned once for each position it is
// resumed from, in commit order, whatever the size of its transaction. A position is exact to the row;
// where the stream no longer joins one, that is a loops.Gap and never a silent loss.
//
// PostgreSQL: logical replication through a slot of our own, pgoutput protocol 1. Streaming of
// transactions in progress stays off: a rolled-back part must never be seen. A large backlog comes in
// chunks, through the SQL functions of logical decoding; both ways feed one gatherer.
//
// MySQL and MariaDB: the binlog, as a replica reads it, by GTIDs or by file and offset. A rolled-back transaction is not in
// it; one that is prepared (XA) is held until it ends.
package cdc

import (
	"context"
	"log/slog"

	"github.com/jackc/pglogrepl"

	"github.com/tiergate/tiergate/internal/loops"
)

// Config says what to read.
type Config struct {
	URL          string
	Name         string // application_name of the replication connection
	Slot         string
	Publications []string
	Watches      []loops.Watch
	Since        pglogrepl.LSN // the end of WAL before the watches were looked up
	// Facts asks the server about slot and publications.
	Facts func(context.Context) (Facts, error)
	Log   *slog.Logger
}

// Facts is what the server says of slot and publications before a stream is opened.
type Facts struct {
	Exists         bool
	Plugin         string
	Database       string // whose slot it is
	ThisDatabase   string
	Lost           bool   // the server has removed WAL that it needs
	ConfirmedFlush string // an LSN
	Publications   string // identifies them, and the tables in them
}
