package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
)

// Finding is one difference between the flags and the data.
type Finding struct {
	Subject string `json:"subject"`
	Feature string `json:"feature"`
	Problem string `json:"problem"` // "lost", "tier", "flag", "email"; of "tier" the subject may be the row's key
	Detail  string `json:"detail"`
}

// Report is what a comparison of the flags with the data found.
type Report struct {
	Compared  int       `json:"compared"`            // rows of feature_access that were compared
	Purged    int       `json:"purged"`              // rows that hold more than the table still shows
	Uncounted []string  `json:"uncounted,omitempty"` // features that were not compared: their loops are new, and still to be counted
	Findings  []Finding `json:"findings"`
}

// windowCount is what one subject's window holds.
type windowCount struct {
	start time.Time
	count int64
}

// Verify compares the flags with the data while the stream runs: count, wait until the flags have
// passed that point, read them, and count again. What was used lies in between.
func Verify(ctx context.Context, conn *Session, o Options) (Report, error) {
	s := NewStore(o)
	s.conn, s.dialect = conn, conn.dialect
	var err error
	if s.kinds, err = s.kindsOf(ctx, conn, s.watches); err != nil {
		return Report{}, explain("read the tables' columns", err)
	}
	var report Report
	have, err := s.counted(ctx, conn)
	if err != nil {
		return report, err
	}
	for i := range o.Plan.Loops {
		if l := &o.Plan.Loops[i]; l.Enforcement == loops.Strict {
			continue // usage rows say nothing of it
		} else if !have.has(l) {
			report.Uncounted = append(report.Uncounted, l.Feature)
		} else if err := s.verifyLoop(ctx, l, &report); err != nil {
			return report, err
		}
	}
	if err := s.verifyMirrors(ctx, &report); err != nil {
		return report, err
	}
	return report, s.verifyFlags(ctx, &report)
}

func (s *Store) verifyLoop(ctx context.Context, l *loops.Loop, report *Report) error {
	if s.usage().Gauge() {
		return s.verifyGauge(ctx, l, report)
	}
	first, err := s.tallies(ctx, l)
	if err != nil {
		return err
	}
	if err := s.passed(ctx); err != nil {
		return err
	}
	rows := map[string]windowCount{}
	err = s.inView(ctx, func(tx pgx.Tx) error {
		r, err := tx.Query(ctx, `SELECT subject_id, period_start, used FROM `+s.access+` WHERE feature = $1 AND subject_id <> '*'`, l.Feature)
		if err != nil {
			return err
		}
		var id string
		var start *time.Time
		var used int64
		_, err = pgx.ForEachRow(r, []any{&id, &start, &used}, func() error {
			rows[id] = windowCount{orZero(start), used}
			return nil
		})
		return err
	})
	if err != nil {
		return explain("read the flags", err)
	}
	second, err := s.tallies(ctx, l)
	if err != nil {
		return err
	}
	deleted, err := s.deletedSubjects(ctx)
	if err != nil {
		return err
	}
	for id, have := range rows {
		report.Compared++
		c1, c2 := first[id], second[id]
		// A window that opened or closed meanwhile is compared the next time.
		if !c2.start.Equal(have.start) || (c1.count > 0 && !c1.start.Equal(have.start)) {
			continue
		}
		switch {
		case have.count < c1.count:
			report.add(id, l.Feature, "lost", fmt.Sprintf("used is %d, the table has at least %d", have.count, c1.count))
		case have.count > c2.count:
			report.Purged++
		}
	}
	for id, c1 := range first {
		if _, ok := rows[id]; !ok && c1.count > 0 && !deleted[id] {
			report.add(id, l.Feature, "lost", fmt.Sprintf("no row, the table has %d uses", c1.count))
		}
	}
	return nil
}

func (r *Report) add(subject, feature, problem, detail string) {
	r.Findings = append(r.Findings, Finding{subject, feature, problem, detail})
}

// tallies counts a loop over the stored windows, with the window that each count is for.
func (s *Store) tallies(ctx context.Context, l *loops.Loop) (map[string]windowCount, error) {
	out := map[string]windowCount{}
	err := s.inView(ctx, func(tx pgx.Tx) error {
		now, err := clock(ctx, tx)
		if err != nil {
			return err
		}
		horizon, since, err := s.bounds(ctx, tx, l, now)
		if err != nil {
			return err
		}
		tally, args, err := s.tally(ctx, tx, l, now, horizon, since)
		if err != nil {
			return err
		}
		r, err := tx.Query(ctx, `SELECT t.subject_id, `+s.query("bigint", "least(sum(t.used) OVER (PARTITION BY t.subject_id), 9223372036854775807)")+`,
			CASE WHEN fa.resets_at <= $1::timestamptz THEN NULL ELSE fa.period_start END FROM (`+tally+`) t
			LEFT JOIN `+s.access+` fa ON fa.subject_id = t.subject_id AND fa.feature = $3`, args...)
		if err != nil {
			return err
		}
		var id string
		var used int64
		var start *time.Time
		_, err = pgx.ForEachRow(r, []any{&id, &used, &start}, func() error {
			out[id] = windowCount{orZero(start), used}
			return nil
		})
		if err != nil {
			return err
		}
		// A row whose window holds nothing any more still has its window.
		r, err = tx.Query(ctx, `SELECT subject_id, period_start FROM `+s.access+` WHERE feature = $1 AND resets_at > $2`, l.Feature, now)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(r, []any{&id, &start}, func() error {
			if _, ok := out[id]; !ok {
				out[id] = windowCount{start: orZero(start)}
			}
			return nil
		})
		return err
	})
	return out, explain("count usage", err)
}

func (s *Store) deletedSubjects(ctx context.Context) (map[string]bool, error) {
	rows, err := s.conn.Query(ctx, `SELECT subject_id FROM tiergate.subject WHERE deleted`)
	if err != nil {
		return nil, explain("read the deleted subjects", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	gone := map[string]bool{}
	for _, id := range ids {
		gone[id] = true
	}
	return gone, explain("read the deleted subjects", err)
}

// inView runs work in one snapshot.
func (s *Store) inView(ctx context.Context, work func(pgx.Tx) error) error {
	tx, err := s.conn.view(ctx, loops.Snapshot{})
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	return work(tx)
}

// How long the flags may take to pass a point, and a sidecar to begin.
const (
	verifyPatience = time.Minute
	startPatience  = 5 * time.Second
)

// passed waits until the flags stand behind what is committed now. An event of our own marks the point:
// it goes through the stream like everybody's changes, and records that somebody verified.
func (s *Store) passed(ctx context.Context) error {
	var streaming bool
	err := s.conn.QueryRow(ctx, `SELECT position <> '' FROM tiergate.checkpoint`).Scan(&streaming)
	if err != nil || !streaming {
		return explain("read the checkpoint", err) // counted, not streamed: the flags are as of the last count
	}
	// Before the marker's commit, and behind everything committed until now.
	passed, err := s.point(ctx, s.conn)
	if err == nil {
		_, err = s.conn.Exec(ctx, `INSERT INTO tiergate.access_event (at, recorded_at, kind, subject_id, feature, "loop", tier, used, episode, position, silent)
			SELECT tiergate.now(), tiergate.now(), $1, '', '', '', '', 0, 0, position, true FROM tiergate.checkpoint`, string(loops.Verified))
	}
	if err != nil {
		return explain("mark a point in the stream", err)
	}
	for begun := time.Now(); ; {
		var running bool
		past, err := passed(ctx)
		if err == nil {
			err = s.conn.QueryRow(ctx, s.query("lease held")).Scan(&running)
		}
		switch waited := time.Since(begun); {
		case err != nil:
			return explain("wait for the flags", err)
		case past:
			return nil
		case !running && waited > startPatience:
			return &loops.Fault{Step: "wait for the flags", Kind: loops.Permanent, Err: errors.New("no sidecar is running"),
				Hint: "start it, `sidecar run`, and verify again"}
		case waited > verifyPatience:
			return &loops.Fault{Step: "wait for the flags", Kind: loops.Permanent, Err: errors.New("they do not move past what is committed"),
				Hint: "is the sidecar running, and how far behind is it? `sidecar status`"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// verifyMirrors looks for users, subscriptions and gauges that the flags do not know as they are: rows that
// differ before and after the flags have passed a point, and did not change in between.
func (s *Store) verifyMirrors(ctx context.Context, report *Report) error {
	for i := range s.watches {
		w := &s.watches[i]
		query, _ := s.source(w).mirrorSQL()
		if query == "" {
			continue
		}
		problem := "tier"
		if w.Gauge() {
			problem = "lost"
		}
		before, err := s.differences(ctx, w, query)
		if err != nil {
			return err
		}
		if len(before) == 0 {
			continue
		}
		if err := s.passed(ctx); err != nil {
			return err
		}
		after, err := s.differences(ctx, w, query)
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(after)) {
			if row, ok := before[key]; ok && row == after[key] {
				report.add(key, "", problem, "table "+w.Table+" says otherwise than what is stored of this row")
			}
		}
	}
	return nil
}

// differences returns the first rows, by key, of which a table and its mirror say different things.
func (s *Store) differences(ctx context.Context, w *loops.Watch, query string) (map[string]string, error) {
	rows, err := s.conn.Query(ctx, `SELECT d.* FROM (`+query+`) d ORDER BY 1 LIMIT 1000`)
	if err != nil {
		return nil, explain("compare table "+w.Table, err)
	}
	defer rows.Close()
	found := map[string]string{}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return nil, explain("compare table "+w.Table, err)
		}
		found[fmt.Sprint(values[0])] = fmt.Sprintf("%q", values[1:])
	}
	return found, explain("compare table "+w.Table, rows.Err())
}

// verifyFlags looks for rows that contradict themselves or their subject, and for events that no
// email row answers.
func (s *Store) verifyFlags(ctx context.Context, report *Report) error {
	now, err := clock(ctx, s.conn)
	if err != nil {
		return err
	}
	for _, look := range []struct {
		problem, query string
		args           []any
	}{
		{"flag", `SELECT fa.subject_id, fa.feature, fa.used, fa.usage_limit, CASE WHEN fa.allowed THEN 'true' ELSE 'false' END, ''
			FROM ` + s.access + ` fa JOIN (SELECT DISTINCT feature, enforcement FROM tiergate.plan) p ON p.feature = fa.feature
			WHERE fa.subject_id <> '*' AND fa.allowed <> (p.enforcement = 'shadow' OR fa.usage_limit IS NULL OR (fa.used < fa.usage_limit AND fa.usage_limit > 0)) LIMIT 100`, nil},
		{"tier", `SELECT fa.subject_id, fa.feature, 0, NULL, fa.tier, s.tier
			FROM ` + s.access + ` fa JOIN tiergate.subject s ON s.subject_id = fa.subject_id WHERE fa.tier <> s.tier AND NOT s.deleted
				AND NOT EXISTS (SELECT 1 FROM tiergate.due d WHERE d.subject_id = fa.subject_id) LIMIT 100`, nil},
		{"email", `SELECT e.subject_id, e.feature, e.id, NULL, e.kind, ''
			FROM tiergate.access_event e LEFT JOIN tiergate.email m ON m.event_id = e.id
			WHERE e.kind IN ('blocked', 'warned') AND m.id IS NULL AND e.recorded_at < $1 LIMIT 100`, []any{now.Add(-10 * time.Second)}},
	} {
		if err := s.contradictions(ctx, report, look.problem, look.query, look.args...); err != nil {
			return err
		}
	}
	return nil
}

// contradictions adds what a query finds: subject, feature, a number, a limit, and two words.
func (s *Store) contradictions(ctx context.Context, report *Report, problem, query string, args ...any) error {
	rows, err := s.conn.Query(ctx, query, args...)
	if err != nil {
		return explain("compare the flags", err)
	}
	var subject, feature, one, other string
	var n int64
	var limit *int64
	_, err = pgx.ForEachRow(rows, []any{&subject, &feature, &n, &limit, &one, &other}, func() error {
		of := "unlimited"
		if limit != nil {
			of = strconv.FormatInt(*limit, 10)
		}
		report.add(subject, feature, problem, map[string]string{
			"flag":  fmt.Sprintf("allowed is %s at %d of %s", one, n, of),
			"tier":  fmt.Sprintf("the row says %s, the subject is %s", one, other),
			"email": fmt.Sprintf("event %d (%s) has no email row", n, one),
		}[problem])
		return nil
	})
	return explain("compare the flags", err)
}

// Resync makes the sidecar count everything again: at once if it runs, else when it does. With down it
// forgets what the usage table does not show any more.
func Resync(ctx context.Context, conn *Session, down bool) error {
	text, err := json.Marshal(counted{Down: down})
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, setMetaSQL("counted", string(text))); err != nil {
		return explain("ask for a recount", err)
	}
	return explain("ask for a recount", conn.endOthers(ctx, conn, ForApply))
}
