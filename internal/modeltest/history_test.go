package modeltest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// history is one run: an application that does random things to its database, a sidecar that dies at
// random, and the reference that says what must come of it. What is done depends on the seed alone;
// how far the sidecar has got at that moment does not.
type history struct {
	*world
	rng *rand.Rand
	m   *reference

	open      []*transaction
	steps     []string
	begun     time.Time
	users     []string                   // ever, in order
	emails    map[string]map[string]bool // the addresses that a user ever had
	subs      []int64
	fresh     map[string]bool // users of this gap
	ahead     time.Duration   // how far the clock moved in this gap
	syncFirst bool            // before the clock may move
	shape     shape           // of the usage table
	configs   int             // how many there were
	outdated  string          // the plan before the last one
	nextUser  int
	trouble   int // so many requests fail

	// Of exact histories:
	nextSub int64
	grants  []*grant         // that were ever committed
	granted map[int64]string // to whom
	seen    map[int64]bool   // events that were compared
}

// transaction is one the application has open.
type transaction struct {
	conn   *pgx.Conn
	facts  []func()
	undo   []func() // when it is rolled back
	grants []string // the subjects that it gives something to
}

func newHistory(t *testing.T, seed uint64) *history {
	return newHistoryOf(t, fmt.Sprintf("seed_%d", seed), seed, pool()[:begun])
}

func newHistoryOf(t *testing.T, name string, seed uint64, rules []*rule) *history {
	h := &history{rng: rand.New(rand.NewPCG(seed, 1)), begun: time.Now(), emails: map[string]map[string]bool{}, granted: map[int64]string{}, fresh: map[string]bool{}, shape: firstShape(),
		m: &reference{rules: rules, table: map[int64]usage{}, subjects: map[string]*subject{}, subs: map[int64]*subscription{}, mails: map[mailKey]promise{}}}
	binary := shared.shipped
	if h.chance(50) {
		binary = shared.tiny
	}
	h.world = newWorld(t, name, binary)
	t.Cleanup(h.end)
	h.write("skene.config.ts", config(h.m.rules, 0))
	h.world.pending = h.pending
	h.exec(tables)
	h.command("install")
	h.m.now = h.clock()
	return h
}

// end tells how it came to a failure.
func (h *history) end() {
	if h.t.Failed() || os.Getenv("TIERGATE_TEST_SEED") != "" {
		h.t.Logf("what was done:\n%s", strings.Join(h.steps, "\n"))
	}
	for _, tx := range h.open {
		tx.conn.Close(context.Background())
	}
}

func (h *history) say(format string, args ...any) {
	h.steps = append(h.steps, fmt.Sprintf("%7.3f  %s", time.Since(h.begun).Seconds(), fmt.Sprintf(format, args...)))
}

func (h *history) chance(percent int) bool { return h.rng.IntN(100) < percent }

func pick[T any](h *history, from []T) T { return from[h.rng.IntN(len(from))] }

func (h *history) clock() time.Time { return scan[time.Time](h.t, h.conn, `SELECT tiergate.now()`) }

// fact is something that was committed: the reference takes it over.
func (h *history) fact(apply func()) {
	h.m.synced = false
	apply()
}

// play is the history itself.
func (h *history) play(steps int) {
	h.begin()
	h.steadily(h.repertoire(), steps)
	h.sync()
	if out := h.command("verify"); strings.Contains(out, "purged") && !h.m.purged() {
		h.t.Fatalf("verify: more was counted than there is\n%s", out)
	}
}

// steadily does one thing after another.
func (h *history) steadily(repertoire []step, steps int) {
	total := 0
	for _, s := range repertoire {
		total += s.weight
	}
	for range steps {
		n := h.rng.IntN(total)
		for _, s := range repertoire {
			if n -= s.weight; n < 0 {
				s.act()
				break
			}
		}
	}
}

// begin makes an application with some data. Half of the histories let the first count finish in
// peace: then it must be silent.
func (h *history) begin() {
	h.m.gap = true
	for range 3 + h.rng.IntN(3) {
		h.addUser()
	}
	for range h.rng.IntN(30) {
		h.use(h.conn, h.someSubject(), func(f func()) { h.fact(f) })
	}
	for range h.rng.IntN(3) {
		h.subscribe()
	}
	if h.chance(50) {
		h.awaitSidecar()
		clear(h.m.mails)
		h.m.gap = false
		h.m.caughtUp()
		h.compare()
		h.say("first count done")
	}
}

type step struct {
	weight int
	act    func()
}

func (h *history) repertoire() []step {
	return []step{
		{40, func() { h.use(h.conn, h.someSubject(), func(f func()) { h.fact(f) }) }},
		{12, h.stepTransaction},
		{2, h.useMany},
		{5, h.addUser},
		{3, h.deleteUser},
		{2, h.returnUser},
		{2, h.renameUser},
		{8, h.subscribe},
		{10, h.changeSubscription},
		{3, h.deleteSubscription},
		{7, h.moveClock},
		{4, h.killSidecar},
		{5, h.killSidecarSoon},
		{3, h.stopSidecar},
		{9, h.startSidecar},
		{2, h.takeOver},
		{1, h.killServer},
		{3, h.loseStream},
		{5, h.beginGap},
		{6, h.sync},
		{5, h.troubleMail},
		{3, h.purge},
		{1, h.recount},
		{1, h.forget},
		{4, h.changeLimits},
		{3, h.changeTrigger},
		{4, h.toggleRule},
		{2, h.breakConfig},
		{2, h.addColumn},
		{2, h.changeColumn},
		{1, h.loseFlags},
	}
}

// TestHistories is the proof of exactly-once. TIERGATE_TEST_SEED=n plays one history again, and
// TIERGATE_TEST_LONG=1 more of them.
func TestHistories(t *testing.T) {
	first, count := seeds(t, 60)
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			newHistory(t, seed).play(50)
		})
	}
}
