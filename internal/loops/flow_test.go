package loops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is every part of a flow at once: it writes down what it is asked to do, and fails when told.
type script struct {
	mu     sync.Mutex // of said, for the tests that look while the flow runs
	said   []string
	fails  map[string][]error // by step, in order; nil: it works
	stored Position
	stop   context.CancelFunc
	left   int  // batches before the flow is stopped
	news   int  // new loops: so many pieces are counted of them
	behind bool // the stream has not come to their view
	outbox []*Email
}

func (s *script) step(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.said = append(s.said, text)
	s.mu.Unlock()
	name, _, _ := strings.Cut(text, " ")
	if queue := s.fails[name]; len(queue) > 0 {
		s.fails[name] = queue[1:]
		return queue[0]
	}
	return nil
}

func (s *script) steps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.said)
}

type scriptSource struct{ *script }

func (s scriptSource) Resume(_ context.Context, at Position) (Stream, error) {
	if err := s.step("open %s", at); err != nil {
		return nil, err
	}
	return s, nil
}

func (s scriptSource) Snapshot(context.Context) (Snapshot, error) {
	closed := false
	return Snapshot{Name: "view", At: "fresh", Close: func() {
		if !closed {
			s.said, closed = append(s.said, "release"), true
		}
	}}, s.step("snapshot")
}

func (s scriptSource) Beside(context.Context) (Snapshot, error) {
	since := &scriptReplay{s.script, 1}
	replay := func(_ context.Context, until Position) (Stream, error) {
		if s.behind {
			s.behind = false
			return nil, s.step("wait at %s", until)
		}
		return since, s.step("replay until %s", until)
	}
	return Snapshot{Name: "beside", Close: func() { s.step("let go") }, Replay: replay}, s.step("look")
}

// scriptReplay is what happened since a view.
type scriptReplay struct {
	*script
	left int
}

func (r *scriptReplay) Next(context.Context, time.Time) (Batch, error) {
	if r.left--; r.left < 0 {
		return Batch{}, io.EOF
	}
	return Batch{Position: "old"}, r.step("again")
}

func (r *scriptReplay) Ack(Position) {}
func (r *scriptReplay) Close()       {}

func (s scriptSource) Next(ctx context.Context, _ time.Time) (Batch, error) {
	if s.news > 0 {
		time.Sleep(time.Second) // of a clock that does not run: the background has its turn
	}
	if s.left--; s.left < 0 {
		s.stop()
		return Batch{}, ctx.Err()
	}
	return Batch{Position: Position(fmt.Sprint("p", s.left))}, s.step("next")
}

func (s scriptSource) Ack(at Position) { s.said = append(s.said, "ack "+string(at)) }
func (s scriptSource) Close()          { s.said = append(s.said, "close") }

type scriptStore struct{ *script }

func (s scriptStore) Resume(context.Context) (Position, bool, error) {
	return s.stored, s.news > 0, s.step("stored")
}

func (s scriptStore) Tally(_ context.Context, view Snapshot) (Tallies, error) {
	return scriptTallies(s), s.step("tally %s", view.Name)
}

func (s scriptStore) Replay(_ context.Context, b Batch, _ *Decider) error {
	return s.step("recall %s", b.Position)
}

func (s scriptStore) Admit(context.Context) error { return s.step("admit") }

type scriptTallies struct{ *script }

func (s scriptTallies) Enter(context.Context, *Decider) (bool, error) {
	if err := s.step("enter"); err != nil {
		return false, err
	}
	s.news--
	return s.news == 0, nil
}

func (s scriptTallies) Close() { s.step("tallied") }

func (s scriptStore) Apply(_ context.Context, b Batch, _ *Decider) (Applied, error) {
	return Applied{Mails: 1}, s.step("apply %s", b.Position)
}

func (s scriptStore) Count(_ context.Context, view Snapshot, _ *Decider) error {
	err := s.step("count %s", view.Name)
	if err == nil {
		s.stored = view.At
	}
	return err
}

func (s *script) flow() *Flow {
	return NewFlow(scriptSource{s}, scriptStore{s}, scriptOutbox{s}, scriptMailer{s}, nil, slog.New(slog.DiscardHandler))
}

// run follows the stream under Keep until the script ends it, in time that does not pass.
func (s *script) run(t *testing.T) (err error) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s.stop = cancel
		flow := s.flow()
		err = Keep(ctx, slog.New(slog.DiscardHandler), "follow", flow.Follow)
		cancel()
	})
	return err
}

func gapped() error { return &Fault{Step: "x", Kind: Gap} }

func TestFollow(t *testing.T) {
	broken, deposed := errors.New("connection reset"), &Fault{Step: "x", Kind: Deposed}
	for name, c := range map[string]struct {
		stored Position
		left   int
		fails  map[string][]error
		want   string
		err    error
	}{
		"goes on where it stood": {"here", 2, nil,
			"stored · open here · next · apply p1 · ack p1 · next · apply p0 · ack p0 · close", nil},
		"counts first": {"", 1, nil,
			"stored · snapshot · count view · release · open fresh · next · apply p0 · ack p0 · close", nil},
		"a gap is counted": {"here", 1, map[string][]error{"open": {gapped()}},
			"stored · open here · snapshot · count view · release · open fresh · next · apply p0 · ack p0 · close", nil},
		"a gap in the middle": {"here", 2, map[string][]error{"next": {gapped()}},
			"stored · open here · next · close · stored · snapshot · count view · release · open fresh · next · apply p0 · ack p0 · close", nil},
		"a gap is counted once": {"here", 2, map[string][]error{"next": {gapped(), broken}},
			"stored · open here · next · close · stored · snapshot · count view · release · open fresh · next · close · stored · open fresh · close", nil},
		"a broken connection": {"here", 2, map[string][]error{"next": {broken}},
			"stored · open here · next · close · stored · open here · next · apply p0 · ack p0 · close", nil},
		"nothing is acknowledged before it is committed": {"here", 2, map[string][]error{"apply": {broken}},
			"stored · open here · next · apply p1 · close · stored · open here · next · apply p0 · ack p0 · close", nil},
		"a count that was cut short": {"", 0, map[string][]error{"count": {broken}},
			"stored · snapshot · count view · release · stored · snapshot · count view · release · open fresh · close", nil},
		"no snapshot": {"", 0, map[string][]error{"snapshot": {broken}},
			"stored · snapshot · stored · snapshot · count view · release · open fresh · close", nil},
		"another one took over":   {"here", 1, map[string][]error{"apply": {deposed}}, "stored · open here · next · apply p0 · close", deposed},
		"deposed before it began": {"here", 1, map[string][]error{"stored": {deposed}}, "stored", deposed},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{stored: c.stored, left: c.left, fails: c.fails}
			err := s.run(t)
			if got := strings.Join(s.said, " · "); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			if !errors.Is(err, c.err) {
				t.Errorf("ended with %v, want %v", err, c.err)
			}
		})
	}
}

// TestNewcomers lets a new loop in while the others go on: no batch waits for it.
func TestNewcomers(t *testing.T) {
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		behind bool
		fails  map[string][]error
		want   string
	}{
		"between batches": {false, nil,
			"stored · open here · look · tally beside · next · apply p5 · ack p5 · next · apply p4 · ack p4 · replay until p4 · enter · " +
				"next · apply p3 · ack p3 · replay until p3 · enter · next · apply p2 · ack p2 · replay until p2 · again · recall old · " +
				"next · apply p1 · ack p1 · replay until p1 · tallied · let go · admit · next · apply p0 · ack p0 · close"},
		"not before the stream has come to the view": {true, nil,
			"stored · open here · look · tally beside · next · apply p5 · ack p5 · next · apply p4 · ack p4 · wait at p4 · " +
				"next · apply p3 · ack p3 · replay until p3 · enter · next · apply p2 · ack p2 · replay until p2 · enter · " +
				"next · apply p1 · ack p1 · replay until p1 · again · recall old · next · apply p0 · ack p0 · replay until p0 · tallied · let go · admit · close"},
		"what cannot be counted yet stops nobody": {false, map[string][]error{"look": {broken}, "tally": {broken}},
			"stored · open here · look · look · tally beside · let go · look · tally beside · next · apply p5 · ack p5 · next · apply p4 · ack p4 · replay until p4 · enter · " +
				"next · apply p3 · ack p3 · replay until p3 · enter · next · apply p2 · ack p2 · replay until p2 · again · recall old · " +
				"next · apply p1 · ack p1 · replay until p1 · tallied · let go · admit · next · apply p0 · ack p0 · close"},
		"begins again": {false, map[string][]error{"enter": {broken}},
			"stored · open here · look · tally beside · next · apply p5 · ack p5 · next · apply p4 · ack p4 · replay until p4 · enter · tallied · let go · close · " +
				"stored · open here · look · tally beside · next · apply p3 · ack p3 · next · apply p2 · ack p2 · replay until p2 · enter · " +
				"next · apply p1 · ack p1 · replay until p1 · enter · next · apply p0 · ack p0 · replay until p0 · again · recall old · tallied · let go · close"},
		"a slot beside that is lost loses not the stream": {false, map[string][]error{"again": {gapped()}},
			"stored · open here · look · tally beside · next · apply p5 · ack p5 · next · apply p4 · ack p4 · replay until p4 · enter · " +
				"next · apply p3 · ack p3 · replay until p3 · enter · next · apply p2 · ack p2 · replay until p2 · again · tallied · let go · close · " +
				"stored · open here · next · apply p1 · ack p1 · next · apply p0 · ack p0 · close"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{stored: "here", left: 6, news: 2, behind: c.behind, fails: c.fails}
			if err := s.run(t); err != nil {
				t.Error(err)
			}
			if got := strings.Join(s.said, " · "); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

type scriptOutbox struct{ *script }

func (s scriptOutbox) Claim(context.Context) (*Email, PromptData, time.Time, error) {
	if len(s.outbox) == 0 {
		if s.stop != nil {
			s.stop()
		}
		return nil, PromptData{}, time.Now().Add(time.Hour), s.step("idle")
	}
	e := s.outbox[0]
	s.outbox = s.outbox[1:]
	return e, PromptData{Subject: e.Subject}, time.Time{}, s.step("claim %d", e.ID)
}

func (s scriptOutbox) Freeze(_ context.Context, e *Email, m Message) error {
	m.Key = "key"
	e.Request = &m
	return s.step("freeze %d", e.ID)
}

func (s scriptOutbox) Settle(_ context.Context, e *Email, id string, failure error) error {
	return s.step("settle %d %s %v", e.ID, id, failure)
}

type scriptMailer struct{ *script }

func (s scriptMailer) Render(template string, data PromptData) (Message, error) {
	return Message{Text: data.Subject}, s.step("render %s", template)
}

func (s scriptMailer) Send(_ context.Context, m Message) (string, error) {
	if err := s.step("send %s %s", m.Key, m.Text); err != nil {
		return "", err
	}
	return "id", nil
}

func TestDeliver(t *testing.T) {
	refused := &Fault{Step: "refused"}
	fresh := func() []*Email {
		return []*Email{{ID: 1, Subject: "ann", Template: "t"}, {ID: 2, Subject: "bob", Template: "t", Request: &Message{Key: "old", Text: "frozen"}}}
	}
	for name, c := range map[string]struct {
		fails map[string][]error
		want  string
		err   bool
	}{
		"sends what is due, frozen first": {nil,
			"claim 1 · render t · freeze 1 · send key ann · settle 1 id <nil> · claim 2 · send old frozen · settle 2 id <nil> · idle", false},
		"a failure is the email's own": {map[string][]error{"send": {refused}},
			"claim 1 · render t · freeze 1 · send key ann · settle 1  refused · claim 2 · send old frozen · settle 2 id <nil> · idle", false},
		"a template that fails sends nothing": {map[string][]error{"render": {refused}},
			"claim 1 · render t · settle 1  refused · claim 2 · send old frozen · settle 2 id <nil> · idle", false},
		"nothing is sent that is not frozen": {map[string][]error{"freeze": {refused}}, "claim 1 · render t · freeze 1", true},
		"an outcome that cannot be stored":   {map[string][]error{"settle": {refused}}, "claim 1 · render t · freeze 1 · send key ann · settle 1 id <nil>", true},
		"no outbox":                          {map[string][]error{"claim": {refused}}, "claim 1", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{outbox: fresh(), fails: c.fails}
			_, err := s.flow().DeliverDue(t.Context())
			if got := strings.Join(s.said, " · "); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
			if (err != nil) != c.err {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestStoppedWhileSending(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &script{outbox: []*Email{{ID: 1, Request: &Message{Key: "k"}}}}
	flow := s.flow()
	flow.Mailer = stopping{scriptMailer{s}, cancel}
	if _, err := flow.DeliverDue(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if slices.ContainsFunc(s.said, func(step string) bool { return strings.HasPrefix(step, "settle") }) {
		t.Errorf("an outcome that nobody knows was stored: %q", s.said)
	}
}

// stopping is a mailer during whose send the process is told to end.
type stopping struct {
	scriptMailer
	stop context.CancelFunc
}

func (s stopping) Send(context.Context, Message) (string, error) {
	s.stop()
	return "", &Fault{Step: "send", Err: context.Canceled, Kind: Transient}
}

func TestDeliverWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &script{}
		flow := s.flow()
		ended := make(chan error)
		begun := time.Now()
		go func() { ended <- flow.Deliver(ctx) }()
		synctest.Wait()
		flow.ring(1) // an email was queued: nobody waits for the hour to pass
		flow.ring(1)
		flow.ring(0)
		synctest.Wait()
		if n := s.steps(); n < 2 || time.Since(begun) > 0 {
			t.Errorf("looked %d times after %s", n, time.Since(begun))
		}
		looked := s.steps()
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		if s.steps() == looked {
			t.Error("what is due later was never looked for")
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
		defer cancel()
		s := &script{}
		if err := s.flow().Poll(ctx, 30*time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		if len(s.said) != 4 {
			t.Errorf("in 95 seconds: %q", s.said)
		}
	})
}

func TestKeep(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, kind := range []Kind{Permanent, Changed, Deposed} {
		if err := Keep(t.Context(), log, "x", func(context.Context) error { return &Fault{Step: "y", Kind: kind} }); KindOf(err) != kind || err == nil {
			t.Errorf("kind %d ended with %v", kind, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pauses []time.Duration
		last := time.Now()
		err := Keep(ctx, log, "x", func(context.Context) error {
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			switch len(pauses) {
			case 12:
				return &Fault{Step: "y", Kind: Transient, RetryAfter: 10 * time.Minute}
			case 13:
				time.Sleep(lasted + time.Second)
				last = time.Now()
			case 14:
				cancel()
			}
			return errors.New("again")
		})
		if err != nil {
			t.Error(err)
		}
		for i, want := range []time.Duration{0, 250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000} {
			want *= time.Millisecond
			if got := pauses[i]; got < want || got > want*5/4 {
				t.Errorf("pause %d lasted %s, want %s and up to a quarter more", i, got, want)
			}
		}
		if pauses[12] != 10*time.Minute {
			t.Errorf("asked to wait 10 minutes, waited %s", pauses[12])
		}
		if pauses[13] > time.Second {
			t.Errorf("after a run that lasted the pause is %s", pauses[13])
		}
	})
}

func TestBackOff(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 250 * time.Millisecond, 1: 500 * time.Millisecond, 4: 4 * time.Second, 12: 1024 * time.Second, 13: 30 * time.Minute, 500: 30 * time.Minute} {
		if got := BackOff(n); got != want {
			t.Errorf("after %d failures %s, want %s", n, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	cause := errors.New("no such table")
	f := &Fault{Step: "read the catalog", Err: cause, Hint: "create it", Kind: Changed}
	if got := f.Error(); got != "read the catalog: no such table\n  → create it" {
		t.Errorf("%q", got)
	}
	wrapped := fmt.Errorf("begin: %w", f)
	if KindOf(wrapped) != Changed || !errors.Is(wrapped, cause) || KindOf(cause) != Transient {
		t.Error("kind or cause is lost")
	}
}
