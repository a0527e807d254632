// Package loops is the sidecar's core: it decides what a change in the database means for who may
// use what.
//
// The whole flow is on this page. Data goes one way, and every hop rests on something durable:
//
//	change   Stream.Next    committed rows, in commit order            (cdc)
//	decide   Decider        state and facts in, flags and events out   (here, pure)
//	apply    Store.Apply    flags, events, emails and the position, in one transaction   (sql)
//	deliver  Outbox, Mailer one email for one event, at the provider's rate   (sql, mail)
//
// An event that apply wrote comes back as a change: that is how it becomes an email. Follow and
// Deliver share no state but the database, so either may die at any line and resume.
package loops

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Source opens the change stream of a database.
type Source interface {
	// Resume continues after a position. It fails with a Gap where the stream no longer joins it.
	Resume(ctx context.Context, at Position) (Stream, error)
	// Snapshot begins a new stream and a view of the data as of exactly its first position. The view
	// lasts until Close.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Beside is a view of the data beside a stream that is open, with what happened since.
	Beside(ctx context.Context) (Snapshot, error)
}

// Stream is an open change stream. One goroutine reads it.
type Stream interface {
	// Next waits for changes, or until wake, and returns all that is ready, bounded. What was committed
	// before the stream began comes before a batch without changes.
	Next(ctx context.Context, wake time.Time) (Batch, error)
	// Ack tells the server that nothing up to at is needed again. Call it with what is committed.
	Ack(at Position)
	Close()
}

// Snapshot is a view of the database as of a position. With an empty Name it is simply now.
type Snapshot struct {
	Name string
	At   Position
	// Release lets go what the view keeps from being tidied up: call it when everything was read.
	Release func()
	Close   func()
	// Replay opens the changes from the view up to a position of the stream that it is beside, where they
	// end with io.EOF, and go on when it is called again with a later one. It returns nil while that
	// stream has not come to the view.
	Replay func(ctx context.Context, until Position) (Stream, error)
}

// Store keeps flags, events and the position of what they are made of.
type Store interface {
	// Resume returns where the stored state stands, in line with today's plan; empty: count it first.
	// missing says that some loops are not in it yet.
	Resume(ctx context.Context) (at Position, missing bool, err error)
	// Apply loads what the batch names, decides, and writes the outcome and the batch's position in
	// one transaction. It fails with Deposed where another sidecar has moved the position.
	Apply(ctx context.Context, b Batch, d *Decider) (Applied, error)
	// Count makes the state agree with the data as of a snapshot, and stores the snapshot's position.
	Count(ctx context.Context, view Snapshot, d *Decider) error
}

// Applied is what a commit left to do.
type Applied struct {
	Wake  time.Time // when time itself demands the next Apply, on this machine's clock
	Mails int       // emails that were queued
}

// Outbox hands out the emails that are due, one at a time.
type Outbox interface {
	// Claim takes the next email that is due and still has a reason, with what its template needs. It
	// returns nil where nothing is due before wake.
	Claim(ctx context.Context) (e *Email, data PromptData, wake time.Time, err error)
	// Freeze stores the rendered message, before anything is sent: every attempt sends the same.
	Freeze(ctx context.Context, e *Email, m Message) error
	// Settle records how an attempt ended: sent, to be tried again, or dead.
	Settle(ctx context.Context, e *Email, id string, failure error) error
}

// Flow joins the parts.
type Flow struct {
	Source  Source
	Store   Store
	New     Newcomers // the same store, for loops that are new to it
	Outbox  Outbox
	Mailer  Mailer
	Decider *Decider
	Log     *slog.Logger
	mails   chan struct{} // rings when an email was queued
	recount bool          // the stream told that it does not join any more
}

// NewFlow returns a flow of these parts.
func NewFlow(source Source, store interface {
	Store
	Newcomers
}, outbox Outbox, mailer Mailer, d *Decider, log *slog.Logger,
) *Flow {
	return &Flow{Source: source, Store: store, New: store, Outbox: outbox, Mailer: mailer, Decider: d, Log: log, mails: make(chan struct{}, 1)}
}

// Follow takes changes from the stream to the flags, until it fails or ctx ends.
func (f *Flow) Follow(ctx context.Context) (err error) {
	defer func() { f.recount = KindOf(err) == Gap }()
	stream, missing, err := f.join(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	joining := f.newcomers(ctx, missing)
	defer joining.stop()
	var wake time.Time
	for {
		batch, err := stream.Next(ctx, wake)
		if err != nil {
			return fmt.Errorf("read the change stream: %w", err)
		}
		applied, err := f.Store.Apply(ctx, batch, f.Decider)
		if err != nil {
			return fmt.Errorf("apply %d changes: %w", len(batch.Changes), err)
		}
		stream.Ack(batch.Position)
		f.ring(applied.Mails)
		if wake, err = joining.step(ctx, batch, applied.Wake); err != nil {
			return fmt.Errorf("let a new loop in: %w", err)
		}
	}
}

// join opens the stream where the stored state stands. Where it does not join, the data is counted
// again as of a new stream's first position. missing says that some loops are still to be counted.
func (f *Flow) join(ctx context.Context) (stream Stream, missing bool, err error) {
	at, missing, err := f.Store.Resume(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("read the position: %w", err)
	}
	if at != "" && !f.recount {
		stream, err := f.Source.Resume(ctx, at)
		if err == nil || KindOf(err) != Gap {
			return stream, missing, err
		}
	}
	view, err := f.Source.Snapshot(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("begin a change stream: %w", err)
	}
	defer view.Close()
	if err := f.Store.Count(ctx, view, f.Decider); err != nil {
		return nil, false, fmt.Errorf("count usage: %w", err)
	}
	view.Close()
	f.ring(1)
	stream, err = f.Source.Resume(ctx, view.At)
	return stream, false, err
}

// Once counts, and sends what is due.
func (f *Flow) Once(ctx context.Context) error {
	if err := f.Store.Count(ctx, Snapshot{}, f.Decider); err != nil {
		return fmt.Errorf("count usage: %w", err)
	}
	_, err := f.DeliverDue(ctx)
	return err
}

// Poll counts again and again instead of following a stream: for databases that have none.
func (f *Flow) Poll(ctx context.Context, every time.Duration) error {
	for {
		if err := f.Store.Count(ctx, Snapshot{}, f.Decider); err != nil {
			return fmt.Errorf("count usage: %w", err)
		}
		f.ring(1)
		if err := sleep(ctx, every); err != nil {
			return err
		}
	}
}

// Deliver sends the emails that are due, until it fails or ctx ends.
func (f *Flow) Deliver(ctx context.Context) error {
	for {
		wake, err := f.DeliverDue(ctx)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.mails:
		case <-time.After(time.Until(wake)):
		}
	}
}

// DeliverDue sends every email that is due now, and returns when the next one may be.
func (f *Flow) DeliverDue(ctx context.Context) (wake time.Time, err error) {
	for {
		email, data, wake, err := f.Outbox.Claim(ctx)
		if err != nil || email == nil {
			return wake, err
		}
		if err := f.deliver(ctx, email, data); err != nil {
			return wake, fmt.Errorf("email %d: %w", email.ID, err)
		}
	}
}

// deliver makes one attempt. What went wrong with the email itself is stored with it; an error means
// that not even that was possible.
func (f *Flow) deliver(ctx context.Context, e *Email, data PromptData) error {
	if e.Request == nil {
		message, err := f.Mailer.Render(e.Template, data)
		if err != nil {
			return f.Outbox.Settle(ctx, e, "", err)
		}
		if err := f.Outbox.Freeze(ctx, e, message); err != nil {
			return err
		}
	}
	id, failure := f.Mailer.Send(ctx, *e.Request)
	if failure != nil && ctx.Err() != nil {
		return ctx.Err() // the outcome is unknown: the same request goes out again under the same key
	}
	// What was sent is recorded even when we are asked to stop in that moment.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleBound)
	defer cancel()
	return f.Outbox.Settle(settling, e, id, failure)
}

// settleBound is how long a stop waits for the last email's record.
const settleBound = 5 * time.Second

func (f *Flow) ring(queued int) {
	if queued == 0 {
		return
	}
	select {
	case f.mails <- struct{}{}:
	default:
	}
}
