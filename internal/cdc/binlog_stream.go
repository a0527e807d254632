package cdc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	// beatEvery is how often the server says that nothing has happened.
	beatEvery = time.Second
	// silence is how long it may say nothing.
	silence = 30 * time.Second
	// ahead is how many events the syncer reads before they are asked for: one is up to binlog_row_event_max_size
	// long, 8 KB unless it is set, or one row.
	ahead = 64
)

// binlogStream reads one binlog connection. A goroutine of its own takes events; Next only touches what mu guards.
type binlogStream struct {
	mu sync.Mutex
	binlogGatherer

	syncer *replication.BinlogSyncer
	events *replication.BinlogStreamer
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	// Only the goroutine's own.
	from      binlogPosition // where reading began
	files     map[string]uint64
	resume    string // the transaction in which it did, until it has come
	layout    *layout
	sure      bool // the layout is of the place where the stream is
	tables    map[string]*binlogTable
	announced map[uint64][]byte // of watched tables' table maps, by table id
	file      string            // of the next event
	end       uint64            // where the last event ended in it; 0: the server does not say
	tx        *transaction      // that is open
	held      map[string]*prepared
	scratch   []loops.Change // of one row
}

func newBinlogStream(m *MySQL, from binlogPosition, told loops.Position, backlog binlogPosition, l *layout) *binlogStream {
	at := from.clone()
	at.Tx, at.Rows = "", 0
	s := &binlogStream{
		binlogGatherer: binlogGatherer{
			source: m, backlog: backlog, ready: make(chan struct{}, 1), space: make(chan struct{}, 1),
			at: from.clone(), whole: from.Tx == "", told: told, toldAt: at, toldOpen: from.Tx != "", toldWhen: time.Now(),
			seenFile: from.File, seen: from.Offset,
		},
		done: make(chan struct{}), from: from, resume: from.Tx, layout: l, sure: from.Names == l.names,
		tables: map[string]*binlogTable{}, announced: map[uint64][]byte{}, file: from.File, end: from.Offset, held: map[string]*prepared{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// open connects, and begins to read once the server has said which file it reads from.
func (s *binlogStream) open(ctx context.Context) (err error) {
	if s.syncer, err = s.connect(); err != nil {
		return err
	}
	if s.from.ByGTID && !s.from.gtids.IsEmpty() {
		s.events, err = s.syncer.StartSyncGTID(s.from.gtids.Clone())
	} else {
		s.events, err = s.syncer.StartSync(mysql.Position{Name: s.from.File, Pos: uint32(s.from.Offset)})
	}
	if err == nil {
		err = s.begun(ctx)
	}
	if err != nil {
		s.cancel()
		s.syncer.Close()
		return explainBinlog("start the change stream", err)
	}
	go func() {
		defer close(s.done)
		s.fail(s.read())
	}()
	return nil
}

// connect prepares a connection; the syncer opens it. It never tries again: a transaction that was broken off
// would come again unnoticed.
func (s *binlogStream) connect() (*replication.BinlogSyncer, error) {
	c := s.source.config
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, &loops.Fault{Step: "read DATABASE_URL", Err: err}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, &loops.Fault{Step: "read DATABASE_URL", Err: err}
	}
	var secure *tls.Config
	if c.TLS != nil {
		secure = c.TLS.Clone()
	}
	return replication.NewBinlogSyncer(replication.BinlogSyncerConfig{
		ServerID: 1<<31 | rand.Uint32(), // a server ends the stream of another replica with the same one
		Flavor:   s.from.Flavor, Host: host, Port: uint16(number), User: c.User, Password: c.Password, TLSConfig: secure,
		TimestampStringLocation: time.UTC, RenderJSONAsMySQLText: true,
		HeartbeatPeriod: beatEvery, ReadTimeout: silence, DisableRetrySync: true, DiscardGTIDSet: true, EventCacheCount: ahead,
		PayloadDecoderConcurrency: 1, RowsEventDecodeFunc: s.decodeRows, Logger: slog.New(slog.DiscardHandler),
	}), nil
}

// decodeRows reads the rows of watched tables only.
func (s *binlogStream) decodeRows(e *replication.RowsEvent, data []byte) error {
	at, err := e.DecodeHeader(data)
	if err != nil || !s.source.watched[tableKey(string(e.Table.Schema), string(e.Table.Table))] {
		return err
	}
	return e.DecodeData(at, data)
}

// begun waits for the description of the file that the server reads from: it comes before everything else. A
// position's file must be the one that it was.
func (s *binlogStream) begun(ctx context.Context) error {
	born, err := s.described(ctx)
	switch {
	case err != nil:
		return err
	case fileNumber(s.file) < fileNumber(s.from.File):
		return gap("the binlog was reset, or the server restored: what comes next is in %s, and the position in %s", s.file, s.from.File)
	case s.file != s.from.File: // nothing has come after the position in its file
		if _, there := s.files[s.from.File]; !there { // and it is purged
			return nil
		}
		if born, err = s.source.birthday(ctx, s.from.Flavor, s.from.File); err != nil {
			return err
		}
	}
	if born != s.from.Born {
		return gap("the binlog was reset, or the server restored: %s is another file than before", s.from.File)
	}
	return nil
}

// described returns when the server began the file that it reads from.
func (s *binlogStream) described(ctx context.Context) (born uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	for {
		e, err := s.events.GetEvent(ctx)
		if err == nil {
			err = s.handle(e)
		}
		if err != nil {
			return 0, err
		}
		if e.Header.EventType == replication.FORMAT_DESCRIPTION_EVENT {
			return e.Header.Timestamp, nil
		}
	}
}

// birthday asks on a connection of its own when the server began a file.
func (m *MySQL) birthday(ctx context.Context, flavor, file string) (born uint32, err error) {
	from := binlogPosition{Flavor: flavor, File: file, Offset: 4}
	s := newBinlogStream(m, from, "", from, &layout{})
	defer s.cancel()
	if s.syncer, err = s.connect(); err != nil {
		return 0, err
	}
	defer s.syncer.Close()
	if s.events, err = s.syncer.StartSync(mysql.Position{Name: file, Pos: 4}); err == nil {
		born, err = s.described(ctx)
	}
	if err != nil {
		return 0, explainBinlog("look at the binlog", err)
	}
	return born, nil
}

// Close ends the stream and waits for its goroutine.
func (s *binlogStream) Close() {
	s.cancel()
	<-s.done
	s.syncer.Close()
}

// read takes events until the connection fails or is closed.
func (s *binlogStream) read() error {
	for {
		if err := s.awaitSpace(); err != nil {
			return errClosed
		}
		e, err := s.events.GetEvent(s.ctx)
		if s.ctx.Err() != nil {
			return errClosed
		}
		if err == nil {
			err = s.take(e)
		}
		if err != nil {
			return explainBinlog("read the change stream", err)
		}
	}
}

// take handles an event, one beyond the stream's bound when that has moved.
func (s *binlogStream) take(e *replication.BinlogEvent) error {
	err := s.handle(e)
	for ; errors.Is(err, errBeyond); err = s.handle(e) {
		ring(s.ready)
		if err := s.awaitTaken(); err != nil {
			return err
		}
	}
	return err
}

// handle moves the stream over one event.
func (s *binlogStream) handle(e *replication.BinlogEvent) error {
	switch event := e.Event.(type) {
	case *replication.RotateEvent:
		s.rotated(string(event.NextLogName), event.Position)
		return nil
	case *replication.FormatDescriptionEvent:
		s.born(e.Header.Timestamp)
		return nil
	case *replication.HeartbeatEvent:
		s.passed(event.Filename, uint64(e.Header.LogPos))
		return nil
	case *replication.PreviousGTIDsEvent, *replication.MariadbGTIDListEvent, *replication.MariadbBinlogCheckPointEvent:
		s.passed(s.file, uint64(e.Header.LogPos))
		return nil
	case *replication.TransactionPayloadEvent: // go-mysql has unpacked it as a whole
		for i, inner := range event.Events {
			if err := s.awaitSpace(); err != nil {
				return err
			}
			if i == len(event.Events)-1 {
				s.ended(e.Header)
			}
			if err := s.inside(inner); err != nil {
				return err
			}
		}
		return nil
	}
	if e.Header.EventType == replication.INCIDENT_EVENT {
		return gap("the server says that it lost events")
	}
	if e.Header.Flags&replication.LOG_EVENT_ARTIFICIAL_F != 0 {
		return nil
	}
	if begin, err := s.transactionOf(e); err != nil {
		return err
	} else if begin != nil {
		if err := s.begin(begin); err != nil {
			return err
		}
		s.ended(e.Header)
		return nil
	}
	s.ended(e.Header)
	return s.inside(e)
}

// ended moves the place to the end of an event. Inside a transaction, the offset may pass what its 32 bits hold.
func (s *binlogStream) ended(h *replication.EventHeader) {
	at := uint64(h.LogPos)
	if s.tx != nil && at > 0 && s.end > 0 {
		for at |= s.end &^ 0xffffffff; at < s.end; at += 1 << 32 {
		}
	}
	s.end = at
	s.passed(s.file, at)
}

// passed is told that everything before a place was received.
func (s *binlogStream) passed(file string, offset uint64) {
	s.mu.Lock()
	if before(s.seenFile, s.seen, file, offset) {
		s.seenFile, s.seen = file, offset
	}
	s.mu.Unlock()
	ring(s.ready) // the backlog may be over
}

// rotated goes on to a file. The first one that a server names may be the one where we are.
func (s *binlogStream) rotated(file string, offset uint64) {
	if file == s.file {
		return
	}
	s.file, s.end = file, offset
	s.mu.Lock()
	if s.whole && before(s.at.File, s.at.Offset, file, offset) {
		s.at.File, s.at.Offset, s.at.Born = file, offset, 0
	}
	s.mu.Unlock()
	s.passed(file, offset)
}

// born takes over when the file began.
func (s *binlogStream) born(when uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == s.at.File && s.at.Born == 0 {
		s.at.Born = when
	}
}

func (t *transaction) String() string { return fmt.Sprintf("transaction %s", t.id) }
