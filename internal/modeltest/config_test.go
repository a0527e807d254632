package modeltest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/tiergate/tiergate/internal/sql"
)

// reconfigure writes the configuration that the reference goes by. A sidecar that runs is told.
func (h *history) reconfigure(format string, args ...any) {
	h.configs++
	h.say("configuration %d: "+format, append([]any{h.configs}, args...)...)
	h.m.synced = false
	h.outdated = h.planOfRows()
	h.write("skene.config.ts", config(h.m.rules, h.configs))
	h.hangup()
}

// hangup tells every sidecar that the configuration has changed, those too that wait or are about to die.
func (h *history) hangup() {
	for _, p := range h.running {
		p.cmd.Process.Signal(syscall.SIGHUP)
	}
}

// shuffle changes the rules' order, which means nothing: the first rules say which tier is the better one.
func (h *history) shuffle() {
	rest := h.m.rules[2:]
	h.rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
}

// settle lets one change at a time wait for the sidecar: of two, nobody knows which it has seen.
func (h *history) settle() {
	if wanted := h.chance(50); wanted || h.m.unsettled() || h.planOfRows() == "" {
		h.sync()
	}
}

// planOfRows names the plan that all rows are in line with.
func (h *history) planOfRows() string {
	return scan[string](h.t, h.conn, `SELECT coalesce((SELECT value FROM tiergate.meta WHERE key = 'plan'), '')`)
}

// changeLimits raises and lowers limits, and moves the threshold of warnings.
func (h *history) changeLimits() {
	h.settle()
	r := pick(h, h.m.rules)
	warnAt := r.warnAt
	if warnAt > 0 && h.chance(30) {
		warnAt = pick(h, []float64{0.5, 0.6, 0.8})
	}
	h.m.relimit(r, r.otherLimits(h.rng), warnAt)
	h.reconfigure("limits of %s are %v, warnings at %v", r.feature, r.limits, r.warnAt)
	if h.chance(30) {
		h.sync()
	}
}

// changeTrigger lets a rule count other rows. Its windows stay, so that it matters which rows opened them:
// nothing happens until the sidecar knows.
func (h *history) changeTrigger() {
	h.sync()
	other := map[string][]string{
		"features": {"/api/features/*", "/api/features/1", "/api/features/**"},
		"exports":  {"/api/exports", "/api/exports/*"},
		"reports":  {"/api/reports/*", "/api/reports/q1"},
	}
	features := []string{"features", "exports", "reports"}
	feature := pick(h, features)
	i := slices.IndexFunc(h.m.rules, func(r *rule) bool { return r.feature == feature })
	path := pick(h, other[feature])
	if i < 0 || h.m.rules[i].path == path {
		return
	}
	h.m.retrigger(h.m.rules[i], path)
	h.reconfigure("%s counts %s", feature, path)
	h.syncFirst = true
	h.await("the sidecar to know", func() (bool, string) {
		why := h.pending()
		return why == "" || !slices.ContainsFunc(h.running, func(p *process) bool { return !p.ended() }), why
	})
}

// toggleRule adds a rule of the pool, or takes it out. A new one is counted from the table: rows that come
// late, from before the clock moved, would make it matter when.
func (h *history) toggleRule() {
	h.settle()
	h.finishAll()
	next := *pick(h, pool()[2:])
	if i := slices.IndexFunc(h.m.rules, func(r *rule) bool { return r.feature == next.feature }); i >= 0 {
		h.m.expel(h.m.rules[i])
		h.reconfigure("%s is gone", next.feature)
		return
	}
	h.m.admit(&next)
	h.shuffle()
	h.reconfigure("%s is new", next.feature)
	h.syncFirst = true
}

// breakConfig shows a sidecar that follows a configuration with a mistake: it is refused, and nothing changes.
func (h *history) breakConfig() {
	if h.m.unsettled() {
		h.sync() // or the good one before it would never be read
	}
	good := config(h.m.rules, h.configs)
	broken := pick(h, []string{"", "export default", strings.Replace(good, "free: ", "free: -", 1), good + "\nthrow new Error('no');\n",
		strings.Replace(good, "/api/exports", "api exports", 1) + "}"})
	p := h.leader()
	if p == nil || !strings.Contains(p.out.String(), "ready: ") {
		return
	}
	h.say("a broken configuration")
	refused := func() int { return strings.Count(p.out.String(), "the changed configuration is refused") }
	before := refused()
	h.write("skene.config.ts", broken)
	p.cmd.Process.Signal(syscall.SIGHUP)
	h.await("the refusal", func() (bool, string) { return refused() > before || p.ended(), p.out.String() })
	h.write("skene.config.ts", good)
}

// pending says what the sidecar still has to notice: what comes after that is by the new state of things.
func (h *history) pending() string {
	if !scan[bool](h.t, h.conn, `SELECT to_regclass('feature_access') IS NOT NULL`) {
		return "feature_access is not there"
	}
	publications, err := sql.PublicationState(h.t.Context(), sql.Postgres(h.conn))
	if err != nil {
		h.t.Fatal(err)
	}
	return scan[string](h.t, h.conn, `SELECT concat_ws('; ',
		(SELECT 'the stream is one of other publications' FROM tiergate.checkpoint WHERE position <> '' AND position::jsonb ->> 'publications' <> $3),
		(SELECT 'the plan is another one' WHERE NOT EXISTS (SELECT FROM tiergate.plan) OR EXISTS (SELECT FROM tiergate.plan WHERE message NOT LIKE $1)),
		(SELECT 'rows are those of an older plan' WHERE EXISTS (SELECT FROM tiergate.meta WHERE key = 'plan' AND value IN ($2, ''))),
		(SELECT 'usage is not published' WHERE NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = 'tiergate_usage' AND tablename = 'usage')),
		(SELECT 'feature_access is not whole' WHERE EXISTS (SELECT FROM tiergate.plan p
			WHERE NOT EXISTS (SELECT FROM feature_access fa WHERE fa.subject_id = '*' AND fa.feature = p.feature))))`,
		fmt.Sprintf("%%(%d)", h.configs), h.outdated, publications)
}
