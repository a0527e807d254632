package cdc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"

	"github.com/tiergate/tiergate/internal/loops"
)

// MySQLConfig says what to read, of MySQL or MariaDB.
type MySQLConfig struct {
	Addr     string // host:port
	User     string
	Password string
	TLS      *tls.Config // nil: none
	Watches  []loops.Watch
	Since    MySQLFacts // what the server said before the watches were looked up
	// Facts asks the server about its binlog.
	Facts func(context.Context) (MySQLFacts, error)
	// Columns asks for the columns of the watched tables, each table's in its order.
	Columns func(context.Context) ([]MySQLColumn, error)
	// Charsets asks which character set each collation is of, by the collation's id.
	Charsets func(context.Context) (map[uint64]string, error)
	// View opens a view of the data and tells its place in the binlog.
	View func(context.Context) (MySQLView, error)
	Log  *slog.Logger
}

// MySQLFacts is what a server says of its binlog.
type MySQLFacts struct {
	Flavor string // "mysql" or "mariadb"
	Server string // which server it is: its server_uuid; MariaDB's server_id
	File   string // where it writes now
	Offset uint64
	ByGTID bool   // every transaction has a GTID
	GTIDs  string // executed until now
	Purged string // GTIDs whose transactions are gone from the binlog; MySQL's alone
	Files  map[string]uint64
}

// MySQLView is a view of the data as of a place in the binlog.
type MySQLView struct {
	Name    string // of the session that sees it
	File    string
	Offset  uint64
	GTIDs   string // executed there; empty without GTIDs, and where nothing was
	Release func() // lets the view go
	Close   func() // ends the session
}

// MySQL opens streams of one server's binlog, as one of its replicas. It works with the settings that servers are
// shipped with, if rows are logged in full; GTIDs and column names make fewer recounts necessary.
//
// A large transaction is delivered in pieces, and never held, with two exceptions. One that MySQL has compressed as a
// whole is unpacked as a whole, by go-mysql. And rows of a distributed transaction come when it is prepared, and
// are held until it ends, up to a full buffer; beyond that, and when the stream is resumed meanwhile, its commit is
// a Gap.
type MySQL struct {
	config  MySQLConfig
	watched map[string]bool // by tableKey
	since   binlogPosition

	mu     sync.Mutex
	beside *binlogPosition // the last view beside a stream: it wants to hear of the stream's place
}

// NewMySQL returns a source; it connects when a stream is opened.
func NewMySQL(c MySQLConfig) *MySQL {
	m := &MySQL{config: c, watched: map[string]bool{}}
	for _, w := range c.Watches {
		m.watched[tableKey(w.Schema, w.Table)] = true
	}
	if since, err := c.Since.end(); err == nil {
		m.since = since
	}
	return m
}

// end is the place where the server writes now.
func (f *MySQLFacts) end() (p binlogPosition, err error) {
	p = binlogPosition{Flavor: f.Flavor, Server: f.Server, File: f.File, Offset: f.Offset, ByGTID: f.ByGTID}
	if f.ByGTID {
		p.gtids, err = parseGTIDs(f.Flavor, f.GTIDs)
	}
	return p, err
}

// Resume opens the stream at a stored position, after making sure that the server is the same, in the same
// history, and has everything from there on: servers begin elsewhere, or wait for ever, without a word.
func (m *MySQL) Resume(ctx context.Context, at loops.Position) (loops.Stream, error) {
	s, err := m.resume(ctx, at, nil)
	if err != nil {
		if loops.KindOf(err) == loops.Gap {
			m.config.Log.Warn("the change stream does not join", "error", err)
		}
		return nil, err
	}
	return s, nil
}

func (m *MySQL) resume(ctx context.Context, at loops.Position, until *binlogPosition) (*binlogStream, error) {
	from, err := decodeBinlogPosition(at)
	if err != nil {
		return nil, gap("%v", err)
	}
	facts, err := m.joined(ctx, &from)
	if err != nil {
		return nil, err
	}
	end, err := facts.end()
	if err != nil {
		return nil, err
	}
	layout, err := m.readLayout(ctx)
	if err != nil {
		return nil, err
	}
	s := newBinlogStream(m, from, at, end, layout)
	s.until, s.files = until, facts.Files
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// joined makes sure that the server goes on at the position. What a replica has received, a server has executed a
// moment later: before a Gap is believed, it is asked again.
func (m *MySQL) joined(ctx context.Context, from *binlogPosition) (facts MySQLFacts, err error) {
	for range 5 {
		if facts, err = m.config.Facts(ctx); err != nil {
			return facts, err
		}
		if err = from.joins(&facts); err == nil {
			return facts, nil
		}
		select {
		case <-ctx.Done():
			return facts, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return facts, err
}

// joins reports a Gap where the server's binlog does not continue exactly at the position.
func (p *binlogPosition) joins(f *MySQLFacts) error {
	if p.Flavor != f.Flavor || p.Server != f.Server {
		return gap("this is another server (%s %s, the position is of %s %s)", f.Flavor, f.Server, p.Flavor, p.Server)
	}
	size, there := f.Files[p.File]
	oldest := uint64(math.MaxUint64)
	for file := range f.Files {
		oldest = min(oldest, fileNumber(file))
	}
	purged := fileNumber(p.File) < oldest
	switch {
	case !there && !purged:
		return gap("the binlog was reset, or the server restored: %s does not exist yet", p.File)
	case there && size < p.Offset:
		return gap("the server was restored: %s ends before %d", p.File, p.Offset)
	case p.ByGTID && !f.ByGTID:
		return gap("the server gives transactions no GTIDs any more")
	case p.ByGTID && p.gtids.IsEmpty() || !p.ByGTID:
		if purged {
			return gap("the server has purged %s", p.File)
		}
		if p.Offset > math.MaxUint32 {
			return gap("%s is too long to be read from %d on", p.File, p.Offset)
		}
		return nil
	}
	executed, err := parseGTIDs(f.Flavor, f.GTIDs)
	if err != nil {
		return gap("%v", err)
	}
	if !executed.Contain(p.gtids) {
		return gap("the binlog was reset, or the server restored: of %s it has only %s", p.gtids, executed)
	}
	if f.Flavor == flavorMySQL {
		gone, err := parseGTIDs(f.Flavor, f.Purged)
		if err != nil {
			return gap("%v", err)
		}
		if !p.gtids.Contain(gone) {
			return gap("the server has purged transactions that came after %s: %s", p.gtids, gone)
		}
	}
	return nil
}

// Snapshot opens a view of the data and tells where in the binlog it is.
func (m *MySQL) Snapshot(ctx context.Context) (loops.Snapshot, error) {
	const tries = 3 // a table is altered just then
	for try := 1; ; try++ {
		before, err := m.readLayout(ctx)
		if err != nil {
			return loops.Snapshot{}, err
		}
		view, err := m.config.View(ctx)
		if err != nil {
			return loops.Snapshot{}, err
		}
		after, err := m.readLayout(ctx)
		if err != nil {
			view.Close()
			return loops.Snapshot{}, err
		}
		if before.names != after.names && try < tries {
			view.Close()
			continue
		}
		at := after.answered
		at.File, at.Offset, at.Names = view.File, view.Offset, after.names
		if before.names != after.names {
			at.Names = ""
		}
		if at.ByGTID {
			at.gtids, err = parseGTIDs(at.Flavor, view.GTIDs)
		}
		if err == nil {
			at.Born, err = m.birthday(ctx, at.Flavor, at.File)
		}
		if err != nil {
			view.Close()
			return loops.Snapshot{}, err
		}
		return loops.Snapshot{Name: view.Name, At: at.encode(), Release: view.Release, Close: view.Close}, nil
	}
}

// Beside opens a view beside a stream. What happens from there on can be replayed up to any place where the
// stream stands then.
func (m *MySQL) Beside(ctx context.Context) (loops.Snapshot, error) {
	view, err := m.Snapshot(ctx)
	if err != nil {
		return view, err
	}
	start, err := decodeBinlogPosition(view.At)
	if err != nil {
		view.Close()
		return view, err
	}
	m.mu.Lock()
	m.beside = &start
	m.mu.Unlock()
	var replay *binlogStream
	view.Replay = func(ctx context.Context, until loops.Position) (loops.Stream, error) {
		end, err := decodeBinlogPosition(until)
		if err != nil || !end.covers(&start) {
			return nil, err
		}
		if replay == nil {
			if replay, err = m.resume(ctx, view.At, &end); err != nil {
				return nil, err
			}
		}
		replay.extend(&end)
		return replay, nil
	}
	closeView := view.Close
	view.Close = func() {
		if replay != nil {
			replay.Close()
		}
		closeView()
	}
	return view, nil
}

// wanted reports whether a view waits to hear that a stream has come to it.
func (m *MySQL) wanted(told, at *binlogPosition) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.beside != nil && at.covers(m.beside) && !told.covers(m.beside)
}

// Probe opens a binlog connection and closes it again: a right may be missing, or a proxy stand in the way.
func (m *MySQL) Probe(ctx context.Context) error {
	facts, err := m.config.Facts(ctx)
	if err == nil {
		_, err = m.birthday(ctx, facts.Flavor, facts.File)
	}
	return err
}

// explainBinlog turns an error of a binlog connection into a fault with a way out.
func explainBinlog(step string, err error) error {
	var fault *loops.Fault
	if errors.As(err, &fault) {
		return err
	}
	var refused *mysql.MyError
	if !errors.As(err, &refused) {
		return &loops.Fault{Step: step, Err: err, Kind: loops.Transient}
	}
	f := &loops.Fault{Step: step, Err: fmt.Errorf("%s (error %d)", refused.Message, refused.Code), Kind: loops.Transient}
	switch refused.Code {
	case mysql.ER_MASTER_FATAL_ERROR_READING_BINLOG:
		if !strings.Contains(refused.Message, "same server_") { // another replica by our number; all else is about the place
			f.Kind, f.Hint = loops.Gap, "usage is counted again; the flags stand until then"
		}
	case mysql.ER_SPECIFIC_ACCESS_DENIED_ERROR, mysql.ER_ACCESS_DENIED_ERROR, mysql.ER_DBACCESS_DENIED_ERROR:
		f.Kind, f.Hint = loops.Permanent, "the sidecar's user needs: GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO …"
	case mysql.ER_NO_BINARY_LOGGING:
		f.Kind, f.Hint = loops.Permanent, "turn the binlog on: log_bin in my.cnf, and restart the server; a hosted one has its own way: `sidecar check`"
	}
	return f
}
