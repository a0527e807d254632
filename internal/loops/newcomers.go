package loops

import (
	"context"
	"errors"
	"io"
	"time"
)

// Newcomers counts loops that the stored state does not hold yet, while the others go on.
type Newcomers interface {
	// Tally counts them as of a view, on a connection of its own: it may run beside everything else.
	Tally(ctx context.Context, view Snapshot) (Tallies, error)
	// Replay counts the uses of a batch, which the stream has passed, in the new loops alone.
	Replay(ctx context.Context, b Batch, d *Decider) error
	// Admit stores that the new loops are counted: from here on the stream's uses are theirs too.
	Admit(ctx context.Context) error
}

// Tallies is what a count of new loops found.
type Tallies interface {
	// Enter writes a piece of it, and reports whether that was the last one.
	Enter(ctx context.Context, d *Decider) (done bool, err error)
	Close()
}

// newcomers lets new loops in. A slot beside the stream's exports a view, and the data is counted as of
// it, in the background. When the stream has come to the view, what was found is written, a piece between
// two batches. What happened since is replayed from that slot, a batch between two batches, until it has
// come to exactly where the stream stands. From there on one stream serves all.
type newcomers struct {
	flow    *Flow
	cancel  context.CancelFunc
	counted chan tallied // what the background has found, once
	failed  chan error   // or why it cannot
	now     *tallied     // taken from counted
	entered bool
}

// tallied is a view and what was counted as of it.
type tallied struct {
	view    Snapshot
	tallies Tallies
}

// newcomerLook is how often the flow looks whether the background is ready.
const newcomerLook = 100 * time.Millisecond

// newcomers begins to count what is missing; where nothing is, all it does is nothing.
func (f *Flow) newcomers(ctx context.Context, missing bool) *newcomers {
	n := &newcomers{flow: f}
	if !missing {
		return n
	}
	n.counted, n.failed = make(chan tallied), make(chan error, 1)
	ctx, n.cancel = context.WithCancel(ctx)
	go func() {
		n.failed <- Keep(ctx, f.Log, "count new loops", n.count)
		close(n.counted)
	}()
	return n
}

// count hands over a view and its tallies, or gives both up.
func (n *newcomers) count(ctx context.Context) error {
	view, err := n.flow.Source.Beside(ctx)
	if err != nil {
		return err
	}
	tallies, err := n.flow.New.Tally(ctx, view)
	if err != nil {
		view.Close()
		return err
	}
	select {
	case n.counted <- tallied{view, tallies}:
	case <-ctx.Done():
		tallies.Close()
		view.Close()
		return ctx.Err()
	}
	<-ctx.Done() // Keep begins again what ends
	return nil
}

// step does what is next, after a batch was applied. It returns when it wants to be called again.
func (n *newcomers) step(ctx context.Context, applied Batch, wake time.Time) (time.Time, error) {
	switch {
	case n.cancel == nil:
		return wake, nil
	case n.now == nil:
		select {
		case found, ok := <-n.counted:
			if !ok {
				return wake, <-n.failed
			}
			n.now = &found
		default:
		}
		return earlier(wake, time.Now().Add(newcomerLook)), nil
	}
	stream, err := n.now.view.Replay(ctx, applied.Position)
	switch {
	case err != nil:
		return wake, besides(err)
	case stream == nil:
		return earlier(wake, time.Now().Add(newcomerLook)), nil
	case !n.entered:
		n.entered, err = n.now.tallies.Enter(ctx, n.flow.Decider)
		n.flow.ring(1)
		return time.Now(), err
	}
	batch, err := stream.Next(ctx, time.Now().Add(newcomerLook/5))
	switch {
	case err == nil:
		return time.Now(), n.flow.New.Replay(ctx, batch, n.flow.Decider)
	case !errors.Is(err, io.EOF):
		return wake, besides(err)
	case applied.Open: // the stream has not come to the end of a transaction
		return wake, nil
	}
	n.stop()
	return wake, n.flow.New.Admit(ctx)
}

// besides is an error of the slot beside the stream's: whatever it is, the stream itself joins.
func besides(err error) error {
	return &Fault{Step: "replay what came since the count", Err: err, Kind: Transient, Hint: "the new loop is counted again"}
}

// stop ends the background and gives up what it found.
func (n *newcomers) stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	for found := range n.counted {
		found.tallies.Close()
		found.view.Close()
	}
	if n.now != nil {
		n.now.tallies.Close()
		n.now.view.Close()
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
