package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// How long a quiet flow sleeps.
const (
	idleWake   = time.Minute
	strictWake = time.Second // consume_feature opens windows that nobody tells of
	clockWake  = 50 * time.Millisecond
)

// Store keeps flags, events and position. Its connection belongs to the goroutine that follows the
// stream.
type Store struct {
	dialect
	connect  func(ctx context.Context, purpose Purpose) (*Session, error)
	kinds    map[string]string // see source
	access   string            // the quoted name of feature_access
	plan     *loops.Plan
	watches  []loops.Watch
	index    map[string]int // loop by feature
	features []string
	strict   []string // of features
	rolling  []string // features whose windows roll
	term     int64    // of the lease under which it writes
	clock    bool     // the test clock may move at any time
	log      *slog.Logger
	gauges   Gauges

	conn         *Session
	seq          int64
	at           loops.Position // as stored
	stale        bool           // rows are still to be brought in line with the plan
	refreshed    string         // the last subject whose rows are
	again        bool           // so are those of loops that are counted anew, when they are
	elsewhere    []bool         // loops that are not counted yet; nil: all are
	whole        bool           // every subject has its rows, as far as this connection knows
	sparse       bool
	firstEpisode int64
	nextDue      time.Time // on this machine's clock; zero: unknown
}

// Gauges is told what each commit did. All methods may be called at any time.
type Gauges interface {
	// over is how many uses went beyond a limit, with the blocks that were recorded.
	Applied(changes, events, late, unknown int, over int64, through time.Time)
	// Following says that the flags agree with the data from here on.
	Following()
}

// Options says what a Store works on.
type Options struct {
	URL       string
	Schema    string // the application's
	Plan      *loops.Plan
	Watches   []loops.Watch
	Term      int64
	TestClock bool
	Log       *slog.Logger
	Gauges    Gauges
	// View returns the session that sees a snapshot of MySQL's change stream, by its name.
	View func(name string) (*sql.Conn, bool)
}

// NewStore returns a store; Resume connects it.
func NewStore(o Options) *Store {
	s := &Store{
		dialect: dialectOf(o.URL), access: ident(o.Schema, "feature_access"), plan: o.Plan, watches: o.Watches,
		index: map[string]int{}, term: o.Term, clock: o.TestClock, log: o.Log, gauges: o.Gauges,
	}
	s.connect = func(ctx context.Context, purpose Purpose) (*Session, error) {
		return connect(ctx, o.URL, purpose, o.View)
	}
	for i, l := range o.Plan.Loops {
		s.index[l.Feature] = i
		s.features = append(s.features, l.Feature)
	}
	s.strict = featuresOf(o.Plan, func(l *loops.Loop) bool { return l.Enforcement == loops.Strict })
	s.rolling = featuresOf(o.Plan, func(l *loops.Loop) bool { return l.Window.Kind == loops.Rolling })
	return s
}

// Close ends the store's connection.
func (s *Store) Close() {
	if s.conn != nil {
		s.conn.End()
	}
}

// Resume connects anew, stores a plan that changed, and returns where the state stands; "" where the data must
// be counted first. missing says that only some loops are.
func (s *Store) Resume(ctx context.Context) (at loops.Position, missing bool, err error) {
	s.Close()
	conn, err := s.connect(ctx, ForApply)
	if err != nil {
		return "", false, err
	}
	s.conn, s.nextDue, s.whole, s.elsewhere, s.again = conn, time.Time{}, false, nil, false
	var first string
	err = conn.QueryRow(ctx, `SELECT position, seq, coalesce((SELECT value FROM tiergate.meta WHERE "key" = 'first_episode'), '0')
		FROM tiergate.checkpoint WHERE term = $1`, s.term).Scan(&at, &s.seq, &first)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, deposed()
	}
	if err != nil {
		return "", false, explain("read the checkpoint", err)
	}
	if s.firstEpisode, err = strconv.ParseInt(first, 10, 64); err != nil {
		return "", false, fmt.Errorf("tiergate.meta holds first_episode %q: %w", first, err)
	}
	s.at = at
	if s.sparse, err = s.tooManyUsers(ctx); err != nil {
		return "", false, err
	}
	have, err := s.counted(ctx, conn)
	if err != nil || at == "" || have.Tables != s.countedNow().Tables {
		return "", false, err
	}
	if missing, err = s.exclude(ctx, have); err != nil {
		return "", false, err
	}
	return at, missing, s.beginRefresh(ctx)
}

// exclude leaves the loops that are not counted yet to whoever counts them.
func (s *Store) exclude(ctx context.Context, have counted) (missing bool, err error) {
	elsewhere := make([]bool, len(s.plan.Loops))
	for i := range s.plan.Loops {
		l := &s.plan.Loops[i]
		elsewhere[i] = !have.has(l) && l.Enforcement != loops.Strict
		missing = missing || elsewhere[i]
		s.again = s.again || (elsewhere[i] && have.Loops[l.Feature] != "")
	}
	if missing {
		s.elsewhere = elsewhere
	}
	if !missing && maps.Equal(have.Loops, s.countedNow().Loops) {
		return false, nil
	}
	return missing, s.setCounted(ctx) // what left the plan may come back
}

func deposed() error {
	return &loops.Fault{Step: "hold the lease", Err: errors.New("another sidecar took over"), Kind: loops.Deposed}
}

// Apply decides a batch on the stored state and commits the outcome together with the position.
func (s *Store) Apply(ctx context.Context, b loops.Batch, d *loops.Decider) (loops.Applied, error) {
	b.Changes = s.nameable(b.Changes)
	applied, err := s.transact(ctx, needsOf(b.Changes), b, false, d.Decide)
	if err != nil {
		return applied, err
	}
	s.gauges.Following()
	if s.stale {
		applied.Wake = time.Now()
		return applied, s.refreshPage(ctx, b.Through, d)
	}
	return applied, nil
}

// nameable makes nobody of subjects that are longer than the tables hold, as a count does.
func (s *Store) nameable(changes []loops.Change) []loops.Change {
	most := s.longest()
	if most == 0 {
		return changes
	}
	fits := func(id string) bool { return len(id) <= most || utf8.RuneCountInString(id) <= most }
	changes = slices.Clone(changes)
	for i := range changes {
		c := &changes[i]
		if !fits(c.Use.Subject) {
			c.Use.Subject = ""
		}
		if v, ok := c.Row[loops.FieldSubject]; ok && !fits(v.Text) {
			c.Row = maps.Clone(c.Row)
			c.Row[loops.FieldSubject] = loops.Value{Kind: loops.Null}
		}
	}
	return changes
}

// count applies changes that were read from the tables and not from the stream.
func (s *Store) count(ctx context.Context, changes []loops.Change, d *loops.Decider) (loops.Applied, error) {
	return s.transact(ctx, needsOf(changes), loops.Batch{Changes: changes}, true, d.Decide)
}

// transact is one transaction: load, decide, write, and last of all the compare-and-set.
func (s *Store) transact(ctx context.Context, n needs, b loops.Batch, counting bool,
	decide func(*loops.State, loops.Batch) error,
) (loops.Applied, error) {
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return loops.Applied{}, explain("begin", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	due := s.clock || s.nextDue.IsZero() || !time.Now().Before(s.nextDue) || (len(s.strict) > 0 && len(n.events) > 0)
	st, err := s.load(ctx, tx, n, due)
	if err != nil {
		return loops.Applied{}, err
	}
	st.Counting = counting
	if err := decide(st, b); err != nil {
		return loops.Applied{}, err
	}
	written := st.Written()
	if b.Position == s.at && st.Idle(written) {
		// Nothing happened: an idle database stays idle.
		if due {
			err = s.findNextDue(ctx, tx, st.Now)
		}
		return loops.Applied{Wake: s.wake()}, err
	}
	if err := s.write(ctx, tx, st, written, b); err != nil {
		return loops.Applied{}, err
	}
	if due {
		if err := s.findNextDue(ctx, tx, st.Now); err != nil {
			return loops.Applied{}, err
		}
	} else {
		s.dueBy(written.NextDue, st.Now)
	}
	if err := tx.Commit(ctx); err != nil {
		return loops.Applied{}, explain("commit", err)
	}
	s.seq++
	s.at = b.Position
	s.gauges.Applied(len(b.Changes), len(st.Events), st.Late, st.Unknown, st.OverRun(), b.Through)
	return loops.Applied{Wake: s.wake(), Mails: len(st.Emails)}, nil
}

// findNextDue asks the database when time itself demands the next apply.
func (s *Store) findNextDue(ctx context.Context, tx pgx.Tx, now time.Time) error {
	var next *time.Time
	err := tx.QueryRow(ctx, s.nextDueSQL(), s.features, s.strict, s.rolling).Scan(&next)
	if err != nil {
		return explain("find what is due next", err)
	}
	s.nextDue = time.Now().Add(24 * time.Hour)
	if len(s.strict) > 0 {
		s.nextDue = time.Now().Add(strictWake)
	}
	s.dueBy(orZero(next), now)
	return nil
}

// dueBy brings the next due time forward to at, which like now is on the database's clock.
func (s *Store) dueBy(at, now time.Time) {
	if at.IsZero() {
		return
	}
	if local := time.Now().Add(at.Sub(now)); local.Before(s.nextDue) {
		s.nextDue = local
	}
}

func (s *Store) wake() time.Time {
	pause := idleWake
	if s.clock {
		pause = clockWake
	}
	if wake := time.Now().Add(pause); wake.Before(s.nextDue) {
		return wake
	}
	return s.nextDue
}
