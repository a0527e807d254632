package main

import (
	"context"
	"errors"
	"os"

	"github.com/tiergate/tiergate/internal/config"
	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail"
)

// configuration is what an operator wrote. It is read at the start and at a hangup, and never in between: a
// session that begins again because of a migration must not meet a file that is half edited.
type configuration struct {
	settings config.Settings
	plan     *loops.Plan
	mails    *mail.Mailer
}

func readConfiguration(dir string) (*configuration, error) {
	settings, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	plan, err := readPlan(dir, settings)
	if err != nil {
		return nil, err
	}
	mails, err := mailer(settings)
	if err != nil {
		return nil, err
	}
	return &configuration{settings, plan, mails}, checkTemplates(mails, plan)
}

// errReload ends a session whose configuration has changed.
var errReload = errors.New("the configuration has changed")

// untilReload runs a session until it ends, or until a hangup brings a configuration that can take its place. A
// hangup that comes while it ends is not lost: the next session has what it brought.
func (s *sidecar) untilReload(ctx context.Context, hangup <-chan os.Signal) error {
	session, end := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for session.Err() == nil {
			select {
			case <-session.Done():
			case <-hangup:
				if s.reload(ctx) {
					end(errReload)
				}
			}
		}
	}()
	err := s.session(session)
	end(nil)
	<-done
	if cause := context.Cause(session); errors.Is(cause, errReload) {
		return cause
	}
	return err
}

// reload takes over a configuration that has changed, whole. One with a mistake changes nothing.
func (s *sidecar) reload(ctx context.Context) (taken bool) {
	changed, err := s.acceptable(ctx)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		s.log.Error("the changed configuration is refused, the old one holds", "error", err)
		return false
	}
	s.config.Store(changed)
	return true
}

// fits finds what in the database would stop a session with a configuration. A database that is out of reach at
// the moment says nothing against it.
func (s *sidecar) fits(ctx context.Context, c *configuration) error {
	looked := &loops.Fault{Step: "look at the changed configuration", Kind: loops.Permanent}
	err := loops.Keep(ctx, s.log, looked.Step, func(ctx context.Context) error {
		if _, err := lookUp(ctx, c.settings, c.plan); err != nil {
			return err
		}
		return looked
	})
	if errors.Is(err, looked) {
		return nil
	}
	return err
}

// acceptable reads the configuration anew, and finds what would stop a session with it.
func (s *sidecar) acceptable(ctx context.Context) (*configuration, error) {
	changed, err := readConfiguration(s.dir)
	if err != nil {
		return nil, err
	}
	if err := s.fits(ctx, changed); err != nil {
		return nil, err
	}
	old := s.config.Load()
	if old != nil && (changed.settings.AdminListen != old.settings.AdminListen || changed.settings.AdminToken != old.settings.AdminToken) {
		return nil, &loops.Fault{Step: "admin.listen, admin.token", Err: errors.New("cannot change while the sidecar runs"), Hint: "restart it", Kind: loops.Permanent}
	}
	return changed, nil
}
