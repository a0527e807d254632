package sql

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiergate/tiergate/internal/loops"
)

// Status is where an installation stands.
type Status struct {
	Installed     bool             `json:"installed"`
	Running       bool             `json:"running"` // somebody holds the lease
	Holder        string           `json:"holder,omitempty"`
	Mode          string           `json:"mode"` // streaming, polling, counting
	SourceTime    *time.Time       `json:"source_time"`
	AppliedAt     *time.Time       `json:"applied_at"`
	LagSeconds    float64          `json:"lag_seconds"`
	LagBytes      int64            `json:"lag_bytes"`             // of WAL, behind the last transaction that is whole in the flags
	Transaction   *Piece           `json:"transaction,omitempty"` // a big one, of which the flags hold a part
	RetainedBytes int64            `json:"retained_wal_bytes"`
	Subjects      int64            `json:"subjects"`
	Features      []FeatureStatus  `json:"features"`
	Emails        map[string]int64 `json:"emails"` // by status
	Events        map[string]int64 `json:"events"` // by kind, of the last 30 days
}

// Piece says how much of a transaction is in the flags.
type Piece struct {
	Xid  uint32 `json:"xid,omitempty"` // of PostgreSQL
	Rows int64  `json:"rows"`
}

// FeatureStatus counts one feature's rows.
type FeatureStatus struct {
	Feature     string `json:"feature"`
	Subjects    int64  `json:"subjects"`
	Blocked     int64  `json:"blocked"`
	Enforcement string `json:"enforcement"`
	Counted     bool   `json:"counted"`  // false: its loop is new, and its data still to be counted
	OverRun     int64  `json:"over_run"` // the most that a subject was beyond its limit when it was blocked, in the last 30 days
}

// RequireInstalled fails where there is nothing to look at yet.
func RequireInstalled(ctx context.Context, conn *Session) error {
	var there bool
	err := conn.QueryRow(ctx, conn.query("installed")).Scan(&there)
	if err != nil || there {
		return explain("look at what is installed", err)
	}
	return &loops.Fault{Step: "look at what is installed", Err: errors.New("nothing is, in this database"), Kind: loops.Permanent,
		Hint: "`sidecar check`, then `sidecar run` or `sidecar install`"}
}

// ReadStatus looks at everything that is stored.
func ReadStatus(ctx context.Context, conn *Session, schema string) (Status, error) {
	st := Status{Emails: map[string]int64{}, Events: map[string]int64{}}
	err := conn.QueryRow(ctx, conn.query("installed")).Scan(&st.Installed)
	if err != nil || !st.Installed {
		return st, explain("read the status", err)
	}
	now, err := clock(ctx, conn)
	if err != nil {
		return st, err
	}
	since := now.AddDate(0, 0, -30)
	var position string
	batch := &pgx.Batch{}
	batch.Queue(`SELECT position, source_time, applied_at, (SELECT count(*) FROM tiergate.subject WHERE NOT deleted) FROM tiergate.checkpoint`).
		QueryRow(func(r pgx.Row) error { return r.Scan(&position, &st.SourceTime, &st.AppliedAt, &st.Subjects) })
	batch.Queue(conn.query("lease held")).QueryRow(func(r pgx.Row) error { return r.Scan(&st.Running) })
	batch.Queue(`SELECT coalesce((SELECT holder FROM tiergate.lease), '')`).QueryRow(func(r pgx.Row) error { return r.Scan(&st.Holder) })
	batch.Queue(`SELECT p.feature, count(CASE WHEN fa.subject_id <> '*' THEN 1 END), count(CASE WHEN NOT fa.allowed AND fa.subject_id <> '*' THEN 1 END),
			p.enforcement, false, coalesce((SELECT max(e.over_run) FROM tiergate.access_event e
				WHERE e.kind = 'blocked' AND NOT e.silent AND e.feature = p.feature AND e.recorded_at > $1::timestamptz), 0)
		FROM (SELECT DISTINCT feature, enforcement FROM tiergate.plan) p LEFT JOIN `+ident(schema, "feature_access")+` fa ON fa.feature = p.feature
		GROUP BY p.feature, p.enforcement ORDER BY 1`, since).Query(func(rows pgx.Rows) (err error) {
		st.Features, err = pgx.CollectRows(rows, pgx.RowToStructByPos[FeatureStatus])
		return err
	})
	for _, c := range []struct {
		query  string
		counts map[string]int64
		args   []any
	}{
		{`SELECT status, count(*) FROM tiergate.email GROUP BY 1`, st.Emails, nil},
		{`SELECT kind, count(*) FROM tiergate.access_event WHERE recorded_at > $1::timestamptz GROUP BY 1`, st.Events, []any{since}},
	} {
		batch.Queue(c.query, c.args...).Query(func(rows pgx.Rows) error {
			var name string
			var n int64
			_, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { c.counts[name] = n; return nil })
			return err
		})
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return st, explain("read the status", err)
	}
	have, err := readCounted(ctx, conn)
	if err != nil {
		return st, err
	}
	for i := range st.Features {
		_, st.Features[i].Counted = have.Loops[st.Features[i].Feature]
	}
	if !st.Running {
		st.Holder = ""
	}
	return st, explain("read the status", conn.progress(ctx, conn, position, &st))
}

// Backlog is the cheap part of the status: WAL that the server keeps for the slot, in bytes, and the
// emails that wait or are dead, by status.
func Backlog(ctx context.Context, conn *Session) (retained int64, emails map[string]int64, err error) {
	retained, err = conn.retained(ctx, conn)
	if err != nil {
		return 0, nil, explain("look at what the server retains", err)
	}
	rows, err := conn.Query(ctx, `SELECT status, count(*) FROM tiergate.email WHERE status IN ('queued', 'sending', 'dead') GROUP BY 1`)
	if err != nil {
		return 0, nil, explain("count the emails", err)
	}
	emails = map[string]int64{"queued": 0, "sending": 0, "dead": 0}
	var status string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&status, &n}, func() error { emails[status] = n; return nil })
	return retained, emails, explain("count the emails", err)
}

// GiveUpBeside ends the count of new loops whose slot, beside the stream's, keeps more WAL than a bound in bytes.
// It begins again.
func GiveUpBeside(ctx context.Context, conn *Session, most int64) (ended bool, err error) {
	err = conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(active_pid)) > 0 FROM pg_replication_slots
		WHERE temporary AND slot_name LIKE 'tiergate\_beside\_%' AND database = current_database() AND active_pid IS NOT NULL
			AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > $1`, most).Scan(&ended)
	return ended, explain("look at the slot beside the stream's", err)
}

// Explain returns the chain of facts behind one flag, as explain_access does.
func Explain(ctx context.Context, conn *Session, subject, feature string) (json.RawMessage, error) {
	var facts json.RawMessage
	err := conn.QueryRow(ctx, conn.query("explain"), subject, feature).Scan(&facts)
	return facts, explain("explain "+subject+" "+feature, err)
}

// LockUnlessRunning fails where a sidecar holds the lease: what follows must not happen under it.
func LockUnlessRunning(ctx context.Context, conn *Session) error {
	held, err := try(ctx, conn)
	if held || err != nil {
		return err
	}
	return &loops.Fault{Step: "ask for the lease", Err: errors.New("a sidecar is running: " + holderOf(ctx, conn)), Hint: "stop it first", Kind: loops.Permanent}
}

// GiveUpSlot drops the slot together with whoever reads it; the sidecar begins anew and counts again.
func GiveUpSlot(ctx context.Context, conn *Session) error {
	slot := SlotName(conn.Database)
	_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid, 3000) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`, slot)
	if err != nil {
		return explain("give the replication slot up", err)
	}
	_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, slot)
	return explain("give the replication slot up", err)
}

// Uninstall removes everything: publications, functions, tables, and at last the slot. The caller holds
// the lease. What belongs to another role stops it before anything is gone.
func Uninstall(ctx context.Context, conn *Session, schema string) error {
	if isMySQLSession(conn) {
		return uninstallMySQL(ctx, conn)
	}
	access := ident(schema, "feature_access")
	var drop bool
	if err := conn.QueryRow(ctx, `SELECT t IS NOT NULL AND `+ours+` FROM (SELECT to_regclass($1) t) access`, access).Scan(&drop); err != nil {
		return explain("find "+access, err)
	}
	statements := []string{
		"DROP PUBLICATION IF EXISTS " + UsagePublication,
		"DROP PUBLICATION IF EXISTS " + StatePublication,
		"DROP SCHEMA IF EXISTS tiergate CASCADE",
	}
	if drop {
		statements = append(statements, "DROP TABLE "+access)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return explain("uninstall", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if err := unprotect(ctx, tx); err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return uninstallFault(statement, err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return explain("uninstall", err)
	}
	slot := SlotName(conn.Database)
	_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, slot)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return &loops.Fault{Step: "drop the replication slot", Err: errors.New(pg.Message), Kind: loops.Permanent,
			Hint: "all else is removed; the slot keeps WAL until a role that may replicate drops it: SELECT pg_drop_replication_slot(" + literal(slot) + ");"}
	}
	return explain("drop the replication slot", err)
}

func uninstallFault(statement string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return &loops.Fault{Step: statement, Err: errors.New(pg.Message), Kind: loops.Permanent,
			Hint: "nothing was removed: let the role that installed it run `sidecar uninstall`"}
	}
	return explain(statement, err)
}
