package modeltest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestScenarios plays testdata/scenarios/*.txtar, each in a database of its own. A file is played from
// top to bottom; a part may come several times:
//
//	schema.sql       the application's tables, and what is in them before Tiergate comes
//	skene.config.ts, loops/*, sidecar.yaml   written; a sidecar that runs is started anew
//	steps.sql        what the application does. now() is the clock that "advance" moves
//	feature_access   the rows of a moment: subject, feature, allowed or blocked, tier, used/limit, reason
//	emails           everything that was ever mailed: address, feature, kind
//
// Before each expectation the sidecar has caught up. Comments in steps.sql that do something:
//
//	-- advance 31d             moves the clock forward
//	-- clock 2030-01-31 12:00  sets it
//	-- await SELECT …          waits until the query says true
//	-- sidecar stop|start      until here a sidecar follows the stream, unless steps.sql begins so
//	-- sidecar ARGUMENTS       stops it, and runs a command to its end
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("../../testdata/scenarios/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios: ", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &scenario{world: newWorld(t, name, shared.shipped)}
			s.exec(ownClock)
			for _, part := range archive.Files {
				s.play(part.Name, string(part.Data))
			}
			if s.following {
				s.command("verify")
			}
		})
	}
}

// ownClock lets the scenario's now() be the sidecar's, so that its SQL reads as an application's.
const ownClock = `CREATE SCHEMA scenario;
CREATE FUNCTION scenario.now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF to_regproc('tiergate.now') IS NULL THEN RETURN pg_catalog.now(); END IF;
	RETURN tiergate.now();
END $$;
SET search_path = public, scenario, pg_catalog`

type scenario struct {
	*world
	installed bool
	following bool // a sidecar follows the stream, or would
}

func (s *scenario) play(name, text string) {
	s.t.Helper()
	switch name {
	case "schema.sql":
		s.exec(text)
	case "steps.sql":
		if s.install(); s.following && !strings.HasPrefix(text, "-- sidecar ") {
			s.awaitSidecar()
		}
		for i, line := range slices.Collect(statements(text)) {
			s.step(fmt.Sprintf("%s, statement %d", name, i+1), line)
		}
	case "feature_access":
		s.install()
		s.expect(name, text, s.rows)
	case "emails":
		s.expect(name, text, s.mails)
	default:
		s.write(name, text)
		if s.following {
			s.stop()
			s.awaitSidecar()
		}
	}
}

func (s *scenario) install() {
	if !s.installed {
		s.command("install")
		s.installed, s.following = true, true
	}
}

func (s *scenario) stop() {
	if p := s.leader(); p != nil {
		p.terminate(s.t)
	}
}

// statements splits a script at semicolons that end a line, and at comments that do something.
func statements(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		var statement []string
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line != "" {
				statement = append(statement, line)
			}
			if strings.HasSuffix(line, ";") || directive.MatchString(line) {
				if !yield(strings.Join(statement, "\n")) {
					return
				}
				statement = nil
			}
		}
	}
}

var directive = regexp.MustCompile(`(?m)^-- (advance|clock|await|sidecar) (.*)$`)

func (s *scenario) step(where, text string) {
	s.t.Helper()
	match := directive.FindStringSubmatch(text)
	if match == nil {
		s.exec(text)
		return
	}
	switch verb, rest := match[1], match[2]; verb {
	case "advance":
		s.exec(`UPDATE tiergate.clock SET shift = shift + $1::text::interval`, rest)
	case "clock":
		s.exec(`UPDATE tiergate.clock SET shift = $1::text::timestamptz - clock_timestamp()`, rest+" UTC")
	case "await":
		if s.leader() == nil {
			s.spawn()
		}
		s.await(where+": "+rest, func() (bool, string) { return scan[bool](s.t, s.conn, rest), "" })
	case "sidecar":
		s.stop()
		s.following = rest == "start"
		switch rest {
		case "stop":
		case "start":
			s.awaitSidecar()
		default:
			s.command(strings.Fields(rest)...)
		}
	}
}

// expect compares lines, whatever their order and spacing.
func (s *scenario) expect(what, text string, have func() []string) {
	s.t.Helper()
	if s.following {
		s.awaitSidecar()
	}
	var want []string
	for line := range strings.Lines(text) {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) != "" {
			want = append(want, strings.Join(strings.Fields(line), " "))
		}
	}
	got := have()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.t.Fatalf("%s is\n\t%s\nexpected\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (s *scenario) rows() []string {
	rows, err := s.conn.Query(s.t.Context(), `SELECT concat_ws(' ', subject_id, feature, CASE WHEN allowed THEN 'allowed' ELSE 'blocked' END, tier,
		used || '/' || coalesce(usage_limit::text, '∞'), reason) FROM feature_access WHERE subject_id <> '*'`)
	if err != nil {
		s.t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	return lines
}

// mails names feature and kind by the idempotency key: installation/loop/kind/subject/episode.
func (s *scenario) mails() (lines []string) {
	for _, m := range s.resend.Inbox() {
		key := strings.Split(m.Key, "/")
		_, feature, _ := strings.Cut(key[1], ".")
		lines = append(lines, strings.Join([]string{m.To[0], feature, key[2]}, " "))
	}
	return lines
}
