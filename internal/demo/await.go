package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// await looks every other millisecond until something is so.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		switch {
		case ok:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// wait returns when an event has happened.
func wait(ctx context.Context, event <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("waiting for the others"), context.Cause(ctx))
	}
}

// done reports whether an event has happened.
func done(event <-chan struct{}) bool {
	select {
	case <-event:
		return true
	default:
		return false
	}
}
