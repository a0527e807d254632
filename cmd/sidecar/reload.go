package main

import (
	"context"
	"errors"
	"os"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/mail"
)

// errReload ends a session whose configuration has changed.
var errReload = errors.New("the configuration has changed")

// untilReload runs a session until it ends, or until a hangup brings a configuration that can take its
// place: one with a mistake changes nothing.
func (s *sidecar) untilReload(ctx context.Context, hangup <-chan os.Signal) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			err := s.acceptable(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.log.Error("the changed configuration is refused, the old one holds", "error", err)
				continue
			}
			end(errReload)
			return
		}
	}()
	err := s.session(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errReload) {
		return cause
	}
	return err
}

// acceptable reads the configuration anew, and finds what would stop a session with it.
func (s *sidecar) acceptable(ctx context.Context) error {
	p, _, err := configure(ctx, s.dir)
	if err != nil {
		return err
	}
	if now := s.current.Load(); now != nil && (p.settings.AdminListen != now.settings.AdminListen || p.settings.AdminToken != now.settings.AdminToken) {
		return &loops.Fault{Step: "admin.listen, admin.token", Err: errors.New("cannot change while the sidecar runs"), Hint: "restart it", Kind: loops.Permanent}
	}
	return nil
}

// configure reads the configuration, and matches it with the database.
func configure(ctx context.Context, dir string) (*prepared, *mail.Mailer, error) {
	p, err := prepare(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	mails, err := mailer(p.settings)
	if err != nil {
		return nil, nil, err
	}
	return p, mails, checkTemplates(mails, p.plan)
}
