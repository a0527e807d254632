package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// Postgres opens streams of one database's slot.
type Postgres struct{ config Config }

// NewPostgres returns a source; it connects when a stream is opened.
func NewPostgres(c Config) *Postgres { return &Postgres{config: c} }

// Resume opens the stream at a stored position, after making sure that the server still has
// everything from there on: it would forward silently past what it has not.
func (p *Postgres) Resume(ctx context.Context, at loops.Position) (loops.Stream, error) {
	from, err := decodePosition(at)
	if err != nil {
		return nil, gap("%v", err)
	}
	facts, err := p.config.Facts(ctx)
	if err != nil {
		return nil, err
	}
	conn, system, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.joins(from, facts, system); err != nil {
		closeConn(conn)
		p.config.Log.Warn("the change stream does not join", "error", err)
		return nil, err
	}
	s := newStream(conn, from, system.XLogPos, p.config)
	if err := s.open(ctx); err != nil {
		closeConn(conn)
		return nil, err
	}
	return s, nil
}

// joins reports a Gap where the slot does not continue exactly at the position.
func (p *Postgres) joins(from position, facts Facts, system pglogrepl.IdentifySystemResult) error {
	switch {
	case !facts.Exists:
		return gap("the replication slot %q is gone", p.config.Slot)
	case facts.Plugin != "pgoutput" || facts.Database != facts.ThisDatabase:
		return p.foreign(facts)
	case facts.Lost:
		return gap("the server has removed WAL that slot %q needed", p.config.Slot)
	case from.System != system.SystemID:
		return gap("this is another server (system %s, the position is of %s)", system.SystemID, from.System)
	case from.Timeline != system.Timeline:
		return gap("the server was promoted or restored (timeline %d, the position is of %d)", system.Timeline, from.Timeline)
	case from.Slot != p.config.Slot || from.Publications != facts.Publications:
		return gap("the publications were changed")
	}
	confirmed, err := pglogrepl.ParseLSN(facts.ConfirmedFlush)
	if err != nil {
		return gap("slot %q has no position", p.config.Slot)
	}
	if confirmed > from.End {
		return gap("slot %q was moved to %s behind our back; the flags stand at %s", p.config.Slot, confirmed, from.End)
	}
	return nil
}

func (p *Postgres) foreign(facts Facts) error {
	return &loops.Fault{Step: "open the change stream", Kind: loops.Permanent,
		Err:  fmt.Errorf("slot %q belongs to database %s and plugin %s", p.config.Slot, facts.Database, facts.Plugin),
		Hint: "drop it if nobody uses it: SELECT pg_drop_replication_slot('" + p.config.Slot + "')"}
}

func gap(format string, args ...any) error {
	return &loops.Fault{Step: "resume the change stream", Err: fmt.Errorf(format, args...), Kind: loops.Gap,
		Hint: "usage is counted again; the flags stand until then"}
}

// Snapshot drops what is left of an old slot, creates a new one, and exports the view of the data as of
// its first position.
func (p *Postgres) Snapshot(ctx context.Context) (loops.Snapshot, error) {
	facts, err := p.config.Facts(ctx)
	if err != nil {
		return loops.Snapshot{}, err
	}
	conn, system, err := p.connect(ctx)
	if err != nil {
		return loops.Snapshot{}, err
	}
	if facts.Exists {
		if facts.Plugin != "pgoutput" || facts.Database != facts.ThisDatabase {
			closeConn(conn)
			return loops.Snapshot{}, p.foreign(facts)
		}
		if err := pglogrepl.DropReplicationSlot(ctx, conn, p.config.Slot, pglogrepl.DropReplicationSlotOptions{Wait: true}); err != nil {
			closeConn(conn)
			return loops.Snapshot{}, explain("drop the old replication slot", err)
		}
	}
	at := position{System: system.SystemID, Timeline: system.Timeline, Slot: p.config.Slot, Publications: facts.Publications}
	return p.export(ctx, conn, at, false)
}

// Beside creates a slot that lasts as long as its connection, and exports the view of its first position.
// What happens from there on can be replayed up to any place where the stream stands then.
func (p *Postgres) Beside(ctx context.Context) (loops.Snapshot, error) {
	conn, _, err := p.connect(ctx)
	if err != nil {
		return loops.Snapshot{}, err
	}
	at := position{Slot: fmt.Sprintf("tiergate_beside_%d", conn.PID())}
	view, err := p.export(ctx, conn, at, true)
	if err != nil {
		return view, err
	}
	var replay *stream
	view.Replay = func(ctx context.Context, until loops.Position) (loops.Stream, error) {
		end, err := decodePosition(until)
		if err != nil {
			return nil, err
		}
		if replay == nil {
			if replay, err = p.replay(ctx, conn, view.At, end); replay == nil || err != nil {
				return nil, err
			}
		}
		replay.extend(end.End)
		return replay, nil
	}
	view.Close = func() {
		if replay != nil {
			replay.Close()
		}
		closeConn(conn)
	}
	return view, nil
}

// export creates a slot and exports the view of the data as of its first position. The connection
// belongs to the view, and is closed where there is none.
func (p *Postgres) export(ctx context.Context, conn *pgconn.PgConn, at position, temporary bool) (loops.Snapshot, error) {
	slow := time.AfterFunc(5*time.Second, func() {
		p.config.Log.Info("the replication slot waits for transactions that are still open in the application")
	})
	slot, err := pglogrepl.CreateReplicationSlot(ctx, conn, at.Slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{
		Mode: pglogrepl.LogicalReplication, SnapshotAction: "EXPORT_SNAPSHOT", Temporary: temporary,
	})
	slow.Stop()
	if err == nil {
		at.End, err = pglogrepl.ParseLSN(slot.ConsistentPoint)
	}
	if err != nil {
		closeConn(conn)
		return loops.Snapshot{}, explain("create the replication slot", err)
	}
	// An exported snapshot lasts until the session's next command.
	release := func() { conn.Exec(ctx, "SELECT 1").Close() } //nolint:errcheck // a dead connection has let it go
	return loops.Snapshot{Name: slot.SnapshotName, At: at.encode(), Release: release, Close: func() { closeConn(conn) }}, nil
}

// replay streams on the connection of a temporary slot, which no other one may use, and stops before the
// first transaction that the stream's position does not hold. It returns nil where that is before the view.
func (p *Postgres) replay(ctx context.Context, conn *pgconn.PgConn, from loops.Position, until position) (*stream, error) {
	start, err := decodePosition(from)
	if err != nil || until.End < start.End {
		return nil, err
	}
	config := p.config
	config.Slot = start.Slot
	s := newStream(conn, start, 0, config)
	s.until = until.End
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Probe opens a replication connection and closes it again: pg_hba.conf, a pooler or a missing right may
// stand in its way.
func (p *Postgres) Probe(ctx context.Context) error {
	conn, _, err := p.connect(ctx)
	if err == nil {
		closeConn(conn)
	}
	return err
}

func (p *Postgres) connect(ctx context.Context) (*pgconn.PgConn, pglogrepl.IdentifySystemResult, error) {
	config, err := pgconn.ParseConfig(p.config.URL)
	if err != nil {
		return nil, pglogrepl.IdentifySystemResult{}, &loops.Fault{Step: "read DATABASE_URL", Err: err}
	}
	config.ConnectTimeout = 10 * time.Second
	for name, value := range map[string]string{
		"replication": "database", "application_name": p.config.Name, "datestyle": "ISO", "timezone": "UTC",
		"wal_sender_timeout": "60s", "search_path": "pg_catalog", "statement_timeout": "0",
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
		"idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0", // an exported snapshot lasts as long as the count
	} {
		config.RuntimeParams[name] = value
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, pglogrepl.IdentifySystemResult{}, explain("open a replication connection", err)
	}
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		closeConn(conn)
		return nil, system, explain("identify the server", err)
	}
	return conn, system, nil
}

// closeConn ends a connection. One that was broken off in a query asks the server to give that up.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx)
	select {
	case <-conn.CleanupDone():
	case <-ctx.Done():
	}
}

// wayOut says what can be done about an error of a replication connection, by SQLSTATE.
func wayOut(code string) (kind loops.Kind, hint string) {
	switch code {
	case "42704":
		return loops.Gap, "slot or publication is gone; usage is counted again"
	case "55000":
		return loops.Gap, "the slot was invalidated; usage is counted again"
	case "42501":
		return loops.Permanent, "the sidecar's role needs replication rights: ALTER ROLE … REPLICATION (RDS, Aurora: GRANT rds_replication TO …)"
	case "28000":
		return loops.Permanent, "pg_hba.conf or the pooler does not allow replication connections: set DIRECT_URL to the database itself"
	case "08P01", "42601": // the one refuses the parameter replication, the other drops it: to SQL its commands are a syntax error
		return loops.Permanent, "a connection pooler stands in between: set DIRECT_URL to the database itself"
	case "53400":
		return loops.Transient, "raise max_replication_slots or max_wal_senders and restart the server"
	case "53300":
		return loops.Transient, "raise max_wal_senders or max_connections"
	case "55006":
		return loops.Transient, "another process follows the slot; it is given up when that one is gone"
	default:
		return loops.Transient, ""
	}
}

// explain turns an error of the replication connection into a fault with a way out.
func explain(step string, err error) error {
	var fault *loops.Fault
	if errors.As(err, &fault) {
		return err
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return &loops.Fault{Step: step, Err: err, Kind: loops.Transient}
	}
	kind, hint := wayOut(pg.Code)
	if pg.Code == "55000" && strings.Contains(pg.Message, "wal_level") {
		kind, hint = loops.Permanent, "ALTER SYSTEM SET wal_level = 'logical', then restart the server; a hosted one has its own way: `sidecar check`"
	}
	return &loops.Fault{Step: step, Err: fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code), Kind: kind, Hint: hint}
}
