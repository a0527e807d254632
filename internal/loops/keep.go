package loops

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// The one back-off: it doubles from first to most, and begins again after a run that lasted.
const (
	firstPause = 250 * time.Millisecond
	mostPause  = 30 * time.Second
	lasted     = time.Minute
)

// Keep runs work until ctx ends or it fails in a way that no second try mends. Everything else is
// logged with its way out and tried again: this is the only place that does so.
func Keep(ctx context.Context, log *slog.Logger, name string, work func(context.Context) error) error {
	pause := firstPause
	for {
		begun := time.Now()
		err := work(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch KindOf(err) {
		case Permanent, Changed, Deposed:
			return err
		}
		if time.Since(begun) > lasted {
			pause = firstPause
		}
		wait := pause + rand.N(pause/4)
		if after := retryAfter(err); after > wait {
			wait = after
		}
		log.Warn("trying again", "part", name, "in", wait.Round(time.Millisecond), "error", err)
		if sleep(ctx, wait) != nil {
			return nil
		}
		pause = min(2*pause, mostPause)
	}
}

// BackOff is how long to wait before attempt n+1, where n attempts have failed.
func BackOff(n int) time.Duration {
	return min(firstPause<<min(n, 20), 30*time.Minute)
}

func retryAfter(err error) time.Duration {
	var f *Fault
	if errors.As(err, &f) {
		return f.RetryAfter
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
